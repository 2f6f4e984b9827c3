package rollout

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gray-release/gray/schema"
)

// opens tells whether a Network may make a step; where it may not, the gate waits.
func (s *stepper) opens(m *Move, next step) bool {
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
	case t != nil && within(s.spec, t, i, next.batch):
		return true
	case t != nil:
		g.Reason = "ThroughReached"
	case r.Approval == "none" || len(m.VMs) > 0 && len(m.VMs) == len(net.VMs):
		return true // the last step of a Network of which nothing is left moves nothing
	}
	s.Waiting = append(s.Waiting, g)
	return false
}

// within tells whether Git lets a Network, by its place in the order, have a batch.
func within(spec *Spec, t *schema.Through, i, batch int) bool {
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

// Verb is what a person says about a rollout.
type Verb struct {
	Verb string
	Gate string // of promote: the gate that is meant; empty: all that are open
	Who  string
	Why  string
}

// Do takes in what a person says. Said twice it counts once. The error says why it
// does not apply; the rollout then is as it was. What follows from it comes with the
// next Step.
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
		return r, nil, fmt.Errorf("%q is no verb; want promote, pause, resume, abort or retry", v.Verb)
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
		return errors.New("no step waits for anybody; see gray rollout status")
	default:
		return fmt.Errorf("gate %s is not open, or was passed before; see gray rollout status", v.Gate)
	}
	for _, g := range open {
		s.Approved = append(slices.Clone(s.Approved), Approval{g, v.Who, v.Why, s.now})
		s.tell(false, "Promoted", &Move{Network: g.Network, Batch: g.Batch}, "batch %d of Network %s is let go by %s%s", g.Batch, g.Network, v.Who, because(v))
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

// say sets a person's word on suspend, which lasts until Git says the same.
func (s *stepper) say(suspend bool, v Verb) {
	s.Hold = &Override{suspend, v.Who, v.Why, s.now}
	if s.spec.Suspend == suspend {
		s.Hold = nil
	}
}

func (s *stepper) pause(v Verb) error {
	if s.held() {
		return nil
	}
	s.say(true, v)
	s.tell(false, "Paused", nil, "held by %s%s", v.Who, because(v))
	return nil
}

// resume goes on, with the test of a batch that has failed and was kept.
func (s *stepper) resume(v Verb) error {
	held, failed := s.held(), s.spec.Rollout.OnFailure == "pause" && s.again()
	if !held && !failed {
		return nil
	}
	if held {
		s.say(false, v)
	}
	s.Progressed = s.now
	s.tell(false, "Resumed", nil, "goes on, by %s%s", v.Who, because(v))
	return nil
}

// again has batches that failed be confirmed and tested once more; false where none
// has.
func (s *stepper) again() bool {
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

// abort takes everything back, also while the rollout is held.
func (s *stepper) abort(v Verb) error {
	if s.blocked() && s.Empty() {
		return nil // it has gone back already
	}
	s.tell(true, "AbortedByUser", nil, "ended by %s%s", v.Who, because(v))
	s.Failure = nil
	s.giveUp(Failure{Reason: "AbortedByUser", Who: v.Who, Why: v.Why})
	s.Waiting = nil
	return nil
}

// retry begins again with content that had failed, or tests again a batch that
// failed and was kept.
func (s *stepper) retry(v Verb) error {
	switch {
	case s.blocked() && s.Back > 0:
		return errors.New("it is still going back to the default; retry when it is there")
	case s.blocked():
		s.Aborted = ""
		s.restart("retried by %s%s", v.Who, because(v))
		return nil
	case s.again():
		s.tell(false, "Retried", nil, "what failed is tested again, by %s%s", v.Who, because(v))
		return nil
	}
	return errors.New("nothing of it has failed")
}

// Overrides says what people have said that Git does not say yet.
func (r *State) Overrides(spec *Spec) []string {
	var words []string
	if h := r.Hold; h != nil {
		words = append(words, fmt.Sprintf("suspend is %v by %s%s; Git says %v", h.Suspend, h.Who, because(Verb{Why: h.Why}), spec.Suspend))
	}
	for _, a := range r.Approved {
		_, i := spec.Network(a.Network)
		t := spec.Rollout.Through
		if a.Reason == "ThroughReached" && i >= 0 && t != nil && !within(spec, t, i, a.Batch) {
			words = append(words, fmt.Sprintf("batch %d of Network %s is beyond through, by %s%s", a.Batch, a.Network, a.Who, because(Verb{Why: a.Why})))
		}
	}
	if r.Failure != nil && r.Failure.Reason == "AbortedByUser" {
		words = append(words, fmt.Sprintf("aborted by %s%s; Git still asks for it", cmp.Or(r.Failure.Who, "somebody"), because(Verb{Why: r.Failure.Why})))
	}
	return words
}
