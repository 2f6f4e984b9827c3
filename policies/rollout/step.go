package rollout

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// stepper is one Step in progress: its inputs, the new state and the actions.
type stepper struct {
	*State
	spec *Spec
	obs  Observation
	now  time.Time
	Actions
}

// Step takes a rollout as far as its spec, the observation and the time allow, and
// returns the new state with the actions. It is pure: equal arguments give equal
// results. A nil spec means that the policy no longer has a rollout.
//
// Its cost depends on the Networks that are moving, not on those that have moved or
// have yet to.
func (r *State) Step(spec *Spec, obs Observation, now time.Time) (*State, Actions) {
	next := *r
	next.Moving = slices.Clone(r.Moving)
	s := &stepper{State: &next, spec: spec, obs: obs, now: now}
	if spec == nil {
		next = State{Version: Layout, Policy: r.Policy, Run: r.Run, Generation: r.Generation + 1, Status: Status{Phase: PhasePending, Since: now}}
		s.emit(false, "Ended", nil, "the policy has no rollout any more; all its units go to the default")
		s.Ended = true
		return s.State, s.Actions
	}
	s.setClock()
	s.adopt()
	s.confirm()
	s.judge()
	s.advance()
	s.schedule()
	s.report()
	return s.State, s.Actions
}

// edit replaces a Move by a copy that may be changed, as states share Moves.
func (s *stepper) edit(i int) *Move {
	m := *s.Moving[i]
	s.Moving[i] = &m
	return &m
}

func (s *stepper) enter(m *Move, stage Stage) {
	m.Stage, m.Since = stage, s.now
	s.Progressed = s.now
}

// renew requires what is live of a Network to be confirmed again, at a generation.
func (s *stepper) renew(m *Move, generation uint64) {
	m.Generation, m.Attempt = generation, 0
	if m.Stage == StageVerifying || m.Stage == StageFailed {
		s.enter(m, StageApplying)
	}
}

func (s *stepper) emit(warning bool, reason string, m *Move, format string, args ...any) {
	e := Event{Warning: warning, Reason: reason, Message: fmt.Sprintf(format, args...)}
	if m != nil {
		e.Network, e.Batch = m.Network, m.Batch
	}
	s.Events = append(s.Events, e)
}

// setClock limits stored times to now. Otherwise a clock that was set back would
// make waits longer.
func (s *stepper) setClock() {
	s.Progressed, s.Since = earlier(s.Progressed, s.now), earlier(s.Since, s.now)
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

// adopt applies what the documents say now.
func (s *stepper) adopt() {
	spec := s.spec
	if s.Override != nil && s.Override.Suspend == spec.Suspend {
		s.Override = nil
		s.emit(false, "OverrideEnded", nil, "Git has the same suspend now")
	}
	known := s.Content == spec.Content && s.Identity == spec.Identity
	if s.Identity != spec.Identity {
		s.restart("%s", spec.Identity)
	}
	s.Identity, s.Content = spec.Identity, spec.Content
	switch {
	case s.blocked() && s.Failure == nil && (s.Empty() || !s.paused()): // a commit brought failed content back
		s.rollBack(Failure{Reason: "FailedBefore", Revision: s.obs.Revision})
	case !s.blocked() && s.Failure != nil && s.Empty() && s.Aborted != "" && !known:
		s.restart("the content has changed since it failed")
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
	s.forgetNetworks()
	s.forgetVMs()
}

// restart starts the rollout again with nothing moved.
func (s *stepper) restart(format string, args ...any) {
	if s.Run++; s.Run > 1 {
		s.emit(false, "Restarted", nil, "starts again: "+format, args...)
	}
	if !s.Empty() {
		s.Generation++
	}
	s.Moving, s.Done, s.Approved, s.Failure, s.order = nil, nil, nil, nil, nil
	s.Progressed = s.now
}

// blocked tells whether the content is the one that failed.
func (s *stepper) blocked() bool { return s.Aborted != "" && s.Aborted == s.spec.Content }

// forgetNetworks drops Networks that are no longer part of the rollout. Their units
// are at the default.
func (s *stepper) forgetNetworks() {
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

// forgetVMs drops VMs that are no longer in the route tables. What is left of a batch
// has to be confirmed and tested again, unless it had passed.
func (s *stepper) forgetVMs() {
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

// confirm applies which generation is live.
func (s *stepper) confirm() {
	if s.Back > 0 && s.obs.Confirmed >= s.Back {
		s.Back, s.Progressed = 0, s.now
		others := ""
		if len(s.spec.Had) > 0 {
			others = ", but what others move is not: " + s.spec.Others()
		}
		s.emit(true, "RolledBack", nil, "every unit is at the default again%s", others)
	}
	for i, m := range s.Moving {
		live := s.obs.Confirmed >= m.Generation
		switch {
		case m.Stage == StageApplying && live && s.spec.Rollout.Verify != nil:
			s.enter(s.edit(i), StageVerifying)
		case m.Stage == StageApplying && live:
			s.pass(s.edit(i))
		case m.Stage == StageVerifying && !live: // the probes no longer test the batch
			s.Generation++
			s.renew(s.edit(i), s.Generation)
		}
	}
}

func (s *stepper) pass(m *Move) {
	s.enter(m, StagePassed)
	s.emit(false, "BatchPassed", m, "batch %d of Network %s has passed, %d VMs", m.Batch, m.Network, len(m.VMs))
}

// judge applies verdicts and a refusal. A verdict for another fingerprint, generation
// or attempt does not count.
func (s *stepper) judge() {
	for _, v := range s.obs.Verdicts {
		i := s.indexOf(v.Network)
		if i < 0 || v.Fingerprint != s.Fingerprint || s.Moving[i].Generation != v.Generation || s.Moving[i].Attempt != v.Attempt {
			continue
		}
		switch stage := s.Moving[i].Stage; {
		case v.Baseline && stage == StageBaseline:
			m := s.edit(i)
			m.Dead = v.Dead
			s.enter(m, StagePassed)
			if len(v.Dead) > 0 {
				s.emit(true, "BaselineFailures", m, "%d checks of Network %s fail in the baseline and are ignored: %s", len(v.Dead), m.Network, summary(v.Dead))
			}
		case v.Baseline || stage != StageVerifying:
		case v.Passed:
			s.pass(s.edit(i))
		case s.Moving[i].Attempt < s.spec.Rollout.Verify.Retries:
			m := s.edit(i)
			m.Attempt++
			s.emit(true, "VerificationRetried", m, "batch %d of Network %s failed and is tested again (%d of %d): %s", m.Batch, m.Network, m.Attempt, s.spec.Rollout.Verify.Retries, summary(v.Evidence))
		default:
			s.fail(i, "VerificationFailed", v.Evidence)
		}
	}
	if f := s.obs.Refused; f != nil && f.Generation == s.Generation && s.Back == 0 {
		s.refused(f)
	}
}

// refused fails the batches of a generation that cannot be compiled, and drops their
// VMs from what has moved.
func (s *stepper) refused(f *Refusal) {
	if !slices.ContainsFunc(s.Moving, func(m *Move) bool { return m.Stage == StageApplying }) {
		return // it is not about this rollout
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

// mostEvidence limits the lines of evidence that are kept, and lineLength the bytes
// of each.
const (
	mostEvidence = 32
	lineLength   = 500
)

func (s *stepper) fail(i int, reason string, evidence []string) {
	m := s.edit(i)
	s.enter(m, StageFailed)
	s.emit(true, reason, m, "batch %d of Network %s failed: %s", m.Batch, m.Network, summary(evidence))
	if s.Failure != nil {
		return // the first one counts
	}
	f := &Failure{Reason: reason, Network: m.Network, Batch: m.Batch, Generation: m.Generation, Revision: s.obs.Revision, At: s.now}
	for _, line := range evidence[:min(len(evidence), mostEvidence)] {
		f.Evidence = append(f.Evidence, clip(line))
	}
	s.Failure = f
}

// clip cuts a line to lineLength, between two characters.
func clip(line string) string {
	if len(line) <= lineLength {
		return line
	}
	return strings.ToValidUTF8(line[:lineLength], "")
}

// summary joins the first words and counts the others.
func summary(words []string) string {
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

// rollBack moves every unit back to the default and marks the content as failed.
func (s *stepper) rollBack(f Failure) {
	f.Generation, f.At = s.Generation, s.now
	if s.Failure != nil { // the first one counts
		f = *s.Failure
	}
	f.Reached = s.reached()
	s.Failure = &f
	s.Aborted = s.spec.Content
	s.Generation++
	if !s.Empty() {
		s.Back = s.Generation
	}
	s.Moving, s.Done, s.Approved, s.order = nil, nil, nil, nil
	s.Progressed = s.now
	s.emit(true, "RollingBack", nil, "every unit goes back to the default; this content is not tried again until it changes or is retried")
}

// reached is how far the Networks have come, in order.
func (s *stepper) reached() (all []Reached) {
	for i := range s.spec.Networks {
		n := &s.spec.Networks[i]
		if j := s.indexOf(n.Name); j >= 0 && s.Moving[j].Batch > 0 {
			all = append(all, Reached{n.Name, s.Moving[j].Batch, len(s.Moving[j].VMs)})
		} else if s.isDone(n.Name) {
			all = append(all, Reached{n.Name, len(s.spec.Rollout.Batches), len(n.VMs)})
		}
	}
	return all
}

// paused tells whether the rollout is suspended, by Git or by a person.
func (s *stepper) paused() bool {
	if s.Override != nil {
		return s.Override.Suspend
	}
	return s.spec.Suspend
}

// advance starts the batches that are due, or a rollback.
func (s *stepper) advance() {
	s.Waiting = nil
	switch {
	case s.paused() || s.blocked() || s.Back > 0:
		return
	case s.failed() >= 0 && s.spec.Rollout.OnFailure == "rollback":
		s.rollBack(Failure{})
		return
	case s.failed() >= 0:
		return
	}
	s.sortMoving()
	for active := 0; active < s.spec.Rollout.Parallel; {
		if active == len(s.Moving) && !s.startNetwork() {
			return
		}
		if s.proceed(active) {
			active++
		}
	}
}

// sortMoving sorts Moving by the order of the spec, which may have changed.
func (s *stepper) sortMoving() {
	slices.SortFunc(s.Moving, func(a, b *Move) int {
		_, i := s.spec.Network(a.Network)
		_, j := s.spec.Network(b.Network)
		return i - j
	})
}

// startNetwork adds the next Network of the order to Moving. It returns false if
// there is none or it waits for a gate.
func (s *stepper) startNetwork() bool {
	for ; s.next < len(s.spec.Networks); s.next++ {
		net := &s.spec.Networks[s.next]
		if s.isDone(net.Name) || s.indexOf(net.Name) >= 0 {
			continue
		}
		m := &Move{Network: net.Name, Stage: StagePassed, Generation: s.Generation, Since: s.now}
		step, _ := s.nextStep(m, net)
		if !s.passGate(m, step) {
			return false
		}
		s.Moving = append(s.Moving, m)
		s.Progressed = s.now
		if s.spec.Rollout.Verify != nil {
			m.Stage = StageBaseline
		}
		s.emit(false, "NetworkStarted", m, "Network %s is next, %d VMs", net.Name, len(net.VMs))
		return true
	}
	return false
}

// step is the next batch of a Network.
type step struct {
	batch int // from 1
	vms   int // how many have moved with it
	whole bool
}

// nextStep is the first batch with more VMs than have moved, or else the last one.
// So it depends on what has moved and not on a stored number. idle tells that it
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

// proceed starts the next batch of a Network if it is due. It returns false if the
// Network is done and has left Moving.
func (s *stepper) proceed(i int) bool {
	m := s.Moving[i]
	if m.Stage != StagePassed || m.Batch > 0 && s.now.Before(s.bakedAt(m)) {
		return true
	}
	net, _ := s.spec.Network(m.Network)
	if m.Whole {
		s.finish(i)
		return false
	}
	next, idle := s.nextStep(m, net)
	if !s.passGate(m, next) {
		return true
	}
	s.Generation++
	if idle {
		s.finish(i)
		return false
	}
	m = s.edit(i)
	m.Batch, m.Whole, m.Generation, m.Attempt = next.batch, next.whole, s.Generation, 0
	m.VMs, m.Fresh = grow(m.VMs, net.VMs, next.vms)
	s.enter(m, StageApplying)
	s.emit(false, "BatchStarted", m, "batch %d of %d of Network %s: %d of %d VMs", m.Batch, len(s.spec.Rollout.Batches), m.Network, len(m.VMs), len(net.VMs))
	return true
}

func (s *stepper) bakedAt(m *Move) time.Time { return m.Since.Add(time.Duration(s.spec.Rollout.Bake)) }

// finish moves a Network from Moving to Done.
func (s *stepper) finish(i int) {
	name := s.Moving[i].Network
	s.emit(false, "NetworkCompleted", s.Moving[i], "all of Network %s has moved", name)
	s.Moving = slices.Delete(s.Moving, i, i+1)
	at, _ := slices.BinarySearch(s.Done, name)
	s.Done = slices.Insert(slices.Clone(s.Done), at, name)
	s.Approved = slices.DeleteFunc(slices.Clone(s.Approved), func(a Approval) bool { return a.Network == name })
	s.Progressed = s.now
}

// grow adds the first VMs that have not moved until n have.
func grow(moved, all []netip.Addr, n int) (vms, fresh []netip.Addr) {
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
