package p4rt

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
	"github.com/gray-release/gray/sinks/p4rt/softswitch"
	"github.com/gray-release/gray/tools/testnet"
)

// flipRig is a switch with one VIP whose pool is changed under packets. The pool
// has 64 buckets, which lead to backends 1 to 4 or to 5 to 8, each by its own port.
type flipRig struct {
	*lab
	s        *Sink
	self     *reconciler.Resource
	rest     []*reconciler.Resource // all but the pool
	old, now *reconciler.Resource
	read     func(*softswitch.Switch, *p4v1.ReadRequest, p4v1.P4Runtime_ReadServer) error // nil: as it is
	packets  atomic.Int64                                                                 // that traffic has sent
	flowing  atomic.Bool
}

// everyFlow waits until traffic, if there is any, has sent two packets of each flow, so
// that it tests every step.
func (r *flipRig) everyFlow() {
	for end := time.Now().Add(patience); r.flowing.Load(); time.Sleep(time.Millisecond) {
		if sent := r.packets.Load(); sent >= 2*flowCount {
			r.packets.Store(0)
			return
		}
		if time.Now().After(end) {
			r.Error("the traffic has stopped")
			return
		}
	}
}

const flipSize = 64

func newFlipRig(t *testing.T) *flipRig {
	t.Helper()
	r := &flipRig{s: newSink(t, 1)}
	r.lab = readsBy(t, func(sw *softswitch.Switch, req *p4v1.ReadRequest, s p4v1.P4Runtime_ReadServer) error {
		if req.GetEntities()[0].GetTableEntry().GetTableId() == pipeline.TableBucket {
			r.everyFlow()
		}
		if r.read != nil {
			return r.read(sw, req, s)
		}
		return sw.Read(req, s)
	})
	r.self = r.load(r.s)
	if _, err := r.s.Observe(t.Context(), r.self.Target, r.self); err != nil {
		t.Fatal(err)
	}
	r.old, r.now = pool(r.self, 1, flipSize, 1, 2, 3, 4), pool(r.self, 1, flipSize, 5, 6, 7, 8)
	for i := range uint16(9) {
		r.rest = append(r.rest, resourceOf(r.self, &backendBody{id: i, port: uint32(i)}))
	}
	r.rest = append(r.rest, resourceOf(r.self, &profileBody{profile: 1, masks: fullMasks}),
		resourceOf(r.self, &vipBody{address: netip.MustParseAddr("203.0.113.10"), vip: 1, pool: 1, profile: 1}))
	mustApply(t, r.s, r.self, creates(append(r.rest, r.old)...)...)
	return r
}

const flowCount = 1000

// flowFrames are frames of many flows, enough for every bucket to be met.
func flowFrames() [][]byte {
	all := make([][]byte, flowCount)
	for i := range all {
		all[i] = frameOf(packets.Packet{
			VIP: netip.MustParseAddr("203.0.113.10"), VNI: 7, Protocol: 6, SrcPort: uint16(1000 + i), DstPort: 80,
			Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"),
		})
	}
	return all
}

// ways is the port of each flow, 0 where its packet is dropped.
func ways(sw *softswitch.Switch, frames [][]byte) []uint32 {
	all := make([]uint32, len(frames))
	for i, f := range frames {
		if port, _, ok := sw.Process(append([]byte(nil), f...)); ok {
			all[i] = port
		}
	}
	return all
}

// traffic sends packets until stop is called: each goes where its bucket leads in
// the old or in the new table, and after the first that took a new way no other
// takes an old one.
func (r *flipRig) traffic(t *testing.T) (stop func()) {
	frames := flowFrames()
	sw := r.sw
	before := ways(sw, frames)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	flipped := false
	r.flowing.Store(true)
	wg.Go(func() {
		defer r.flowing.Store(false)
		for i := 0; ctx.Err() == nil; i = (i + 1) % len(frames) {
			port, _, ok := sw.Process(append([]byte(nil), frames[i]...))
			r.packets.Add(1)
			switch {
			case !ok:
				t.Errorf("a packet was dropped: %+v", sw.Stats())
			case port == before[i] && flipped:
				t.Errorf("a packet left by port %d after another had taken a new way", port)
			case port == before[i]:
			case port == (before[i]+3)%8+1: // the backend four further on
				flipped = true
			default:
				t.Errorf("a packet of port %d left by port %d", before[i], port)
			}
			if t.Failed() {
				return
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// written counts what is written to buckets and pools.
type written struct{ insert, modify, remove, pool int }

func (r *flipRig) count() *written {
	w := &written{}
	r.onWrite(func(_ context.Context, req *p4v1.WriteRequest) error {
		r.everyFlow()
		for _, u := range req.GetUpdates() {
			switch {
			case u.GetEntity().GetTableEntry().GetTableId() != pipeline.TableBucket:
				w.pool++
			case u.GetType() == p4v1.Update_INSERT:
				w.insert++
			case u.GetType() == p4v1.Update_MODIFY:
				w.modify++
			default:
				w.remove++
			}
		}
		return nil
	})
	return w
}

// TestFlip changes a whole pool and back under packets, also with foreign buckets in the
// idle generation. A quarter of the pool changes in place.
func TestFlip(t *testing.T) {
	r := newFlipRig(t)
	for n, c := range []struct {
		from, to *reconciler.Resource
		want     written
	}{
		{r.old, r.now, written{insert: flipSize, remove: flipSize, pool: 1}},
		{r.now, r.old, written{insert: flipSize, remove: flipSize, pool: 1}},
	} {
		w, reads := r.count(), r.reads.Load()
		stop := r.traffic(t)
		mustApply(t, r.s, r.self, reconciler.Change{Old: c.from, New: c.to})
		r.everyFlow()
		stop()
		if *w != c.want || r.reads.Load()-reads != 2 { // one bucket, and the others
			t.Errorf("flip %d: wrote %+v and read %d times, want %+v and 2", n, *w, r.reads.Load()-reads, c.want)
		}
		holds(t, r.s, r.self, append(r.rest, c.to)...)
	}
	quarter := pool(r.self, 1, flipSize, 1, 2, 3, 4)
	for i := range flipSize / 4 {
		quarter.Body.(*poolBody).buckets[4*i] = 9 // backend 8
	}
	w, reads := r.count(), r.reads.Load()
	mustApply(t, r.s, r.self, reconciler.Change{Old: r.old, New: quarter})
	if want := (written{modify: flipSize / 4}); *w != want || r.reads.Load() != reads {
		t.Errorf("a quarter: wrote %+v and read %d times, want %+v and none", *w, r.reads.Load()-reads, want)
	}
	holds(t, r.s, r.self, append(r.rest, quarter)...)
	mustApply(t, r.s, r.self, reconciler.Change{Old: quarter, New: r.old})

	// Somebody fills the idle generation, and more than all of it.
	o := newOther(t, r.client(), "other", &p4v1.Uint128{Low: 1})
	for _, hash := range []uint16{0, 5, 63, 64, 1000} {
		for generation := range uint8(2) {
			if generation == 0 && hash < flipSize {
				continue
			}
			o.write(updateOf(p4v1.Update_INSERT, bucketKey{1, generation, hash}.encode(new(block), 0)))
		}
	}
	state, err := r.s.Observe(t.Context(), r.self.Target, r.self)
	if err != nil {
		t.Fatal(err)
	}
	stop := r.traffic(t)
	w = r.count()
	mustApply(t, r.s, r.self, reconciler.Change{Old: state[r.old.Key], New: r.now})
	stop()
	if want := (written{insert: flipSize - 3, modify: 3, remove: flipSize + 4, pool: 1}); *w != want {
		t.Errorf("over unused buckets: wrote %+v, want %+v", *w, want)
	}
	holds(t, r.s, r.self, append(r.rest, r.now)...)
}

// TestFlipFails has every step of a flip fail: by a refusal, by a loss that only the read
// shows, or by the end of the connection. No packet is dropped or misrouted, the pool is
// reported, and the next Observe and Apply succeed.
func TestFlipFails(t *testing.T) {
	is := func(req *p4v1.WriteRequest, kind p4v1.Update_Type, table uint32) bool {
		u := req.GetUpdates()[0]
		return u.GetType() == kind && u.GetEntity().GetTableEntry().GetTableId() == table
	}
	type onWrite = func(r *flipRig, ctx context.Context, req *p4v1.WriteRequest) error
	refuse := func(kind p4v1.Update_Type, table uint32) onWrite {
		return func(_ *flipRig, _ context.Context, req *p4v1.WriteRequest) error {
			if !is(req, kind, table) {
				return nil
			}
			results := make([]codes.Code, len(req.GetUpdates()))
			for i := range results {
				results[i] = codes.Internal
			}
			return perUpdateError(t, results)
		}
	}
	cut := func(kind p4v1.Update_Type, table uint32, carriedOut bool) onWrite {
		return func(r *flipRig, ctx context.Context, req *p4v1.WriteRequest) error {
			if !is(req, kind, table) {
				return nil
			}
			if carriedOut {
				if _, err := r.sw.Write(ctx, req); err != nil {
					t.Error(err)
				}
			}
			go r.server.Stop() // waits for this call, whose connection it ends first
			<-ctx.Done()
			return ctx.Err()
		}
	}
	insert, modify, remove := p4v1.Update_INSERT, p4v1.Update_MODIFY, p4v1.Update_DELETE
	bucket, entry := pipeline.TableBucket, pipeline.TablePool
	for name, c := range map[string]struct {
		write onWrite
		read  error
		want  string // the error of the pool; empty: one of the whole
		live  uint8  // the generation after it
	}{
		"fill refused":  {refuse(insert, bucket), nil, "refused it", 0},
		"flip refused":  {refuse(modify, entry), nil, "refused it", 0},
		"clear refused": {refuse(remove, bucket), nil, "refused it", 1},
		"read fails":    {nil, status.Error(codes.Unavailable, "busy"), "cannot read its new buckets back, so the old ones stay: Unavailable: busy", 0},
		"a bucket is lost": {func(r *flipRig, ctx context.Context, req *p4v1.WriteRequest) error {
			if !is(req, insert, bucket) {
				return nil
			}
			req.Updates = req.GetUpdates()[1:]
			return nil
		}, nil, "its new bucket 0 reads back as empty, not backend 5, so the old ones stay", 0},
		"cut before fill":  {cut(insert, bucket, false), nil, "", 0},
		"cut after fill":   {cut(insert, bucket, true), nil, "", 0},
		"cut before flip":  {cut(modify, entry, false), nil, "", 0},
		"cut after flip":   {cut(modify, entry, true), nil, "", 1},
		"cut before clear": {cut(remove, bucket, false), nil, "", 1},
		"cut after clear":  {cut(remove, bucket, true), nil, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFlipRig(t)
			if c.write != nil {
				r.onWrite(func(ctx context.Context, req *p4v1.WriteRequest) error {
					r.everyFlow()
					return c.write(r, ctx, req)
				})
			}
			var fail atomic.Bool
			fail.Store(c.read != nil)
			r.read = func(sw *softswitch.Switch, req *p4v1.ReadRequest, s p4v1.P4Runtime_ReadServer) error {
				if fail.Load() {
					return c.read
				}
				return sw.Read(req, s)
			}
			stop := r.traffic(t)
			change := reconciler.Change{Old: r.old, New: r.now}
			asked := len(r.asked())
			err := apply(t, r.s, r.self, change)
			fail.Store(false)
			r.hook.Store(nil)
			if c.want == "" {
				if _, ok := err.(*reconciler.PartialError); ok || err == nil {
					t.Fatalf("error %v, want one of the whole", err)
				}
				r.serve(r.sw)
				testnet.Eventually(t, func() string { return "no new arbitration" }, func() bool { return len(r.asked()) > asked })
				waitRole(t, r.s, "primary")
			} else if got := failures(t, err)[r.now.Key]; got == nil || !strings.Contains(got.Error(), c.want) {
				t.Errorf("error %v, want %q", got, c.want)
			} else if name != "clear refused" { // the same once more, without a look
				mustApply(t, r.s, r.self, change)
			}
			state, err := r.s.Observe(t.Context(), r.self.Target, r.self)
			if err != nil {
				t.Fatal(err)
			}
			live := state[r.now.Key].Body.(*poolBody)
			whole := map[uint8]*reconciler.Resource{0: r.old, 1: r.now}[c.live].Body.(*poolBody)
			if c.want != "" {
				whole = r.now.Body.(*poolBody)
			}
			if fmt.Sprint(live.buckets) != fmt.Sprint(whole.buckets) {
				t.Errorf("the live generation is %s, want %s", live, whole)
			}
			if live.Equal(r.now.Body) != (len(live.unused) == 0 && whole == r.now.Body) {
				t.Errorf("%s is not told from %s", live, r.now.Body)
			}
			if !live.Equal(r.now.Body) {
				mustApply(t, r.s, r.self, reconciler.Change{Old: state[r.now.Key], New: r.now})
			}
			r.everyFlow()
			stop()
			holds(t, r.s, r.self, append(r.rest, r.now)...)
		})
	}
}

// TestFlipDirty fails half of a small change: the next change also writes the buckets
// whose content is not known.
func TestFlipDirty(t *testing.T) {
	r := newFlipRig(t)
	change := func(hashes ...int) *reconciler.Resource {
		p := pool(r.self, 1, flipSize, 1, 2, 3, 4)
		for _, h := range hashes {
			p.Body.(*poolBody).buckets[h] = 9
		}
		return p
	}
	r.onWrite(func(_ context.Context, req *p4v1.WriteRequest) error {
		for _, u := range req.GetUpdates() {
			if e := u.GetEntity().GetTableEntry(); e.GetTableId() == pipeline.TableBucket && pipeline.ToUint(e.GetMatch()[2].GetExact().GetValue()) == 6 {
				e.Match = append(e.Match, e.GetMatch()[0]) // a field twice
			}
		}
		return nil
	})
	if errs := failures(t, apply(t, r.s, r.self, reconciler.Change{Old: r.old, New: change(5, 6)})); len(errs) != 1 {
		t.Fatalf("errors %v", errs)
	}
	r.hook.Store(nil)
	mustApply(t, r.s, r.self, reconciler.Change{Old: r.old, New: change(7)}) // 5 is as it was, to the loop
	holds(t, r.s, r.self, append(r.rest, change(7))...)
	mustApply(t, r.s, r.self, reconciler.Change{Old: change(7), New: r.old}) // in place again
	holds(t, r.s, r.self, append(r.rest, r.old)...)
}
