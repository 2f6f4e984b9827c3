package reconciler

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/schema"
)

// RolloutStatus is how the rollout of one policy stands.
type RolloutStatus struct {
	Policy     string            `json:"policy"`
	Version    string            `json:"version"`
	Targets    []string          `json:"targets"` // Gateway/vpc-gw
	Run        int               `json:"run"`     // counts the starts from nothing
	Phase      rollout.Phase     `json:"phase"`
	Since      time.Time         `json:"since"` // of Phase
	Generation uint64            `json:"generation"`
	Waits      string            `json:"waits,omitempty"` // why what is to be live is not confirmed, or why it cannot be tested or stored
	Moved      int               `json:"moved"`           // VMs
	Total      int               `json:"total"`
	Batches    []string          `json:"batches"`
	Networks   []NetworkProgress `json:"networks"`            // in the order in which they move
	Gates      []rollout.Gate    `json:"gates,omitempty"`     // that wait for a person
	Overrides  []string          `json:"overrides,omitempty"` // what people said that Git does not say yet
	Split      []string          `json:"split,omitempty"`     // accounts that are gray on one plane and not, or not yet wholly, on the other
	Failure    *rollout.Failure  `json:"failure,omitempty"`
	Conditions []Condition       `json:"conditions"` // Ready first; Reconciling and Stalled where they are True
}

// NetworkProgress is how one Network of a rollout stands.
type NetworkProgress struct {
	Name    string        `json:"name"`
	VNI     uint32        `json:"vni"`
	Account string        `json:"account,omitempty"`
	Stage   rollout.Stage `json:"stage,omitempty"` // of one that is moving; Done of one that has moved
	Batch   int           `json:"batch,omitempty"` // that is live or on its way, from 1
	Moved   int           `json:"moved"`           // VMs
	Total   int           `json:"total"`
	Dead    int           `json:"dead,omitempty"` // checks that failed before anything moved
}

// Rollouts tells how the rollouts stand, sorted, or with a name that of one policy;
// it costs what they do, not what the documents do. Revision is the commit in force.
func (r *Reconciler) Rollouts(ctx context.Context, policy string) (all []RolloutStatus, revision string, err error) {
	var views []rolloutView
	if err := r.inLoop(ctx, func() { views, revision = r.viewRollouts(), r.revision }); err != nil {
		return nil, "", err
	}
	all = []RolloutStatus{}
	for i := range views {
		if policy == "" || views[i].state.Policy == policy {
			all = append(all, views[i].status(revision))
		}
	}
	return all, revision, nil
}

// stageDone is the Stage of a Network that has moved and passed.
const stageDone rollout.Stage = "Done"

// rolloutView is a rollout in a view. Nobody changes what it points to.
type rolloutView struct {
	state *rollout.State
	spec  *rollout.Spec // nil: the documents have it no more
	waits string
	ready flag
}

// status tells how a rollout stands.
func (v *rolloutView) status(revision string) RolloutStatus {
	s, spec := v.state, v.spec
	out := RolloutStatus{
		Policy: s.Policy, Run: s.Run, Phase: s.Phase, Since: s.Since, Generation: s.Generation, Waits: v.waits,
		Targets: []string{}, Batches: []string{}, Networks: []NetworkProgress{}, Gates: s.Waiting, Failure: s.Failure,
	}
	if spec != nil {
		out.Version, out.Overrides = spec.Version, s.Overrides(spec)
		for _, t := range spec.Targets {
			out.Targets = append(out.Targets, t.Kind+"/"+t.Name)
		}
		for _, b := range spec.Rollout.Batches {
			out.Batches = append(out.Batches, b.String())
		}
		out.networks(s, spec)
		out.Split = split(out.Networks, spec)
	}
	out.Conditions = v.conditions(revision)
	return out
}

// networks tells how each Network stands.
func (out *RolloutStatus) networks(s *rollout.State, spec *rollout.Spec) {
	moving := make(map[string]*rollout.Move, len(s.Moving))
	for _, m := range s.Moving {
		moving[m.Network] = m
	}
	for i := range spec.Networks {
		n := &spec.Networks[i]
		p := NetworkProgress{Name: n.Name, VNI: n.VNI, Account: n.Account, Total: len(n.VMs)}
		if m := moving[n.Name]; m != nil {
			p.Stage, p.Batch, p.Moved, p.Dead = m.Stage, m.Batch, len(m.VMs), len(m.Dead)
		} else if _, done := slices.BinarySearch(s.Done, n.Name); done {
			p.Stage, p.Batch, p.Moved = stageDone, len(spec.Rollout.Batches), p.Total
		}
		out.Moved, out.Total = out.Moved+p.Moved, out.Total+p.Total
		out.Networks = append(out.Networks, p)
	}
}

// split says which accounts are not the same on both planes: their requests are
// answered by the new version as soon as the first of their VMs has moved.
func split(networks []NetworkProgress, spec *rollout.Spec) []string {
	kinds := map[string]bool{}
	for _, t := range spec.Targets {
		kinds[t.Kind] = true
	}
	if !kinds[schema.KindGateway] || !kinds[schema.KindService] {
		return nil
	}
	type sum struct{ moved, total int }
	accounts := map[string]sum{}
	for _, n := range networks {
		if n.Account == "" {
			continue
		}
		s := accounts[n.Account]
		accounts[n.Account] = sum{s.moved + n.Moved, s.total + n.Total}
	}
	var words []string
	for _, a := range slices.Sorted(maps.Keys(accounts)) {
		if s := accounts[a]; s.moved > 0 && s.moved < s.total {
			words = append(words, fmt.Sprintf("account %s is gray on its Services, and so are %d of its %d VMs on the Gateways", a, s.moved, s.total))
		}
	}
	return words
}

// conditions are those of a rollout: it is Ready when everything has moved and
// passed, and Stalled where it will not get on by itself.
func (v *rolloutView) conditions(revision string) []Condition {
	s := v.state
	message := strings.Join(slices.DeleteFunc([]string{s.Message, v.waits}, func(w string) bool { return w == "" }), "; ")
	reason := cmp.Or(s.Reason, "Pending")
	since := cmp.Or(v.ready.since, s.Since)
	stuck := s.Stalled || s.Phase == rollout.PhaseRolledBack || s.Failure != nil && s.Phase == rollout.PhasePaused
	if s.Stalled {
		reason = "DeadlineExceeded"
	}
	todo := s.Phase == rollout.PhaseProgressing || s.Phase == rollout.PhaseRollingBack || s.Phase == rollout.PhasePending
	return conditions("Ready", flag{s.Phase == rollout.PhaseCompleted, since}, flag{todo, s.Since}, flag{stuck, s.Since}, revision, reason, message)
}
