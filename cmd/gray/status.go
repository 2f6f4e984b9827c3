package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/xds"
	"github.com/gray-release/gray/stores/etcd"
)

// statusFlags are the flags of gray status.
type statusFlags struct {
	address, output, revision string
	proxies, wait             bool
	timeout                   time.Duration
}

func statusCommand() *cobra.Command {
	var f statusFlags
	cmd := &cobra.Command{
		Use: "status [NAME]", Short: "Show the commit in force, and whether it is live", Args: cobra.MaximumNArgs(1),
		Long: "Show the commit in force, the targets, and the conditions of all documents, what is not Ready first; or only of what is called NAME or KIND/NAME: documents, a target, a Network of a rollout. The exit code is 1 if something of it is not Ready. With --wait, wait until all of it is. With --proxies, show the connected Envoys instead, or only those of the node NAME.",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case f.output != "text" && f.output != "json":
				return fmt.Errorf("-o %s is not known; want text or json", f.output)
			case f.revision != "" && !f.wait:
				return errors.New("--revision says which commit to wait for; give --wait too")
			case f.wait && f.proxies:
				return errors.New("--wait waits for documents, not for --proxies; give only one of them")
			case f.proxies:
				return showProxies(cmd, admin.Client{Address: f.address}, f.output, args)
			}
			return f.run(cmd, argOr(args, ""))
		},
	}
	cmd.Flags().StringVar(&f.address, "admin-listen", "127.0.0.1:18001", "the daemon's admin API, host:port")
	cmd.Flags().BoolVar(&f.proxies, "proxies", false, "show each connected Envoy: since when, what it waits for, what it has refused, and what it does not support")
	cmd.Flags().StringVarP(&f.output, "output", "o", "text", "text or json")
	cmd.Flags().BoolVar(&f.wait, "wait", false, "wait until everything is Ready, or all of NAME; the exit code is 1 if that does not happen")
	cmd.Flags().StringVar(&f.revision, "revision", "", "with --wait, wait for this commit to be in force: a revision, or the beginning of its hash")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 5*time.Minute, "how long --wait waits")
	return cmd
}

// run shows the status once it is to be shown.
func (f *statusFlags) run(cmd *cobra.Command, name string) error {
	s, raw, late, err := f.get(cmd, name)
	if err != nil {
		return err
	}
	if name != "" && !knows(s, name) {
		return fmt.Errorf("no document, target or Network of a rollout is called %s; see gray status", name)
	}
	if f.output == "json" {
		_, err = cmd.OutOrStdout().Write(raw)
	} else {
		err = printStatus(cmd.OutOrStdout(), s, name, time.Now())
	}
	if err == nil && late != "" {
		fmt.Fprintln(cmd.ErrOrStderr(), "gray:", late)
		return errNo
	}
	if err == nil && !isReady(s, name) {
		return errNo
	}
	return err
}

// get asks for the status; with --wait until it is as is waited for, or cannot become so,
// or takes too long. Late says why it is not so.
func (f *statusFlags) get(cmd *cobra.Command, name string) (s *admin.Status, raw []byte, late string, err error) {
	client := admin.Client{Address: f.address}
	if !f.wait {
		s, raw, err = client.Status(cmd.Context())
		return s, raw, "", err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		now, b, failed := client.Status(ctx)
		if failed == nil {
			s, raw, err = now, b, nil
			switch {
			case f.revision != "" && !isRevision(s.Revision, f.revision) && isRevision(s.Fetched, f.revision) && len(s.Errors) > 0:
				return s, raw, "the commit is refused", nil
			case isRevision(s.Revision, f.revision) && (name == "" || knows(s, name)) && isReady(s, name):
				return s, raw, "", nil
			}
		} else if s == nil {
			err = failed // a daemon that answered once may be starting again
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return s, raw, fmt.Sprintf("not Ready within %s", f.timeout), err
		}
	}
}

// isRevision tells whether a revision is the one that is asked for, "" is any.
func isRevision(revision, asked string) bool {
	_, hash, _ := strings.Cut(revision, ":")
	return asked == "" || revision == asked || len(asked) >= 4 && strings.HasPrefix(hash, asked)
}

// isCalled tells whether NAME or KIND/NAME means a document.
func isCalled(d *reconciler.DocumentStatus, name string) bool {
	return name == "" || d.Name == name || d.Kind+"/"+d.Name == name
}

// knows tells whether there is anything of that name.
func knows(s *admin.Status, name string) bool {
	inRollout := func(r reconciler.RolloutStatus) bool {
		return r.Policy == name || slices.ContainsFunc(r.Networks, func(n reconciler.NetworkProgress) bool { return n.Name == name })
	}
	return slices.ContainsFunc(s.Documents, func(d reconciler.DocumentStatus) bool { return isCalled(&d, name) }) ||
		slices.ContainsFunc(s.Targets, func(t reconciler.TargetStatus) bool { return t.Name == name }) || slices.ContainsFunc(s.Rollouts, inRollout)
}

// isReady tells whether all documents and targets of that name are Ready, with "" all
// that there are, and that the commit is the newest.
func isReady(s *admin.Status, name string) bool {
	notReady := func(c []reconciler.Condition) bool { return c[0].Status != "True" }
	return (name != "" || !notReady(s.Conditions)) &&
		!slices.ContainsFunc(s.Documents, func(d reconciler.DocumentStatus) bool { return isCalled(&d, name) && notReady(d.Conditions) }) &&
		!slices.ContainsFunc(s.Targets, func(t reconciler.TargetStatus) bool { return (name == "" || t.Name == name) && notReady(t.Conditions) })
}

// age is how long something has been so, in its largest unit.
func age(since, now time.Time) string {
	d := max(now.Sub(since), 0)
	switch {
	case since.IsZero():
		return "-"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// stands is a condition on one line, without its message.
func stands(c reconciler.Condition) string { return plain(c.Status + " " + c.Reason) }

// problemsFirst sorts what is not Ready to the top.
func problemsFirst[T any](all []T, condition func(*T) string) []T {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b T) int { return strings.Compare(condition(&a), condition(&b)) }) // False before True
	return all
}

func printStatus(w io.Writer, s *admin.Status, name string, now time.Time) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	first := s.Conditions[0]
	fmt.Fprintf(out, "revision\t%s\nfetched\t%s\nready\t%s for %s\n", s.Revision, s.Fetched, stands(first), age(first.LastTransitionTime, now))
	if first.Message != "" {
		fmt.Fprintf(out, "\t%s\n", plain(first.Message))
	}
	if s.Replica != nil {
		fmt.Fprintf(out, "replica\t%s\n", replicaText(s.Replica))
	}
	for _, e := range s.Errors {
		fmt.Fprintf(out, "error\t%s\n", e)
	}
	for i, text := range s.Warnings {
		if i == mostWaiting {
			fmt.Fprintf(out, "warning\tand %d more\n", len(s.Warnings)-i)
			break
		}
		fmt.Fprintf(out, "warning\t%s\n", text)
	}
	if err := out.Flush(); err != nil {
		return err
	}
	printTargets(w, s, name, now)
	printDocuments(w, s, name, now)
	var names []string
	if name != "" {
		names = []string{name}
	}
	if err := statusRollouts(w, s.Rollouts, names); err != nil {
		return err
	}
	if name == "" {
		printPeers(out, &s.Peers)
	}
	return out.Flush()
}

// notes prints a table's rows, each with its messages on lines of their own, so that no
// message makes the table wide.
func notes(w io.Writer, header string, rows []string, messages [][]string) {
	var b strings.Builder
	out := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "%s\n%s\n", header, strings.Join(rows, "\n"))
	fmt.Fprintln(w)
	_ = out.Flush() // a strings.Builder takes everything
	for i, line := range strings.Split(strings.TrimRight(b.String(), "\n"), "\n") {
		fmt.Fprintln(w, strings.TrimRight(line, " "))
		if i > 0 {
			for _, m := range messages[i-1] {
				fmt.Fprintf(w, "    %s\n", plain(m))
			}
		}
	}
}

func printTargets(w io.Writer, s *admin.Status, name string, now time.Time) {
	var rows []string
	var messages [][]string
	for _, t := range problemsFirst(s.Targets, func(t *reconciler.TargetStatus) string { return t.Conditions[0].Status }) {
		if name == "" || t.Name == name {
			c := t.Conditions[0]
			rows = append(rows, fmt.Sprintf("%s\t%d\t%d\t%s\t%s", t.Name, t.Resources, t.Pending, stands(c), age(c.LastTransitionTime, now)))
			messages = append(messages, some(c.Message))
		}
	}
	if len(rows) > 0 {
		notes(w, "TARGET\tRESOURCES\tPENDING\tPROGRAMMED\tAGE", rows, messages)
	}
}

func printDocuments(w io.Writer, s *admin.Status, name string, now time.Time) {
	var rows []string
	var messages [][]string
	for _, d := range problemsFirst(s.Documents, func(d *reconciler.DocumentStatus) string { return d.Conditions[0].Status }) {
		if !isCalled(&d, name) {
			continue
		}
		c := d.Conditions[0]
		rows = append(rows, fmt.Sprintf("%s/%s\t%s\t%s\t%s", d.Kind, d.Name, d.Place, stands(c), age(c.LastTransitionTime, now)))
		said := some(c.Message)
		for _, c := range d.Conditions {
			if c.Type == "Degraded" {
				said = append(said, fmt.Sprintf("%s since %s: %s", c.Reason, c.LastTransitionTime.UTC().Format(time.RFC3339), c.Message))
			}
		}
		messages = append(messages, said)
	}
	if len(rows) > 0 {
		notes(w, "DOCUMENT\tPLACE\tREADY\tAGE", rows, messages)
	}
}

func printPeers(out io.Writer, p *admin.Peers) {
	if len(p.Proxies) > 0 {
		fmt.Fprint(out, "\nENVOY\tVERSION\tSYNCED\tLAST NACK\n")
	}
	for _, x := range p.Proxies {
		nack := ""
		if x.LastNACK != nil {
			nack = x.LastNACK.Message
		}
		fmt.Fprintf(out, "%s\t%s\t%t\t%s\n", x.Node, x.Version, x.Synced, nack)
	}
	if len(p.Neighbors) > 0 {
		fmt.Fprint(out, "\nNEIGHBOR\tTARGET\tAS\tSTATE\tSINCE\tLAST ERROR\n")
	}
	for _, n := range p.Neighbors {
		last := n.LastError
		if last != "" {
			last += " (" + n.LastErrorAt.Format(time.RFC3339Nano) + ")"
		}
		fmt.Fprintf(out, "%s\t%s\t%d\t%s\t%s\t%s\n", n.Address, n.Target, n.ASN, n.State, n.Since.Format(time.RFC3339Nano), last)
	}
	if len(p.Webhooks) > 0 {
		fmt.Fprint(out, "\nWEBHOOK\tQUEUED\tDELIVERED\tREFUSED\tDROPPED\tLAST ERROR\n")
	}
	for _, w := range p.Webhooks {
		fmt.Fprintf(out, "%s\t%d\t%d\t%d\t%d\t%s\n", w.Name, w.Queued, w.Delivered, w.Refused, w.Dropped, w.Error)
	}
}

// replicaText says who this replica is, who leads, and what it does not do.
func replicaText(r *etcd.Status) string {
	since := ""
	if r.Since != nil {
		since = " since " + r.Since.Format(time.RFC3339Nano)
	}
	text := r.Name + " leads" + since
	if r.Role != etcd.RoleLeader {
		switch {
		case r.Leader == "":
			text = r.Name + " follows, nobody is known to lead"
		case since == "":
			text = r.Name + " follows " + r.Leader
		default:
			text = r.Name + " follows " + r.Leader + ", which leads" + since
		}
		text += "; it serves Envoys only: no switches, BGP, compose files or health checks"
	}
	return strings.Join(some(text, r.Error), "; ")
}

// showProxies prints the xDS clients, or only those of one node.
func showProxies(cmd *cobra.Command, client admin.Client, output string, names []string) error {
	all, err := client.Proxies(cmd.Context())
	if err != nil {
		return err
	}
	all.Proxies = slices.DeleteFunc(all.Proxies, func(p xds.Proxy) bool { return len(names) > 0 && p.Node != names[0] })
	if output == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(all)
	}
	out := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprint(out, "NODE\tCLIENT\tVERSION\tPROTOCOL\tSINCE\tSTATE\n")
	var more []string
	for _, p := range all.Proxies {
		state := "synced"
		if !p.Synced {
			state = "waits: " + p.Waits
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%s\n", p.Node, p.Agent, p.Version, p.Protocol, p.Since.UTC().Format(time.RFC3339), state)
		if n := p.LastNACK; n != nil {
			more = append(more, fmt.Sprintf("%s refused %s %s at %s, of %s: %s", p.Node, n.Type, n.Resource,
				n.Time.UTC().Format(time.RFC3339), cmp.Or(strings.Join(n.Places, " "), "no document"), n.Message))
		}
		if len(p.Cannot) > 0 {
			more = append(more, fmt.Sprintf("%s cannot do: %s", p.Node, strings.Join(p.Cannot, "; ")))
		}
	}
	if err := out.Flush(); err != nil || len(more) == 0 {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "\n%s\n", strings.Join(more, "\n"))
	return err
}
