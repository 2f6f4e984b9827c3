package probe

import (
	"fmt"
	"net/netip"
	"time"
)

// Verdict is what a verification comes to.
type Verdict string

// The verdicts.
const (
	Passed  Verdict = "passed"
	Failed  Verdict = "failed"  // something is worse than in the baseline
	Unknown Verdict = "unknown" // it could not be found out: neither pass nor blame
)

// Duration is a length of time that is written as Go writes it: 1.5ms.
type Duration time.Duration

// MarshalText gives the notation of Go, to the microsecond.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the notation of Go.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// String gives the notation of Go, to the microsecond.
func (d Duration) String() string { return time.Duration(d).Round(time.Microsecond).String() }

// Latency is of the probes that were answered; all zero where none was.
type Latency struct {
	Min Duration `json:"min"`
	Avg Duration `json:"avg"`
	Max Duration `json:"max"`
	sum time.Duration
	n   int
}

// add takes one answered probe.
func (l *Latency) add(d time.Duration) {
	if l.n == 0 || d < time.Duration(l.Min) {
		l.Min = Duration(d)
	}
	l.Max = max(l.Max, Duration(d))
	l.sum += d
	l.n++
	l.Avg = Duration(l.sum / time.Duration(l.n))
}

// merge takes what another has.
func (l *Latency) merge(o Latency) {
	if o.n == 0 {
		return
	}
	if l.n == 0 || o.Min < l.Min {
		l.Min = o.Min
	}
	l.Max = max(l.Max, o.Max)
	l.sum += o.sum
	l.n += o.n
	l.Avg = Duration(l.sum / time.Duration(l.n))
}

// Answer is what one address answered to one check, in its last attempt; http and
// exec have one answer without an address.
type Answer struct {
	VM         string     `json:"vm,omitempty"`
	Address    netip.Addr `json:"address,omitzero"`
	Moved      bool       `json:"moved"`
	Sent       int        `json:"sent"`
	Received   int        `json:"received"`
	Late       int        `json:"late,omitempty"`       // replies after the time limit, which count as lost
	Duplicates int        `json:"duplicates,omitempty"` // copies of replies, which count for nothing
	Loss       float64    `json:"loss"`                 // per cent
	Before     float64    `json:"before,omitempty"`     // per cent, in the baseline
	Latency    Latency    `json:"latency"`
	Attempts   int        `json:"attempts"`
	Error      string     `json:"error,omitempty"`
	Failed     bool       `json:"failed"` // it is worse than before by more than the check lets pass

	mac   [6]byte
	local bool // Error is of the daemon's own host
}

// reset forgets an attempt and begins the next one.
func (a *Answer) reset() {
	*a = Answer{VM: a.VM, Address: a.Address, Moved: a.Moved, mac: a.mac, Before: a.Before, Attempts: a.Attempts + 1}
}

// who names the address for a reader.
func (a *Answer) who() string {
	switch {
	case !a.Address.IsValid():
		return ""
	case a.VM == "":
		return a.Address.String()
	}
	return fmt.Sprintf("%s (%s)", a.Address, a.VM)
}

// CheckResult is what came of one check.
type CheckResult struct {
	Check     string   `json:"check"` // its name
	Verdict   Verdict  `json:"verdict"`
	Reason    string   `json:"reason,omitempty"` // one line; why it did not pass
	Blind     bool     `json:"blind,omitempty"`  // it is Unknown as nothing answers, and nothing did before
	Addresses int      `json:"addresses"`        // that were probed
	Failed    int      `json:"failed"`           // of these, worse than before
	Dead      int      `json:"dead"`             // of these, no worse than before, as they answered nothing before either
	Skipped   int      `json:"skipped"`          // targets of another family than the monitor's address, and itself
	Sent      int      `json:"sent"`             // probes of the last attempts
	Received  int      `json:"received"`
	Latency   Latency  `json:"latency"`
	Output    string   `json:"output,omitempty"`  // exec: the end of what the program wrote
	LeftOut   int      `json:"leftOut,omitempty"` // answers that Evidence has left out
	Answers   []Answer `json:"answers"`
	broken    bool     // it could not be made
}

// Result is what came of a verification.
type Result struct {
	Verdict Verdict       `json:"verdict"`
	Reason  string        `json:"reason,omitempty"` // one line; why it did not pass
	Started time.Time     `json:"started"`
	Took    Duration      `json:"took"`
	Checks  []CheckResult `json:"checks"`
}
