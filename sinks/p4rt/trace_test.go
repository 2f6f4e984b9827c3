package p4rt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"google.golang.org/grpc"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/p4rt/softswitch"
)

// traceWorld has two gateways on one switch, both families, every table, and
// hashes over different fields.
const traceWorld = `
apiVersion: gray.dev/v1alpha1
kind: Switch
metadata: {name: sw}
spec: {address: "%s"}
---
apiVersion: gray.dev/v1alpha1
kind: Gateway
metadata: {name: gw}
spec:
  vips: [203.0.113.10, "2001:db8:ffff::1"]
  switches: [sw]
  default: v1
  hash: {buckets: 256}
  versions:
  - name: v1
    backends:
    - {name: a, address: 192.0.2.1, mac: "02:00:00:00:00:01", port: 1}
    - {name: b, address: 192.0.2.2, mac: "02:00:00:00:00:02", port: 2, weight: 3}
  - name: v2
    backends:
    - {name: c, address: 192.0.2.3, mac: "02:00:00:00:00:03", port: 3}
    - {name: d, address: 192.0.2.4, mac: "02:00:00:00:00:04", port: 4}
  - {name: v3, backends: [{name: e, address: 192.0.2.5, mac: "02:00:00:00:00:05", port: 5}]}
---
apiVersion: gray.dev/v1alpha1
kind: Gateway
metadata: {name: other}
spec:
  vips: [203.0.113.11]
  switches: [sw]
  default: v1
  forward: ip
  hash: {buckets: 512, algorithm: rendezvous, fields: [vni, dst, srcPort]}
  versions:
  - name: v1
    backends:
    - {name: a, address: 192.0.2.1, mac: "02:00:00:00:01:01", port: 11}
    - {name: b, address: 192.0.2.2, mac: "02:00:00:00:01:02", port: 12}
---
apiVersion: gray.dev/v1alpha1
kind: Network
metadata: {name: n1}
spec: {vni: 1, account: x}
---
apiVersion: gray.dev/v1alpha1
kind: GrayPolicy
metadata: {name: vms}
spec:
  targets: [{kind: Gateway, name: gw}]
  version: v2
  priority: 200
  match:
  - vms: [{network: n1, addresses: [10.0.0.1, "2001:db8::1"]}]
  - flow: {src: "2001:db8::/64", dstPort: 80-443}
---
apiVersion: gray.dev/v1alpha1
kind: GrayPolicy
metadata: {name: rest}
spec:
  targets: [{kind: Gateway, name: gw}]
  version: v3
  match:
  - networks: [n1]
  - flow: {src: 10.0.0.0/24, protocol: udp}
  - {flow: {vni: 0, srcPort: 0-1000}, percent: 40}
---
apiVersion: gray.dev/v1alpha1
kind: GrayPolicy
metadata: {name: canary}
spec:
  targets: [{kind: Gateway, name: gw}]
  version: v2
  priority: 50
  match: [{percent: 30}]
---
apiVersion: gray.dev/v1alpha1
kind: GrayPolicy
metadata: {name: first}
spec:
  targets: [{kind: Gateway, name: gw}]
  version: v3
  priority: 300
  match: [{networks: [n1], percent: 10}]
`

// TestTraceSaysWhatTheSwitchDoes programs a software gateway through the sink
// and holds the flow model against frames that really cross it.
func TestTraceSaysWhatTheSwitchDoes(t *testing.T) {
	sw := softswitch.New(1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(softswitch.ServerOptions()...)
	sw.Register(server)
	go func() { _ = server.Serve(l) }() // ends with Stop
	t.Cleanup(server.Stop)
	text := fmt.Sprintf(traceWorld, l.Addr())
	files := schema.NewFiles(&schema.File{Path: "world.yaml", ID: "1", Data: []byte(text)})
	set := schema.NewSet()
	ir, units, err := policies.NewCompiler(policies.NewIDs(), nil).Compile(set, set.Update(&schema.Snapshot{Files: files}), policies.Facts{})
	if err != nil {
		t.Fatal(err)
	}
	program(t, ir, units)

	r := rand.New(rand.NewPCG(1, 2))
	ports, pools := map[uint32]int{}, map[string]int{}
	dropped := 0
	for range 5000 {
		p := randomPacket(r)
		frame := frameOf(p)
		want := packets.Follow(ir, "sw", p)
		port, out, ok := sw.Process(frame)
		if ok != (want.Dropped == "") {
			t.Fatalf("%s: sent %v, the trace says %q", p, ok, want.Dropped)
		}
		if !ok {
			dropped++
			continue
		}
		if got := destination(out); want.Address.IsValid() && got != want.Address || !want.Address.IsValid() && got != p.VIP {
			t.Fatalf("%s: leaves for %s, the trace says %s", p, got, want.Address)
		}
		ports[port]++
		pools[want.Pool]++
		if port != want.Port || net.HardwareAddr(out[:6]).String() != want.MAC {
			t.Fatalf("%s: leaves by %d to %s, the trace says %d to %s: %+v", p, port, net.HardwareAddr(out[:6]), want.Port, want.MAC, want.Steps)
		}
	}
	if len(ports) != 7 || dropped == 0 || len(pools) != 6 {
		t.Errorf("the packets went to %v, left by %v and %d were dropped; some way was never tried", pools, ports, dropped)
	}
}

// program writes everything that the IR lowers to, by ranks as the loop does.
func program(t *testing.T, ir *policies.IR, units []policies.Name) {
	t.Helper()
	sink := New(Config{})
	t.Cleanup(func() { _ = sink.Close() })
	var self *reconciler.Resource
	byRank := map[int][]reconciler.Change{}
	ranks := map[reconciler.Key]int{}
	var all []*reconciler.Resource
	for _, n := range units {
		resources, err := sink.Lower(ir, n)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range resources {
			if r.Kind == reconciler.KindTarget {
				self = r
			}
			byRank[r.Rank] = append(byRank[r.Rank], reconciler.Change{New: r})
			ranks[r.Key] = r.Rank
		}
		all = append(all, resources...)
	}
	for _, r := range all {
		for _, ref := range r.Refs {
			if rank, there := ranks[ref]; !there || rank >= r.Rank {
				t.Errorf("%s refers to %s, which is not there or has no lower rank", r.Key, ref)
			}
		}
		if r.Origin.Path == "" || r.Rank > rankBackend && len(r.Refs) == 0 && r.Kind != "hash_profile" {
			t.Errorf("%s has no document or refers to nothing", r.Key)
		}
	}
	for rank := range rankRule + 1 {
		if err := sink.Apply(t.Context(), self, byRank[rank]); err != nil {
			t.Fatal(err)
		}
	}
}

func randomPacket(r *rand.Rand) packets.Packet {
	pick := func(of ...string) netip.Addr { return netip.MustParseAddr(of[r.IntN(len(of))]) }
	p := packets.Packet{
		VIP: pick("203.0.113.10", "203.0.113.10", "203.0.113.11", "203.0.113.12", "2001:db8:ffff::1"),
		VNI: r.Uint32N(3), Protocol: []uint8{1, 6, 17, 47}[r.IntN(4)],
	}
	if p.Protocol == 6 || p.Protocol == 17 {
		p.SrcPort, p.DstPort = uint16(r.IntN(2000)), uint16(r.IntN(600))
	}
	switch {
	case p.VNI == 0: // plain traffic
		p.Dst = p.VIP
		p.Src = pick("10.0.0.1", "10.0.1.2")
		if p.VIP.Is6() {
			p.Src = pick("2001:db8::1", "2001:db8:1::1")
		}
	case r.IntN(2) == 0:
		p.Src, p.Dst = pick("10.0.0.1", "10.0.0.2", "10.0.1.2"), pick("10.0.0.1", "10.0.0.3")
	default:
		p.Src, p.Dst = pick("2001:db8::1", "2001:db8::2", "2001:db8:1::1"), pick("2001:db8::1", "2001:db8::3")
	}
	return p
}

// destination is the outer destination of a frame.
func destination(frame []byte) netip.Addr {
	at, size := 14+16, 4
	if frame[12] == 0x86 {
		at, size = 14+24, 16
	}
	a, _ := netip.AddrFromSlice(frame[at : at+size])
	return a
}

// frameOf makes the frame of a packet, in VXLAN where it has a VNI.
func frameOf(p packets.Packet) []byte {
	inner := ipFrame(p.Src, p.Dst, p.Protocol, l4(p.Protocol, p.SrcPort, p.DstPort, nil))
	if p.VNI == 0 {
		return inner
	}
	vxlan := binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, p.VNI<<8)
	source := netip.MustParseAddr("198.51.100.1")
	if p.VIP.Is6() {
		source = netip.MustParseAddr("2001:db8:2::1")
	}
	return ipFrame(source, p.VIP, 17, l4(17, 50000, 4789, append(vxlan, inner...)))
}

func l4(protocol uint8, src, dst uint16, payload []byte) []byte {
	if protocol != 6 && protocol != 17 {
		return payload
	}
	h := make([]byte, map[uint8]int{6: 20, 17: 8}[protocol])
	binary.BigEndian.PutUint16(h, src)
	binary.BigEndian.PutUint16(h[2:], dst)
	if protocol == 17 {
		binary.BigEndian.PutUint16(h[4:], uint16(8+len(payload)))
	} else {
		h[12] = 5 << 4
	}
	return append(h, payload...)
}

func ipFrame(src, dst netip.Addr, protocol uint8, payload []byte) []byte {
	frame := bytes.Repeat([]byte{2}, 12)
	if src.Is6() {
		frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, protocol, 64)
		binary.BigEndian.PutUint16(frame[18:], uint16(len(payload)))
	} else {
		frame = append(frame, 0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0)
		binary.BigEndian.PutUint16(frame[16:], uint16(20+len(payload)))
	}
	return append(append(append(frame, src.AsSlice()...), dst.AsSlice()...), payload...)
}
