package board

import (
	"slices"

	"github.com/gray-release/gray/policies/rollout"
)

// Probes is the board between the loop and whoever makes the regression tests of
// rollouts: the loop writes on it what is to be tested now, the prober how it ended.
// Neither waits for the other.
type Probes struct {
	*Board[*Job]
	ended    []Ended
	troubled map[*Job]string
}

// Job is a regression test that is to run now. It is read-only, and another one
// whenever what is to be tested is.
type Job struct {
	Policy string
	rollout.Probe
	Spec     *rollout.Spec // with the checks, the VIPs and the Network's routes
	Revision string        // the commit
}

// Ended is a Job that has ended.
type Ended struct {
	*Job
	Verdict rollout.Verdict
	Result  any // what was measured, for events; it is encoded as JSON
}

// NewProbes returns an empty board.
func NewProbes() *Probes {
	return &Probes{Board: newBoard[*Job](), troubled: map[*Job]string{}}
}

// Report says how a Job ended. It counts once, and only while the Job is wanted.
func (p *Probes) Report(e Ended) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := slices.ContainsFunc(p.ended, func(o Ended) bool { return o.Job == e.Job })
	if known || !p.wants(e.Job) {
		return
	}
	e.Verdict.Network, e.Verdict.Fingerprint, e.Verdict.Generation = e.Network, e.Fingerprint, e.Generation
	e.Verdict.Attempt, e.Verdict.Baseline = e.Attempt, e.Baseline
	p.ended = append(p.ended, e)
	delete(p.troubled, e.Job)
	p.news()
}

// Fail says why a Job cannot be done, in one line, while it is tried again; an empty
// why takes that back.
func (p *Probes) Fail(j *Job, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.wants(j) || p.troubled[j] == why {
		return
	}
	if p.troubled[j] = why; why == "" {
		delete(p.troubled, j)
	}
	p.news()
}

// Want replaces what is to be tested for a policy. A Job that is wanted as before, of
// a Network that is as before, stays the same, and so does what is known of it.
func (p *Probes) Want(policy string, jobs []*Job) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wanted, changed := make([]*Job, 0, len(p.wanted)+len(jobs)), false
	had := map[[2]any]*Job{}
	for _, j := range p.wanted {
		if j.Policy == policy {
			had[j.id()] = j
		} else {
			wanted = append(wanted, j)
		}
	}
	for _, j := range jobs {
		if was := had[j.id()]; was != nil && was.sameNetwork(j) {
			delete(had, j.id())
			j = was
		} else {
			changed = true
		}
		wanted = append(wanted, j)
	}
	for _, gone := range had {
		delete(p.troubled, gone)
		p.ended = slices.DeleteFunc(p.ended, func(e Ended) bool { return e.Job == gone })
		changed = true
	}
	if p.wanted = wanted; changed {
		p.want(wanted)
	}
}

// sameNetwork tells whether two Jobs see their Network alike.
func (j *Job) sameNetwork(o *Job) bool {
	a, _ := j.Spec.Network(j.Network)
	b, _ := o.Spec.Network(o.Network)
	if a == nil || b == nil || a == b {
		return a == b
	}
	same := a.Monitor == b.Monitor || a.Monitor != nil && b.Monitor != nil && *a.Monitor == *b.Monitor
	return same && slices.Equal(a.Routes, b.Routes) && slices.Equal(a.VMs, b.VMs)
}

// id is what a Job is told from others of its policy by.
func (j *Job) id() [2]any {
	type name struct {
		network     string
		fingerprint string
		generation  uint64
		attempt     int
		baseline    bool
	}
	return [2]any{j.Policy, name{j.Network, j.Fingerprint, j.Generation, j.Attempt, j.Baseline}}
}

// Verdicts is how the Jobs of a policy have ended that are still wanted. They stay
// until they are not.
func (p *Probes) Verdicts(policy string) []Ended {
	p.mu.Lock()
	defer p.mu.Unlock()
	var own []Ended
	for _, e := range p.ended {
		if e.Policy == policy {
			own = append(own, e)
		}
	}
	return own
}

// Trouble says why the Jobs of a policy cannot be done, empty where they can.
func (p *Probes) Trouble(policy string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, j := range p.wanted {
		if j.Policy == policy && p.troubled[j] != "" {
			return p.troubled[j]
		}
	}
	return ""
}

// Reported lists the policies with something new, sorted.
func (p *Probes) Reported() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for _, e := range p.ended {
		names = append(names, e.Policy)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
