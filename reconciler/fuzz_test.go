package reconciler

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/schema"
)

// The fuzz tests hold the planner and the loop against the semantic fake, which
// fails the test for any change that breaks a reference, repeats what is done or
// starts from what is not live.

// twoTargets makes a random state of mem/s with its switch and of bgp/s, whose
// resources refer to some of mem/s.
func twoTargets(r *rand.Rand) State {
	s := randomState(r, "mem/s")
	keys := slices.SortedFunc(maps.Keys(s), Key.Compare)
	self := Key{Target: "mem/s", Kind: KindTarget}
	s[self] = &Resource{Key: self, Body: text(fmt.Sprint(r.IntN(2)))}
	for i := range 6 {
		if r.IntN(3) == 0 || len(keys) == 0 {
			continue
		}
		k := Key{"bgp/s", "route", fmt.Sprint(i)}
		refs := []Key{keys[r.IntN(len(keys))]}
		if ref := keys[r.IntN(len(keys))]; ref != refs[0] {
			refs = append(refs, ref)
		}
		s[k] = &Resource{Key: k, Rank: rankRoute, Refs: refs, Body: text(fmt.Sprint(r.IntN(2), refs))}
	}
	return s
}

// of is the part of a state that lives at a target.
func (s State) of(target string) State {
	part := State{}
	for k, res := range s {
		if k.Target == target {
			part[k] = res
		}
	}
	return part
}

// FuzzPlanConverges takes the plan from one random state to another, stage by
// stage, with random refusals that go away.
func FuzzPlanConverges(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t)
		desired, observed := twoTargets(r).of("mem/s"), twoTargets(r).of("mem/s")
		place := w.place("mem/s")
		place.live = maps.Clone(observed)
		self := Key{Target: "mem/s", Kind: KindTarget}
		if observed[self].Body != desired[self].Body { // under another pipeline nothing else is seen
			place.live = State{self: observed[self]}
			observed = maps.Clone(place.live)
		}
		for k := range Union(desired, observed) {
			if r.IntN(4) == 0 {
				place.refuse[k] = errors.New("not now")
			}
		}
		if r.IntN(3) == 0 {
			place.room = max(len(observed), len(desired))
		}
		for round := 0; ; round++ {
			changes := Diff(desired, observed, Union(desired, observed))
			if len(changes) == 0 {
				break
			}
			done, failed, err := apply(t.Context(), switches(w), nil, changes)
			if err != nil {
				t.Fatal(err)
			}
			for k := range failed {
				if place.refuse[k] == nil && place.room == 0 {
					t.Errorf("%s failed: %v", k, failed[k])
				}
			}
			for _, c := range done {
				if c.New == nil {
					delete(observed, c.Key())
				} else {
					observed[c.Key()] = c.New
				}
			}
			if len(failed) == 0 && len(done) < len(changes) {
				t.Fatalf("nothing failed and only %d of %d changes were made", len(done), len(changes))
			}
			if round > 100 && place.room > 0 {
				fullForAReason(t, place.live, changes)
				place.room, round = 0, 0
			}
			if round > 100 {
				t.Fatalf("it does not end; left are\n%s", &Plan{Changes: changes})
			}
			for k := range place.refuse {
				if r.IntN(3) == 0 {
					delete(place.refuse, k)
				}
			}
		}
		if !sameState(desired, place.live) {
			t.Errorf("live is %v, want %v", w.live("mem/s"), desired)
		}
	})
}

// fullForAReason fails the test if a full place could be made room in: whatever is
// still to be deleted must be referred to by what is live.
func fullForAReason(t *testing.T, live State, left []Change) {
	t.Helper()
	for _, c := range left {
		used := false
		for _, res := range live {
			used = used || refersTo(res, c.Key())
		}
		if c.Op() == Delete && !used {
			t.Errorf("the place is full, and nothing refers to\n%s", c)
		}
	}
}

func sameState(a, b State) bool {
	return maps.EqualFunc(a, b, func(x, y *Resource) bool { return x.Body.Equal(y.Body) })
}

// FuzzLoopConverges has the loop follow random commits over two targets that refer
// to each other, while targets refuse, break, lose and gain resources. When that
// ends, all is live.
func FuzzLoopConverges(f *testing.F) {
	for _, seed := range []uint64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 141, 301, 599} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		bubble(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 2))
			g := start(t, newWorld(t), func(c *Config) { c.Drift, c.MaxDelete = 30*time.Second, 100 })
			g.quiet()
			state := State{}
			for commit := range 1 + r.IntN(5) {
				state = g.jump(state, twoTargets(r), fmt.Sprint(commit))
				for range r.IntN(4) {
					g.mischief(r)
					g.after(time.Duration(r.IntN(40)) * time.Second)
				}
			}
			for _, target := range []string{"mem/s", "bgp/s"} {
				g.w.at(target, func(p *place) {
					clear(p.refuse)
					clear(p.loses)
					p.down, p.broken = nil, nil
				})
			}
			g.after(5 * time.Minute)
			for _, target := range []string{"mem/s", "bgp/s"} {
				g.w.at(target, func(p *place) {
					if want := state.of(target); !sameState(want, p.live) {
						t.Errorf("at %s is live %v, want %v", target, p.live, want)
					}
				})
			}
			if s := g.status(); len(s.Conditions) != 2 || s.Conditions[0].Reason != "FetchFailed" { // nothing was ever committed to the source
				t.Errorf("the conditions are %+v, targets %+v", s.Conditions, s.Targets)
			}
			for _, ts := range g.status().Targets {
				if len(ts.Conditions) != 1 || ts.Conditions[0].Status != "True" || ts.Pending != 0 || ts.Waiting != 0 {
					t.Errorf("%+v", ts)
				}
			}
			g.do(func() {
				if len(g.undone) > 0 {
					t.Errorf("documents are counted as not live: %v", g.undone)
				}
			})
		})
	})
}

// jump puts a state in force, as if each resource were a unit.
func (g *rig) jump(from, to State, revision string) State {
	d := &delta{ir: policies.NewIR(policies.NewIDs()), snapshot: &schema.Snapshot{Revision: revision}}
	for k := range Union(from, to) {
		n := policies.Name{Kind: k.Target, Name: k.Kind, Part: k.Name}
		d.units = append(d.units, n)
		if res := to[k]; res != nil {
			sink := g.cfg.Sinks[0]
			if k.Target == "bgp/s" {
				sink = g.cfg.Sinks[1]
			}
			d.fresh = append(d.fresh, lowered{n, sink, []*Resource{res}})
		}
	}
	g.do(func() { g.enforce(d, time.Now()) })
	return to
}

// mischief makes something go wrong at a target, or come right.
func (g *rig) mischief(r *rand.Rand) {
	target := []string{"mem/s", "bgp/s"}[r.IntN(2)]
	var keys []Key
	g.do(func() {
		if t := g.targets[target]; t != nil {
			keys = slices.SortedFunc(Union(t.desired, t.observed), Key.Compare)
		}
	})
	if len(keys) == 0 {
		return
	}
	k := keys[r.IntN(len(keys))]
	g.w.at(target, func(p *place) {
		switch r.IntN(9) {
		case 0, 1:
			p.refuse[k] = errors.New("not now")
		case 2:
			clear(p.refuse)
			clear(p.loses)
		case 3:
			p.loses[k] = true
		case 4:
			p.down = errors.New("no route to host")
		case 5:
			p.broken = errors.New("the stream ended")
		case 6:
			p.down, p.broken = nil, nil
		case 7:
			p.foreign = true
			if k.Kind == KindTarget { // it restarts empty
				clear(p.live)
			}
			if target == "bgp/s" { // nothing refers to a route
				delete(p.live, k)
			}
		case 8:
			foreign := Key{target, "foreign", fmt.Sprint(r.IntN(3))}
			if p.foreign = true; p.live[Key{Target: target, Kind: KindTarget}] != nil {
				p.live[foreign] = &Resource{Key: foreign, Rank: rankRule, Body: text("not ours")}
			}
		}
	})
}

// FuzzIncrementalIsFull follows random commits, good and bad, and compares with a
// full pass over each.
func FuzzIncrementalIsFull(f *testing.F) {
	for seed := range uint64(10) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 3))
		w := newWorld(t)
		sinks := []Sink{switches(w), routes(w)}
		m := newMeaning(sinks, policies.NewCompiler(policies.NewIDs(), nil))
		state := State{}
		take := func(d *delta) {
			for _, res := range m.accept(d) {
				delete(state, res.Key)
			}
			for _, l := range d.fresh {
				for _, res := range l.resources {
					state[res.Key] = res
				}
			}
		}
		for range 12 {
			docs := []string{switchDoc("s", 1+r.IntN(2)), switchDoc("o", 3)}
			for i := range 3 {
				gw := fmt.Sprint("gw", i)
				if r.IntN(3) > 0 {
					docs = append(docs, gatewayDoc(gw, fmt.Sprintf("203.0.113.%d", 10+i), []string{"s", "o", "s, o"}[r.IntN(3)], 2+r.IntN(3)))
				}
				if r.IntN(3) > 0 { // its gateway may be missing
					docs = append(docs, policyDoc(fmt.Sprint("p", i), gw, 1+r.IntN(3), 4+r.IntN(3)))
				}
			}
			r.Shuffle(len(docs), func(i, j int) { docs[i], docs[j] = docs[j], docs[i] })
			snapshot := &schema.Snapshot{Files: files(docs...)}
			full, fullErr := Offline{Sinks: sinks}.Compile(snapshot, Nothing())
			if m.good != nil && r.IntN(4) == 0 { // something became of the one in force
				if d, err := m.read(m.good, policies.Facts{}); err != nil {
					t.Fatal(err)
				} else {
					take(d)
				}
			}
			d, err := m.read(snapshot, policies.Facts{})
			if (err == nil) != (fullErr == nil) || err != nil && err.Error() != fullErr.Error() {
				t.Fatalf("the full pass gives %v, the incremental one %v", fullErr, err)
			}
			if err != nil || r.IntN(4) == 0 { // or the numbers could not be written
				continue
			}
			take(d)
			if !maps.EqualFunc(state, full.Desired, func(a, b *Resource) bool {
				return a.Body.Equal(b.Body) && a.Origin == b.Origin && a.Rank == b.Rank && slices.Equal(a.Refs, b.Refs)
			}) {
				t.Fatalf("the full pass makes %v, the incremental one %v", full.Desired, state)
			}
		}
	})
}
