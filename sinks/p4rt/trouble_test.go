package p4rt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
	"github.com/gray-release/gray/sinks/p4rt/softswitch"
	"github.com/gray-release/gray/tools/testnet"
)

// silent is an address at which connections are taken and nothing is ever said.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = c.Close() })
		}
	}()
	return l.Addr().String()
}

// TestHang has switches that take connections, or calls, and never answer: every
// step ends in time, with an error, and holds up no other switch.
func TestHang(t *testing.T) {
	good, stalled := newLab(t), newLab(t)
	s := newSink(t, 1)
	self := good.load(s)
	named := func(name, address string) *reconciler.Resource {
		return switchOf(&policies.Switch{Name: name, Address: address, DeviceID: 1, Push: "ifDifferent"})
	}
	dead := []*reconciler.Resource{named("silent", silent(t)), named("nobody", "127.0.0.1:1"), named("stalled", stalled.address)}
	if err := s.Apply(t.Context(), dead[2], creates(dead[2])); err != nil { // it was well once
		t.Fatal(err)
	}
	stalled.stall()
	const each = 300 * time.Millisecond
	s.limits.primary, s.limits.read, s.limits.write, s.limits.push = each, each, each, each
	type result struct {
		what string
		err  error
		took time.Duration
	}
	results := make(chan result)
	run := func(what string, f func() error) {
		go func() {
			began := time.Now()
			err := f()
			results <- result{what, err, time.Since(began)}
		}()
	}
	for _, d := range dead {
		run("Observe of "+d.Target, func() error { _, err := s.Observe(t.Context(), d.Target, d); return err })
		run("Apply to "+d.Target, func() error { return s.Apply(t.Context(), d, creates(vpcs(d, 1, 5, 2)...)) })
		run("push to "+d.Target, func() error { return s.Apply(t.Context(), d, creates(d)) })
	}
	rules := vpcs(self, 1, 5, 2)
	mustApply(t, s, self, creates(rules...)...) // while the others hang
	holds(t, s, self, rules...)
	for range 3 * len(dead) {
		select {
		case r := <-results:
			if r.err == nil || r.took > each+patience/4 {
				t.Errorf("%s took %s, error %v", r.what, r.took, r.err)
			}
		case <-time.After(patience):
			t.Fatal("a step hangs for ever")
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestRestartsEmpty has a switch come back without anything: that shows, the
// pipeline is loaded again and everything written.
func TestRestartsEmpty(t *testing.T) {
	l := newLab(t)
	s := newSink(t, 1)
	self := l.load(s)
	resources := append(vpcs(self, 1, 700, 2), pool(self, 2, 256, 1), resourceOf(self, &backendBody{id: 1, port: 3}))
	desired := reconciler.State{self.Key: self}
	for _, r := range resources {
		desired[r.Key] = r
	}
	reconcile(t, s, self, desired)
	s.cfg.Hints.Take()
	l.stop()
	l.start()
	waitRole(t, s, "primary")
	testnet.Eventually(t, func() string { return "the loop is not woken" }, func() bool { return len(s.cfg.Hints.Take()) > 0 })
	state, err := s.Observe(t.Context(), self.Target, self)
	if err != nil || len(state) != 0 {
		t.Fatalf("an empty switch has %v, error %v", state, err)
	}
	reconcile(t, s, self, desired)
	if st := l.sw.Stats(); st.Pushes != 1 || st.Writes != 700+1+256+1 {
		t.Errorf("after a restart: %+v", st)
	}
}

// reconcile takes a switch to a state, as the loop does.
func reconcile(t *testing.T, s *Sink, self *reconciler.Resource, desired reconciler.State) {
	t.Helper()
	state, err := s.Observe(t.Context(), self.Target, self)
	if err != nil {
		t.Fatal(err)
	}
	changes := reconciler.Diff(desired, state, reconciler.Union(desired, state))
	for len(changes) > 0 {
		n := 1
		for n < len(changes) && changes[n].Op() == changes[0].Op() && changes[n].Rank() == changes[0].Rank() {
			n++
		}
		mustApply(t, s, self, changes[:n]...)
		changes = changes[n:]
	}
	var want []*reconciler.Resource
	for _, r := range desired {
		if r.Kind != reconciler.KindTarget {
			want = append(want, r)
		}
	}
	holds(t, s, self, want...)
}

// TestDropMidBatch loses the connection in the middle of an Apply, before and
// after the switch has carried out a batch: nothing is claimed, and the next try
// gets there.
func TestDropMidBatch(t *testing.T) {
	for _, carriedOut := range []bool{false, true} {
		t.Run(fmt.Sprintf("carried out %t", carriedOut), func(t *testing.T) {
			l := newLab(t)
			s := newSink(t, 1)
			self := l.load(s)
			rules := vpcs(self, 0, 1800, 2)
			desired := reconciler.State{self.Key: self}
			for _, r := range rules {
				desired[r.Key] = r
			}
			l.onWrite(func(ctx context.Context, req *p4v1.WriteRequest) error {
				if l.batches.Load() < 3 {
					return nil
				}
				if carriedOut {
					if _, err := l.sw.Write(ctx, req); err != nil {
						t.Error(err)
					}
				}
				go l.server.Stop() // waits for this call, whose connection it ends first
				<-ctx.Done()
				return ctx.Err()
			})
			err := s.Apply(t.Context(), self, creates(rules...))
			if partial := (*reconciler.PartialError)(nil); err == nil || errors.As(err, &partial) {
				t.Fatalf("error %v, want one for all", err)
			}
			l.hook.Store(nil)
			l.serve(l.sw)
			waitRole(t, s, "primary")
			state, err := s.Observe(t.Context(), self.Target, self)
			want := 1 + 2*batchFirst
			if carriedOut {
				want = 1 + len(rules) // the third batch is the rest
			}
			if err != nil || len(state) != want {
				t.Errorf("%d resources are there, error %v", len(state), err)
			}
			mustApply(t, s, self, creates(rules...)...) // as if nothing were known
			reconcile(t, s, self, desired)
		})
	}
}

// TestPushNever refuses to load the pipeline where the document says so, and names
// both cookies.
func TestPushNever(t *testing.T) {
	l := newLab(t)
	o := newOther(t, l.client(), "other", &p4v1.Uint128{Low: 1})
	_, err := o.client.SetForwardingPipelineConfig(t.Context(), &p4v1.SetForwardingPipelineConfigRequest{
		DeviceId: 1, Role: "other", ElectionId: o.id, Action: p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_COMMIT,
		Config: &p4v1.ForwardingPipelineConfig{P4Info: pipeline.V1Model().P4Info, Cookie: &p4v1.ForwardingPipelineConfig_Cookie{Cookie: 0xabc}},
	})
	if err != nil {
		t.Fatal(err)
	}
	o.write(updateOf(p4v1.Update_INSERT, entryOf(vpcs(l.target(), 1, 1, 2)[0].Body.(entryBody))))
	s := newSink(t, 1)
	self := l.target()
	self.Body.(*targetBody).push = "never"
	state, err := s.Observe(t.Context(), self.Target, self)
	if err != nil || len(state) != 1 || state[self.Key].Body.Equal(self.Body) {
		t.Fatalf("state %v, error %v; want another pipeline and nothing else", state, err)
	}
	change := reconciler.Change{Old: state[self.Key], New: self}
	if text := change.String(); !strings.Contains(text, "another pipeline with cookie 0xabc ->") || !strings.Contains(text, "empties its tables") {
		t.Errorf("the plan says %q", text)
	}
	errs := failures(t, apply(t, s, self, change))
	gray := fmt.Sprintf("%#x", pipeline.V1Model().Cookie)
	if err := errs[self.Key]; err == nil || !strings.Contains(err.Error(), "0xabc") || !strings.Contains(err.Error(), gray) || !strings.Contains(err.Error(), "pushPipeline: ifDifferent") {
		t.Errorf("error %v, want one with 0xabc and %s", err, gray)
	}
	if n := l.sw.Stats().Pushes; n != 1 {
		t.Errorf("%d pipelines were loaded, want the first alone", n)
	}
	// With ifDifferent it is loaded, and what was there is gone.
	self = l.target()
	mustApply(t, s, self, reconciler.Change{Old: state[self.Key], New: self})
	holds(t, s, self)
	// A switch without a pipeline is told so.
	empty := newLab(t)
	self = empty.target()
	self.Body.(*targetBody).push = "never"
	errs = failures(t, apply(t, s, self, reconciler.Change{New: self}))
	if err := errs[self.Key]; err == nil || !strings.Contains(err.Error(), "cookie 0x0") {
		t.Errorf("error %v", err)
	}
}

// reading is a switch whose reads go through a function.
type reading struct {
	*softswitch.Switch
	read func(*p4v1.ReadRequest, p4v1.P4Runtime_ReadServer) error
}

func (r *reading) Read(req *p4v1.ReadRequest, s p4v1.P4Runtime_ReadServer) error {
	return r.read(req, s)
}

// readServer hands responses to a function.
type readServer struct {
	p4v1.P4Runtime_ReadServer
	send func(*p4v1.ReadResponse) error
}

func (r *readServer) Send(res *p4v1.ReadResponse) error { return r.send(res) }

// readsBy makes a lab whose reads go through a function.
func readsBy(t *testing.T, read func(*softswitch.Switch, *p4v1.ReadRequest, p4v1.P4Runtime_ReadServer) error) *lab {
	t.Helper()
	l := &lab{TB: t, address: "127.0.0.1:0"}
	l.wrap = func(sw *softswitch.Switch) p4v1.P4RuntimeServer {
		return &reading{sw, func(req *p4v1.ReadRequest, s p4v1.P4Runtime_ReadServer) error { return read(sw, req, s) }}
	}
	l.start()
	t.Cleanup(l.stop)
	return l
}

// TestReadLimits reads from a switch that sends too much: too large a message, or
// no end of them. Nothing of it is claimed.
func TestReadLimits(t *testing.T) {
	l := newLab(t)
	s := newSink(t, 1)
	s.limits.receive = 10_000
	self := l.load(s)
	mustApply(t, s, self, creates(vpcs(self, 0, 900, 2)...)...)
	state, err := s.Observe(t.Context(), self.Target, self)
	if err == nil || state != nil || !strings.Contains(err.Error(), "cannot read table gray_vpc") || !strings.Contains(err.Error(), "larger than max") {
		t.Errorf("state of %d, error %v", len(state), err)
	}

	endless := readsBy(t, func(sw *softswitch.Switch, req *p4v1.ReadRequest, s p4v1.P4Runtime_ReadServer) error {
		if req.GetEntities()[0].GetTableEntry().GetTableId() != pipeline.TableHashProfile {
			return sw.Read(req, s)
		}
		e := entryOf(&profileBody{profile: 1})
		for {
			if err := s.Send(&p4v1.ReadResponse{Entities: []*p4v1.Entity{{Entity: &p4v1.Entity_TableEntry{TableEntry: e}}}}); err != nil {
				return err
			}
		}
	})
	s = newSink(t, 1)
	self = endless.load(s)
	state, err = s.Observe(t.Context(), self.Target, self)
	if err == nil || state != nil || !strings.Contains(err.Error(), "hash_profile") || !strings.Contains(err.Error(), "more than twice the 256") {
		t.Errorf("state of %d, error %v", len(state), err)
	}

	broken := readsBy(t, func(sw *softswitch.Switch, req *p4v1.ReadRequest, s p4v1.P4Runtime_ReadServer) error {
		if req.GetEntities()[0].GetTableEntry().GetTableId() == pipeline.TableVPC {
			req.GetEntities()[0].GetTableEntry().Priority = 1
			req.Entities[0].GetTableEntry().TableId = 0
		}
		return sw.Read(req, s)
	})
	s = newSink(t, 1)
	self = broken.load(s)
	state, err = s.Observe(t.Context(), self.Target, self)
	if err == nil || state != nil || !strings.Contains(err.Error(), "InvalidArgument: a request for all tables takes no filter") {
		t.Errorf("state of %d, error %v; want what the switch says of the request", len(state), err)
	}
}

// TestOddReads reads from a switch that pads values, writes out what does not
// matter, mixes the order of fields and adds what was not asked for: all of it is
// what was written.
func TestOddReads(t *testing.T) {
	odd := readsBy(t, func(sw *softswitch.Switch, req *p4v1.ReadRequest, s p4v1.P4Runtime_ReadServer) error {
		return sw.Read(req, &readServer{s, func(res *p4v1.ReadResponse) error {
			for i, e := range res.GetEntities() {
				res.Entities[i] = &p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: padded(e.GetTableEntry())}}
			}
			table := req.GetEntities()[0].GetTableEntry().GetTableId()
			standard := &p4v1.TableEntry{TableId: table, IsDefaultAction: true}
			stranger := &p4v1.TableEntry{TableId: table + 1}
			for _, e := range []*p4v1.TableEntry{standard, stranger} {
				res.Entities = append(res.Entities, &p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: e}})
			}
			return s.Send(res)
		}})
	})
	s := newSink(t, 1)
	self := odd.load(s)
	anyPort := packets.PortRange{Hi: 65535}
	resources := append(vpcs(self, 1, 3, 2),
		resourceOf(self, &ruleBody{table: pipeline.TableFlowV4, vip: 1, pool: 2, priority: 9, match: packets.Match{VNI: 5, Protocol: -1, SrcPort: packets.PortRange{Lo: 1, Hi: 2}, DstPort: anyPort}}),
		resourceOf(self, &ruleBody{table: pipeline.TableFlowV6, vip: 1, pool: 2, priority: 9, match: packets.Match{AnyVNI: true, Protocol: 58, SrcPort: anyPort, DstPort: anyPort}}),
		resourceOf(self, &backendBody{id: 1, port: 3, dstMAC: [6]byte{0, 0, 1}}),
		resourceOf(self, &profileBody{profile: 3, masks: fullMasks}),
		pool(self, 2, 4, 1))
	mustApply(t, s, self, creates(resources...)...)
	holds(t, s, self, resources...)
}
