package reconciler

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// randomState makes resources of a target whose references all are in the state.
// Names come from few, so that two states have much in common.
func randomState(r *rand.Rand, target string) State {
	s := State{}
	for rank := rankBackend; rank <= rankRule; rank++ {
		for i := range 4 {
			if r.IntN(3) == 0 {
				continue
			}
			res := &Resource{Key: Key{target, fmt.Sprint("kind", rank), fmt.Sprint(i)}, Rank: rank}
			for _, k := range slices.SortedFunc(maps.Keys(s), Key.Compare) {
				if s[k].Rank < rank && r.IntN(3) == 0 {
					res.Refs = append(res.Refs, k)
				}
			}
			res.Body = text(fmt.Sprint(r.IntN(3), res.Refs))
			s[res.Key] = res
		}
	}
	return s
}

// turns is the order of the design: what the target is, creates upwards, updates
// upwards, deletes downwards, the target itself.
func turns(c Change) (turn, rank int) {
	self := c.Key().Kind == KindTarget
	switch {
	case self && c.New != nil:
		return 0, 0
	case self:
		return 4, 0
	case c.Old == nil:
		return 1, c.New.Rank
	case c.New == nil:
		return 3, -c.Old.Rank
	}
	return 2, c.New.Rank
}

func TestDiffIsWhatDiffersInOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		desired, observed := State{}, State{}
		for _, target := range []string{"a", "b"} {
			self := Key{Target: target, Kind: KindTarget}
			maps.Copy(desired, randomState(r, target))
			maps.Copy(observed, randomState(r, target))
			for _, s := range []State{desired, observed} {
				if r.IntN(3) > 0 {
					s[self] = &Resource{Key: self, Body: text(fmt.Sprint(r.IntN(2)))}
				}
			}
		}
		changes := Diff(desired, observed, Union(desired, observed))
		got := maps.Clone(observed)
		for i, c := range changes {
			if c.Old != observed[c.Key()] || c.New != desired[c.Key()] {
				t.Fatalf("%s does not carry what was and what is to be", c)
			}
			if c.New == nil {
				delete(got, c.Key())
			} else {
				got[c.Key()] = c.New
			}
			if i == 0 || changes[i-1].Key().Target != c.Key().Target {
				continue
			}
			turn, rank := turns(c)
			lastTurn, lastRank := turns(changes[i-1])
			if turn < lastTurn || turn == lastTurn && rank < lastRank || turn == lastTurn && rank == lastRank && c.Key().Compare(changes[i-1].Key()) <= 0 {
				t.Fatalf("%s comes after %s", c, changes[i-1])
			}
		}
		if len(Diff(desired, got, Union(desired, got))) != 0 || len(got) != len(desired) {
			t.Fatal("the changes do not lead to what is desired")
		}
		for _, c := range changes {
			if c.Old != nil && c.New != nil && c.Old.Body.Equal(c.New.Body) {
				t.Fatalf("%s changes nothing", c)
			}
		}
	}
}

func TestEqualInputsGiveEqualPlans(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 100 {
		desired, observed := randomState(r, "a"), randomState(r, "a")
		want := (&Plan{Changes: Diff(desired, observed, Union(desired, observed))}).String()
		keys := slices.Collect(Union(desired, observed))
		for range 5 {
			r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
			twice := slices.Values(append(keys, keys...))
			if got := (&Plan{Changes: Diff(maps.Clone(desired), maps.Clone(observed), twice)}).String(); got != want {
				t.Fatalf("one input gives\n%s\nand\n%s", want, got)
			}
		}
	}
}

func TestPlanText(t *testing.T) {
	k := func(name string) Key { return Key{"t", "k", name} }
	was, is := &Resource{Key: k("b"), Body: text("1")}, &Resource{Key: k("b"), Body: text("2")}
	is.Origin.Path, is.Origin.Line = "x.yaml", 3
	p := Plan{Changes: []Change{{nil, &Resource{Key: k("a"), Body: text("new")}}, {was, is}, {&Resource{Key: k("c"), Body: text("old")}, nil}}}
	want := "+ t k a: new\n~ t k b: 1 -> 2  # x.yaml:3\n- t k c: old\n"
	if got := p.String(); got != want {
		t.Errorf("the plan prints\n%s\nwant\n%s", got, want)
	}
	if n := p.Counts(); n != (Counts{1, 1, 1}) {
		t.Errorf("it counts %+v", n)
	}
}

func TestStages(t *testing.T) {
	self := Key{Target: "a", Kind: KindTarget}
	desired, observed := State{self: {Key: self, Body: text("1")}}, State{self: {Key: self, Body: text("2")}}
	for i, rank := range []int{0, 1, 1, 2} {
		k := Key{"a", "new", fmt.Sprint(i)}
		desired[k] = &Resource{Key: k, Rank: rank, Body: text("x")}
		k.Kind = "old"
		observed[k] = &Resource{Key: k, Rank: rank, Body: text("x")}
	}
	for i, rank := range []int{5, 6, 5, 6, 5} { // routes, which change together: one Apply, its deletes last
		k := Key{"a", "route", fmt.Sprint(i)}
		r := &Resource{Key: k, Rank: rank, Body: text("x"), Together: true}
		if i < 3 {
			observed[k] = r
		}
		if i != 1 {
			now := *r
			now.Body = text("y")
			desired[k] = &now
		}
	}
	var got []string
	for s := range Stages(Diff(desired, observed, Union(desired, observed))) {
		got = append(got, fmt.Sprintf("%c%d x%d", s[0].Op(), s[0].Rank(), len(s)))
		if last := s[len(s)-1]; len(s) == 5 && (last.Op() != Delete || s[3].Rank() != 6) {
			t.Errorf("together: %v", s)
		}
	}
	if want := []string{"~0 x1", "+0 x1", "+1 x2", "+2 x1", "~5 x5", "-2 x1", "-1 x2", "-0 x1"}; !slices.Equal(got, want) {
		t.Errorf("the stages are %q, want %q", got, want)
	}
}
