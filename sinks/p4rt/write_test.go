package p4rt

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// pool is a pool whose buckets point to backends, in turn.
func pool(self *reconciler.Resource, id uint8, size int, backends ...uint16) *reconciler.Resource {
	b := &poolBody{pool: id, hasEntry: true, mask: uint16(size - 1), buckets: make([]uint32, size)}
	for i := range b.buckets {
		b.buckets[i] = uint32(backends[i%len(backends)]) + 1
	}
	key := reconciler.Key{Target: self.Target, Kind: "pool", Name: fmt.Sprintf("pool=%d", id)}
	return &reconciler.Resource{Key: key, Rank: rankPool, Body: b}
}

// apply makes changes and gives the errors by key.
func apply(t testing.TB, s *Sink, self *reconciler.Resource, changes ...reconciler.Change) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return s.Apply(ctx, self, changes)
}

func mustApply(t testing.TB, s *Sink, self *reconciler.Resource, changes ...reconciler.Change) {
	t.Helper()
	if err := apply(t, s, self, changes...); err != nil {
		t.Fatal(err)
	}
}

// TestErrorsByKey has the switch refuse some of the changes: each is an error of
// its key, with code and message, and the others are live.
func TestErrorsByKey(t *testing.T) {
	l := newLab(t)
	s := newSink(t, 1)
	self := l.load(s)
	anyPort := packets.PortRange{Hi: 65535}
	rule := func(table string, priority int32, m packets.Match) *reconciler.Resource {
		b := &ruleBody{table: kindTables[table], vip: 1, pool: 2, priority: priority, match: m}
		return &reconciler.Resource{Key: reconciler.Key{Target: self.Target, Kind: table, Name: b.name()}, Rank: rankRule, Body: b}
	}
	good := append(vpcs(self, 1, 3, 2), rule("gray_flow_v4", 5, packets.Match{AnyVNI: true, Protocol: 6, SrcPort: anyPort, DstPort: anyPort}))
	bad := map[*reconciler.Resource]string{
		vpcs(self, 1<<24, 1, 2)[0]: "OutOfRange: match field vni has the value 01000000",
		rule("gray_flow_v4", 0, packets.Match{AnyVNI: true, Protocol: 7, SrcPort: anyPort, DstPort: anyPort}):                                           "InvalidArgument: table gray_flow_v4 needs a priority",
		rule("gray_flow_v4", 5, packets.Match{AnyVNI: true, Protocol: 8, SrcPort: packets.PortRange{Lo: 9, Hi: 8}, DstPort: anyPort}):                   "InvalidArgument: match field src_port has an empty range",
		rule("gray_flow_v4", 5, packets.Match{AnyVNI: true, Protocol: 9, Src: netip.MustParsePrefix("10.0.0.1/8"), SrcPort: anyPort, DstPort: anyPort}): "InvalidArgument: match field src has value bits outside its mask",
		rule("gray_flow_v4", 5, packets.Match{AnyVNI: true, Protocol: 10, Src: netip.MustParsePrefix("fd00::/16"), SrcPort: anyPort, DstPort: anyPort}): "OutOfRange: match field src has the value",
		resourceOf(self, &backendBody{id: 9, port: 512}):                                                "OutOfRange: parameter port has the value 0200",
		resourceOf(self, &profileBody{profile: 1, masks: [6]uint32{1 << 24}}):                           "OutOfRange: parameter vni has the value 01000000",
		resourceOf(self, &backendBody{id: 10, port: 1, address: netip.MustParseAddr("::ffff:1.2.3.4")}): "",
	}
	all := slices.Clone(good)
	for r := range bad {
		all = append(all, r)
	}
	errs := failures(t, apply(t, s, self, creates(all...)...))
	live := slices.Clone(good)
	for r, want := range bad {
		err := errs[r.Key]
		delete(errs, r.Key)
		switch {
		case want == "":
			live = append(live, r)
			if err != nil {
				t.Errorf("%s: %v", r.Key, err)
			}
		case err == nil || !strings.HasPrefix(err.Error(), "the switch refused it: "+want):
			t.Errorf("%s: error %v, want %q", r.Key, err, want)
		}
	}
	if len(errs) != 0 {
		t.Errorf("more failed: %v", errs)
	}
	holds(t, s, self, live...)
}

// TestPoolPhases fails to fill a pool: its entry is not written, so that no packet
// finds half of it.
func TestPoolPhases(t *testing.T) {
	l := newLab(t)
	s := newSink(t, 1)
	self := l.load(s)
	l.onWrite(func(_ context.Context, req *p4v1.WriteRequest) error {
		for _, u := range req.GetUpdates() {
			e := u.GetEntity().GetTableEntry()
			if e.GetTableId() == pipeline.TableBucket && pipeline.ToUint(e.GetMatch()[0].GetExact().GetValue()) == 2 && pipeline.ToUint(e.GetMatch()[2].GetExact().GetValue()) == 3 {
				e.Match = append(e.Match, e.GetMatch()[0]) // a field twice
			}
		}
		return nil
	})
	good, bad := pool(self, 1, 8, 4, 5), pool(self, 2, 8, 4, 5)
	errs := failures(t, apply(t, s, self, creates(good, bad)...))
	if err := errs[bad.Key]; len(errs) != 1 || err == nil || !strings.Contains(err.Error(), "is given twice") {
		t.Errorf("errors %v, want one of %s", errs, bad.Key)
	}
	half := &poolBody{pool: 2}
	for i := range uint16(8) {
		if i != 3 {
			half.unused = append(half.unused, bucketKey{2, 0, i})
		}
	}
	l.hook.Store(nil)
	state, err := s.Observe(t.Context(), self.Target, self)
	if err != nil || !state[good.Key].Body.Equal(good.Body) {
		t.Fatalf("state %v, error %v", state, err)
	}
	if got := state[bad.Key].Body.(*poolBody); got.hasEntry || !slices.Equal(got.unused, half.unused) {
		t.Errorf("pool 2 is %s", got)
	}
	// The next try finds the buckets there.
	mustApply(t, s, self, reconciler.Change{Old: state[bad.Key], New: bad})
	holds(t, s, self, good, bad)
}

// TestPoolOrder grows, shrinks and takes away a pool: buckets go before the entry,
// and the entry before what is left. Where most of the pool changes, it goes to the
// other generation.
func TestPoolOrder(t *testing.T) {
	l := newLab(t)
	s := newSink(t, 1)
	self := l.load(s)
	var mu sync.Mutex
	var order []string
	l.onWrite(func(_ context.Context, req *p4v1.WriteRequest) error {
		mu.Lock()
		defer mu.Unlock()
		seen := map[string]bool{}
		for _, u := range req.GetUpdates() {
			seen[fmt.Sprintf("%s %s", u.GetType(), tableKinds[u.GetEntity().GetTableEntry().GetTableId()])] = true
		}
		order = append(order, strings.Join(slices.Sorted(maps.Keys(seen)), ","))
		return nil
	})
	steps := []*reconciler.Resource{nil, pool(self, 1, 8, 4, 5), pool(self, 1, 16, 5, 6), pool(self, 1, 4, 6, 5), nil}
	for i, want := range [][]string{
		{"INSERT bucket", "INSERT pool"},
		{"INSERT bucket", "MODIFY pool", "DELETE bucket"},
		{"INSERT bucket", "MODIFY pool", "DELETE bucket"},
		{"DELETE pool", "DELETE bucket"},
	} {
		order = nil
		mustApply(t, s, self, reconciler.Change{Old: steps[i], New: steps[i+1]})
		if !slices.Equal(order, want) {
			t.Errorf("step %d: %v, want %v", i, order, want)
		}
		if steps[i+1] != nil {
			holds(t, s, self, steps[i+1])
		}
	}
	holds(t, s, self)
}

// TestMend applies what has been done already, or undone by somebody else.
func TestMend(t *testing.T) {
	l := newLab(t)
	s := newSink(t, 1)
	self := l.load(s)
	rules := vpcs(self, 1, 4, 2)
	moved := vpcs(self, 1, 4, 3)
	mustApply(t, s, self, creates(rules...)...)
	mustApply(t, s, self, creates(moved...)...) // inserts of what is there
	holds(t, s, self, moved...)
	mustApply(t, s, self, deletes(moved[:2]...)...)
	mustApply(t, s, self, deletes(moved...)...) // deletes of what is gone
	holds(t, s, self)
	mustApply(t, s, self, reconciler.Change{Old: moved[0], New: rules[0]}) // a modification of what is gone
	holds(t, s, self, rules[0])

	// A switch that contradicts itself is not argued with for ever.
	l.onWrite(func(_ context.Context, req *p4v1.WriteRequest) error {
		code := codes.AlreadyExists
		if req.GetUpdates()[0].GetType() == p4v1.Update_MODIFY {
			code = codes.NotFound
		}
		return perUpdateError(t, slices.Repeat([]codes.Code{code}, len(req.GetUpdates())))
	})
	before := l.batches.Load()
	errs := failures(t, apply(t, s, self, creates(rules...)...))
	if len(errs) != 4 || !strings.Contains(errs[rules[0].Key].Error(), "NotFound") || l.batches.Load()-before != 2 {
		t.Errorf("errors %v after %d writes", errs, l.batches.Load()-before)
	}
}

func perUpdateError(t testing.TB, all []codes.Code) error {
	st := &rpcstatus.Status{Code: int32(codes.Unknown)}
	for _, c := range all {
		d, err := anypb.New(&p4v1.Error{CanonicalCode: int32(c), Message: "because"})
		if err != nil {
			t.Error(err)
		}
		st.Details = append(st.Details, d)
	}
	return status.ErrorProto(st)
}

// TestStopsAtFirst writes to a switch that stops at the first error and aborts
// the rest, as PINS does: everything else gets there all the same.
func TestStopsAtFirst(t *testing.T) {
	l := newLab(t)
	s := newSink(t, 1)
	self := l.load(s)
	l.onWrite(func(ctx context.Context, req *p4v1.WriteRequest) error {
		results := slices.Repeat([]codes.Code{codes.Aborted}, len(req.GetUpdates()))
		for i, u := range req.GetUpdates() {
			one := &p4v1.WriteRequest{DeviceId: 1, ElectionId: req.GetElectionId(), Updates: []*p4v1.Update{u}}
			_, err := l.sw.Write(ctx, one)
			results[i] = codes.OK
			if err != nil {
				e := new(p4v1.Error)
				if err := status.Convert(err).Proto().GetDetails()[0].UnmarshalTo(e); err != nil {
					return err
				}
				results[i] = codes.Code(e.GetCanonicalCode())
				return perUpdateError(t, results)
			}
		}
		return errDone
	})
	there := vpcs(self, 100, 3, 9)
	mustApply(t, s, self, creates(there...)...)
	rules := vpcs(self, 0, 1200, 2) // over those that are there
	bad := vpcs(self, 1<<24, 3, 2)
	mixed := slices.Concat(rules[:5], bad[:1], rules[5:700], bad[1:], rules[700:])
	errs := failures(t, apply(t, s, self, creates(mixed...)...))
	if len(errs) != len(bad) {
		t.Errorf("%d failed, want %d: %v", len(errs), len(bad), errs)
	}
	for _, r := range bad {
		if errs[r.Key] == nil {
			t.Errorf("%s has not failed", r.Key)
		}
	}
	holds(t, s, self, rules...)

	// One that aborts all has said its last word.
	l.onWrite(func(_ context.Context, req *p4v1.WriteRequest) error {
		return perUpdateError(t, slices.Repeat([]codes.Code{codes.Aborted}, len(req.GetUpdates())))
	})
	if errs := failures(t, apply(t, s, self, deletes(rules[:2]...)...)); len(errs) != 2 {
		t.Errorf("errors %v", errs)
	}
}

// sizes notes how many updates each Write has.
func (l *lab) sizes() func() []int {
	var mu sync.Mutex
	var all []int
	l.onWrite(func(_ context.Context, req *p4v1.WriteRequest) error {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, len(req.GetUpdates()))
		return nil
	})
	return func() []int {
		mu.Lock()
		defer mu.Unlock()
		got := all
		all = nil
		return got
	}
}

// TestLargeRequests adapts its batches to the messages that a switch takes.
func TestLargeRequests(t *testing.T) {
	l := newLab(t)
	s := newSink(t, 1)
	self := l.load(s)
	l.options = []grpc.ServerOption{grpc.MaxRecvMsgSize(40_000)}
	l.reconnect(s)
	sizes := l.sizes()
	rules := vpcs(self, 1<<23, 4000, 2)
	mustApply(t, s, self, creates(rules...)...)
	holds(t, s, self, rules...)
	// The next batch is made while one is on its way, so that it grows a step later.
	// 1024 updates do not come through, and the size is not tried again.
	if got, want := sizes(), []int{512, 512, 512, 512, 512, 512, 512, 416}; !slices.Equal(got, want) {
		t.Errorf("batches of %v, want %v", got, want)
	}
	l.options = nil
	l.reconnect(s)
	mustApply(t, s, self, deletes(rules...)...)
	if got, want := sizes(), []int{512, 512, 1024, 1024, 928}; !slices.Equal(got, want) {
		t.Errorf("batches of %v, want %v", got, want)
	}
}

// TestLargeErrors adapts its batches to the errors that come back.
func TestLargeErrors(t *testing.T) {
	l := newLab(t)
	s := newSink(t, 1)
	s.limits.header = 16 << 10
	self := l.load(s)
	good, bad := vpcs(self, 0, 300, 2), vpcs(self, 1<<24, 300, 2)
	sizes := l.sizes()
	errs := failures(t, apply(t, s, self, creates(slices.Concat(good[:150], bad, good[150:])...)...))
	for _, r := range bad {
		if err := errs[r.Key]; err == nil || !strings.Contains(err.Error(), "OutOfRange") {
			t.Fatalf("%s: error %v", r.Key, err)
		}
	}
	if len(errs) != len(bad) {
		t.Errorf("%d failed, want %d", len(errs), len(bad))
	}
	if got := sizes(); slices.Max(got[2:]) > 256 || len(got) < 4 {
		t.Errorf("batches of %v, want them to shrink", got)
	}
	holds(t, s, self, good...)
}

// TestSlow does not grow its batches at a switch that takes long for one.
func TestSlow(t *testing.T) {
	l := newLab(t)
	s := newSink(t, 1)
	self := l.load(s)
	s.limits.write = 400 * time.Millisecond
	sizes := l.sizes()
	note := *l.hook.Load()
	slow := hook(func(ctx context.Context, req any) error {
		time.Sleep(s.limits.write / 3) // stands for the work of the switch
		return note(ctx, req)
	})
	l.hook.Store(&slow)
	rules := vpcs(self, 0, 1500, 2)
	mustApply(t, s, self, creates(rules...)...)
	if got, want := sizes(), []int{512, 512, 476}; !slices.Equal(got, want) {
		t.Errorf("batches of %v, want %v", got, want)
	}
	holds(t, s, self, rules...)
}
