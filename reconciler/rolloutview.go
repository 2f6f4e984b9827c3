package reconciler

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/schema"
)

// The documents may change a rollout without changing what is live: they then say
// what is to move later, and how. Of this a plan says a line a rollout.

// compareRollouts says what changes of the rollouts between two commits, sorted.
func compareRollouts(was, is map[string]*rollout.Spec) []string {
	names := map[string]bool{}
	for _, specs := range []map[string]*rollout.Spec{was, is} {
		for policy := range specs {
			names[policy] = true
		}
	}
	lines := []string{}
	for _, policy := range slices.Sorted(maps.Keys(names)) {
		old, now := traits(was[policy]), traits(is[policy])
		switch {
		case was[policy] == nil:
			lines = append(lines, fmt.Sprintf("+ rollout %s: %s", policy, words(now)))
		case is[policy] == nil:
			lines = append(lines, fmt.Sprintf("- rollout %s: %s; all its units go to the default", policy, words(old)))
		default:
			var changes []string
			for i := range now {
				if old[i].value != now[i].value {
					changes = append(changes, fmt.Sprintf("%s %s -> %s", now[i].name, cmp.Or(old[i].value, "none"), cmp.Or(now[i].value, "none")))
				}
			}
			if was[policy].Identity == is[policy].Identity && was[policy].Content != is[policy].Content && len(changes) == 0 {
				changes = append(changes, "what it moves to has changed")
			}
			if len(changes) == 0 && !slices.EqualFunc(was[policy].Networks, is[policy].Networks, sameName) {
				changes = append(changes, "it moves other Networks, or in another order")
			}
			if len(changes) > 0 {
				lines = append(lines, fmt.Sprintf("~ rollout %s: %s", policy, strings.Join(changes, "; ")))
			}
		}
	}
	return lines
}

func sameName(a, b rollout.Network) bool { return a.Name == b.Name }

// trait is one thing that a rollout is told by.
type trait struct{ name, value string }

// traits are all of a rollout, in one order; an empty value is left out.
func traits(spec *rollout.Spec) []trait {
	if spec == nil {
		return nil
	}
	r := spec.Rollout
	vms := 0
	var names, batches []string
	for i := range spec.Networks {
		vms += len(spec.Networks[i].VMs)
		names = append(names, spec.Networks[i].Name)
	}
	for _, b := range r.Batches {
		batches = append(batches, b.String())
	}
	const some = 5
	if len(names) > some {
		names = append(names[:some], fmt.Sprintf("and %d more", len(names)-some))
	}
	all := []trait{
		{"to", spec.Identity},
		{"moves", fmt.Sprintf("%d VMs of %d Networks (%s)", vms, len(spec.Networks), strings.Join(names, ", "))},
		{"batches", strings.Join(batches, ", ")},
		{"parallel", fmt.Sprint(r.Parallel)},
		{"bake", unlessZero(r.Bake)},
		{"approval", r.Approval},
		{"through", ""},
		{"verify", ""},
		{"deadline", unlessZero(r.Deadline)},
		{"onFailure", r.OnFailure},
		{"suspend", ""},
	}
	set := func(name, value string) {
		all[slices.IndexFunc(all, func(t trait) bool { return t.name == name })].value = value
	}
	if t := r.Through; t != nil {
		set("through", fmt.Sprintf("batch %d of %s", t.Batch, t.Network))
	}
	if r.Verify != nil {
		set("verify", checksOf(r.Verify))
	}
	if spec.Suspend {
		set("suspend", "true")
	}
	return all
}

func unlessZero(d schema.Duration) string {
	if d == 0 {
		return ""
	}
	return time.Duration(d).String()
}

// checksOf says in words what is tested.
func checksOf(v *schema.Verify) string {
	var checks []string
	if p := v.Ping; p != nil {
		checks = append(checks, fmt.Sprintf("ping (%s, %d times, %s each, up to %d%% lost, %d peers)", p.Source, p.Count, p.Timeout, p.MaxLoss, p.Peers))
	}
	if v.TCP != nil {
		checks = append(checks, fmt.Sprintf("tcp %d within %s", v.TCP.Port, v.TCP.Timeout))
	}
	if v.HTTP != nil {
		checks = append(checks, fmt.Sprintf("http %s is %d", v.HTTP.URL, v.HTTP.Expect))
	}
	if v.Exec != nil {
		checks = append(checks, fmt.Sprintf("exec %s within %s", strings.Join(v.Exec.Command, " "), v.Exec.Timeout))
	}
	return strings.Join(append(checks, fmt.Sprintf("%d retries", v.Retries)), ", ")
}

func words(traits []trait) string {
	var all []string
	for _, t := range traits {
		if t.value != "" {
			all = append(all, t.name+" "+t.value)
		}
	}
	return strings.Join(all, "; ")
}

// specsOf are the rollouts of the documents that a compiler has compiled.
func specsOf(c *policies.Compiler) map[string]*rollout.Spec {
	specs := map[string]*rollout.Spec{}
	for _, policy := range c.Rollouts() {
		specs[policy] = c.Rollout(policy)
	}
	return specs
}

// ongoing is where the rollouts are, for a dry run. Nobody changes what it holds.
type ongoing struct {
	specs     map[string]*rollout.Spec // in force
	states    map[string]*rollout.State
	confirmed map[string]uint64
}

// ongoing is where the rollouts are.
func (r *Reconciler) ongoing() ongoing {
	s := ongoing{map[string]*rollout.Spec{}, map[string]*rollout.State{}, map[string]uint64{}}
	for policy, ro := range r.rollouts {
		s.states[policy], s.confirmed[policy] = ro.state, r.confirmed(ro)
		if ro.spec != nil {
			s.specs[policy] = ro.spec
		}
	}
	return s
}

// returns tells which resources go back to the default because documents no longer
// have a rollout that has moved them, or have it move to something else. A rollback is
// no loss: without them, the default is there again.
func (s ongoing) returns(specs map[string]*rollout.Spec) func(*Resource) bool {
	vnis, accounts := map[uint32]bool{}, map[string]bool{}
	for policy, state := range s.states {
		was, is := s.specs[policy], specs[policy]
		if was == nil || is != nil && is.Identity == state.Identity {
			continue
		}
		for i := range was.Networks {
			vnis[was.Networks[i].VNI] = true
			accounts[was.Networks[i].Account] = true
		}
	}
	delete(vnis, 0)
	delete(accounts, "")
	return func(res *Resource) bool {
		body, takes := res.Body.(taker)
		if !takes {
			return false
		}
		vni, account := body.Takes()
		return vnis[vni] || accounts[account]
	}
}

// begin has the rollouts of documents that were compiled take the step that the loop
// takes as soon as it adopts them, and tells what has moved then and what happens.
// What follows after a test or after time is not of it.
func (s ongoing) begin(specs map[string]*rollout.Spec, facts policies.Facts, now time.Time) (begun policies.Facts, lines []string) {
	for _, policy := range slices.Sorted(maps.Keys(specs)) {
		state := s.states[policy]
		if state == nil {
			state = rollout.New(policy)
		}
		next, actions := state.Step(specs[policy], rollout.Observation{Confirmed: s.confirmed[policy]}, now)
		facts = facts.WithProgress(policy, next.Progress())
		for _, e := range actions.Events {
			if !strings.HasPrefix(e.Reason, "Phase") {
				lines = append(lines, fmt.Sprintf("> rollout %s: %s", policy, e.Message))
			}
		}
	}
	return facts, lines
}

// RolloutStatus is the status of the rollout of one policy.
type RolloutStatus struct {
	Policy     string        `json:"policy"`
	Version    string        `json:"version"`
	Targets    []string      `json:"targets"` // Gateway/vpc-gw
	Run        int           `json:"run"`     // counts the starts from nothing
	Phase      rollout.Phase `json:"phase"`
	Since      time.Time     `json:"since"` // of Phase
	Generation uint64        `json:"generation"`
	Waits      string        `json:"waits,omitempty"` // why what is to be live is not confirmed, or why it cannot be tested or stored
	RolloutProgress
	Gates      []rollout.Gate   `json:"gates,omitempty"`     // that wait for a person
	Overrides  []string         `json:"overrides,omitempty"` // what people said that Git does not say yet
	Split      []string         `json:"split,omitempty"`     // accounts that are gray on one plane and not, or not yet wholly, on the other
	Others     []string         `json:"others,omitempty"`    // what other policies move of what it names, which it neither counts nor tests
	Failure    *rollout.Failure `json:"failure,omitempty"`
	Conditions []Condition      `json:"conditions"` // Ready first; Reconciling and Stalled where they are True
}

// RolloutProgress is how far a rollout is.
type RolloutProgress struct {
	Moved    int               `json:"moved"` // VMs
	Total    int               `json:"total"`
	Batches  []string          `json:"batches"`
	Networks []NetworkProgress `json:"networks"` // in the order in which they move
}

// NetworkProgress is the progress of one Network.
type NetworkProgress struct {
	Name    string           `json:"name"`
	VNI     uint32           `json:"vni"`
	Account string           `json:"account,omitempty"`
	Stage   rollout.Stage    `json:"stage,omitempty"` // of one that is moving; Done of one that has moved
	Batch   int              `json:"batch,omitempty"` // that is live or on its way, from 1
	Moved   int              `json:"moved"`           // VMs
	Total   int              `json:"total"`
	Dead    int              `json:"dead,omitempty"`    // checks that failed before anything moved
	Reached *rollout.Reached `json:"reached,omitempty"` // how far it had come before everything went back
}

// Rollouts returns the status of the rollouts, sorted, or with a name that of one policy;
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

// status returns the status of a rollout.
func (v *rolloutView) status(revision string) RolloutStatus {
	s, spec := v.state, v.spec
	out := RolloutStatus{
		Policy: s.Policy, Run: s.Run, Phase: s.Phase, Since: s.Since, Generation: s.Generation, Waits: v.waits,
		Targets: []string{}, RolloutProgress: RolloutProgress{Batches: []string{}, Networks: []NetworkProgress{}}, Gates: s.Waiting, Failure: s.Failure,
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
		if others := spec.Others(); others != "" {
			out.Others = strings.Split(others, "; ")
		}
	}
	out.Conditions = v.conditions(revision)
	return out
}

// networks returns the progress of each Network.
func (out *RolloutStatus) networks(s *rollout.State, spec *rollout.Spec) {
	moving := make(map[string]*rollout.Move, len(s.Moving))
	for _, m := range s.Moving {
		moving[m.Network] = m
	}
	reached := map[string]*rollout.Reached{}
	if f := s.Failure; f != nil && (s.Phase == rollout.PhaseRolledBack || s.Phase == rollout.PhaseRollingBack) {
		for i := range f.Reached {
			reached[f.Reached[i].Network] = &f.Reached[i]
		}
	}
	for i := range spec.Networks {
		n := &spec.Networks[i]
		p := NetworkProgress{Name: n.Name, VNI: n.VNI, Account: n.Account, Total: len(n.VMs), Reached: reached[n.Name]}
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
	stuck := s.Stalled || s.Reason == rollout.ReasonNothing || s.Phase == rollout.PhaseRolledBack || s.Failure != nil && s.Phase == rollout.PhasePaused
	if s.Stalled {
		reason = "DeadlineExceeded"
	}
	todo := s.Phase == rollout.PhaseProgressing || s.Phase == rollout.PhaseRollingBack || s.Phase == rollout.PhasePending
	return conditions("Ready", flag{s.Phase == rollout.PhaseCompleted, since}, flag{todo, s.Since}, flag{stuck, s.Since}, revision, reason, message)
}
