package policies

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/schema"
)

// ordeal drives the rollouts of two policies, which may meet on the same Networks,
// through random commits, verdicts, confirmations, verbs, restarts and clock jumps,
// and holds the invariants of a rollout after each.
type ordeal struct {
	*shard
	t         testing.TB
	r         *rand.Rand
	now       time.Time
	stored    map[string][]byte // what a restart finds
	state     map[string]*rollout.State
	actions   map[string]rollout.Actions
	live      map[string]uint64 // the generation that the sinks confirm
	ir        *IR
	routed    map[string][]int // the VMs by Network
	suspended map[string]bool
	calm      bool // nothing fails any more

	// What the test itself knows, by policy and Network.
	passed map[string][]netip.Addr // the VMs that were live when a test of them passed
	failed map[string]bool         // whether a test failed that counts
	old    []answer                // to any probe so far
	trail  []string
}

// ordealPolicies are the policies and their priorities; q wins.
var ordealPolicies = map[string]int{"p": 100, "q": 200}

func newOrdeal(t testing.TB, seed uint64) *ordeal {
	const v2 = "endpoints: [{address: 10.9.1.2, port: 80}]}\n"
	base := strings.Replace(shardBase, v2, v2+"  - {name: v3, endpoints: [{address: 10.9.1.3, port: 80}]}\n", 1)
	base = strings.Replace(base, "  switches: [sw]\n", "  switches: [sw]\n  hash: {buckets: 256}\n", 1)
	o := &ordeal{
		shard: &shard{repo: newRepo(nil, base), rollouts: map[string]*schema.Rollout{}},
		t:     t, r: rand.New(rand.NewPCG(seed, 3)), now: time.Unix(1e9, 0), stored: map[string][]byte{}, state: map[string]*rollout.State{},
		actions: map[string]rollout.Actions{}, live: map[string]uint64{}, routed: map[string][]int{}, passed: map[string][]netip.Addr{}, failed: map[string]bool{},
		suspended: map[string]bool{},
	}
	for n := range 3 {
		o.network(n+1, 0)
		o.route(n + 1)
	}
	for _, name := range []string{"p", "q"} {
		o.randomPolicy(name)
	}
	o.adopt()
	return o
}

func (o *ordeal) note(format string, args ...any) {
	o.trail = append(o.trail, fmt.Sprintf(format, args...))
}

func (o *ordeal) fatal(format string, args ...any) {
	o.t.Helper()
	last := o.trail[max(0, len(o.trail)-40):]
	var states []string
	for name, s := range o.state {
		b, _ := json.Marshal(s)
		states = append(states, name+" "+string(b))
	}
	o.t.Fatalf("%s\n%s\n%s", fmt.Sprintf(format, args...), strings.Join(last, "\n"), strings.Join(states, "\n"))
}

// route gives Network n random VMs.
func (o *ordeal) route(n int) {
	vms := vmNumbers(5)
	if vms = slices.DeleteFunc(vms, func(int) bool { return o.r.IntN(3) == 0 }); o.r.IntN(8) == 0 {
		vms = nil
	}
	o.routes(n, vms...)
	o.routed[fmt.Sprintf("n%d", n)] = vms
}

func (o *ordeal) randomPolicy(name string) {
	r := o.r
	m := pacedRollout(pick(r, "1 100%", "1 2 50% 100%", "100%", "40% 100%"))
	m.Networks = some(r, []string{"n1", "n2", "n3"})
	m.Order = []string{pick(r, m.Networks...)}
	m.Parallel, m.Bake = 1+r.IntN(3), schema.Duration(pick(r, 0, time.Second, time.Hour))
	m.Approval, m.OnFailure = pick(r, "none", "none", "batch", "network"), pick(r, "rollback", "pause")
	m.Deadline, m.Verify.Retries = schema.Duration(pick(r, 0, time.Minute)), r.IntN(2)
	if r.IntN(3) == 0 {
		m.Through = &schema.Through{Network: pick(r, m.Networks...), Batch: 1 + r.IntN(len(m.Batches))}
	}
	if r.IntN(4) == 0 {
		m.Verify = nil
	}
	version := map[string]string{"p": "v2", "q": "v3"}[name]
	if r.IntN(8) == 0 {
		version = "v2"
	}
	o.write(name, version, r.IntN(6) == 0, m)
}

func (o *ordeal) write(name, version string, suspend bool, m *schema.Rollout) {
	o.rollouts[name] = m
	o.put(name+".yaml", fmt.Sprintf("apiVersion: gray.dev/v1alpha1\nkind: GrayPolicy\nmetadata: {name: %s}\nspec:\n  targets: [{kind: Gateway, name: gw}, {kind: Service, name: api}]\n  version: %s\n  priority: %d\n  # %p %v\n",
		name, version, ordealPolicies[name], m, suspend))
	o.suspended[name] = suspend
}

// commit compiles the newest documents; suspend is no field yet that they may have.
func (o *ordeal) commit() (*IR, []Name, error) {
	changed := update(o.set, &schema.Snapshot{Files: o.files}, o.rollouts)
	for name, suspend := range o.suspended {
		if doc := o.set.Get(schema.Name{Kind: schema.KindPolicy, Name: name}); doc != nil {
			doc.Spec.(*schema.PolicySpec).Suspend = suspend
		}
	}
	return o.c.Compile(o.set, changed, o.facts)
}

// adopt follows the newest commit, as the loop does: it is in force with what has
// moved so far, and only then moves anything.
func (o *ordeal) adopt() {
	ir, _, err := o.commit()
	if err != nil {
		o.fatal("a commit is refused: %v", err)
	}
	o.ir = ir
	for name := range ordealPolicies {
		o.live[name] = 0
	}
	o.check()
	o.stepAll()
}

func (o *ordeal) stepAll() {
	for _, name := range []string{"p", "q"} {
		o.stepOne(name, nil)
	}
	o.check()
}

// stepOne is one Step as the loop makes it: written, then acted on. The daemon may
// be killed at any point of it.
func (o *ordeal) stepOne(name string, verdicts []rollout.Verdict) {
	spec := o.c.Rollout(name)
	if o.state[name] == nil {
		if spec == nil {
			return
		}
		o.state[name] = rollout.New(name)
	}
	was := o.state[name]
	next, actions := was.Step(spec, rollout.Observation{Confirmed: o.live[name], Verdicts: verdicts, Revision: "main@x"}, o.now)
	o.judgeStep(name, spec, was, next)
	if !o.calm && o.r.IntN(15) == 0 { // killed before the write
		o.restart()
		return
	}
	b, err := json.Marshal(next)
	if err != nil {
		o.fatal("%v", err)
	}
	if o.stored[name] = b; actions.Ended {
		delete(o.stored, name)
	}
	o.forget(name, spec, was, next)
	if !o.calm && o.r.IntN(15) == 0 { // killed after it
		o.restart()
		return
	}
	o.state[name], o.actions[name] = next, actions
	if actions.Ended {
		delete(o.state, name)
	}
	if next.Generation != was.Generation {
		o.live[name] = 0
	}
	o.facts = o.facts.WithProgress(name, next.Progress())
	if o.ir, _, err = o.commit(); err != nil {
		o.fatal("progress is refused: %v", err)
	}
	o.note("%s is %s", name, fmt.Sprint(next.Phase, " ", next.Reason, " ", next.Progress()))
}

// restart begins with a new compiler and what is stored.
func (o *ordeal) restart() {
	o.note("restart")
	o.set, o.c, o.facts = schema.NewSet(), NewCompiler(NewIDs(), nil), Facts{}
	clear(o.state)
	clear(o.actions)
	clear(o.live)
	for name, b := range o.stored {
		state, err := rollout.Read(b)
		if err != nil {
			o.fatal("%v", err)
		}
		o.state[name] = state
		o.facts = o.facts.WithProgress(name, state.Progress())
	}
	var err error
	if o.ir, _, err = o.commit(); err != nil {
		o.fatal("%v", err)
	}
}

// answer is a verdict of a probe.
type answer struct {
	policy string
	probe  rollout.Probe
	passed bool
}

// verdict answers a probe that is to run, or repeats an old answer.
func (o *ordeal) verdict() {
	if len(o.old) > 0 && o.r.IntN(4) == 0 {
		o.deliver(pick(o.r, o.old[max(0, len(o.old)-1-o.r.IntN(30)):]...))
		return
	}
	for _, name := range []string{"p", "q"} {
		for _, p := range o.actions[name].Probes {
			a := answer{name, p, o.calm || o.r.IntN(5) > 0}
			o.old = append(o.old, a)
			if o.deliver(a); o.r.IntN(2) == 0 {
				return
			}
		}
	}
}

// deliver gives an answer to the rollout, and notes whether it is to count: it is of
// the batch that is live, at the commit in force, and still what it is waited for.
func (o *ordeal) deliver(a answer) {
	spec, state, p := o.c.Rollout(a.policy), o.state[a.policy], a.probe
	if state != nil && spec != nil && !p.Baseline {
		i := movingAt(state, p.Network)
		counts := i >= 0 && state.Moving[i].Generation == p.Generation && state.Moving[i].Attempt == p.Attempt &&
			spec.Fingerprint == p.Fingerprint && o.live[a.policy] >= p.Generation
		switch {
		case counts && a.passed:
			o.passed[a.policy+"/"+p.Network] = rollout.CommonVMs(p.VMs, state.Moving[i].VMs)
		case counts:
			o.failed[a.policy] = true
		}
	}
	o.note("%s: %v of %+v", a.policy, a.passed, p)
	o.stepOne(a.policy, []rollout.Verdict{verdictOf(p, a.passed, "x")})
	o.check()
}

func (o *ordeal) verb(v rollout.Verb) {
	for _, name := range []string{"p", "q"} {
		s := o.state[name]
		if s == nil || o.r.IntN(2) == 0 && !o.calm {
			continue
		}
		if v.Verb == rollout.VerbPromote && len(s.Waiting) > 0 {
			v.Gate = pick(o.r, s.Waiting...).ID
		}
		next, _, err := s.Do(o.c.Rollout(name), v, o.now)
		o.note("%s %s %s: %v", v.Verb, name, v.Gate, err)
		if err == nil {
			o.state[name] = next
			again, _, err := next.Do(o.c.Rollout(name), v, o.now)
			if v.Gate != "" && (err != nil || len(again.Approved) != len(next.Approved)) {
				o.fatal("%+v counts twice, or is refused the second time: %v", v, err)
			}
		}
	}
	o.stepAll()
}

func (o *ordeal) event() {
	switch o.r.IntN(12) {
	case 0:
		o.randomPolicy(pick(o.r, "p", "q"))
		o.note("another policy")
		o.adopt()
	case 1:
		o.route(1 + o.r.IntN(3))
		o.note("routes are %v", o.routed)
		o.adopt()
	case 2:
		if o.r.IntN(4) == 0 {
			name := pick(o.r, "p", "q")
			o.files = o.files.With(nil, []string{name + ".yaml"})
			delete(o.rollouts, name)
			o.note("%s is deleted", name)
			o.adopt()
		}
	case 3:
		o.live[pick(o.r, "p", "q")] = 0
		o.note("a sink loses something")
		o.stepAll()
	case 4:
		o.now = o.now.Add(pick(o.r, -time.Hour, -24*365*time.Hour, time.Second, time.Hour, 24*365*time.Hour))
		o.note("it is %s", o.now)
		o.stepAll()
	case 5:
		o.verb(rollout.Verb{Verb: pick(o.r, rollout.VerbPause, rollout.VerbResume, rollout.VerbPromote, rollout.VerbPromote, rollout.VerbAbort, rollout.VerbRetry), Who: "ann"})
	case 6:
		o.restart()
		o.stepAll()
	case 7, 8, 9:
		o.verdict()
	default:
		o.confirm()
	}
}

// confirm has the sinks confirm what is to be live.
func (o *ordeal) confirm() {
	for name, s := range o.state {
		o.live[name] = s.Generation
	}
	o.stepAll()
}

// settle lets everything pass, opens every gate and holds that both come to 100 %.
func (o *ordeal) settle() {
	o.calm = true
	o.note("calm")
	for name, m := range o.rollouts {
		if o.suspended[name] {
			o.write(name, o.c.Rollout(name).Version, false, m)
		}
	}
	o.adopt()
	o.verb(rollout.Verb{Verb: rollout.VerbResume})
	for range 400 {
		o.confirm()
		o.verdict()
		o.now = o.now.Add(time.Hour)
		done := true
		for _, s := range o.state {
			switch {
			case s.Phase == rollout.PhaseRolledBack || failing(s):
				o.verb(rollout.Verb{Verb: rollout.VerbRetry})
			case len(s.Waiting) > 0:
				o.verb(rollout.Verb{Verb: rollout.VerbPromote})
			}
			done = done && s.Phase == rollout.PhaseCompleted
		}
		if done {
			o.complete()
			return
		}
	}
	o.fatal("it does not come to an end")
}

func failing(r *rollout.State) bool {
	return slices.ContainsFunc(r.Moving, func(m *rollout.Move) bool { return m.Stage == rollout.StageFailed })
}

func runOrdeal(t testing.TB, seed uint64) {
	o := newOrdeal(t, seed)
	for range 60 {
		o.event()
	}
	o.settle()
}

func TestRolloutOrdeal(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector finds nothing in it: one goroutine does all")
	}
	for seed := range uint64(40) {
		runOrdeal(t, seed)
	}
}

func FuzzRollout(f *testing.F) {
	f.Add(uint64(1))
	f.Add(uint64(471)) // killed between a commit that ends a move and the write of that
	f.Fuzz(func(t *testing.T, seed uint64) { runOrdeal(t, seed) })
}
