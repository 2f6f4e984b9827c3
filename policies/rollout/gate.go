package rollout

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gray-release/gray/schema"
)

// passGate tells whether a Network may take its next batch. If it may not, the gate
// is added to Waiting.
func (s *stepper) passGate(m *Move, next step) bool {
	r := s.spec.Rollout
	g := Gate{ID: fmt.Sprintf("%d/%s/%d", s.Run, m.Network, next.batch), Network: m.Network, Batch: next.batch, Reason: "ApprovalRequired"}
	if r.Approval == "network" {
		g.ID = fmt.Sprintf("%d/%s", s.Run, m.Network)
	}
	if slices.ContainsFunc(s.Approved, func(a Approval) bool { return a.ID == g.ID }) {
		return true
	}
	net, i := s.spec.Network(m.Network)
	switch t := r.Through; {
	case t != nil && withinThrough(s.spec, t, i, next.batch):
		return true
	case t != nil:
		g.Reason = "ThroughReached"
	case r.Approval == "none" || len(m.VMs) > 0 && len(m.VMs) == len(net.VMs):
		return true // the last batch moves nothing: every VM has moved
	}
	s.Waiting = append(s.Waiting, g)
	return false
}

// withinThrough tells whether a batch of the Network at index i is within through.
func withinThrough(spec *Spec, t *schema.Through, i, batch int) bool {
	_, last := spec.Network(t.Network)
	return i < last || i == last && batch <= t.Batch
}

// The verbs.
const (
	VerbPromote = "promote"
	VerbPause   = "pause"
	VerbResume  = "resume"
	VerbAbort   = "abort"
	VerbRetry   = "retry"
)

// Verb is a command of a person to a rollout.
type Verb struct {
	Verb string
	Gate string // for promote: the gate to open; empty: every gate that waits
	Who  string
	Why  string
}

// Do carries out a verb and returns the new state with its events. Doing it twice is
// the same as doing it once. The error says why the verb does not apply; the state is
// then unchanged. What follows from the verb comes with the next Step.
func (r *State) Do(spec *Spec, v Verb, now time.Time) (*State, []Event, error) {
	next := *r
	next.Moving = slices.Clone(r.Moving)
	s := &stepper{State: &next, spec: spec, now: now}
	if spec == nil {
		return r, nil, errors.New("the policy has no rollout")
	}
	do := map[string]func(Verb) error{
		VerbPromote: s.promote, VerbPause: s.pause, VerbResume: s.resume, VerbAbort: s.abort, VerbRetry: s.retry,
	}[v.Verb]
	if do == nil {
		return r, nil, fmt.Errorf("unknown verb %q; want promote, pause, resume, abort or retry", v.Verb)
	}
	if err := do(v); err != nil {
		return r, nil, err
	}
	return &next, s.Events, nil
}

func (s *stepper) promote(v Verb) error {
	if slices.ContainsFunc(s.Approved, func(a Approval) bool { return a.ID == v.Gate }) {
		return nil
	}
	var open []Gate
	for _, g := range s.Waiting {
		if v.Gate == "" || g.ID == v.Gate {
			open = append(open, g)
		}
	}
	switch {
	case len(open) > 0:
	case v.Gate == "":
		return errors.New("no gate is waiting; see gray rollout status")
	default:
		return fmt.Errorf("gate %s is not waiting, or was passed before; see gray rollout status", v.Gate)
	}
	for _, g := range open {
		s.Approved = append(slices.Clone(s.Approved), Approval{g, v.Who, v.Why, s.now})
		s.emit(false, "Promoted", &Move{Network: g.Network, Batch: g.Batch}, "batch %d of Network %s was promoted by %s%s", g.Batch, g.Network, v.Who, because(v))
	}
	s.Waiting = slices.DeleteFunc(slices.Clone(s.Waiting), func(g Gate) bool { return slices.Contains(open, g) })
	return nil
}

func because(v Verb) string {
	if v.Why == "" {
		return ""
	}
	return ": " + v.Why
}

// override sets suspend against Git, until Git says the same.
func (s *stepper) override(suspend bool, v Verb) {
	s.Override = &Override{suspend, v.Who, v.Why, s.now}
	if s.spec.Suspend == suspend {
		s.Override = nil
	}
}

func (s *stepper) pause(v Verb) error {
	if s.paused() {
		return nil
	}
	s.override(true, v)
	s.emit(false, "Paused", nil, "paused by %s%s", v.Who, because(v))
	return nil
}

// resume ends a pause. With onFailure pause it also tests failed batches again.
func (s *stepper) resume(v Verb) error {
	paused, failed := s.paused(), s.spec.Rollout.OnFailure == "pause" && s.retest()
	if !paused && !failed {
		return nil
	}
	if paused {
		s.override(false, v)
	}
	s.Progressed = s.now
	s.emit(false, "Resumed", nil, "resumed by %s%s", v.Who, because(v))
	return nil
}

// retest has failed batches confirmed and tested again. It returns false if no batch
// has failed.
func (s *stepper) retest() bool {
	failed := false
	for i, m := range s.Moving {
		if m.Stage == StageFailed {
			failed = true
			s.Generation++
			s.renew(s.edit(i), s.Generation)
		}
	}
	if failed {
		s.Failure = nil
	}
	return failed
}

// abort moves everything back to the default, even while the rollout is paused.
func (s *stepper) abort(v Verb) error {
	if s.blocked() && s.Empty() {
		return nil // already rolled back
	}
	s.emit(true, "AbortedByUser", nil, "aborted by %s%s", v.Who, because(v))
	s.Failure = nil
	s.rollBack(Failure{Reason: "AbortedByUser", Who: v.Who, Why: v.Why})
	s.Waiting = nil
	return nil
}

// retry starts the rollout again after it was rolled back, or tests failed batches
// again.
func (s *stepper) retry(v Verb) error {
	switch {
	case s.blocked() && s.Back > 0:
		return errors.New("the rollback is not finished yet; retry when it is")
	case s.blocked():
		s.Aborted = ""
		s.restart("retried by %s%s", v.Who, because(v))
		return nil
	case s.retest():
		s.emit(false, "Retried", nil, "failed batches are tested again, retried by %s%s", v.Who, because(v))
		return nil
	}
	return errors.New("nothing has failed; see gray rollout status")
}

// Overrides lists, in words, the decisions of people that differ from Git.
func (r *State) Overrides(spec *Spec) []string {
	var words []string
	if h := r.Override; h != nil {
		words = append(words, fmt.Sprintf("suspend was set to %v by %s%s; Git says %v", h.Suspend, h.Who, because(Verb{Why: h.Why}), spec.Suspend))
	}
	for _, a := range r.Approved {
		_, i := spec.Network(a.Network)
		t := spec.Rollout.Through
		if a.Reason == "ThroughReached" && i >= 0 && t != nil && !withinThrough(spec, t, i, a.Batch) {
			words = append(words, fmt.Sprintf("batch %d of Network %s is beyond through, promoted by %s%s", a.Batch, a.Network, a.Who, because(Verb{Why: a.Why})))
		}
	}
	if r.Failure != nil && r.Failure.Reason == "AbortedByUser" {
		words = append(words, fmt.Sprintf("aborted by %s%s; Git still has the rollout", cmp.Or(r.Failure.Who, "somebody"), because(Verb{Why: r.Failure.Why})))
	}
	return words
}
