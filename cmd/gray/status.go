package main

import (
	"cmp"
	"encoding/json"
	"fmt"
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

func statusCommand() *cobra.Command {
	var address, output string
	var proxies bool
	cmd := &cobra.Command{
		Use: "status [NAME]", Short: "Show policies, commits, sinks and conditions", Args: cobra.MaximumNArgs(1),
		Long: "Show policies, commits, sinks and conditions: of all documents, or of those with a name. With --proxies it shows the Envoys instead, all or that of a node.",
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
	cmd.Flags().StringVar(&address, "admin-listen", "127.0.0.1:18001", "where the daemon's admin API is")
	cmd.Flags().BoolVar(&proxies, "proxies", false, "show each connected Envoy: since when, what it waits for, what it refused and cannot do")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func printStatus(cmd *cobra.Command, s *admin.Status, names []string) error {
	out := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "revision\t%s\nfetched\t%s\nready\t%s\n", s.Revision, s.Fetched, said(s.Conditions))
	if m, ok := s.Replica.(map[string]any); ok {
		fmt.Fprintf(out, "replica\t%s\n", saidReplica(m))
	}
	for _, e := range s.Errors {
		fmt.Fprintf(out, "error\t%s\n", e)
	}
	fmt.Fprint(out, "\nTARGET\tRESOURCES\tPENDING\tPROGRAMMED\n")
	for _, t := range s.Targets {
		fmt.Fprintf(out, "%s\t%d\t%d\t%s\n", t.Name, t.Resources, t.Pending, said(t.Conditions))
	}
	fmt.Fprint(out, "\nDOCUMENT\tPLACE\tREADY\n")
	for _, d := range s.Documents {
		if len(names) == 0 || d.Name == names[0] {
			fmt.Fprintf(out, "%s/%s\t%s\t%s\n", d.Kind, d.Name, d.Place, said(d.Conditions))
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
	if list, ok := s.Proxies.([]any); ok && len(list) > 0 {
		fmt.Fprint(out, "\nENVOY\tVERSION\tSYNCED\tLAST NACK\n")
		for _, p := range list {
			m, _ := p.(map[string]any)
			nack := ""
			if n, ok := m["lastNACK"].(map[string]any); ok {
				nack = fmt.Sprint(n["message"])
			}
			fmt.Fprintf(out, "%v\t%v\t%v\t%s\n", m["node"], m["version"], m["synced"], nack)
		}
	}
	if list, ok := s.Neighbors.([]any); ok && len(list) > 0 {
		fmt.Fprint(out, "\nNEIGHBOR\tTARGET\tAS\tSTATE\tSINCE\tLAST ERROR\n")
		for _, n := range list {
			m, _ := n.(map[string]any)
			fmt.Fprintf(out, "%v\t%v\t%v\t%v\t%v\t%s\n", m["address"], m["target"], m["asn"], m["state"], m["since"], neighborError(m))
		}
	}
	if list, ok := s.Webhooks.([]any); ok && len(list) > 0 {
		fmt.Fprint(out, "\nWEBHOOK\tQUEUED\tDELIVERED\tREFUSED\tDROPPED\tLAST ERROR\n")
		for _, w := range list {
			m, _ := w.(map[string]any)
			fmt.Fprintf(out, "%v\t%v\t%v\t%v\t%v\t%v\n", m["name"], m["queued"], m["delivered"], m["refused"], m["dropped"], cmp.Or(m["error"], any("")))
		}
	}
	return out.Flush()
}

// saidReplica is who a replica is, who leads, and what this one leaves alone.
func saidReplica(m map[string]any) string {
	name, leader, since, trouble := m["name"], m["leader"], m["since"], m["error"]
	var text string
	switch {
	case m["role"] == etcd.RoleLeader:
		text = fmt.Sprintf("%v leads since %v", name, since)
	case leader == nil:
		text = fmt.Sprintf("%v follows, nobody is known to lead", name)
	case since == nil:
		text = fmt.Sprintf("%v follows %v", name, leader)
	default:
		text = fmt.Sprintf("%v follows %v, which leads since %v", name, leader, since)
	}
	if m["role"] != etcd.RoleLeader {
		text += "; it serves Envoys, and leaves switches, BGP, compose files and checks of servers alone"
	}
	if trouble != nil {
		text += fmt.Sprintf("; %v", trouble)
	}
	return text
}

// showProxies prints the clients of xDS, or those of a node.
func showProxies(cmd *cobra.Command, client admin.Client, output string, names []string) error {
	list := []xds.Proxy{}
	if err := client.Proxies(cmd.Context(), &list); err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(p xds.Proxy) bool { return len(names) > 0 && p.Node != names[0] })
	if output == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(admin.Proxies{APIVersion: admin.ProxiesVersion, Proxies: list})
	}
	out := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprint(out, "NODE\tCLIENT\tVERSION\tPROTOCOL\tSINCE\tSTATE\n")
	var more []string
	for _, p := range list {
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
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "\n%s\n", strings.Join(more, "\n"))
	return err
}

// neighborError is the last error of a BGP session and its time.
func neighborError(m map[string]any) string {
	if m["lastError"] == nil {
		return ""
	}
	return fmt.Sprintf("%v (%v)", m["lastError"], m["lastErrorAt"])
}

// said is the first condition on one line.
func said(conditions []reconciler.Condition) string {
	if len(conditions) == 0 {
		return ""
	}
	c := conditions[0]
	return strings.TrimRight(fmt.Sprintf("%s %s %s", c.Status, c.Reason, c.Message), " ")
}
