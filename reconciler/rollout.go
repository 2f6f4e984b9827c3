package reconciler

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler/board"
)

// rollout is the state of one rollout in the loop.
type tracked struct {
	state  *rollout.State // as it is stored; what has moved in it is in force
	stored []byte         // its stored form; nil where nothing is stored
	spec   *rollout.Spec  // of the commit in force; nil where that has none
	last   *rollout.Spec  // the last one that was not nil
	seen   uint64         // what was confirmed at the last Step
	places []string       // the targets at which last.Targets are; nil: to be found
	wake   time.Time      // when to Step without news; zero: never
	due    bool           // there is news
	err    error          // why the next state was not taken over
	retry  backoff        // after err
	ready  flag
}

// mostSteps bounds how many Steps of one rollout are made in a row.
const mostSteps = 16

// loadRollouts takes in what an earlier process has moved, which is in force with
// the first commit.
func (r *Reconciler) loadRollouts() error {
	if r.cfg.Store == nil {
		return nil
	}
	records, audited, err := r.cfg.Store.rollouts()
	var moved board.Moved
	if err == nil {
		moved, err = ReadMoved(records)
	}
	if err != nil {
		return fmt.Errorf("the rollouts in the --state file cannot be read: %w", err)
	}
	r.audited, r.last = audited, moved.Commit
	for policy, state := range moved.Rollouts {
		r.rollouts[policy] = &tracked{state: state, stored: records[PrefixState+policy]}
		r.facts = r.facts.WithProgress(policy, state.Progress())
	}
	for policy, doc := range moved.Held {
		r.held[policy] = true
		r.facts = r.facts.WithSuspended(policy, doc)
	}
	return nil
}

// takeSpecs takes over what the documents in force say about rollouts.
func (r *Reconciler) takeSpecs(d *delta) {
	compiler := r.meaning.compiler
	if slices.ContainsFunc(d.units, func(n policies.Name) bool { return n.Part == "" }) {
		for _, ro := range r.rollouts {
			ro.places = nil
		}
	}
	has := map[string]bool{}
	for _, policy := range compiler.Rollouts() {
		has[policy] = true
		ro := r.rollouts[policy]
		if ro == nil {
			ro = &tracked{state: rollout.New(policy)}
			r.rollouts[policy] = ro
		}
		if spec := compiler.Rollout(policy); ro.spec != spec {
			ro.spec, ro.last, ro.places, ro.due = spec, spec, nil, true
		}
	}
	for policy, ro := range r.rollouts {
		if !has[policy] && (ro.spec != nil || ro.last == nil) {
			ro.spec, ro.due = nil, true
		}
	}
}

// roll has every rollout take the steps that are due.
func (r *Reconciler) roll(now time.Time) {
	if r.revision == "" || !r.admitted || r.cfg.Follow != nil || len(r.rollouts) == 0 {
		return
	}
	now = now.UTC().Round(0) // as it is read back
	for _, policy := range r.cfg.Probes.Reported() {
		if ro := r.rollouts[policy]; ro != nil {
			ro.due = true
		}
	}
	for _, policy := range r.dueRollouts(now) {
		ro := r.rollouts[policy]
		for n := 0; n < mostSteps && r.rollouts[policy] == ro && r.isDue(ro, now); n++ {
			r.stepRollout(ro, now)
		}
	}
}

// dueRollouts lists the policies whose rollout is due, sorted.
func (r *Reconciler) dueRollouts(now time.Time) []string {
	var names []string
	for policy, ro := range r.rollouts {
		if r.isDue(ro, now) {
			names = append(names, policy)
		}
	}
	slices.Sort(names)
	return names
}

// isDue tells whether a rollout may have a step to take.
func (r *Reconciler) isDue(ro *tracked, now time.Time) bool {
	if now.Before(ro.retry.until) {
		return false
	}
	return ro.due || !ro.wake.IsZero() && !now.Before(ro.wake) || ro.watches() && r.confirmed(ro) != ro.seen
}

// watches tells whether it matters to a rollout what is live.
func (ro *tracked) watches() bool {
	return ro.spec == nil || ro.state.Back > 0 || slices.ContainsFunc(ro.state.Moving, func(m *rollout.Move) bool { return m.Stage != rollout.StagePassed })
}

// stepRollout takes one step: what follows from the documents and from what was
// observed is compiled, stored and then in force, in this order.
func (r *Reconciler) stepRollout(ro *tracked, now time.Time) {
	ro.due = false
	if ro.spec == nil {
		r.endRollout(ro, now)
		return
	}
	obs := rollout.Observation{Confirmed: r.confirmed(ro), Revision: r.revision}
	ended := r.cfg.Probes.Verdicts(ro.state.Policy)
	for _, e := range ended {
		obs.Verdicts = append(obs.Verdicts, e.Verdict)
	}
	next, actions := ro.state.Step(ro.spec, obs, now)
	events := actions.Events
	err := r.move(ro, next, AuditRecord{Events: events}, ended, now)
	for tries := 0; tries < 3 && isRefused(err); tries++ {
		refusal := &rollout.Refusal{Generation: next.Generation, Message: firstLine(err)}
		next, actions = next.Step(ro.spec, rollout.Observation{Confirmed: obs.Confirmed, Refused: refusal, Revision: r.revision}, now)
		events = append(events, actions.Events...)
		err = r.move(ro, next, AuditRecord{Events: events}, ended, now)
	}
	if r.setback(ro, err, now) {
		return
	}
	ro.seen, ro.wake = obs.Confirmed, actions.Wake
	r.wantProbes(ro, actions.Probes)
}

// setback notes why a step was not taken, and has it tried again; false where it was.
func (r *Reconciler) setback(ro *tracked, err error, now time.Time) bool {
	if err == nil {
		ro.err, ro.retry = nil, backoff{}
		return false
	}
	if ro.err == nil || ro.err.Error() != err.Error() {
		r.cfg.Log.Error("rollout step failed, will retry", "policy", ro.state.Policy, "error", err)
	}
	ro.err, ro.due = err, true
	ro.retry.failed(now)
	return true
}

// endRollout forgets a rollout whose policy has none any more: with the documents
// all its units went back to the default. Its name stays until that is live.
func (r *Reconciler) endRollout(ro *tracked, now time.Time) {
	policy := ro.state.Policy
	if ro.stored != nil {
		next, actions := ro.state.Step(nil, rollout.Observation{Revision: r.revision}, now)
		// It is at the default whether that is stored or not.
		stored := ro.stored
		ro.state = next
		r.facts = r.facts.WithProgress(policy, rollout.Progress{})
		r.cfg.Probes.Want(policy, nil)
		rec := AuditRecord{Events: actions.Events}
		if r.setback(ro, r.storeRollout(ro, nil, rec, nil, nil, now), now) {
			ro.stored = stored
			return
		}
	}
	if _, _, behind := r.behind(ro); behind {
		ro.seen = 0
	} else {
		delete(r.rollouts, policy)
	}
}

// refusedError is why the compiler cannot make what a rollout is to be.
type refusedError struct{ error }

func isRefused(err error) bool {
	_, is := errors.AsType[refusedError](err)
	return is
}

// move takes over the next state of a rollout. It is compiled before it is stored,
// so that what is stored can be made after a restart, and stored before it is in
// force.
func (r *Reconciler) move(ro *tracked, next *rollout.State, rec AuditRecord, ended []board.Ended, now time.Time) error {
	policy := next.Policy
	var d *delta
	if next.Generation != ro.state.Generation {
		var err error
		if d, err = r.meaning.read(r.meaning.good, r.facts.WithProgress(policy, next.Progress())); err != nil {
			return refusedError{err}
		}
		if err := r.save(d); err != nil {
			return fmt.Errorf("cannot write the --state file: %w", err)
		}
	}
	if err := r.storeRollout(ro, next, rec, ended, d, now); err != nil {
		return err
	}
	ro.state = next
	if d != nil {
		r.enforce(d, now)
	}
	return nil
}

// wantProbes writes on the board what is to be tested now.
func (r *Reconciler) wantProbes(ro *tracked, probes []rollout.Probe) {
	jobs := make([]*board.Job, 0, len(probes))
	for _, p := range probes {
		jobs = append(jobs, &board.Job{Policy: ro.state.Policy, Probe: p, Spec: ro.spec, Revision: r.revision})
	}
	r.cfg.Probes.Want(ro.state.Policy, jobs)
}

// nextRollout is the time until a rollout is due.
func (r *Reconciler) nextRollout(now time.Time) time.Duration {
	next := time.Hour
	for _, ro := range r.rollouts {
		switch {
		case r.revision == "" || !r.admitted || r.cfg.Follow != nil:
		case now.Before(ro.retry.until):
			next = min(next, ro.retry.until.Sub(now))
		case r.isDue(ro, now):
			return 0
		case !ro.wake.IsZero():
			next = min(next, ro.wake.Sub(now))
		}
	}
	return next
}

// takeLeader takes over what the daemon that leads has moved.
func (r *Reconciler) takeLeader() {
	moved := r.cfg.Follow.Moved()
	known := moved.Rollouts
	for policy, doc := range moved.Held {
		r.facts = r.facts.WithSuspended(policy, doc)
	}
	for policy, state := range known {
		ro := r.rollouts[policy]
		if ro == nil {
			ro = &tracked{}
			r.rollouts[policy] = ro
		}
		ro.state = state
		r.facts = r.facts.WithProgress(policy, state.Progress())
	}
	for policy, ro := range r.rollouts {
		if known[policy] == nil {
			ro.state = rollout.New(policy)
			r.facts = r.facts.WithProgress(policy, rollout.Progress{})
		}
	}
	if waits(r.badErr) || errors.Is(r.badErr, board.ErrLeaderRefuses) {
		r.settled, r.refetch.until = false, time.Now()
	}
	if r.revision == "" { // the first commit acts on it
		return
	}
	if err := r.decide(r.meaning.good); err != nil {
		r.cfg.Log.Error("cannot act on what the leader has moved, will try again", "error", err)
	}
}

// recordRollouts records the conditions of rollouts, so that transitions have their time.
func (r *Reconciler) recordRollouts(now time.Time) {
	for _, ro := range r.rollouts {
		ro.ready.set(ro.state.Phase == rollout.PhaseCompleted, now)
	}
}

// viewRollouts hands out the rollouts for a Status, sorted.
func (r *Reconciler) viewRollouts() []rolloutView {
	var all []rolloutView
	for _, policy := range slices.Sorted(maps.Keys(r.rollouts)) {
		ro := r.rollouts[policy]
		if ro.spec == nil {
			continue
		}
		var waits []string
		switch {
		case ro.err != nil:
			waits = append(waits, firstLine(ro.err))
		case ro.watches() && r.cfg.Follow == nil && r.confirmed(ro) == 0:
			waits = append(waits, r.lacks(ro))
		default:
			if t := r.cfg.Probes.Trouble(policy); t != "" {
				waits = append(waits, t)
			}
		}
		all = append(all, rolloutView{ro.state, ro.spec, strings.Join(waits, "; "), ro.ready})
	}
	return all
}
