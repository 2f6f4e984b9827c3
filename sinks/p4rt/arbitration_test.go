package p4rt

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/softswitch"
	"github.com/gray-release/gray/tools/testnet"
)

// roleOf is "primary", or why the sink is not primary of its only switch.
func roleOf(s *Sink) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.devices {
		d.mu.Lock()
		defer d.mu.Unlock()
		if len(s.devices) == 1 && d.notPrimary == nil {
			return "primary"
		}
		if len(s.devices) == 1 {
			return d.notPrimary.Error()
		}
	}
	return fmt.Sprintf("%d switches", len(s.devices))
}

// waitRole waits until roleOf contains a text.
func waitRole(t testing.TB, s *Sink, text string) {
	t.Helper()
	testnet.Eventually(t, func() string { return fmt.Sprintf("it is %q, want %q", roleOf(s), text) }, func() bool {
		return strings.Contains(roleOf(s), text)
	})
}

// connect makes a sink connect to a switch.
func connect(t testing.TB, s *Sink, self *reconciler.Resource) {
	t.Helper()
	if _, err := s.Observe(t.Context(), self.Target, self); err != nil {
		t.Fatal(err)
	}
}

// TestReconnect loses its connections again and again: it comes back each time,
// with a higher election id, wakes the loop, and writes.
func TestReconnect(t *testing.T) {
	l := newLab(t)
	s := newSink(t, 7)
	hints := s.cfg.Hints
	self := l.load(s)
	for n := range uint32(3) {
		hints.Take()
		l.reconnect(s)
		testnet.Eventually(t, func() string { return "the loop is not woken" }, func() bool { return len(hints.Take()) > 0 })
		if err := s.Apply(t.Context(), self, creates(vpcs(self, n, 1, 2)...)); err != nil {
			t.Fatal(err)
		}
	}
	holds(t, s, self, vpcs(self, 0, 3, 2)...)
	ids := l.asked()
	for i := 1; i < len(ids); i++ {
		if ids[i].compare(ids[i-1]) <= 0 {
			t.Errorf("the election ids %v do not grow", ids)
		}
	}
	if ids[0].high != 7 {
		t.Errorf("the first election id is %v, want the epoch as its high half", ids[0])
	}
	// A later start has higher ids, though it counts from 1 again.
	if later, err := newSink(t, 8).nextElection(election{}); err != nil || later.compare(ids[len(ids)-1]) <= 0 {
		t.Errorf("a later start begins with %v, %v, which is not above %v", later, err, ids)
	}
}

// TestElect counts in 128 bits.
func TestElect(t *testing.T) {
	s := newSink(t, 5)
	for _, c := range []struct{ than, want election }{
		{election{}, election{5, 1}},
		{election{4, math.MaxUint64}, election{5, 2}},
		{election{5, 2}, election{5, 3}},
		{election{5, 9}, election{5, 10}},
		{election{5, math.MaxUint64}, election{6, 0}},
		{election{9, 9}, election{9, 10}},
	} {
		if got, err := s.nextElection(c.than); err != nil || got != c.want {
			t.Errorf("above %v: %v, want %v", c.than, got, c.want)
		}
	}
}

// TestSecondPrimary has a controller with a higher election id take over: the sink
// reports it, reads but does not write, and is primary again when the other leaves.
func TestSecondPrimary(t *testing.T) {
	l := newLab(t)
	testSecondPrimary(t, l.target(), l.client())
}

// TestSecondPrimaryFabricSim does the same with a server that reports it differently.
func TestSecondPrimaryFabricSim(t *testing.T) {
	_, address := startFabricSim(t, buildFabricSim(t))
	testSecondPrimary(t, targetAt(address), dialTest(t, address))
}

func testSecondPrimary(t *testing.T, self *reconciler.Resource, client p4v1.P4RuntimeClient) {
	s := newSink(t, 7)
	if err := s.Apply(t.Context(), self, creates(self)); err != nil {
		t.Fatal(err)
	}
	o := newOther(t, client, "", &p4v1.Uint128{High: 100, Low: 3})
	waitRole(t, s, "another controller is primary of p4rt/gw-a, with election id 100/3")
	hints := s.cfg.Hints.Take()
	if len(hints) == 0 {
		t.Error("the loop is not woken when the switch is lost")
	}
	began := time.Now()
	err := s.Apply(t.Context(), self, creates(vpcs(self, 1, 1, 2)...))
	if !errors.Is(err, errBackup) || time.Since(began) > s.limits.primary/2 {
		t.Errorf("Apply by a backup after %s: %v", time.Since(began), err)
	}
	holds(t, s, self) // reading goes on
	o.write(updateOf(p4v1.Update_INSERT, bucketKey{9, 0, 1}.encode(new(block), 4)))
	o.close()
	waitRole(t, s, "primary")
	testnet.Eventually(t, func() string { return "the loop is not woken when the switch is back" }, func() bool { return len(s.cfg.Hints.Take()) > 0 })
	rules := vpcs(self, 1, 1, 2)
	if err := s.Apply(t.Context(), self, creates(rules...)); err != nil {
		t.Fatal(err)
	}
	leftover := &poolBody{pool: 9, unused: []bucketKey{{9, 0, 1}}}
	state, err := s.Observe(t.Context(), self.Target, self)
	if err != nil || state[rules[0].Key] == nil || state[reconciler.Key{Target: self.Target, Kind: "pool", Name: "pool=9"}].Body.String() != leftover.String() {
		t.Errorf("state %v, error %v; want the own rule and what the other left", state, err)
	}
}

// TestHeld loses the connection after it outbid another controller: it asks with a
// higher id than before, as the switch may not have noticed the loss yet.
func TestHeld(t *testing.T) {
	l := newLab(t)
	s := newSink(t, 7)
	connect(t, s, l.target())
	waitRole(t, s, "primary")
	newOther(t, l.client(), "", &p4v1.Uint128{High: 100, Low: 3}).close()
	testnet.Eventually(t, func() string { return fmt.Sprint(l.asked()) }, func() bool {
		return roleOf(s) == "primary" && l.asked()[len(l.asked())-1] == election{100, 4}
	})
	before := len(l.asked())
	l.cut()
	testnet.Eventually(t, func() string { return fmt.Sprint(l.asked()) }, func() bool { return len(l.asked()) > before })
	if got := l.asked()[before]; got != (election{100, 5}) {
		t.Errorf("it asks for %v, want the next above the one it had", got)
	}
	waitRole(t, s, "primary")
}

// TestReplicas has two sinks at one switch: one is primary, and when it leaves the
// other one is. That they ask for the same id does not matter.
func TestReplicas(t *testing.T) {
	l := newLab(t)
	a, b := newSink(t, 7), newSink(t, 7)
	self := l.load(a)
	connect(t, b, self)
	onePrimary(t, a, b)
	o := newOther(t, l.client(), "", &p4v1.Uint128{High: 50})
	waitRole(t, a, "another controller is primary of p4rt/gw-a, with election id 50/0")
	waitRole(t, b, "another controller is primary of p4rt/gw-a, with election id 50/0")
	o.close() // both see that there is nobody, and ask for 50/1
	first, second := onePrimary(t, a, b)
	if err := first.Apply(t.Context(), self, creates(vpcs(self, 1, 1, 2)...)); err != nil {
		t.Error(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	waitRole(t, second, "primary")
	if err := second.Apply(t.Context(), self, creates(vpcs(self, 2, 1, 2)...)); err != nil {
		t.Error(err)
	}
}

// onePrimary waits until one of two sinks is primary and the other knows it, and
// returns them in that order.
func onePrimary(t *testing.T, a, b *Sink) (primary, backup *Sink) {
	t.Helper()
	testnet.Eventually(t, func() string { return roleOf(a) + "; " + roleOf(b) }, func() bool {
		primary, backup = a, b
		if roleOf(b) == "primary" {
			primary, backup = b, a
		}
		return roleOf(primary) == "primary" && strings.Contains(roleOf(backup), "another controller")
	})
	return primary, backup
}

// nobody is a switch that makes no controller primary, or none after a while.
type nobody struct {
	*softswitch.Switch
	streams, asked atomic.Int64
}

func (n *nobody) StreamChannel(s p4v1.P4Runtime_StreamChannelServer) error {
	n.streams.Add(1)
	for {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		n.asked.Add(1)
		a := &p4v1.MasterArbitrationUpdate{DeviceId: 1, ElectionId: m.GetArbitration().GetElectionId(), Status: &rpcstatus.Status{Code: int32(codes.NotFound)}}
		if err := s.Send(&p4v1.StreamMessageResponse{Update: &p4v1.StreamMessageResponse_Arbitration{Arbitration: a}}); err != nil {
			return err
		}
	}
}

// TestNobody asks a switch that never agrees a few times in a row, and then takes
// its time.
func TestNobody(t *testing.T) {
	n := &nobody{}
	l := &lab{TB: t, address: "127.0.0.1:0", wrap: func(sw *softswitch.Switch) p4v1.P4RuntimeServer { n.Switch = sw; return n }}
	l.start()
	defer l.stop()
	s := newSink(t, 1)
	s.limits.primary = 50 * time.Millisecond
	self := l.target()
	err := s.Apply(t.Context(), self, creates(self))
	if err == nil || errors.Is(err, errBackup) {
		t.Errorf("Apply: %v", err)
	}
	testnet.Eventually(t, func() string { return "it gives up" }, func() bool { return n.streams.Load() >= 3 })
	if asked, streams := n.asked.Load(), n.streams.Load(); asked > (1+maxNoPrimary)*(streams+1) {
		t.Errorf("%d questions on %d streams, want one and at most %d more on each", asked, streams, maxNoPrimary)
	}
}

// TestLostMeanwhile becomes a backup between two batches: the switch refuses the second
// one, and the whole Apply fails.
func TestLostMeanwhile(t *testing.T) {
	l := newLab(t)
	s := newSink(t, 1)
	self := l.load(s)
	var o *other
	l.onWrite(func(context.Context, *p4v1.WriteRequest) error {
		if l.batches.Load() == 2 {
			o = newOther(t, l.client(), "", &p4v1.Uint128{High: 100})
		}
		return nil
	})
	err := s.Apply(t.Context(), self, creates(vpcs(self, 0, 2000, 2)...))
	if err == nil || !strings.Contains(err.Error(), "PermissionDenied") {
		t.Errorf("error %v", err)
	}
	l.hook.Store(nil)
	o.close()
	waitRole(t, s, "primary")
	holds(t, s, self, vpcs(self, 0, batchFirst, 2)...)
}

// TestRole arbitrates and writes in the role of the document.
func TestRole(t *testing.T) {
	l := newLab(t)
	newOther(t, l.client(), "", &p4v1.Uint128{High: 1 << 60}) // of no role, and not in the way
	s := newSink(t, 1)
	self := l.target()
	self.Body.(*targetBody).role = "gray"
	if err := s.Apply(t.Context(), self, creates(self)); err != nil {
		t.Fatal(err)
	}
	rules := vpcs(self, 1, 2, 2)
	if err := s.Apply(t.Context(), self, creates(rules...)); err != nil {
		t.Fatal(err)
	}
	holds(t, s, self, rules...)
	o := newOther(t, l.client(), "gray", &p4v1.Uint128{High: 9})
	waitRole(t, s, "another controller is primary")
	o.close()
	waitRole(t, s, "primary")
}

// TestReadOnly reads without a stream, and writes nothing.
func TestReadOnly(t *testing.T) {
	l := newLab(t)
	rules := vpcs(l.target(), 1, 3, 2)
	first := newSink(t, 1)
	self := l.load(first)
	if err := first.Apply(t.Context(), self, creates(rules...)); err != nil {
		t.Fatal(err)
	}
	asked := len(l.asked())
	s := New(Config{ReadOnly: true})
	holds(t, s, self, rules...)
	if err := s.Apply(t.Context(), self, deletes(rules...)); err == nil {
		t.Error("a dry run applies")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if n := len(l.asked()); n != asked {
		t.Errorf("%d arbitrations by a dry run", n-asked)
	}
	holds(t, first, self, rules...)
}

// TestDisconnect deletes the Switch document: the sink disconnects, so that another
// controller can become primary, and the switch keeps its entries.
func TestDisconnect(t *testing.T) {
	l := newLab(t)
	s := newSink(t, 9)
	self := l.load(s)
	if err := s.Apply(t.Context(), self, deletes(self)); err != nil {
		t.Fatal(err)
	}
	if got := roleOf(s); got != "0 switches" {
		t.Errorf("the sink is still connected: %s", got)
	}
	testnet.Eventually(t, func() string { return "the stream is still open" }, func() bool {
		_, err := l.client().Write(t.Context(), &p4v1.WriteRequest{DeviceId: 1, ElectionId: election{9, 1}.proto()})
		return status.Code(err) == codes.PermissionDenied
	})
	holds(t, s, self)
}

// TestMoved gives the document another address: the sink disconnects from the old switch
// and connects to the new one.
func TestMoved(t *testing.T) {
	a, b := newLab(t), newLab(t)
	s := newSink(t, 3)
	a.load(s)
	self := b.load(s)
	if err := s.Apply(t.Context(), self, creates(vpcs(self, 1, 1, 2)...)); err != nil {
		t.Fatal(err)
	}
	if got := roleOf(s); got != "primary" {
		t.Errorf("after the move it is %s", got)
	}
	testnet.Eventually(t, func() string { return "the old switch still has its primary" }, func() bool {
		_, err := a.client().Write(t.Context(), &p4v1.WriteRequest{DeviceId: 1, ElectionId: election{3, 1}.proto()})
		return status.Code(err) == codes.PermissionDenied
	})
	if a.sw.Stats().Writes != 0 || b.sw.Stats().Writes != 1 {
		t.Errorf("writes %v and %v", a.sw.Stats(), b.sw.Stats())
	}
}

// TestLaterLeader does not outbid the leader of a later epoch, even while that one is
// disconnected. The current leader outbids any id that the switch has seen.
func TestLaterLeader(t *testing.T) {
	l := newLab(t)
	sink := func(epoch uint64, reelect func(uint64) (uint64, error)) *Sink {
		s := newSink(t, epoch)
		s.cfg.Reelect = reelect
		return s
	}
	old := sink(1, func(uint64) (uint64, error) { return 0, errors.New("another leads") })
	self := l.load(old)
	later := sink(2, nil)
	connect(t, later, self)
	waitRole(t, later, "primary")
	waitRole(t, old, "another controller is primary")
	if err := later.Close(); err != nil {
		t.Fatal(err)
	}
	waitRole(t, old, "another leads")
	for _, id := range l.asked() {
		if id.high > 2 {
			t.Errorf("the old leader asks with %v", id)
		}
	}
	if err := old.Apply(t.Context(), self, creates(vpcs(self, 1, 1, 2)...)); err == nil || l.sw.Stats().Writes != 0 {
		t.Errorf("the old leader writes: %v, %d writes", err, l.sw.Stats().Writes)
	}
	first := sink(1, func(above uint64) (uint64, error) { return above + 5, nil }) // of a store that was set up anew
	connect(t, first, self)
	waitRole(t, first, "primary")
	if err := first.Apply(t.Context(), self, creates(vpcs(self, 1, 1, 2)...)); err != nil {
		t.Error(err)
	}
	if ids := l.asked(); ids[len(ids)-1].high != 7 {
		t.Errorf("the ids %v do not end in one of the epoch that was given", ids)
	}
}
