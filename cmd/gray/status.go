package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/reconciler"
)

func statusCommand() *cobra.Command {
	var address, output string
	cmd := &cobra.Command{
		Use: "status [NAME]", Short: "Show policies, commits, sinks and conditions", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, raw, err := admin.Client{Address: address}.Status(cmd.Context())
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
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func printStatus(cmd *cobra.Command, s *admin.Status, names []string) error {
	out := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "revision\t%s\nfetched\t%s\nready\t%s\n", s.Revision, s.Fetched, said(s.Conditions))
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
	return out.Flush()
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
