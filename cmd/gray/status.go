package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/sinks/xds"
	"github.com/gray-release/gray/stores/etcd"
)

func statusCommand() *cobra.Command {
	var address, output string
	var proxies bool
	cmd := &cobra.Command{
		Use: "status [NAME]", Short: "Show the commit in force, and whether it is live", Args: cobra.MaximumNArgs(1),
		Long: "Show the commit in force, the targets, and the conditions of all documents, or only of those called NAME. With --proxies, show the connected Envoys instead, or only those of the node NAME.",
		RunE: func(cmd *cobra.Command, args []string) error {
			client := admin.Client{Address: address}
			if output != "text" && output != "json" {
				return fmt.Errorf("-o %s is not known; want text or json", output)
			}
			if proxies {
				return showProxies(cmd, client, output, args)
			}
			s, raw, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			if output == "json" {
				_, err := cmd.OutOrStdout().Write(raw)
				return err
			}
			return printStatus(cmd, s, args)
		},
	}
	cmd.Flags().StringVar(&address, "admin-listen", "127.0.0.1:18001", "the daemon's admin API, host:port")
	cmd.Flags().BoolVar(&proxies, "proxies", false, "show each connected Envoy: since when, what it waits for, what it has refused, and what it does not support")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func printStatus(cmd *cobra.Command, s *admin.Status, names []string) error {
	out := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "revision\t%s\nfetched\t%s\nready\t%s\n", s.Revision, s.Fetched, s.Conditions[0])
	if s.Replica != nil {
		fmt.Fprintf(out, "replica\t%s\n", replicaText(s.Replica))
	}
	for _, e := range s.Errors {
		fmt.Fprintf(out, "error\t%s\n", e)
	}
	fmt.Fprint(out, "\nTARGET\tRESOURCES\tPENDING\tPROGRAMMED\n")
	for _, t := range s.Targets {
		fmt.Fprintf(out, "%s\t%d\t%d\t%s\n", t.Name, t.Resources, t.Pending, t.Conditions[0])
	}
	fmt.Fprint(out, "\nDOCUMENT\tPLACE\tREADY\n")
	for _, d := range s.Documents {
		if len(names) == 0 || d.Name == names[0] {
			fmt.Fprintf(out, "%s/%s\t%s\t%s\n", d.Kind, d.Name, d.Place, d.Conditions[0])
			for _, c := range d.Conditions {
				if c.Type == "Degraded" {
					fmt.Fprintf(out, "\t\t%s since %s: %s\n", c.Reason, c.LastTransitionTime.UTC().Format(time.RFC3339), c.Message)
				}
			}
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if err := statusRollouts(cmd.OutOrStdout(), s.Rollouts, names); err != nil {
		return err
	}
	printPeers(out, &s.Peers)
	return out.Flush()
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
