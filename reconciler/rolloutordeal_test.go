package reconciler

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler/board"
)

// loopOrdeal drives a rollout in the loop through commits, switches that are away,
// lose things or are changed by others, full disks, kills, verdicts and verbs.
type loopOrdeal struct {
	*rollRig
	r     *rand.Rand
	luck  *rand.Rand // of tests, which another goroutine makes
	docs  []string
	n     int
	trail []string
	calm  bool
}

func (o *loopOrdeal) begin(w *world, store *keeper) {
	o.rollRig = startRoll(o.rollRig.t, w, store, func(c *Config) {
		c.Drift, c.MaxDelete = 30*time.Second, 100
	})
	o.verdicts(o.verdict)
}

func (o *loopOrdeal) verdict(j *board.Job) (rollout.Verdict, bool) {
	if o.calm {
		return rollout.Verdict{Passed: true}, true
	}
	n := o.luck.IntN(10)
	return rollout.Verdict{Passed: n > 1, Evidence: []string{"lost"}}, n > 0
}

func (o *loopOrdeal) note(format string, args ...any) {
	o.trail = append(o.trail, fmt.Sprintf(format, args...))
}

func (o *loopOrdeal) push() {
	o.n++
	o.put(fmt.Sprintf("c%d", o.n), o.docs...)
	o.quiet()
}

func (o *loopOrdeal) event(w *world, store *keeper) {
	r := o.r
	switch r.IntN(12) {
	case 0:
		down := error(nil)
		if r.IntN(2) == 0 {
			down = errors.New("it is away")
		}
		o.note("switch: %v", down)
		w.at("mem/sw", func(p *place) { p.down = down })
	case 1:
		o.note("somebody deletes a rule")
		w.at("mem/sw", func(p *place) {
			for k := range p.live {
				if k.Kind == "rule" {
					delete(p.live, k)
					p.foreign = true
					break
				}
			}
		})
	case 2:
		err := error(nil)
		if r.IntN(2) == 0 {
			err = errDisk
		}
		o.note("disk: %v", err)
		store.fails(err)
	case 3:
		o.note("restart")
		o.stop()
		o.begin(w, store)
		o.put(fmt.Sprintf("c%d", o.n), o.docs...)
		o.quiet()
	case 4:
		o.docs[3+r.IntN(2)] = networkDoc(1+r.IntN(2), 1+r.IntN(6))
		if o.docs[3] = networkDoc(1, 1+r.IntN(6)); r.IntN(2) == 0 {
			o.docs[4] = networkDoc(2, 1+r.IntN(6))
		} else {
			o.docs[4] = networkDoc(2, 4)
		}
		o.note("other routes")
		o.push()
	case 5:
		o.randomPolicy()
		o.note("policy %s", o.docs[5])
		o.push()
	case 6:
		o.docs[1] = gatewayDoc("gw", "203.0.113.1", "sw", 2, 3+r.IntN(3))
		o.note("other servers")
		o.push()
	case 7:
		v := rollout.Verb{Verb: []string{rollout.VerbPause, rollout.VerbResume, rollout.VerbPromote, rollout.VerbAbort, rollout.VerbRetry}[r.IntN(5)], Who: "ann"}
		_, err := o.Do(o.t.Context(), "p", v)
		o.note("%s: %v", v.Verb, err)
		o.quiet()
	default:
		o.after(time.Duration(1+r.IntN(60)) * time.Second)
	}
	o.holds(w)
}

func (o *loopOrdeal) randomPolicy() {
	r := o.r
	pickOf := func(all ...string) string { return all[r.IntN(len(all))] }
	if r.IntN(5) == 0 { // without its rollout, for which the one of before stands
		o.docs[5] = apiVersion + "kind: GrayPolicy\nmetadata: {name: p}\nspec: {targets: [{kind: Gateway, name: gw}], version: v2, suspend: true}\n"
		return
	}
	o.docs[5] = rolloutDoc("v2", fmt.Sprintf("batches: [%s], parallel: %d, bake: %s, approval: %s, onFailure: %s, deadline: 10m, %s",
		pickOf("1, 100%", "1, 50%, 100%", "100%"), 1+r.IntN(2), pickOf("1s", "1m"), pickOf("none", "none", "batch"), pickOf("rollback", "pause"), verified))
}

// holds that a switch has no rule of a VM that has not moved, as it is stored.
func (o *loopOrdeal) holds(w *world) {
	o.t.Helper()
	moved := map[string]bool{}
	var state *rollout.State
	if b := o.store.record("p"); b != nil {
		var err error
		if state, err = rollout.Read(b); err != nil {
			o.t.Fatal(err)
		}
		p := state.Progress()
		for _, n := range p.Whole {
			moved[n] = true
		}
		for n, vms := range p.VMs {
			for _, a := range vms {
				moved[n+"/"+a.String()] = true
			}
		}
	}
	if !o.rested(w) {
		return
	}
	for _, line := range w.live("mem/sw") {
		rest, is := strings.CutPrefix(line, "rule ")
		if !is {
			continue
		}
		name, _, _ := strings.Cut(rest, ":")
		vni, _, one := strings.Cut(name, "/")
		whole := moved["n"+vni]
		if one && !whole && !moved["n"+name] || !one && !whole && state == nil {
			o.t.Fatalf("%s is live, and has not moved: %v\n%s", line, moved, strings.Join(o.trail, "\n"))
		}
	}
}

// rested tells whether the switch can be written, so that what is live is what is
// to be.
func (o *loopOrdeal) rested(w *world) (rested bool) {
	s := o.status()
	for _, t := range s.Targets {
		rested = rested || t.Name == "mem/sw" && t.Conditions[0].Status == "True"
	}
	w.at("mem/sw", func(p *place) { rested = rested && p.down == nil && !p.foreign })
	return rested
}

// settle lets everything pass and opens every gate; then both VPCs are gray.
func (o *loopOrdeal) settle(w *world, store *keeper) {
	o.note("calm")
	o.mu.Lock()
	o.calm = true
	o.mu.Unlock()
	store.fails(nil)
	w.at("mem/sw", func(p *place) { p.down = nil })
	o.stop() // what hangs is asked anew
	o.begin(w, store)
	for strings.Contains(o.docs[5], "suspend") {
		o.randomPolicy()
	}
	o.push()
	for range 200 {
		o.after(time.Minute)
		s := o.rollout()
		var verb string
		switch {
		case s.Phase == rollout.PhaseCompleted:
			o.after(5 * time.Minute)
			o.rules("rule 1: -> v2", "rule 2: -> v2", "account 10: -> v2", "account 20: -> v2")
			return
		case s.Phase == rollout.PhasePaused && s.Conditions[0].Reason == "PausedByUser":
			verb = rollout.VerbResume
		case s.Phase == rollout.PhaseRolledBack || s.Failure != nil:
			verb = rollout.VerbRetry
		case len(s.Gates) > 0:
			verb = rollout.VerbPromote
		default:
			continue
		}
		_, _ = o.Do(o.t.Context(), "p", rollout.Verb{Verb: verb, Who: "ann"})
		o.quiet()
	}
	o.t.Fatalf("it does not come to an end: %+v\n%s\n%s", o.rollout(), strings.Join(o.trail, "\n"), o.log)
}

func runLoopOrdeal(t *testing.T, seed uint64) {
	bubble(t, func(t *testing.T) {
		w, store := newWorld(t), newKeeper()
		o := &loopOrdeal{rollRig: &rollRig{rig: &rig{t: t}}, r: rand.New(rand.NewPCG(seed, 9)), luck: rand.New(rand.NewPCG(seed, 10)), docs: shard("batches: [1, 50%, 100%], bake: 10s, " + verified)}
		o.begin(w, store)
		o.push()
		for range 40 {
			o.event(w, store)
		}
		o.settle(w, store)
	})
	if t.Failed() {
		t.Fatalf("seed %d", seed)
	}
}

// TestRolloutLoopOrdeal holds that whatever happens, what is live is what is stored,
// and everything comes to its end when what was wrong is mended.
func TestRolloutLoopOrdeal(t *testing.T) {
	for seed := range uint64(100) {
		runLoopOrdeal(t, seed)
	}
}

func FuzzRolloutLoop(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(runLoopOrdeal)
}
