package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sources/dir"
)

// traceVersion is the apiVersion of a trace in JSON.
const traceVersion = "gray.dev/trace/v1"

// tracePacketFlags are the flags of gray trace packet.
type tracePacketFlags struct {
	vip, src, dst, proto string
	vni                  uint32
	sport, dport         uint16
	onSwitch, rev, base  string
	output               string
}

func traceCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "trace", Short: "Explain what the documents do with a packet"}
	var f tracePacketFlags
	packet := &cobra.Command{
		Use: "packet [PATH]", Short: "Follow a packet through the tables of a switch", Args: cobra.MaximumNArgs(1),
		Long: "Tell, offline, which entry of which table, document and line decides about a packet, its bucket, server and port.\n" +
			"Exit code 1 where the switch drops it, or with --base where the two commits send it different ways.",
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, pathArg(args)) },
	}
	flags := packet.Flags()
	flags.StringVar(&f.vip, "vip", "", "the outer destination")
	flags.Uint32Var(&f.vni, "vni", 0, "the VXLAN network identifier; 0: traffic that is not VXLAN")
	flags.StringVar(&f.src, "src", "", "the inner source; the outer one of traffic that is not VXLAN")
	flags.StringVar(&f.dst, "dst", "", "the inner destination; default for traffic that is not VXLAN: the VIP")
	flags.StringVar(&f.proto, "proto", "tcp", "tcp, udp, icmp or 0 to 255")
	flags.Uint16Var(&f.sport, "sport", 0, "the source port")
	flags.Uint16Var(&f.dport, "dport", 0, "the destination port")
	flags.StringVar(&f.onSwitch, "switch", "", "the switch; default: the first one that has the VIP")
	flags.StringVar(&f.rev, "rev", "", "look at this revision; default: the working tree")
	flags.StringVar(&f.base, "base", "", "show this revision beside it")
	flags.StringVarP(&f.output, "output", "o", "text", "text or json")
	cmd.AddCommand(packet)
	return cmd
}

// traced is a trace at a revision.
type traced struct {
	Revision string          `json:"revision"`
	Trace    *policies.Trace `json:"trace"`
}

// traceReport is the JSON form of an answer.
type traceReport struct {
	APIVersion string  `json:"apiVersion"`
	Packet     string  `json:"packet"`
	Base       *traced `json:"base,omitempty"`
	Head       traced  `json:"head"`
	Differs    bool    `json:"differs"` // the packet goes another way than at the base
}

func (f *tracePacketFlags) run(cmd *cobra.Command, path string) error {
	if f.output != "text" && f.output != "json" {
		return fmt.Errorf("-o %s is not known; want text or json", f.output)
	}
	p, err := f.packet()
	if err != nil {
		return err
	}
	r := traceReport{APIVersion: traceVersion, Packet: p.String()}
	head, err := f.trace(cmd.Context(), path, f.rev, p)
	if err != nil {
		return err
	}
	r.Head = *head
	if f.base != "" {
		if r.Base, err = f.trace(cmd.Context(), path, f.base, p); err != nil {
			return err
		}
		r.Differs = !r.Base.Trace.SameWay(r.Head.Trace)
	}
	if err := r.print(cmd.OutOrStdout(), f.output); err != nil {
		return err
	}
	if r.Differs || r.Base == nil && r.Head.Trace.Dropped != "" {
		return errNo
	}
	return nil
}

// packet reads the packet off the flags.
func (f *tracePacketFlags) packet() (policies.Packet, error) {
	p := policies.Packet{VNI: f.vni, SrcPort: f.sport, DstPort: f.dport}
	if f.vni > schema.MaxVNI {
		return p, fmt.Errorf("--vni %d is above the largest VNI, %d", f.vni, schema.MaxVNI)
	}
	if f.dst == "" && f.vni == 0 {
		f.dst = f.vip
	}
	for _, a := range []struct {
		flag, value string
		to          *netip.Addr
	}{{"--vip", f.vip, &p.VIP}, {"--src", f.src, &p.Src}, {"--dst", f.dst, &p.Dst}} {
		var addr schema.Addr
		if a.value == "" {
			return p, fmt.Errorf("%s is missing; give an IP address", a.flag)
		}
		if err := addr.UnmarshalText([]byte(a.value)); err != nil {
			return p, fmt.Errorf("%s: %w", a.flag, err)
		}
		*a.to = addr.Addr
	}
	if p.Src.Is4() != p.Dst.Is4() {
		return p, fmt.Errorf("--src %s and --dst %s are of different IP versions", p.Src, p.Dst)
	}
	var proto schema.Protocol
	if err := proto.UnmarshalText([]byte(f.proto)); err != nil {
		return p, fmt.Errorf("--proto: %w", err)
	}
	p.Protocol = uint8(proto)
	if p.Protocol != 6 && p.Protocol != 17 && (f.sport != 0 || f.dport != 0) {
		return p, fmt.Errorf("--proto %s has no ports; leave out --sport and --dport, or say tcp or udp", f.proto)
	}
	return p, nil
}

// trace follows the packet at a revision; the empty one is the working tree.
func (f *tracePacketFlags) trace(ctx context.Context, path, revision string, p policies.Packet) (*traced, error) {
	name := revision
	var snapshot *schema.Snapshot
	var err error
	if revision == "" {
		name = "working tree"
		snapshot, err = dir.Read(ctx, path)
	} else {
		snapshot, err = readRevision(ctx, path, revision)
	}
	if err != nil {
		return nil, err
	}
	set := schema.NewSet()
	ir, _, err := policies.NewCompiler(policies.NewIDs()).Compile(set, set.Update(snapshot))
	if err != nil && revision != "" {
		return nil, fmt.Errorf("%s is not valid:\n%w", revision, err)
	}
	if err != nil {
		return nil, err
	}
	on := f.onSwitch
	if on != "" && ir.Switch(on) == nil {
		return nil, fmt.Errorf("there is no Switch %q at %s", on, name)
	}
	for _, gw := range ir.Gateways() {
		if on == "" && slices.Contains(gw.VIPs, p.VIP) {
			on = gw.Switches[0]
		}
	}
	return &traced{name, ir.TracePacket(on, p)}, nil
}

func (r *traceReport) print(w io.Writer, output string) error {
	if output == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(r)
	}
	var b strings.Builder
	fmt.Fprintln(&b, r.Packet)
	if r.Base == nil {
		printTrace(&b, &r.Head)
	} else {
		printSideBySide(&b, r.Base, &r.Head)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printTrace prints one line a table; ">" marks the entry that decides.
func printTrace(b *strings.Builder, t *traced) {
	fmt.Fprintf(b, "%s:\n", heading(t))
	for i := range t.Trace.Steps {
		s := &t.Trace.Steps[i]
		mark := " "
		if s.Wins {
			mark = ">"
		}
		fmt.Fprintf(b, "%s %-15s %s\n", mark, s.Table, sayStep(s))
	}
	fmt.Fprintln(b, outcome(t.Trace))
}

// sayStep is an entry, what it does, and where it comes from.
func sayStep(s *policies.Step) string {
	if s.Entry == "" {
		return "-"
	}
	return fmt.Sprintf("%s -> %s (%s)", s.Entry, s.Says, strings.TrimSpace(s.Policy+" "+s.Origin.String()))
}

func heading(t *traced) string {
	if t.Trace.Switch == "" {
		return t.Revision
	}
	return t.Revision + ", switch " + t.Trace.Switch
}

// outcome says in a sentence where the packet goes.
func outcome(t *policies.Trace) string {
	if t.Dropped != "" {
		return "dropped: " + t.Dropped
	}
	return fmt.Sprintf("leaves by port %d to %s of %s", t.Port, t.Backend, t.Version)
}

// columnWidth is how wide a commit's column is, in characters.
const columnWidth = 56

// printSideBySide prints two commits in two columns; "!" marks what differs.
func printSideBySide(b *strings.Builder, base, head *traced) {
	row := func(name, left, right string) {
		mark := " "
		if left != right {
			mark = "!"
		}
		l, r := wrap(left, columnWidth), wrap(right, columnWidth)
		for i := range max(len(l), len(r)) {
			line := fmt.Sprintf("%s %-15s %-*s  %s", mark, name, columnWidth, at(l, i), at(r, i))
			fmt.Fprintln(b, strings.TrimRight(line, " "))
			mark, name = " ", ""
		}
	}
	fmt.Fprintln(b, strings.TrimRight(fmt.Sprintf("%17s %-*s  %s", "", columnWidth, heading(base), heading(head)), " "))
	var tables []string
	for _, t := range []*traced{base, head} {
		for _, s := range t.Trace.Steps {
			if !slices.Contains(tables, s.Table) {
				tables = append(tables, s.Table)
			}
		}
	}
	for _, table := range tables {
		row(table, cellOf(base, table), cellOf(head, table))
	}
	row("", outcome(base.Trace), outcome(head.Trace))
}

// cellOf is what a commit says about one table.
func cellOf(t *traced, table string) string {
	i := slices.IndexFunc(t.Trace.Steps, func(s policies.Step) bool { return s.Table == table })
	switch {
	case i < 0:
		return "-"
	case t.Trace.Steps[i].Wins:
		return "> " + sayStep(&t.Trace.Steps[i])
	}
	return sayStep(&t.Trace.Steps[i])
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return ""
}

// wrap breaks a text between words; a word that is longer has its own line.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return append(lines, line)
}
