package p4rt

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
	"github.com/gray-release/gray/tools/testnet"
)

// arbitrate opens a stream, asks to be primary on it and returns the first answer,
// or how the stream ended.
func (r *targetRig) arbitrate(id election) (*p4v1.MasterArbitrationUpdate, context.CancelFunc, error) {
	r.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	watchdog := time.AfterFunc(patience, cancel)
	defer watchdog.Stop()
	s, err := r.d.client.StreamChannel(ctx)
	if err != nil {
		r.Fatal(err)
	}
	a := &p4v1.MasterArbitrationUpdate{DeviceId: r.d.spec.deviceID, ElectionId: id.proto()}
	if err := s.Send(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Arbitration{Arbitration: a}}); err != nil {
		r.Fatal(err)
	}
	for {
		m, err := s.Recv()
		if err != nil {
			cancel()
			return nil, cancel, err
		}
		if m.GetArbitration() != nil {
			return m.GetArbitration(), cancel, nil
		}
	}
}

// lead makes the suite primary.
func (r *targetRig) lead(id election) {
	r.Helper()
	a, end, err := r.arbitrate(id)
	if code := codes.Code(a.GetStatus().GetCode()); err != nil || code != codes.OK {
		r.Fatalf("the suite asks to be primary with election id %v and gets %v with %v, error %v; stop the other controller", id, code, a.GetElectionId(), err)
	}
	r.id, r.close = id, end
}

// targetArbitration becomes primary, is a backup, takes over, and writes in both roles.
func targetArbitration(r *targetRig) {
	first := election{uint64(time.Now().Unix()), 10}
	r.lead(first)
	a, end, err := r.arbitrate(election{first.high, 5})
	if code := codes.Code(a.GetStatus().GetCode()); err != nil || code != codes.AlreadyExists || a.GetElectionId().GetLow() != 10 {
		r.Errorf("a backup gets %v with election id %v, error %v; want AlreadyExists with %v", code, a.GetElectionId(), err, first)
	}
	r.denied("a backup", election{first.high, 5})
	end()
	if a, end, err = r.arbitrate(first); status.Code(err) != codes.InvalidArgument {
		r.Errorf("another with the primary's election id gets %v, error %v; want InvalidArgument", a, err)
	}
	end()
	leave := r.close
	r.lead(election{first.high, 20})
	r.denied("a former primary", first)
	leave()
	// While nobody is primary nobody writes, and the next needs a higher election id.
	r.close()
	testnet.Eventually(r, func() string { return "a primary that is gone can write" }, func() bool { return r.writesAs(r.id) != codes.OK })
	r.lead(election{first.high, 30})
}

// writesAs makes an empty Write with an election id, and returns the code.
func (r *targetRig) writesAs(id election) codes.Code {
	_, err := r.d.client.Write(context.Background(), &p4v1.WriteRequest{DeviceId: r.d.spec.deviceID, ElectionId: id.proto()})
	return status.Code(err)
}

func (r *targetRig) denied(who string, id election) {
	r.Helper()
	if code := r.writesAs(id); code != codes.PermissionDenied {
		r.Errorf("a Write of %s: %v, want PermissionDenied", who, code)
	}
}

// targetPipeline loads gray's pipeline unless it is there.
func targetPipeline(r *targetRig) {
	self := r.self
	seen := *self.Body.(*targetBody)
	if err := r.d.running(r.Context(), &seen); err != nil {
		r.Fatalf("the cookie: %v", err)
	}
	if !seen.Equal(self.Body) {
		r.Logf("the switch runs the pipeline with cookie %#x; loading %s", seen.cookie, self.Body)
		w := newWriter(r.d, New(Config{}).limits, r.id.proto())
		if err := w.load(r.Context(), reconciler.Change{New: self}); err != nil {
			r.Fatal(err)
		}
		if err := r.d.running(r.Context(), &seen); err != nil || !seen.Equal(self.Body) {
			r.Fatalf("after that the cookie is %#x, error %v", seen.cookie, err)
		}
	}
	if got := r.readAll(); len(got) > 0 {
		r.Fatalf("the switch holds %d entries; run the suite on one that is empty", len(got))
	}
}

func entriesOf(bodies ...entryBody) []*p4v1.TableEntry {
	var all []*p4v1.TableEntry
	for _, b := range bodies {
		all = append(all, entryOf(b))
	}
	return all
}

var anyPorts = packets.PortRange{Hi: 65535}

func flowBody(table uint32, priority int32, m packets.Match) *ruleBody {
	if m.SrcPort == (packets.PortRange{}) {
		m.SrcPort = anyPorts
	}
	if m.DstPort == (packets.PortRange{}) {
		m.DstPort = anyPorts
	}
	return &ruleBody{table: table, vip: 1, pool: 2, priority: priority, match: m}
}

func vmBody(table, vni uint32, address string) *ruleBody {
	b := &ruleBody{table: table, vip: 1, pool: 2, match: vniOnly(vni)}
	switch table {
	case pipeline.TableVMSrcV4, pipeline.TableVMSrcV6:
		b.match.Src = hostPrefix(address)
	default:
		b.match.Dst = hostPrefix(address)
	}
	return b
}

// everyTable has an entry of every table, and of every action.
func everyTable() []entryBody {
	mac := [6]byte{2, 0, 0, 0, 0, 1}
	return []entryBody{
		&backendBody{id: 0, port: 0},
		&backendBody{id: 1, port: 1, dstMAC: mac, srcMAC: [6]byte{0, 0, 0, 0, 0, 9}},
		&backendBody{id: 2, port: 511, dstMAC: mac, srcMAC: mac, address: netip.MustParseAddr("192.0.2.1")},
		&backendBody{id: 4095, port: 3, dstMAC: mac, address: netip.MustParseAddr("2001:db8::1")},
		&backendBody{id: 65535, port: 3, dstMAC: [6]byte{255, 255, 255, 255, 255, 255}, address: netip.MustParseAddr("::1")},
		&profileBody{profile: 1, masks: fullMasks},
		&profileBody{profile: 255, masks: [6]uint32{0, 1, 0, 0, 0, 256}},
		&poolBody{pool: 1, hasEntry: true, mask: 255}, &poolBody{pool: 2, hasEntry: true, generation: 1, mask: 65535},
		&vipBody{address: netip.MustParseAddr("203.0.113.10"), vip: 1, pool: 1, profile: 1},
		&vipBody{address: netip.MustParseAddr("0.0.0.1"), vip: 255, pool: 255, profile: 255},
		&vipBody{address: netip.MustParseAddr("2001:db8::10"), vip: 1, pool: 1, profile: 1},
		&vipBody{address: netip.MustParseAddr("::2"), vip: 2, pool: 0, profile: 0},
		vmBody(pipeline.TableVMSrcV4, 0, "10.0.0.1"), vmBody(pipeline.TableVMSrcV4, 1<<24-1, "255.255.255.255"),
		vmBody(pipeline.TableVMDstV4, 7, "0.0.0.0"), vmBody(pipeline.TableVMSrcV6, 7, "fd00::1"), vmBody(pipeline.TableVMDstV6, 7, "::"),
		&ruleBody{table: pipeline.TableVPC, vip: 1, pool: 2, match: vniOnly(0)},
		&ruleBody{table: pipeline.TableVPC, vip: 255, pool: 255, match: vniOnly(1<<24 - 1)},
		flowBody(pipeline.TableFlowV4, 1, packets.Match{AnyVNI: true, Protocol: -1}),
		flowBody(pipeline.TableFlowV6, 1, packets.Match{AnyVNI: true, Protocol: -1}),
	}
}

// targetEveryTable writes to every table, in order of what points to what.
func targetEveryTable(r *targetRig) {
	r.write(p4v1.Update_INSERT, entriesOf(everyTable()...)...)
	r.check()
}

// targetFlows writes flow rules over all kinds of fields, one by one left out.
func targetFlows(r *targetRig) {
	const most = 1<<24 - 1
	var all []entryBody
	ports := []packets.PortRange{{Lo: 0, Hi: 0}, {Lo: 80, Hi: 80}, {Lo: 1, Hi: 65535}, {Lo: 1024, Hi: 2047}, anyPorts}
	for i := range 256 {
		m := packets.Match{VNI: uint32(i), Protocol: int16(i), SrcPort: ports[i%5], DstPort: ports[i/5%5]}
		v4, v6 := m, m
		v4.Src, v4.Dst = canonicalPrefix("10.1.2.3", i%33), canonicalPrefix("192.0.2.255", i/33%33)
		v6.Src, v6.Dst = canonicalPrefix("2001:db8::ff", i%129), canonicalPrefix("fd00::1", (i*7)%129)
		if i%3 == 0 {
			v4.AnyVNI, v4.VNI, v6.Protocol = true, 0, -1
		}
		all = append(all, flowBody(pipeline.TableFlowV4, int32(most-i), canonical(v4)), flowBody(pipeline.TableFlowV6, int32(2+i), canonical(v6)))
	}
	r.write(p4v1.Update_INSERT, entriesOf(all...)...)
	r.check(pipeline.TableFlowV4, pipeline.TableFlowV6)
}

func canonicalPrefix(address string, bits int) netip.Prefix {
	return netip.PrefixFrom(netip.MustParseAddr(address), bits).Masked()
}

// targetVMs writes a thousand entries of VMs.
func targetVMs(r *targetRig) {
	var all []entryBody
	for i := range 250 {
		v4, v6 := fmt.Sprintf("10.9.%d.%d", i/200, i%200), fmt.Sprintf("fd00:1::%x", i+1)
		all = append(all, vmBody(pipeline.TableVMSrcV4, 900, v4), vmBody(pipeline.TableVMDstV4, 900, v4),
			vmBody(pipeline.TableVMSrcV6, 900, v6), vmBody(pipeline.TableVMDstV6, 900, v6))
	}
	r.write(p4v1.Update_INSERT, entriesOf(all...)...)
	r.check(pipeline.TableVMSrcV4, pipeline.TableVMDstV4, pipeline.TableVMSrcV6, pipeline.TableVMDstV6)
}

// targetBuckets fills both generations of a pool and flips it, there and back.
func targetBuckets(r *targetRig) {
	var all []*p4v1.TableEntry
	for generation := range uint8(2) {
		for i := range uint16(256) {
			all = append(all, bucketKey{1, generation, i}.encode(new(block), i*uint16(generation)))
		}
	}
	all = append(all, bucketKey{255, 1, 65535}.encode(new(block), 65535))
	r.write(p4v1.Update_INSERT, all...)
	r.check(pipeline.TableBucket, pipeline.TablePool)
	for _, generation := range []uint8{1, 0} {
		r.write(p4v1.Update_MODIFY, entryOf(&poolBody{pool: 1, generation: generation, mask: 255}))
		r.check(pipeline.TableBucket, pipeline.TablePool)
	}
}

// targetModify changes what entries do, and the kind of action of some.
func targetModify(r *targetRig) {
	r.write(p4v1.Update_MODIFY, entriesOf(
		&backendBody{id: 1, port: 2, dstMAC: [6]byte{2, 0, 0, 0, 0, 2}, address: netip.MustParseAddr("192.0.2.9")},
		&backendBody{id: 2, port: 2, address: netip.MustParseAddr("2001:db8::9")}, &backendBody{id: 4095, port: 2},
		&profileBody{profile: 1, masks: [6]uint32{1: 1<<32 - 1}},
		&poolBody{pool: 2, mask: 1},
		&vipBody{address: netip.MustParseAddr("203.0.113.10"), vip: 2, pool: 2, profile: 2},
		&vipBody{address: netip.MustParseAddr("2001:db8::10"), vip: 2, pool: 2, profile: 2},
	)...)
	var rules []*p4v1.TableEntry
	for _, b := range everyTable() {
		if rule, ok := b.(*ruleBody); ok {
			rule.pool = 9
			rules = append(rules, entryOf(rule))
		}
	}
	r.write(p4v1.Update_MODIFY, append(rules, bucketKey{1, 0, 3}.encode(new(block), 77), bucketKey{1, 1, 255}.encode(new(block), 0))...)
	r.check()
}

// targetErrors has parts of a batch refused, each with its code; the others are live. A
// switch that stops at the first error returns ABORTED for the rest.
func targetErrors(r *targetRig) {
	vpc := func(vni uint32) *p4v1.TableEntry {
		return entryOf(&ruleBody{table: pipeline.TableVPC, vip: 1, pool: 3, match: vniOnly(vni)})
	}
	type try struct {
		kind p4v1.Update_Type
		e    *p4v1.TableEntry
		want codes.Code
	}
	all := []try{
		{p4v1.Update_INSERT, vpc(500), codes.OK},
		{p4v1.Update_INSERT, vpc(0), codes.AlreadyExists},
		{p4v1.Update_MODIFY, vpc(501), codes.NotFound},
		{p4v1.Update_INSERT, vpc(502), codes.OK},
		{p4v1.Update_DELETE, vpc(503), codes.NotFound},
		{p4v1.Update_DELETE, vpc(500), codes.OK},
	}
	for rounds := 0; len(all) > 0; rounds++ {
		var updates []*p4v1.Update
		for _, t := range all {
			updates = append(updates, updateOf(t.kind, t.e))
		}
		var aborted []try
		for i, code := range r.send(updates...) {
			switch {
			case code == codes.Aborted && i > 0:
				aborted = append(aborted, all[i])
				continue
			case code != all[i].want:
				r.Errorf("%s %s: %v, want %v", all[i].kind, rawText(all[i].e), code, all[i].want)
			}
			if code == codes.OK {
				r.noted(all[i].kind, all[i].e)
			}
		}
		all = aborted
	}
	r.check(pipeline.TableVPC)
	// Values that do not fit, unknown fields and actions.
	for what, e := range map[string]*p4v1.TableEntry{
		"a value that is too wide":  vpc(1 << 24),
		"a missing exact field":     {TableId: pipeline.TableVPC, Match: vpc(1).GetMatch()[:1], Action: vpc(1).GetAction()},
		"an action of another kind": {TableId: pipeline.TableVPC, Match: vpc(1).GetMatch(), Action: entryOf(&poolBody{}).GetAction()},
		"no such table":             {TableId: 0x02ffffff, Match: vpc(1).GetMatch(), Action: vpc(1).GetAction()},
	} {
		if code := r.send(updateOf(p4v1.Update_INSERT, e))[0]; code == codes.OK {
			r.Errorf("%s is taken", what)
		}
	}
	r.check(pipeline.TableVPC)
}

// targetPriorities checks that a priority is part of an entry's key, from 1 up to the
// largest that gray uses, and that 0 is refused.
func targetPriorities(r *targetRig) {
	m := packets.Match{VNI: 42, Protocol: 6}
	var all []entryBody
	for _, p := range []int32{1, 2, 1<<24 - 1, math.MaxInt32} {
		all = append(all, flowBody(pipeline.TableFlowV4, p, m))
	}
	r.write(p4v1.Update_INSERT, entriesOf(all...)...)
	r.check(pipeline.TableFlowV4, pipeline.TableBackend)
	if code := r.send(updateOf(p4v1.Update_INSERT, entryOf(flowBody(pipeline.TableFlowV4, 0, m))))[0]; code != codes.InvalidArgument {
		r.Errorf("priority 0 on a ternary table: %v, want InvalidArgument", code)
	}
	exact := entryOf(everyTable()[0])
	exact.Priority = 1
	exact.Match[0] = &p4v1.FieldMatch{FieldId: 1, FieldMatchType: &p4v1.FieldMatch_Exact_{Exact: &p4v1.FieldMatch_Exact{Value: number(uint32(3000))}}}
	if code := r.send(updateOf(p4v1.Update_INSERT, exact))[0]; code == codes.OK {
		r.Error("a priority on an exact table is taken")
	}
	r.write(p4v1.Update_DELETE, entryOf(all[1]))
	r.check(pipeline.TableFlowV4, pipeline.TableBackend)
}

// targetByKey reads single entries, as is done before VM entries are deleted.
func targetByKey(r *targetRig) {
	e := entryOf(&ruleBody{table: pipeline.TableVPC, vip: 255, match: vniOnly(1<<24 - 1)})
	found := 0
	err := r.d.read(r.Context(), pipeline.Index().Tables[pipeline.TableVPC], []*p4v1.TableEntry{{TableId: e.GetTableId(), Match: e.GetMatch()}}, func(got *p4v1.TableEntry) {
		if sameKey(normal(got), e) {
			found++
		}
	})
	if err != nil || found != 1 {
		r.Errorf("found %d times, error %v", found, reason(err))
	}
}

// targetDelete deletes everything, rules before what they point to.
func targetDelete(r *targetRig) {
	var all []*p4v1.TableEntry
	for _, e := range r.written {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *p4v1.TableEntry) int { return rankOf(b.GetTableId()) - rankOf(a.GetTableId()) })
	r.write(p4v1.Update_DELETE, all...)
	r.check()
}

// targetSink does with the sink of this package what the daemon does: program
// everything, see it, flip a pool, change little, collapse VMs, take it all away.
func targetSink(r *targetRig) {
	r.close() // or the sink waits
	s := New(Config{Epoch: r.id.high + 1})
	defer func() {
		if err := s.Close(); err != nil {
			r.Error(err)
		}
	}()
	self := r.self
	self.Body.(*targetBody).push = "never"
	ports := pool(self, 1, 1024, 1, 2)
	var all []*reconciler.Resource
	for _, b := range everyTable() {
		if _, isPool := b.(*poolBody); !isPool {
			all = append(all, resourceOf(self, b))
		}
	}
	vms := vpcs(self, 8, 100, 2)
	holds(r.T, s, self)
	defer func() { // whatever failed
		state, err := s.Observe(context.Background(), self.Target, self)
		if err != nil {
			r.Fatal(err)
		}
		delete(state, self.Key)
		var left []reconciler.Change
		for _, res := range state {
			left = append(left, reconciler.Change{Old: res})
		}
		if err := s.Apply(context.Background(), self, left); err != nil {
			r.Error(err)
		}
		holds(r.T, s, self)
	}()
	mustApply(r.T, s, self, creates(slices.Concat(all, vms, []*reconciler.Resource{ports})...)...)
	holds(r.T, s, self, slices.Concat(all, vms, []*reconciler.Resource{ports})...)
	mustApply(r.T, s, self, creates(all...)...) // inserts of what is there
	for _, next := range []*reconciler.Resource{pool(self, 1, 1024, 3, 4), pool(self, 1, 1024, 3, 4), pool(self, 1, 2048, 5)} {
		next.Body.(*poolBody).buckets[7] = 6
		mustApply(r.T, s, self, reconciler.Change{Old: ports, New: next})
		holds(r.T, s, self, slices.Concat(all, vms, []*reconciler.Resource{next})...)
		ports = next
	}
	// A VM goes with a VPC entry that is read back first.
	vm := resourceOf(self, vmBody(pipeline.TableVMSrcV4, 8, "10.0.0.7"))
	mustApply(r.T, s, self, creates(vm, vms[0])...)
	mustApply(r.T, s, self, deletes(vm)...)
	holds(r.T, s, self, slices.Concat(all, vms, []*reconciler.Resource{ports})...)
	mustApply(r.T, s, self, deletes(vm, vms[0])...) // a deletion of what is gone
	holds(r.T, s, self, slices.Concat(all, vms[1:], []*reconciler.Resource{ports})...)
}
