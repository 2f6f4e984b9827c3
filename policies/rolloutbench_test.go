package policies

import (
	"encoding/json"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/gray-release/gray/policies/rollout"
)

// benchShard is a shard of so many VPCs of 1,000 VMs each, of which half has moved
// and one is half way.
type benchShard struct {
	*shard
	state *rollout.State
	now   time.Time
}

func newBenchShard(b *testing.B, vpcs int) *benchShard {
	s := &benchShard{shard: newShard(b), now: time.Unix(1e9, 0)}
	var names []string
	for n := range vpcs {
		s.network(n+1, 1000)
		names = append(names, fmt.Sprintf("n%d", n+1))
	}
	r := pacedRollout("1 5 25% 50% 75% 100%")
	r.Networks = names
	s.policy("", r)
	if _, _, err := s.commit(); err != nil {
		b.Fatal(err)
	}
	s.state = rollout.New("p")
	for len(s.state.Done) < vpcs/2 || len(s.state.Moving) == 0 || s.state.Moving[0].Batch < 4 {
		s.step(b)
	}
	s.make(b)
	return s
}

// step is one Step in which everything is confirmed and passes; it returns how many
// VMs it moved.
func (s *benchShard) step(b *testing.B) int {
	obs := rollout.Observation{Confirmed: s.state.Generation}
	for _, m := range s.state.Moving {
		obs.Verdicts = append(obs.Verdicts, rollout.Verdict{Network: m.Network, Fingerprint: s.state.Fingerprint, Generation: m.Generation, Baseline: m.Stage == rollout.StageBaseline, Passed: true})
	}
	next, _ := s.state.Step(s.c.Rollout("p"), obs, s.now)
	moved := 0
	for _, m := range next.Moving {
		if m.Stage == rollout.StageApplying {
			moved += len(m.Fresh)
		}
	}
	s.state = next
	return moved
}

// make compiles what has moved.
func (s *benchShard) make(b *testing.B) []Name {
	s.facts = s.facts.WithProgress("p", s.state.Progress())
	_, units, err := s.c.Compile(s.set, nil, s.facts)
	if err != nil {
		b.Fatal(err)
	}
	return units
}

var benchSizes = []int{10, 100, 1000}

// BenchmarkRolloutStep is the state machine alone: a batch of 250 VMs begins, is
// confirmed and passes.
func BenchmarkRolloutStep(b *testing.B) {
	for _, vpcs := range benchSizes {
		b.Run(fmt.Sprintf("units=%d", vpcs*1000), func(b *testing.B) {
			s := newBenchShard(b, vpcs)
			begin := s.state
			b.ReportAllocs()
			for b.Loop() {
				s.state = begin
				for range 3 {
					s.step(b)
				}
			}
		})
	}
}

// BenchmarkRolloutBatch is all that a batch of 250 VMs costs before it is written to
// the switches: the step, the stored form and the compiler.
func BenchmarkRolloutBatch(b *testing.B) {
	for _, vpcs := range benchSizes {
		b.Run(fmt.Sprintf("units=%d", vpcs*1000), func(b *testing.B) {
			s := newBenchShard(b, vpcs)
			begin := *s.state.Moving[0]
			half := *s.state
			half.Moving = []*rollout.Move{&begin}
			other := half
			more := begin
			more.VMs = s.c.Rollout("p").Networks[vpcs/2].VMs[:750] // those of begin and 250 more
			more.Fresh = more.VMs[len(begin.VMs):]
			other.Moving = []*rollout.Move{&more}
			stored, batches := 0, 0
			b.ReportAllocs()
			for b.Loop() {
				s.state = []*rollout.State{&half, &other}[batches%2]
				batches++
				text, err := json.Marshal(s.state)
				if err != nil {
					b.Fatal(err)
				}
				stored = len(text)
				if units := s.make(b); len(units) > 1 {
					b.Fatalf("%v changed", units)
				}
			}
			b.ReportMetric(float64(stored), "stored-bytes")
		})
	}
}

// BenchmarkRolloutMemory is what the rollout of a shard holds in memory beside its
// documents.
func BenchmarkRolloutMemory(b *testing.B) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for _, vpcs := range benchSizes {
		b.Run(fmt.Sprintf("units=%d", vpcs*1000), func(b *testing.B) {
			s := newBenchShard(b, vpcs)
			with := heap()
			rollouts := s.rollouts["p"]
			s.rollouts["p"] = nil
			s.put("p.yaml", "apiVersion: gray.dev/v1alpha1\nkind: GrayPolicy\nmetadata: {name: p}\nspec: {targets: [{kind: Gateway, name: gw}], version: v2}\n")
			s.state = nil
			s.facts = s.facts.WithProgress("p", rollout.Progress{})
			if _, _, err := s.commit(); err != nil {
				b.Fatal(err)
			}
			without := heap()
			for b.Loop() {
			}
			b.ReportMetric(float64(int64(with)-int64(without))/1e6, "MB")
			runtime.KeepAlive(rollouts)
			runtime.KeepAlive(s)
		})
	}
}
