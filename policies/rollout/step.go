package rollout

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// stepper is one Step: the state that comes of it, and what it looks at.
type stepper struct {
	*State
	spec *Spec
	obs  Observation
	now  time.Time
	Actions
}

// Step moves a rollout on as far as the documents and what was observed let it. It
// looks at nothing else: equal arguments give an equal result. A nil spec is that
// of a policy that has no rollout any more.
//
// It costs what the Networks that are being moved cost, not what has moved or is
// yet to.
func (r *State) Step(spec *Spec, obs Observation, now time.Time) (*State, Actions) {
	next := *r
	next.Moving = slices.Clone(r.Moving)
	s := &stepper{State: &next, spec: spec, obs: obs, now: now}
	if spec == nil {
		next = State{Version: Layout, Policy: r.Policy, Run: r.Run, Generation: r.Generation + 1, Phase: PhasePending, Since: now}
		s.tell(false, "Ended", nil, "the policy has no rollout any more; all its units go to the default")
		s.Ended = true
		return s.State, s.Actions
	}
	s.setClock()
	s.adopt()
	s.confirm()
	s.judge()
	s.advance()
	s.stall()
	s.stand()
	return s.State, s.Actions
}

// edit replaces a Move by a copy that may be changed.
func (s *stepper) edit(i int) *Move {
	m := *s.Moving[i]
	s.Moving[i] = &m
	return &m
}

func (s *stepper) enter(m *Move, stage Stage) {
	m.Stage, m.Since = stage, s.now
	s.Progressed = s.now
}

// renew makes what a Network has live something that is to be confirmed anew.
func (s *stepper) renew(m *Move, generation uint64) {
	m.Generation, m.Attempt = generation, 0
	if m.Stage == StageVerifying || m.Stage == StageFailed {
		s.enter(m, StageApplying)
	}
}

func (s *stepper) tell(warning bool, reason string, m *Move, format string, args ...any) {
	e := Event{Warning: warning, Reason: reason, Message: fmt.Sprintf(format, args...)}
	if m != nil {
		e.Network, e.Batch = m.Network, m.Batch
	}
	s.Events = append(s.Events, e)
}

// setClock keeps a clock that went back from making anything wait longer than it
// would have from now on.
func (s *stepper) setClock() {
	s.Progressed, s.State.Since = earlier(s.Progressed, s.now), earlier(s.State.Since, s.now)
	for i, m := range s.Moving {
		if m.Since.After(s.now) {
			s.edit(i).Since = s.now
		}
	}
}

func earlier(t, now time.Time) time.Time {
	if t.After(now) {
		return now
	}
	return t
}

// adopt takes in what the documents say now.
func (s *stepper) adopt() {
	spec := s.spec
	if s.Hold != nil && s.Hold.Suspend == spec.Suspend {
		s.Hold = nil
		s.tell(false, "OverrideEnded", nil, "Git now says the same about suspend")
	}
	known := s.Content == spec.Content && s.Identity == spec.Identity
	if s.Identity != spec.Identity {
		s.restart("%s", spec.Identity)
	}
	s.Identity, s.Content = spec.Identity, spec.Content
	switch {
	case s.blocked() && s.Failure == nil && (s.Empty() || !s.held()): // a commit has gone back to it
		s.giveUp(Failure{Reason: "FailedBefore", Revision: s.obs.Revision})
	case !s.blocked() && s.Failure != nil && s.Empty() && s.Aborted != "" && !known:
		s.restart("its content has changed since it failed")
	}
	if s.Fingerprint != spec.Fingerprint {
		s.Fingerprint = spec.Fingerprint
		s.Generation++
		for i := range s.Moving {
			if s.Moving[i].Stage != StagePassed {
				s.renew(s.edit(i), s.Generation)
			}
		}
		if s.Back > 0 {
			s.Back = s.Generation
		}
		if !s.blocked() {
			s.Failure = nil
		}
	}
	s.rescope()
	s.losses()
}

// restart begins at nothing.
func (s *stepper) restart(format string, args ...any) {
	if s.Run++; s.Run > 1 {
		s.tell(false, "Restarted", nil, "begins afresh: "+format, args...)
	}
	if !s.Empty() {
		s.Generation++
	}
	s.Moving, s.Done, s.Approved, s.Failure, s.order = nil, nil, nil, nil, nil
	s.Progressed = s.now
}

// blocked tells whether the content is one that failed.
func (s *stepper) blocked() bool { return s.Aborted != "" && s.Aborted == s.spec.Content }

// rescope forgets Networks that the rollout no longer has: their units are at the
// default.
func (s *stepper) rescope() {
	if s.order == s.spec {
		return
	}
	if s.order == nil || !sameOrder(s.order, s.spec) {
		s.next = 0
		in := func(n string) bool { _, i := s.spec.Network(n); return i >= 0 }
		before := len(s.Moving) + len(s.Done)
		s.Moving = slices.DeleteFunc(s.Moving, func(m *Move) bool { return !in(m.Network) })
		if gone := slices.ContainsFunc(s.Done, func(n string) bool { return !in(n) }); gone {
			s.Done = slices.DeleteFunc(slices.Clone(s.Done), func(n string) bool { return !in(n) })
		}
		if len(s.Moving)+len(s.Done) < before {
			s.Generation++
		}
		s.Approved = slices.DeleteFunc(slices.Clone(s.Approved), func(a Approval) bool { return !in(a.Network) })
	}
	s.order = s.spec
}

// sameOrder tells whether two specs move the same Networks in the same order.
func sameOrder(a, b *Spec) bool {
	return slices.EqualFunc(a.Networks, b.Networks, func(x, y Network) bool { return x.Name == y.Name })
}

// losses forgets VMs that the route tables no longer have. What is left of a batch
// is to be confirmed and tested anew, unless it had passed.
func (s *stepper) losses() {
	for i, m := range s.Moving {
		net, _ := s.spec.Network(m.Network)
		if m.Whole {
			if !slices.Equal(m.VMs, net.VMs) {
				s.edit(i).VMs = net.VMs
			}
			continue
		}
		left := CommonVMs(m.VMs, net.VMs)
		if len(left) == len(m.VMs) {
			continue
		}
		s.Generation++
		m = s.edit(i)
		m.VMs = left
		if m.Stage != StagePassed {
			s.renew(m, s.Generation)
		}
	}
}

// confirm takes in what is live.
func (s *stepper) confirm() {
	if s.Back > 0 && s.obs.Confirmed >= s.Back {
		s.Back, s.Progressed = 0, s.now
		s.tell(true, "RolledBack", nil, "every unit is at the default again")
	}
	for i, m := range s.Moving {
		live := s.obs.Confirmed >= m.Generation
		switch {
		case m.Stage == StageApplying && live && s.spec.Rollout.Verify != nil:
			s.enter(s.edit(i), StageVerifying)
		case m.Stage == StageApplying && live:
			s.pass(s.edit(i))
		case m.Stage == StageVerifying && !live: // what the probes look at is not the batch any more
			s.Generation++
			s.renew(s.edit(i), s.Generation)
		}
	}
}

func (s *stepper) pass(m *Move) {
	s.enter(m, StagePassed)
	s.tell(false, "BatchPassed", m, "batch %d of Network %s has passed, %d VMs", m.Batch, m.Network, len(m.VMs))
}

// judge takes in verdicts. One that was taken at another commit, at another
// progress or twice does not count.
func (s *stepper) judge() {
	for _, v := range s.obs.Verdicts {
		i := s.IndexOf(v.Network)
		if i < 0 || v.Fingerprint != s.Fingerprint || s.Moving[i].Generation != v.Generation || s.Moving[i].Attempt != v.Attempt {
			continue
		}
		switch stage := s.Moving[i].Stage; {
		case v.Baseline && stage == StageBaseline:
			m := s.edit(i)
			m.Dead = v.Dead
			s.enter(m, StagePassed)
			if len(v.Dead) > 0 {
				s.tell(true, "BaselineFailures", m, "%d checks of Network %s fail before anything of it moves, and are not looked at: %s", len(v.Dead), m.Network, few(v.Dead))
			}
		case v.Baseline || stage != StageVerifying:
		case v.Passed:
			s.pass(s.edit(i))
		case s.Moving[i].Attempt < s.spec.Rollout.Verify.Retries:
			m := s.edit(i)
			m.Attempt++
			s.tell(true, "VerificationRetried", m, "batch %d of Network %s failed, is tested again (%d of %d): %s", m.Batch, m.Network, m.Attempt, s.spec.Rollout.Verify.Retries, few(v.Evidence))
		default:
			s.fail(i, "VerificationFailed", v.Evidence)
		}
	}
	if f := s.obs.Refused; f != nil && f.Generation == s.Generation && s.Back == 0 {
		s.refused(f)
	}
}

// refused takes batches that cannot be made out of what is to be live.
func (s *stepper) refused(f *Refusal) {
	if !slices.ContainsFunc(s.Moving, func(m *Move) bool { return m.Stage == StageApplying }) {
		return // it is not for what this rollout moves
	}
	s.Generation++
	for i, m := range s.Moving {
		if m.Stage != StageApplying {
			continue
		}
		s.fail(i, "PlanRefused", []string{f.Message})
		m = s.Moving[i]
		m.VMs = slices.DeleteFunc(slices.Clone(m.VMs), func(a netip.Addr) bool { return slices.Contains(m.Fresh, a) })
		m.Batch, m.Whole, m.Fresh, m.Generation = m.Batch-1, false, nil, s.Generation
	}
}

// mostEvidence bounds the lines that are kept of a failure, and lineLength theirs.
const (
	mostEvidence = 32
	lineLength   = 500
)

func (s *stepper) fail(i int, reason string, evidence []string) {
	m := s.edit(i)
	s.enter(m, StageFailed)
	s.tell(true, reason, m, "batch %d of Network %s failed: %s", m.Batch, m.Network, few(evidence))
	if s.Failure != nil {
		return // the first one counts
	}
	f := &Failure{Reason: reason, Network: m.Network, Batch: m.Batch, Generation: m.Generation, Revision: s.obs.Revision, At: s.now}
	for _, line := range evidence[:min(len(evidence), mostEvidence)] {
		f.Evidence = append(f.Evidence, clip(line))
	}
	s.Failure = f
}

// clip bounds a line, between two characters.
func clip(line string) string {
	if len(line) <= lineLength {
		return line
	}
	return strings.ToValidUTF8(line[:lineLength], "")
}

// few is the first of some words.
func few(words []string) string {
	const some = 5
	text := ""
	for i, w := range words[:min(len(words), some)] {
		if i > 0 {
			text += "; "
		}
		text += clip(w)
	}
	if len(words) > some {
		text += fmt.Sprintf("; and %d more", len(words)-some)
	}
	return text
}

// giveUp takes every unit back to the default, and the content as failed.
func (s *stepper) giveUp(f Failure) {
	f.Generation, f.At = s.Generation, s.now
	if s.Failure == nil {
		s.Failure = &f
	}
	s.Aborted = s.spec.Content
	s.Generation++
	if !s.Empty() {
		s.Back = s.Generation
	}
	s.Moving, s.Done, s.Approved, s.order = nil, nil, nil, nil
	s.Progressed = s.now
	s.tell(true, "RollingBack", nil, "every unit goes back to the default; this content is not tried again until it changes or somebody says retry")
}

// held tells whether nothing is to change.
func (s *stepper) held() bool {
	if s.Hold != nil {
		return s.Hold.Suspend
	}
	return s.spec.Suspend
}

// advance changes what is live where that is due.
func (s *stepper) advance() {
	s.Waiting = nil
	switch {
	case s.held() || s.blocked() || s.Back > 0:
		return
	case s.failed() >= 0 && s.spec.Rollout.OnFailure == "rollback":
		s.giveUp(Failure{})
		return
	case s.failed() >= 0:
		return
	}
	s.inOrder()
	for active := 0; active < s.spec.Rollout.Parallel; {
		if active == len(s.Moving) && !s.begin() {
			return
		}
		if s.goOn(active) {
			active++
		}
	}
}

// inOrder sorts what moves by the order of the documents, which may have changed.
func (s *stepper) inOrder() {
	slices.SortFunc(s.Moving, func(a, b *Move) int {
		_, i := s.spec.Network(a.Network)
		_, j := s.spec.Network(b.Network)
		return i - j
	})
}

// begin takes up the next Network of the order; false where there is none or it
// waits for a gate.
func (s *stepper) begin() bool {
	for ; s.next < len(s.spec.Networks); s.next++ {
		net := &s.spec.Networks[s.next]
		if s.IsDone(net.Name) || s.IndexOf(net.Name) >= 0 {
			continue
		}
		m := &Move{Network: net.Name, Stage: StagePassed, Generation: s.Generation, Since: s.now}
		step, _ := s.nextStep(m, net)
		if !s.opens(m, step) {
			return false
		}
		s.Moving = append(s.Moving, m)
		s.Progressed = s.now
		if s.spec.Rollout.Verify != nil {
			m.Stage = StageBaseline
		}
		s.tell(false, "NetworkStarted", m, "Network %s is next, %d VMs", net.Name, len(net.VMs))
		return true
	}
	return false
}

// step is the batch that comes next.
type step struct {
	batch int // from 1
	vms   int // how many have moved then
	whole bool
}

// nextStep is the first batch that has more VMs than have moved, so that it follows
// from what has moved and not from a number; else the last one. Idle where that
// moves no VM.
func (s *stepper) nextStep(m *Move, net *Network) (next step, idle bool) {
	batches := s.spec.Rollout.Batches
	last := len(batches) - 1
	for i, b := range batches[:last] {
		if n := b.Of(len(net.VMs)); n > len(m.VMs) {
			return step{i + 1, n, false}, false
		}
	}
	return step{last + 1, len(net.VMs), true}, len(m.VMs) > 0 && len(m.VMs) == len(net.VMs)
}

// goOn has a Network make its next step if that is due; false where the Network is
// done and has left Moving.
func (s *stepper) goOn(i int) bool {
	m := s.Moving[i]
	if m.Stage != StagePassed || m.Batch > 0 && s.now.Before(s.baked(m)) {
		return true
	}
	net, _ := s.spec.Network(m.Network)
	if m.Whole {
		s.finish(i)
		return false
	}
	next, idle := s.nextStep(m, net)
	if !s.opens(m, next) {
		return true
	}
	s.Generation++
	if idle {
		s.finish(i)
		return false
	}
	m = s.edit(i)
	m.Batch, m.Whole, m.Generation, m.Attempt = next.batch, next.whole, s.Generation, 0
	m.VMs, m.Fresh = Grow(m.VMs, net.VMs, next.vms)
	s.enter(m, StageApplying)
	s.tell(false, "BatchStarted", m, "batch %d of %d of Network %s: %d of %d VMs", m.Batch, len(s.spec.Rollout.Batches), m.Network, len(m.VMs), len(net.VMs))
	return true
}

func (s *stepper) baked(m *Move) time.Time { return m.Since.Add(time.Duration(s.spec.Rollout.Bake)) }

// finish notes that all of a Network has moved and passed.
func (s *stepper) finish(i int) {
	name := s.Moving[i].Network
	s.tell(false, "NetworkCompleted", s.Moving[i], "all of Network %s has moved", name)
	s.Moving = slices.Delete(s.Moving, i, i+1)
	at, _ := slices.BinarySearch(s.Done, name)
	s.Done = slices.Insert(slices.Clone(s.Done), at, name)
	s.Approved = slices.DeleteFunc(slices.Clone(s.Approved), func(a Approval) bool { return a.Network == name })
	s.Progressed = s.now
}

// grow adds the first VMs that have not moved until there are n.
func Grow(moved, all []netip.Addr, n int) (vms, fresh []netip.Addr) {
	vms, fresh = make([]netip.Addr, 0, n), make([]netip.Addr, 0, max(n-len(moved), 0))
	more := n - len(moved)
	for _, a := range all {
		if len(moved) > 0 && moved[0] == a {
			vms, moved = append(vms, a), moved[1:]
		} else if more > 0 {
			vms, fresh = append(vms, a), append(fresh, a)
			more--
		}
	}
	return vms, fresh
}
