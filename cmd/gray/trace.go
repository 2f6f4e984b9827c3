package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/schema"
)

// traceVersion is the apiVersion of a trace in JSON.
const traceVersion = "gray.dev/trace/v1"

func traceCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "trace", Short: "Explain where a packet or a request goes, and why"}
	cmd.AddCommand(tracePacketCommand(), traceRequestCommand())
	return cmd
}

// traceFlags are the flags that both kinds of traces have.
type traceFlags struct {
	rev, base, output, admin string
	live                     bool
}

func (f *traceFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.rev, "rev", "", "trace at this revision; default: the working tree")
	flags.StringVar(&f.base, "base", "", "trace at this revision too, and show both side by side")
	flags.BoolVar(&f.live, "live", false, "ask the daemon, which knows the commit in force, the servers that are down and the endpoints in etcd")
	flags.StringVar(&f.admin, "admin-listen", "127.0.0.1:18001", "the daemon's admin API, host:port")
	flags.StringVarP(&f.output, "output", "o", "text", "text or json")
}

// traced is a trace at a revision.
type traced struct {
	Revision string `json:"revision"`
	Trace    any    `json:"trace"`
	NotLive  string `json:"notLive,omitempty"` // why the live one may be otherwise

	where   string // the switch of a packet
	steps   []packets.Step
	outcome string
	failed  bool // it is dropped, or not found
	of      *admin.Traced
}

func (t *traced) heading() string {
	if t.where == "" {
		return t.Revision
	}
	return t.Revision + ", " + t.where
}

// traceReport is the answer, as -o json prints it.
type traceReport struct {
	APIVersion string  `json:"apiVersion"`
	Packet     string  `json:"packet,omitempty"`
	Request    string  `json:"request,omitempty"`
	Base       *traced `json:"base,omitempty"`
	Head       *traced `json:"head"`
	Differs    bool    `json:"differs"` // base and head end differently
}

// run traces at one revision, or at two.
func (f *traceFlags) run(cmd *cobra.Command, path string, r traceReport, q admin.TraceQuery) error {
	switch {
	case f.output != "text" && f.output != "json":
		return fmt.Errorf("-o %s is not known; want text or json", f.output)
	case f.live && f.rev != "":
		return fmt.Errorf("--live and --rev exclude each other; use --base to compare what is live with another revision")
	}
	r.APIVersion = traceVersion
	var err error
	if f.live {
		r.Head, err = traceLive(cmd.Context(), f.admin, q)
	} else {
		r.Head, err = traceAt(cmd.Context(), path, f.rev, q)
	}
	if err != nil {
		return err
	}
	if f.base != "" {
		if r.Base, err = traceAt(cmd.Context(), path, f.base, q); err != nil {
			return err
		}
		r.Differs = !r.Base.sameWay(r.Head)
	}
	if err := r.print(cmd.OutOrStdout(), f.output); err != nil {
		return err
	}
	if r.Head.NotLive != "" {
		return errors.New("this is what is meant, and not known to be what is done")
	}
	if r.Differs || r.Base == nil && r.Head.failed {
		return errNo
	}
	return nil
}

// traceLive has the daemon trace.
func traceLive(ctx context.Context, address string, q admin.TraceQuery) (*traced, error) {
	t, err := admin.Client{Address: address}.Trace(ctx, q)
	if err != nil {
		return nil, err
	}
	shown := newTraced("live at "+t.Revision, t)
	if shown.NotLive = plain(t.NotLive); t.NotLive != "" {
		shown.Revision = "meant by " + t.Revision
	}
	return shown, nil
}

// newTraced prepares a trace for printing.
func newTraced(revision string, t *admin.Traced) *traced {
	if p := t.Packet; p != nil {
		shown := &traced{Revision: revision, Trace: p, steps: p.Steps, outcome: packetOutcome(p), failed: p.Dropped != "", of: t}
		if p.Switch != "" {
			shown.where = "switch " + p.Switch
		}
		return shown
	}
	r := t.Request
	return &traced{Revision: revision, Trace: r, steps: r.Steps, outcome: requestOutcome(r), failed: r.NotFound != "", of: t}
}

// sameWay reports whether two traces of one query end alike.
func (t *traced) sameWay(o *traced) bool {
	if t.of.Packet != nil {
		return t.of.Packet.SameWay(o.of.Packet)
	}
	return t.of.Request.SameWay(o.of.Request)
}

// traceAt traces at a revision, or in the working tree if the revision is empty.
func traceAt(ctx context.Context, path, revision string, q admin.TraceQuery) (*traced, error) {
	snapshot, err := snapshotAt(ctx, path, revision)
	if err != nil {
		return nil, err
	}
	ir, _, err := compileSnapshot(snapshot)
	if err != nil && revision != "" {
		return nil, fmt.Errorf("%s is not valid:\n%w", revision, err)
	}
	if err != nil {
		return nil, err
	}
	t, err := admin.Trace(ir, q)
	if err != nil {
		return nil, fmt.Errorf("%w at %s", err, snapshot.Revision)
	}
	return newTraced(snapshot.Revision, t), nil
}

func (r *traceReport) print(w io.Writer, output string) error {
	if output == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(r)
	}
	var b strings.Builder
	fmt.Fprintln(&b, r.Packet+r.Request)
	if r.Base == nil {
		printTrace(&b, r.Head)
	} else {
		printSideBySide(&b, r.Base, r.Head)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printTrace prints a line for each table; ">" marks the entry that decides.
func printTrace(b *strings.Builder, t *traced) {
	fmt.Fprintf(b, "%s:\n", t.heading())
	for i := range t.steps {
		s := &t.steps[i]
		mark := " "
		if s.Wins {
			mark = ">"
		}
		fmt.Fprintf(b, "%s %-15s %s\n", mark, s.Table, stepText(s))
	}
	fmt.Fprintln(b, t.outcome)
	if t.NotLive != "" {
		fmt.Fprintln(b, "not live: "+t.NotLive)
	}
}

// stepText is an entry, what it does, and its origin.
func stepText(s *packets.Step) string {
	if s.Entry == "" {
		return "-"
	}
	return fmt.Sprintf("%s -> %s (%s)", s.Entry, s.Says, strings.TrimSpace(s.Policy+" "+s.Origin.String()))
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
	fmt.Fprintln(b, strings.TrimRight(fmt.Sprintf("%17s %-*s  %s", "", columnWidth, base.heading(), head.heading()), " "))
	var tables []string // those of both, in an order that fits both
	for _, t := range []*traced{base, head} {
		last := 0
		for _, s := range t.steps {
			i := slices.Index(tables, s.Table)
			if i < 0 {
				i = last
				tables = slices.Insert(tables, i, s.Table)
			}
			last = i + 1
		}
	}
	for _, table := range tables {
		row(table, cellOf(base, table), cellOf(head, table))
	}
	row("", base.outcome, head.outcome)
	if head.NotLive != "" {
		fmt.Fprintln(b, "not live: "+head.NotLive)
	}
}

// cellOf is what a commit says about one table.
func cellOf(t *traced, table string) string {
	i := slices.IndexFunc(t.steps, func(s packets.Step) bool { return s.Table == table })
	switch {
	case i < 0:
		return "-"
	case t.steps[i].Wins:
		return "> " + stepText(&t.steps[i])
	}
	return stepText(&t.steps[i])
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return ""
}

// wrap breaks a text between words. A word that is too long gets a line of its own.
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

// tracePacketFlags are the flags of gray trace packet.
type tracePacketFlags struct {
	traceFlags
	vip, src, dst, proto string
	vni                  uint32
	sport, dport         uint16
	onSwitch             string
}

func tracePacketCommand() *cobra.Command {
	var f tracePacketFlags
	packet := &cobra.Command{
		Use: "packet [PATH]", Short: "Follow a packet through the tables of a switch", Args: cobra.MaximumNArgs(1),
		Long: "Show which entry of each table a packet hits, the document and line that it comes from, and the packet's bucket, server and port.\n" +
			"The exit code is 1 if the switch drops the packet or, with --base, if the two revisions send it different ways.",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := f.packet()
			if err != nil {
				return err
			}
			return f.run(cmd, argOr(args, "."), traceReport{Packet: p.String()}, admin.TraceQuery{Packet: &p, Switch: f.onSwitch})
		},
	}
	flags := packet.Flags()
	flags.StringVar(&f.vip, "vip", "", "the outer destination address")
	flags.Uint32Var(&f.vni, "vni", 0, "the VXLAN network identifier; 0 for traffic that is not VXLAN")
	flags.StringVar(&f.src, "src", "", "the inner source address; the outer one for traffic that is not VXLAN")
	flags.StringVar(&f.dst, "dst", "", "the inner destination address; default without --vni: the VIP")
	flags.StringVar(&f.proto, "proto", "tcp", "tcp, udp, icmp or 0 to 255")
	flags.Uint16Var(&f.sport, "sport", 0, "the source port")
	flags.Uint16Var(&f.dport, "dport", 0, "the destination port")
	flags.StringVar(&f.onSwitch, "switch", "", "the switch that gets the packet; default: the first one that has the VIP")
	f.register(packet)
	return packet
}

// packet makes the packet from the flags.
func (f *tracePacketFlags) packet() (packets.Packet, error) {
	p := packets.Packet{VNI: f.vni, SrcPort: f.sport, DstPort: f.dport}
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

// packetOutcome says where the packet goes.
func packetOutcome(t *packets.Trace) string {
	if t.Dropped != "" {
		return "dropped: " + t.Dropped
	}
	return fmt.Sprintf("leaves by port %d to %s of %s", t.Port, t.Backend, t.Version)
}

// traceRequestFlags are the flags of gray trace request.
type traceRequestFlags struct {
	traceFlags
	host, path string
	headers    []string
}

func traceRequestCommand() *cobra.Command {
	var f traceRequestFlags
	request := &cobra.Command{
		Use: "request [PATH]", Short: "Follow a request through an Envoy", Args: cobra.MaximumNArgs(1),
		Long: "Show which policy decides about a request, the document and line that it comes from, and the request's cluster and endpoints.\n" +
			"The exit code is 1 if no Service has the host or, with --base, if the two revisions answer the request differently.",
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := f.request()
			if err != nil {
				return err
			}
			return f.run(cmd, argOr(args, "."), traceReport{Request: requestText(r)}, admin.TraceQuery{Request: &r})
		},
	}
	flags := request.Flags()
	flags.StringVar(&f.host, "host", "", "the Host or :authority value")
	flags.StringVar(&f.path, "path", "/", "the path")
	flags.StringArrayVar(&f.headers, "header", nil, "a header, 'name: value' (repeatable)")
	f.register(request)
	return request
}

// request makes the request from the flags.
func (f *traceRequestFlags) request() (requests.Request, error) {
	r := requests.Request{Host: f.host, Path: f.path, Headers: map[string][]string{}}
	if f.host == "" {
		return r, fmt.Errorf("--host is missing; give the Host or :authority value")
	}
	if !strings.HasPrefix(f.path, "/") {
		return r, fmt.Errorf("--path %q does not begin with a slash", f.path)
	}
	for _, line := range f.headers {
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.ToLower(strings.TrimSpace(name)), strings.Trim(value, " \t")
		if !ok || name == "" {
			return r, fmt.Errorf("--header %q is not 'name: value'", line)
		}
		r.Headers[name] = append(r.Headers[name], value)
	}
	return r, nil
}

func requestText(r requests.Request) string {
	text := "GET http://" + r.Host + r.Path
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		for _, line := range r.Headers[name] {
			text += fmt.Sprintf(", %s: %s", name, line)
		}
	}
	return text
}

// requestOutcome says who answers the request.
func requestOutcome(t *requests.Trace) string {
	if t.NotFound != "" {
		return "404: " + t.NotFound
	}
	return fmt.Sprintf("answered by %s of Service %s", t.Version, t.Service)
}
