package policies

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/schema"
)

func dumpRules(ir *IR) string {
	var b strings.Builder
	for n, u := range ir.units {
		if cell, ok := u.(*packets.Cell); ok {
			for _, r := range cell.Rules {
				fmt.Fprintf(&b, "%s: table %d v6=%v prio %d %s -> %s (%s)\n", n, r.Table, r.IPv6, r.Priority, r.Match.String(), r.Pool, r.Policy)
			}
		}
	}
	return b.String()
}

// runWorld drives random commits through one compiler and holds after each that
// the tables mean what the documents say, that a fresh compiler makes the same
// IR, and that no number changes its name from one commit to the next.
func runWorld(t *testing.T, seed uint64) (valid int) {
	r := rand.New(rand.NewPCG(seed, 1))
	set, c := schema.NewSet(), NewCompiler(NewIDs(), nil)
	files := schema.NewFiles(fileOf("base.yaml", worldBase), fileOf("net.yaml", randomRoutes(r)))
	rollouts, facts := map[string]*schema.Rollout{}, Facts{}
	state, numbers := map[Name]any{}, map[slot]string{}
	for range 6 {
		name := fmt.Sprintf("p%d", r.IntN(4))
		if r.IntN(4) == 0 {
			files = files.With(nil, []string{name + ".yaml"})
		} else {
			files = files.With([]*schema.File{fileOf(name+".yaml", randomPolicy(r, name))}, nil)
			if rollouts[name] = randomRollout(r); r.IntN(2) == 0 {
				delete(rollouts, name)
			}
		}
		if r.IntN(3) == 0 {
			files = files.With([]*schema.File{fileOf("api.yaml", lookedUp("api", pick(r, factTargets...), pick(r, factTargets...)))}, nil)
		}
		if r.IntN(2) == 0 {
			files = files.With([]*schema.File{fileOf("net.yaml", randomRoutes(r))}, nil)
		}
		snap := &schema.Snapshot{Files: files}
		ids := c.IDs()
		facts = randomFacts(r, facts)
		ir, units, err := c.Compile(set, update(set, snap, rollouts), facts)
		fullSet := schema.NewSet()
		full := NewCompiler(ids, nil)
		fullIR, _, fullErr := full.Compile(fullSet, update(fullSet, snap, rollouts), facts)
		if diff := cmp.Diff(errText(fullErr), errText(err)); diff != "" {
			t.Fatalf("seed %d: errors of a full pass and of an incremental one differ:\n%s", seed, diff)
		}
		if err != nil {
			continue
		}
		valid++
		var docs strings.Builder
		for f := range files.All() {
			if f.Path != "base.yaml" {
				docs.Write(f.Data)
			}
		}
		newWorld(t, c, ir).check(docs.String())
		for _, u := range units {
			delete(state, u)
			if x := ir.Get(u); x != nil {
				state[u] = x
			}
		}
		if !reflect.DeepEqual(fullIR.units, state) {
			t.Fatalf("seed %d: a full pass (-) and the reported units of incremental ones (+) differ:\n%s\n%s", seed, docs.String(),
				cmp.Diff(fullIR.units, state, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })))
		}
		numbers = checkIDs(t, c, ir, numbers)
	}
	return valid
}

// factTargets is where endpoints may be registered; the empty one is nowhere.
var factTargets = []string{"", "/a", "/b"}

// randomFacts changes some of what is known beside the documents, or nothing.
func randomFacts(r *rand.Rand, facts Facts) Facts {
	name := fmt.Sprintf("p%d", r.IntN(4))
	if r.IntN(2) == 0 {
		facts.Down = map[string][]string{"gw": slices.DeleteFunc([]string{"v1/a", "v2/b", "v2/b2"}, func(string) bool { return r.IntN(2) == 0 })}
	}
	if r.IntN(3) > 0 {
		facts = facts.WithProgress(name, randomProgress(r))
	}
	if r.IntN(2) == 0 {
		facts.Endpoints = with(facts.Endpoints, pick(r, factTargets...), endpointsOf([]uint16{1, 2, 3}[:r.IntN(4)]...), r.IntN(4) == 0)
	}
	if r.IntN(2) == 0 {
		set := schema.NewSet()
		set.Update(&schema.Snapshot{Files: schema.NewFiles(fileOf(name+".yaml", randomPolicy(r, name)))})
		facts = facts.WithSuspended(name, set.Get(schema.Name{Kind: schema.KindPolicy, Name: name}))
	}
	return facts
}

// checkIDs holds that every pool of the IR has a number, that what has gone
// gives its number back, and that no number means something else than at the
// commit before.
func checkIDs(t *testing.T, c *Compiler, ir *IR, before map[slot]string) map[slot]string {
	now := map[slot]string{}
	add := func(space Space, key string) {
		id := ir.ID("sw", space, key)
		if id == 0 {
			t.Fatalf("%s has no number", key)
		}
		s := slot{"sw", space, id}
		if was, taken := before[s]; taken && was != key {
			t.Fatalf("number %d was %s and is %s", id, was, key)
		}
		now[s] = key
	}
	add(SpaceVIP, "gw")
	for _, p := range ir.Gateway("gw").Pools {
		add(SpacePool, "gw/"+p.Version)
		for _, b := range p.Backends {
			add(SpaceBackend, "gw/"+p.Version+"/"+b.Name)
		}
	}
	for _, u := range ir.units {
		if b, ok := u.(*packets.Blend); ok {
			add(SpacePool, "gw/"+b.Name)
		}
	}
	if left := c.IDs().slots; !reflect.DeepEqual(left, now) {
		t.Fatalf("the table of numbers is %v, the IR has %v", left, now)
	}
	return now
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestTablesMeanWhatTheDocumentsSay(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector finds nothing in it: one goroutine does all")
	}
	valid := 0
	for seed := range uint64(100) {
		valid += runWorld(t, seed)
	}
	if valid < 150 {
		t.Errorf("only %d of 600 random commits were valid; the test looks at too little", valid)
	}
}

func FuzzIncrementalEqualsFull(f *testing.F) {
	f.Add(uint64(1))
	f.Add(uint64(1068)) // a rule without VNI that is narrowed, then hidden by an exclude
	f.Fuzz(func(t *testing.T, seed uint64) { runWorld(t, seed) })
}
