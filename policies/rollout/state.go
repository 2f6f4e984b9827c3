// Package rollout is the state machine of rollouts: Networks move to a version batch
// by batch, each batch is tested, and a failure pauses the rollout or rolls it back.
//
// It is pure: (spec, state, observation, now) gives a new state and the probes to run.
// The compiler makes the Spec from the documents and applies the Progress; package
// rollout imports neither the compiler nor anything that does I/O or reads a clock.
package rollout

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Layout is the version of the stored form of a State.
const Layout = 1

// State is the state of the rollout of one policy: what has moved, and what it waits
// for. It is a value: Step and Do return a new one and do not change their receiver.
type State struct {
	Version int    `json:"version"` // Layout
	Policy  string `json:"policy"`
	Run     int    `json:"run"` // how often it has started with nothing moved
	Digests        // of the Spec that it follows

	// Generation grows whenever what has to be live changes, by progress or by a
	// commit. Batches and verdicts carry the generation that they are about.
	Generation uint64   `json:"generation"`
	Moving     []*Move  `json:"moving,omitempty"`  // in the order of the Spec; a Move is never changed, only replaced
	Done       []string `json:"done,omitempty"`    // Networks that have moved as a whole and passed, sorted
	Back       uint64   `json:"back,omitempty"`    // the generation of a rollback that is not confirmed yet; 0: none
	Aborted    string   `json:"aborted,omitempty"` // the content that failed last; it is not tried again
	Failure    *Failure `json:"failure,omitempty"` // why it was rolled back or is paused
	Decisions
	Status

	// next is where the search for the next Network starts in the order of a Spec:
	// all before it are done or moving.
	order *Spec
	next  int
}

// Decisions is what people have decided, and what waits for them.
type Decisions struct {
	Override *Override  `json:"hold,omitempty"` // of suspend
	Approved []Approval `json:"approved,omitempty"`
	Waiting  []Gate     `json:"waiting,omitempty"`
}

// Status describes a rollout as a whole.
type Status struct {
	Progressed time.Time `json:"progressed"`        // time of the last progress, for the deadline
	Stalled    bool      `json:"stalled,omitempty"` // no progress for longer than the deadline
	Phase      Phase     `json:"phase"`
	Reason     string    `json:"reason"` // CamelCase
	Message    string    `json:"message,omitempty"`
	Since      time.Time `json:"since"` // of Phase
}

// Phase is the phase of a rollout.
type Phase string

// The phases.
const (
	PhasePending     Phase = "Pending"     // nothing has moved yet
	PhaseProgressing Phase = "Progressing" // a batch is being made live or tested, or bakes
	PhasePaused      Phase = "Paused"      // it waits for people and keeps what is live
	PhaseRollingBack Phase = "RollingBack" // everything goes back to the default, and not every sink has confirmed it
	PhaseRolledBack  Phase = "RolledBack"  // everything is at the default until the content changes or a person retries
	PhaseCompleted   Phase = "Completed"   // every Network has moved and passed
)

// Stage is the stage of one Network.
type Stage string

// The stages of a Network in Moving.
const (
	StageBaseline  Stage = "Baseline"  // the baseline probe runs, before anything moves
	StageApplying  Stage = "Applying"  // its batch is not live on every sink yet
	StageVerifying Stage = "Verifying" // its batch is live, and its probe runs
	StagePassed    Stage = "Passed"    // its batch has passed and bakes, or waits for a gate
	StageFailed    Stage = "Failed"    // its batch has failed, and people have to decide
)

// Move is a Network that is moving.
type Move struct {
	Network    string       `json:"network"`
	Stage      Stage        `json:"stage"`
	Batch      int          `json:"batch"`           // the batch that is live or being made live, from 1; 0: none
	Whole      bool         `json:"whole,omitempty"` // it is the last batch, which moves the VPC as a whole
	VMs        []netip.Addr `json:"vms,omitempty"`   // what has moved, sorted
	Fresh      []netip.Addr `json:"fresh,omitempty"` // the VMs that the batch added
	Generation uint64       `json:"generation"`      // the generation that a verdict has to be about
	Attempt    int          `json:"attempt,omitempty"`
	Since      time.Time    `json:"since"`          // of Stage
	Dead       []string     `json:"dead,omitempty"` // checks that failed in the baseline, and are ignored later
}

// Failure is what went wrong.
type Failure struct {
	Reason     string    `json:"reason"` // VerificationFailed, PlanRefused, AbortedByUser or FailedBefore
	Network    string    `json:"network,omitempty"`
	Batch      int       `json:"batch,omitempty"`
	Generation uint64    `json:"generation"`
	Revision   string    `json:"revision,omitempty"` // the commit
	Evidence   []string  `json:"evidence,omitempty"`
	Who        string    `json:"who,omitempty"`
	Why        string    `json:"why,omitempty"`
	At         time.Time `json:"at"`
	Reached    []Reached `json:"reached,omitempty"` // of a rollback: how far each Network had come, in order
}

// Reached is how far a Network had come before everything went back.
type Reached struct {
	Network string `json:"network"`
	Batch   int    `json:"batch"`
	VMs     int    `json:"vms"` // that had moved
}

// Override is a person's value of suspend. It wins over Git until Git says the same.
type Override struct {
	Suspend bool      `json:"suspend"`
	Who     string    `json:"who"`
	Why     string    `json:"why,omitempty"`
	At      time.Time `json:"at"`
}

// Gate is a batch that waits for a person.
type Gate struct {
	ID      string `json:"id"` // unique to the batch and the run
	Network string `json:"network"`
	Batch   int    `json:"batch"`  // the first batch that waits
	Reason  string `json:"reason"` // ApprovalRequired or ThroughReached
}

// Approval is a gate that a person has promoted.
type Approval struct {
	Gate
	Who string    `json:"who"`
	Why string    `json:"why,omitempty"`
	At  time.Time `json:"at"`
}

// Observation is what a Step needs to know beside the documents.
type Observation struct {
	Confirmed uint64    // the generation that is live on every sink, as read back; 0: something is not live
	Refused   *Refusal  // a generation that cannot be compiled; nil: none
	Verdicts  []Verdict // since the last Step
	Revision  string    // the commit in force
}

// Refusal says why a generation cannot be compiled.
type Refusal struct {
	Generation uint64
	Message    string
}

// Probe is one regression test that has to run now. Network, Fingerprint, Generation,
// Attempt and Baseline identify it.
type Probe struct {
	Network     string
	Batch       int
	Fingerprint string // of the Spec
	Generation  uint64
	Attempt     int
	Baseline    bool
	VMs         []netip.Addr // what has moved; empty for a baseline
	Fresh       []netip.Addr // the VMs that the batch added
	Ignore      []string     // checks that failed in the baseline
}

// Verdict is the result of a Probe. Of a baseline only Dead counts.
type Verdict struct {
	Network     string
	Fingerprint string
	Generation  uint64
	Attempt     int
	Baseline    bool
	Passed      bool
	Dead        []string // the checks that failed; a check has the same name in every probe
	Evidence    []string // for people
}

// Event reports a transition.
type Event struct {
	Warning bool   `json:"warning,omitempty"`
	Reason  string `json:"reason"` // CamelCase
	Network string `json:"network,omitempty"`
	Batch   int    `json:"batch,omitempty"`
	Message string `json:"message"`
}

// Actions is what the caller of Step has to do.
type Actions struct {
	Probes []Probe   // all that have to run now; others have to end
	Wake   time.Time // when to call Step again without news; zero: never
	Events []Event
	Ended  bool // the policy no longer has a rollout: the State is not needed
}

// New returns the state of a rollout that has not started.
func New(policy string) *State {
	return &State{Version: Layout, Policy: policy, Status: Status{Phase: PhasePending}}
}

// Read reads the stored form of a State, which is JSON.
func Read(b []byte) (*State, error) {
	r := new(State)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, err
	}
	if r.Version != Layout {
		return nil, fmt.Errorf("rollout %q has layout %d, this gray reads %d; use the gray that wrote it", r.Policy, r.Version, Layout)
	}
	return r, nil
}

// Progress returns what has moved.
func (r *State) Progress() Progress {
	p := Progress{Identity: r.Identity, Whole: r.Done}
	for _, m := range r.Moving {
		switch {
		case m.Whole:
			i, _ := slices.BinarySearch(p.Whole, m.Network)
			p.Whole = slices.Insert(slices.Clip(p.Whole), i, m.Network)
		case len(m.VMs) > 0:
			if p.VMs == nil {
				p.VMs = map[string][]netip.Addr{}
			}
			p.VMs[m.Network] = m.VMs
		}
	}
	return p
}

// isDone tells whether a Network has moved and passed.
func (r *State) isDone(network string) bool {
	_, ok := slices.BinarySearch(r.Done, network)
	return ok
}

// indexOf is the index of a Network in Moving, or -1.
func (r *State) indexOf(network string) int {
	return slices.IndexFunc(r.Moving, func(m *Move) bool { return m.Network == network })
}

// Empty tells whether everything is at the default.
func (r *State) Empty() bool {
	return len(r.Done) == 0 && !slices.ContainsFunc(r.Moving, func(m *Move) bool { return m.Whole || len(m.VMs) > 0 })
}
