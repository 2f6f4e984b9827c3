package rollout

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// RolloutVersion is the layout of a stored Rollout.
const Layout = 1

// Rollout is where the rollout of one policy stands: what it has moved, and what
// it waits for. It is a value: Step and Do return a new one and leave this one as
// it is.
type State struct {
	Version     int    `json:"version"` // RolloutVersion
	Policy      string `json:"policy"`
	Run         int    `json:"run"`         // counts the starts from nothing
	Identity    string `json:"identity"`    // of the RolloutSpec that it follows
	Content     string `json:"content"`     // likewise
	Fingerprint string `json:"fingerprint"` // likewise

	// Generation grows whenever what is to be live changes, by progress or by a
	// commit. Batches and verdicts name the one that they are of.
	Generation uint64     `json:"generation"`
	Moving     []*Move    `json:"moving,omitempty"`  // in the order of the documents; a Move is not changed once it stands here
	Done       []string   `json:"done,omitempty"`    // Networks that are moved as a whole and have passed, sorted
	Back       uint64     `json:"back,omitempty"`    // the generation at which everything went back and is not confirmed yet
	Aborted    string     `json:"aborted,omitempty"` // the content that failed last; it is not tried again
	Failure    *Failure   `json:"failure,omitempty"` // why it went back or stands still
	Hold       *Override  `json:"hold,omitempty"`    // a person's word on suspend
	Approved   []Approval `json:"approved,omitempty"`
	Waiting    []Gate     `json:"waiting,omitempty"` // open gates
	Progressed time.Time  `json:"progressed"`        // when it last got on, for the deadline
	Stalled    bool       `json:"stalled,omitempty"` // it did not for longer than the deadline
	Phase      Phase      `json:"phase"`
	Reason     string     `json:"reason"` // CamelCase
	Message    string     `json:"message,omitempty"`
	Since      time.Time  `json:"since"` // of Phase

	// Where the search for the next Network begins: all before it in this order
	// are done or moving.
	order *Spec
	next  int
}

// Phase is where a rollout stands as a whole.
type Phase string

// The phases.
const (
	PhasePending     Phase = "Pending"     // nothing has moved yet
	PhaseProgressing Phase = "Progressing" // a batch is made live, is tested or bakes
	PhasePaused      Phase = "Paused"      // it keeps what is live and waits for people
	PhaseRollingBack Phase = "RollingBack" // everything is at the default, and not all sinks have said so
	PhaseRolledBack  Phase = "RolledBack"  // everything is at the default, until the content changes or somebody says retry
	PhaseCompleted   Phase = "Completed"   // every Network has moved and passed
)

// Stage is where one Network stands.
type Stage string

// The stages of a Network. Those that are done have none.
const (
	StageBaseline  Stage = "Baseline"  // the probes run before anything of it moves
	StageApplying  Stage = "Applying"  // its batch is not live at every sink yet
	StageVerifying Stage = "Verifying" // its batch is live, and the probes run
	StagePassed    Stage = "Passed"    // its batch has passed and bakes, or waits for a gate
	StageFailed    Stage = "Failed"    // its batch has failed, and people are to decide
)

// Move is one Network that is being moved.
type Move struct {
	Network    string       `json:"network"`
	Stage      Stage        `json:"stage"`
	Batch      int          `json:"batch"`           // the batch that is live or on its way, from 1; 0: none
	Whole      bool         `json:"whole,omitempty"` // it is the last one, which takes the VPC as a whole
	VMs        []netip.Addr `json:"vms,omitempty"`   // what has moved, sorted
	Fresh      []netip.Addr `json:"fresh,omitempty"` // those of them that came with the batch
	Generation uint64       `json:"generation"`      // that has to be live for a verdict
	Attempt    int          `json:"attempt,omitempty"`
	Since      time.Time    `json:"since"`          // of Stage
	Dead       []string     `json:"dead,omitempty"` // checks that failed before anything moved, and are not blamed on the release
}

// Failure says what went wrong.
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
}

// Override is a person's word that stands against Git until Git says the same.
type Override struct {
	Suspend bool      `json:"suspend"`
	Who     string    `json:"who"`
	Why     string    `json:"why,omitempty"`
	At      time.Time `json:"at"`
}

// Gate is a step that waits for a person.
type Gate struct {
	ID      string `json:"id"` // names this step of this run, so that it is promoted once
	Network string `json:"network"`
	Batch   int    `json:"batch"`  // the first one that waits
	Reason  string `json:"reason"` // ApprovalRequired or ThroughReached
}

// Approval is a gate that a person has opened.
type Approval struct {
	Gate
	Who string    `json:"who"`
	Why string    `json:"why,omitempty"`
	At  time.Time `json:"at"`
}

// Observation is what is known outside of the documents.
type Observation struct {
	Confirmed uint64    // the generation that is live at every sink, as read back; 0 while something is not
	Refused   *Refusal  // a generation that cannot be made
	Verdicts  []Verdict // since the last Step
	Revision  string    // the commit in force
}

// Refusal says why the compiler cannot make a generation.
type Refusal struct {
	Generation uint64
	Message    string
}

// Probe is a verification that is to run now. Its name is Network, Fingerprint,
// Generation, Attempt and Baseline.
type Probe struct {
	Network     string
	Batch       int
	Fingerprint string // of the RolloutSpec
	Generation  uint64
	Attempt     int
	Baseline    bool
	VMs         []netip.Addr // what has moved; of a Baseline, nothing
	Fresh       []netip.Addr // those of them that came with the batch
	Ignore      []string     // checks that were dead before
}

// Verdict is how a Probe ended. Of a Baseline only Dead counts.
type Verdict struct {
	Network     string
	Fingerprint string
	Generation  uint64
	Attempt     int
	Baseline    bool
	Passed      bool
	Dead        []string // the checks that failed, by a name that is the same in every probe
	Evidence    []string // for people
}

// Event is a transition, to be told.
type Event struct {
	Warning bool   `json:"warning,omitempty"`
	Reason  string `json:"reason"` // CamelCase
	Network string `json:"network,omitempty"`
	Batch   int    `json:"batch,omitempty"`
	Message string `json:"message"`
}

// Actions is what follows from a Step.
type Actions struct {
	Probes []Probe   // all that are to run now; others are to end
	Wake   time.Time // when to Step again without news; zero: never
	Events []Event
	Ended  bool // the policy has no rollout any more: nothing is kept
}

// NewRollout is a rollout that has not begun.
func New(policy string) *State {
	return &State{Version: Layout, Policy: policy, Phase: PhasePending}
}

// ReadRollout reads the stored form of a Rollout, which is JSON.
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

// Progress is what has moved, for Compiler.SetProgress.
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

// done tells whether a Network has moved and passed.
func (r *State) IsDone(network string) bool {
	_, ok := slices.BinarySearch(r.Done, network)
	return ok
}

// moving is the place of a Network in Moving, or -1.
func (r *State) IndexOf(network string) int {
	return slices.IndexFunc(r.Moving, func(m *Move) bool { return m.Network == network })
}

// Empty tells whether everything is at the default.
func (r *State) Empty() bool {
	return len(r.Done) == 0 && !slices.ContainsFunc(r.Moving, func(m *Move) bool { return m.Whole || len(m.VMs) > 0 })
}
