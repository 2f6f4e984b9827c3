package rollout

import (
	"fmt"
	"slices"
	"time"
)

// working tells whether the rollout waits for sinks or probes, and not for people or
// for a bake time.
func (s *stepper) working() bool {
	if s.Back > 0 || s.paused() || s.failed() >= 0 {
		return s.Back > 0
	}
	return slices.ContainsFunc(s.Moving, func(m *Move) bool { return m.Stage != StagePassed })
}

// failed is the index in Moving of the first Network whose batch has failed, or -1.
func (s *stepper) failed() int {
	return slices.IndexFunc(s.Moving, func(m *Move) bool { return m.Stage == StageFailed })
}

// schedule checks the deadline, and collects the probes to run and the time of the
// next Step.
func (s *stepper) schedule() {
	deadline := time.Duration(s.spec.Rollout.Deadline)
	if s.Phase == PhasePaused && s.working() {
		s.Progressed = s.now // it waited for people until now
	}
	was := s.Stalled
	s.Stalled = deadline > 0 && s.working() && s.now.Sub(s.Progressed) >= deadline
	if s.Stalled && !was {
		s.emit(true, "DeadlineExceeded", nil, "no progress for %s", deadline)
	}
	if deadline > 0 && s.working() && !s.Stalled {
		s.wake(s.Progressed.Add(deadline))
	}
	for _, m := range s.Moving {
		p := Probe{Network: m.Network, Batch: m.Batch, Fingerprint: s.Fingerprint, Generation: m.Generation, Attempt: m.Attempt}
		switch {
		case m.Stage == StageBaseline && s.obs.Confirmed >= m.Generation:
			p.Baseline = true
			s.Probes = append(s.Probes, p)
		case m.Stage == StageVerifying:
			p.VMs, p.Fresh, p.Ignore = m.VMs, m.Fresh, m.Dead
			s.Probes = append(s.Probes, p)
		case m.Stage == StagePassed && m.Batch > 0 && !s.paused() && s.bakedAt(m).After(s.now):
			s.wake(s.bakedAt(m))
		}
	}
}

func (s *stepper) wake(t time.Time) {
	if s.Wake.IsZero() || t.Before(s.Wake) {
		s.Wake = t
	}
}

// report sets phase, reason and message.
func (s *stepper) report() {
	if !s.blocked() && s.Back == 0 && s.failed() < 0 {
		s.Failure = nil // what failed was changed, tested again or removed
	}
	phase, reason, message := s.status()
	if phase != s.Phase {
		s.Since = s.now
		s.emit(phase == PhaseRolledBack, "Phase"+string(phase), nil, "%s: %s", reason, message)
	}
	s.Phase, s.Reason, s.Message = phase, reason, message
}

func (s *stepper) status() (phase Phase, reason, message string) {
	reasons := map[Stage]string{
		StageBaseline: "BaselineRunning", StageApplying: "BatchApplying", StageVerifying: "BatchVerifying", StagePassed: "Baking", StageFailed: "VerificationFailed",
	}
	switch {
	case s.Back > 0:
		phase, reason, message = PhaseRollingBack, "RollingBack", "not every sink has confirmed the default yet"
		if f := s.Failure; f != nil {
			reason = f.Reason
		}
	case s.blocked() && s.Failure != nil:
		phase, reason, message = PhaseRolledBack, s.Failure.Reason, s.Failure.String()
	case len(s.spec.Networks) == 0:
		phase, reason, message = PhasePending, ReasonNothing, "it selects no Network, or excludes all, so nothing moves"
		if len(s.spec.Had) > 0 {
			message = "nothing is left to move: " + s.spec.Others()
		}
	case len(s.Done) == len(s.spec.Networks):
		phase, reason = PhaseCompleted, "Completed"
	case s.paused() && s.Override != nil:
		phase, reason, message = PhasePaused, "PausedByUser", fmt.Sprintf("by %s%s", s.Override.Who, because(Verb{Why: s.Override.Why}))
	case s.paused():
		phase, reason, message = PhasePaused, "Suspended", "spec.suspend is true"
	case s.failed() >= 0:
		phase, reason, message = PhasePaused, s.Failure.Reason, s.Failure.String()
	case len(s.Moving) == 0 && len(s.Waiting) == 0:
		phase, reason = PhasePending, "Pending"
	case !s.working() && len(s.Waiting) > 0 && s.Wake.IsZero():
		g := s.Waiting[0]
		phase, reason, message = PhasePaused, g.Reason, fmt.Sprintf("batch %d of Network %s waits for gray rollout promote (gate %s) or for through", g.Batch, g.Network, g.ID)
	default:
		phase = PhaseProgressing
		m := s.Moving[0]
		reason, message = reasons[m.Stage], fmt.Sprintf("Network %s, batch %d of %d, %d VMs", m.Network, m.Batch, len(s.spec.Rollout.Batches), len(m.VMs))
	}
	return phase, reason, message
}

// String describes the failure in one line.
func (f *Failure) String() string {
	text := ""
	if f.Network != "" {
		text = fmt.Sprintf("batch %d of Network %s", f.Batch, f.Network)
	}
	if f.Who != "" {
		text = "by " + f.Who + because(Verb{Why: f.Why})
	}
	if len(f.Evidence) > 0 {
		text += ": " + summary(f.Evidence)
	}
	if f.Revision != "" {
		text += ", at " + f.Revision
	}
	return text
}
