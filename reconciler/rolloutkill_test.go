package reconciler

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler/board"
)

// killRun is a rollout whose daemon is killed again and again at a Write of the
// store, before it is made or after. The world and the store outlive it.
type killRun struct {
	t       testing.TB
	w       *world
	store   *keeper
	kills   int
	rollout string
	fails   bool     // the second batch of n2
	told    []string // what was stored and what was made, in order
}

// test is how a job ends; its evidence says what was tested.
func (k *killRun) test(j *board.Job) (rollout.Verdict, bool) {
	return rollout.Verdict{Passed: !k.fails || j.Network != "n2" || len(j.VMs) < 2, Evidence: []string{testedLine(j.Network, j.Batch, j.Baseline, len(j.VMs))}}, true
}

func testedLine(network string, batch int, baseline bool, vms int) string {
	return fmt.Sprintf("%s batch %d baseline %v: %d VMs", network, batch, baseline, vms)
}

// phase is the stored one.
func (k *killRun) phase() rollout.Phase {
	k.store.mu.Lock()
	defer k.store.mu.Unlock()
	b := k.store.records[BucketRollouts][PrefixState+"p"]
	if b == nil {
		return ""
	}
	r, err := rollout.Read(b)
	if err != nil {
		k.t.Fatal(err)
	}
	return r.Phase
}

// life runs one daemon until the rollout has ended, or until it is killed at its
// n-th Write; 0: never.
func (k *killRun) life(n int, before bool) bool {
	var killed atomic.Bool
	g := startRoll(k.t, k.w, k.store)
	g.verdicts(k.test)
	count := 0
	die := func() {
		killed.Store(true)
		g.cancel()
		runtime.Goexit() // in the loop, which writes nothing more
	}
	k.store.mu.Lock()
	k.store.on = func(int) error {
		if count++; count == n && before {
			die()
		}
		return nil
	}
	k.store.after = func(int) {
		k.note()
		if count == n && !before {
			die()
		}
	}
	k.store.mu.Unlock()
	g.put("c1", shard(k.rollout)...)
	for range 1000 {
		g.after(time.Second)
		if phase := k.phase(); killed.Load() || phase == rollout.PhaseCompleted || phase == rollout.PhaseRolledBack {
			g.after(time.Minute) // what was under way
			g.stop()
			return killed.Load()
		}
	}
	k.t.Fatalf("does not end; log:\n%s", g.log)
	return false
}

// note takes down what the last record of the audit log says.
func (k *killRun) note() {
	records := k.store.records[BucketRollouts]
	last := ""
	for key := range records {
		if strings.HasPrefix(key, PrefixAudit) && key > last {
			last = key
		}
	}
	if last == "" || slices.Contains(k.told, last) {
		return
	}
	k.told = append(k.told, last)
	var r AuditRecord
	if err := json.Unmarshal(records[last], &r); err != nil {
		k.t.Fatal(err)
	}
	for _, e := range r.Events {
		k.told = append(k.told, fmt.Sprintf("%s %s %d | %s", e.Reason, e.Network, e.Batch, strings.Join(r.Evidence, ", ")))
	}
}

// check holds that nothing was made before it was stored, and no batch began before
// the one before it was tested and had passed.
func (k *killRun) check() {
	k.t.Helper()
	sizes := []int{1, 2, 4}
	begun, passed := map[string]int{}, map[string]int{}
	back := false
	for _, line := range k.told {
		var reason, network string
		var batch, vni, vm int
		if n, _ := fmt.Sscanf(line, "made rule %d/10.0.%d.%d", &vni, new(int), &vm); n > 0 {
			if network = fmt.Sprintf("n%d", vni); n == 1 {
				vm = 4 // all of it
			}
			if b := begun[network]; b == 0 || vm > sizes[b-1] {
				k.t.Errorf("%s: it was not stored before that batch %d of %s begins", line, b, network)
			}
			continue
		}
		fmt.Sscanf(line, "%s %s %d", &reason, &network, &batch)
		switch reason {
		case "BatchStarted":
			for n, b := range begun {
				if b != passed[n] {
					k.t.Errorf("%s: batch %d of %s has not passed", line, b, n)
				}
			}
			if batch != begun[network]+1 || back {
				k.t.Errorf("%s after batch %d", line, begun[network])
			}
			begun[network] = batch
		case "BatchPassed":
			if want := testedLine(network, batch, false, sizes[batch-1]); !strings.Contains(line, want) {
				k.t.Errorf("%s, without the test %q", line, want)
			}
			passed[network] = batch
		case "RollingBack":
			back = true
		}
	}
	if len(begun) == 0 {
		k.t.Error("nothing began")
	}
}

// TestRolloutSurvivesKills kills the daemon a thousand times at Writes of the store,
// over runs that end well and runs that go back: each ends as a run without kills,
// and skips no test.
func TestRolloutSurvivesKills(t *testing.T) {
	const want = 1000
	kills, seed := 0, uint64(0)
	places := map[string]bool{}
	for kills < want {
		seed++
		bubble(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			k := &killRun{t: t, w: newWorld(t), store: newKeeper(), rollout: "batches: [1, 50%, 100%], bake: 2s, " + verified, fails: seed%2 == 0}
			k.w.made = func(c Change) {
				if c.New != nil && c.Key().Kind == "rule" {
					k.store.mu.Lock()
					defer k.store.mu.Unlock()
					k.told = append(k.told, fmt.Sprintf("made rule %s", c.Key().Name))
				}
			}
			for {
				n, before := 1+rng.IntN(5), rng.IntN(2) == 0
				if rng.IntN(20) == 0 {
					n = 0
				}
				stored := k.store.writes
				if !k.life(n, before) {
					break
				}
				k.kills++
				places[fmt.Sprint(stored+n, before)] = true
			}
			kills += k.kills
			k.check()
			g := &rig{t: t, w: k.w, log: &logBuffer{}}
			final := &rollRig{rig: g}
			if k.fails {
				final.rules()
			} else {
				final.rules("rule 1: -> v2", "rule 2: -> v2", "account 10: -> v2", "account 20: -> v2")
			}
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d kills in %d runs, at %d places", kills, seed, len(places))
}
