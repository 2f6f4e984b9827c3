package p4rt_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/p4rt"
	"github.com/gray-release/gray/sinks/p4rt/softswitch"
)

// crafted is a packet that scapy made, and what a gateway has to see in it.
type crafted struct {
	Frame        string
	VIP          netip.Addr
	VNI          uint32
	Src, Dst     string // empty: it carries no IP
	Proto        uint8
	Sport, Dport uint16
	Drop         string // why it is to be dropped; empty: by the documents alone
}

func (c *crafted) packet() packets.Packet {
	p := packets.Packet{VIP: c.VIP, VNI: c.VNI, Protocol: c.Proto, SrcPort: c.Sport, DstPort: c.Dport}
	if c.Src != "" {
		p.Src, p.Dst = netip.MustParseAddr(c.Src), netip.MustParseAddr(c.Dst)
	}
	return p
}

// craft has scapy make packets.
func craft(t *testing.T, seed, count int) []crafted {
	t.Helper()
	python, err := filepath.Abs("../../.tools/venv/bin/python")
	if err == nil {
		_, err = os.Stat(python)
	}
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatal(err)
	default:
		t.Skipf("%v; run make tools", err)
	}
	cmd := exec.CommandContext(t.Context(), python, "testdata/packets.py", fmt.Sprint(seed), fmt.Sprint(count))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	var all []crafted
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var c crafted
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	if len(all) != count {
		t.Fatalf("scapy made %d packets, want %d", len(all), count)
	}
	return all
}

// craftedDocuments is a gateway with every kind of rule; the flows are random.
func craftedDocuments(rnd *rand.Rand) string {
	var b strings.Builder
	b.WriteString(`
apiVersion: gray.dev/v1alpha1
kind: Switch
metadata: {name: gw-a}
spec: {address: SWITCH, mac: "02:00:00:00:00:01"}
---
apiVersion: gray.dev/v1alpha1
kind: Gateway
metadata: {name: vpc-gw}
spec:
  vips: [203.0.113.10, "2001:db8::10"]
  switches: [gw-a]
  hash: {buckets: 1024, fields: [FIELDS]}
  default: v1
  versions:
`)
	port := 0
	for _, version := range []string{"v1", "v2", "v3"} {
		fmt.Fprintf(&b, "  - name: %s\n    backends:\n", version)
		for i := range 3 {
			port++
			fmt.Fprintf(&b, "    - {name: gw%d, address: 192.0.2.%d, mac: \"02:00:00:00:01:%02d\", port: %d, weight: %d}\n", port, port, port, port, i+1)
		}
	}
	for vni := 1001; vni <= 1003; vni++ {
		fmt.Fprintf(&b, "---\napiVersion: gray.dev/v1alpha1\nkind: Network\nmetadata: {name: vpc-%d}\nspec: {vni: %d, account: \"5000%d\"}\n", vni, vni, vni)
	}
	policy := func(name, version string, priority int, entries ...string) {
		fmt.Fprintf(&b, "---\napiVersion: gray.dev/v1alpha1\nkind: GrayPolicy\nmetadata: {name: %s}\nspec:\n  targets: [{kind: Gateway, name: vpc-gw}]\n  version: %s\n  priority: %d\n  match:\n", name, version, priority)
		for _, e := range entries {
			fmt.Fprintf(&b, "  - %s\n", e)
		}
	}
	policy("vpc", "v2", 100, "networks: [vpc-1001]")
	policy("vms", "v3", 200, `vms: [{network: vpc-1001, addresses: [10.0.0.5, "fd00::5"]}, {network: vpc-1002, addresses: [10.0.0.6, "fd00::6"]}]`)
	pick := func(words ...string) string { return words[rnd.IntN(len(words))] }
	for i := range 12 {
		var f []string
		v6 := rnd.IntN(3) == 0
		if rnd.IntN(4) > 0 {
			f = append(f, "vni: "+pick("0", "1001", "1002", "1003", "16777215"))
		}
		switch {
		case rnd.IntN(3) == 0:
		case v6:
			f = append(f, "src: \""+pick("fd00::/64", "fd00::5/128", "::/1")+"\"")
		default:
			f = append(f, "src: "+pick("10.0.0.0/24", "10.0.0.4/30", "10.0.0.5/32", "0.0.0.0/1"))
		}
		switch {
		case rnd.IntN(3) == 0:
		case v6:
			f = append(f, "dst: \""+pick("fd00::/16", "fd00:1::7/128", "2001:db8::/32")+"\"")
		default:
			f = append(f, "dst: "+pick("10.1.0.7/32", "10.0.0.0/15", "192.0.2.0/24", "203.0.113.10/32"))
		}
		if rnd.IntN(2) == 0 {
			f = append(f, "protocol: "+pick("tcp", "udp", "6"), "srcPort: "+pick("40000-40999", "0-1023", "40001"), "dstPort: "+pick("443", "0-65534", "53"))
		} else if rnd.IntN(2) == 0 {
			f = append(f, "protocol: "+pick("icmp", "47", "58", "0"))
		}
		if len(f) > 0 {
			policy(fmt.Sprintf("flow-%d", i), pick("v1", "v2", "v3"), 300+i, "flow: {"+strings.Join(f, ", ")+"}")
		}
	}
	fields := pick("vni, src, dst, protocol, srcPort, dstPort", "src, dst", "vni, dst, dstPort", "srcPort")
	return strings.Replace(b.String(), "FIELDS", fields, 1)
}

// programmed is a switch that the sink has programmed, and what it was programmed
// with.
func programmed(t *testing.T, documents string) (*softswitch.Switch, *policies.IR) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sw := softswitch.New(1)
	server := grpc.NewServer(softswitch.ServerOptions()...)
	sw.Register(server)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	documents = strings.Replace(documents, "SWITCH", l.Addr().String(), 1)
	set := schema.NewSet()
	changed := set.Update(&schema.Snapshot{Revision: "test", Files: schema.NewFiles(&schema.File{Path: "all.yaml", ID: "1", Data: []byte(documents)})})
	ir, units, err := policies.NewCompiler(policies.NewIDs(), nil).Compile(set, changed, policies.Facts{})
	if err != nil {
		t.Fatalf("%v\n%s", err, documents)
	}
	sink := p4rt.New(p4rt.Config{Epoch: 1})
	t.Cleanup(func() { _ = sink.Close() })
	desired := reconciler.State{}
	var self *reconciler.Resource
	for _, u := range units {
		resources, err := sink.Lower(ir, u)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range resources {
			desired[r.Key] = r
			if r.Kind == reconciler.KindTarget {
				self = r
			}
		}
	}
	changes := reconciler.Diff(desired, nil, maps.Keys(desired))
	for len(changes) > 0 {
		n := 1
		for n < len(changes) && changes[n].Rank() == changes[0].Rank() {
			n++
		}
		if err := sink.Apply(t.Context(), self, changes[:n]); err != nil {
			t.Fatal(err)
		}
		changes = changes[n:]
	}
	return sw, ir
}

// TestCraftedPackets sends packets that scapy made through switches, and compares their
// port and content with the flow model.
func TestCraftedPackets(t *testing.T) {
	const each = 1000
	rounds := 10
	if testing.Short() {
		rounds = 1
	}
	all := craft(t, 1, rounds*each)
	for round := range rounds {
		documents := craftedDocuments(rand.New(rand.NewPCG(1, uint64(round))))
		sw, ir := programmed(t, documents)
		forwarded, versions := 0, map[string]int{}
		for _, c := range all[round*each : (round+1)*each] {
			frame, err := hex.DecodeString(c.Frame)
			if err != nil {
				t.Fatal(err)
			}
			port, out, ok := sw.Process(bytes.Clone(frame))
			if c.Drop != "" {
				if ok {
					t.Errorf("%+v\nleft by port %d, and is %s", c, port, c.Drop)
				}
				continue
			}
			trace := packets.Follow(ir, "gw-a", c.packet())
			if !ok || trace.Dropped != "" || port != trace.Port {
				t.Fatalf("round %d: %+v\nleft by port %d (%t), the flow model says %+v\n%s", round, c, port, ok, trace, documents)
			}
			mac, err := net.ParseMAC(trace.MAC)
			if err != nil {
				t.Fatal(err)
			}
			want := append(append(mac, 0x02, 0, 0, 0, 0, 0x01), frame[12:]...)
			if !bytes.Equal(out, want) {
				t.Fatalf("round %d: the packet left as\n%x, want\n%x", round, out, want)
			}
			forwarded++
			versions[trace.Version]++
		}
		dropped := uint64(0)
		for _, n := range sw.Stats().Dropped {
			dropped += n
		}
		if int(dropped)+forwarded != each || len(versions) != 3 {
			t.Errorf("round %d: %d packets left, %d are counted as dropped, %d came; versions %v", round, forwarded, dropped, each, versions)
		}
	}
}
