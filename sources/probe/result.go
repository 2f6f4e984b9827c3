package probe

import (
	"fmt"
	"net/netip"
	"time"
)

// Verdict is the result of a probe or of one of its tests.
type Verdict string

// The verdicts.
const (
	Passed  Verdict = "passed"
	Failed  Verdict = "failed"  // something is worse than in the baseline
	Unknown Verdict = "unknown" // it could not be found out
)

// Duration is a time.Duration whose text is in Go's notation, such as 1.5ms.
type Duration time.Duration

// MarshalText writes Go's notation, to the microsecond.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads Go's notation.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// String is Go's notation, to the microsecond.
func (d Duration) String() string { return time.Duration(d).Round(time.Microsecond).String() }

// Latency is that of the answered requests; all zero if there were none.
type Latency struct {
	Min Duration `json:"min"`
	Avg Duration `json:"avg"`
	Max Duration `json:"max"`
	sum time.Duration
	n   int
}

// add adds an answered request.
func (l *Latency) add(d time.Duration) {
	if l.n == 0 || d < time.Duration(l.Min) {
		l.Min = Duration(d)
	}
	l.Max = max(l.Max, Duration(d))
	l.sum += d
	l.n++
	l.Avg = Duration(l.sum / time.Duration(l.n))
}

// merge adds the requests of another Latency.
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

// Answer is the result of one test for one address, in its last attempt. http and exec
// have one answer without an address.
type Answer struct {
	VM         string     `json:"vm,omitempty"`
	Address    netip.Addr `json:"address,omitzero"`
	Moved      bool       `json:"moved"`
	Sent       int        `json:"sent"`
	Received   int        `json:"received"`
	Late       int        `json:"late,omitempty"`       // replies after the time limit, counted as lost
	Duplicates int        `json:"duplicates,omitempty"` // copies of replies, not counted
	Loss       float64    `json:"loss"`                 // per cent
	Before     float64    `json:"before,omitempty"`     // per cent, in the baseline
	Latency    Latency    `json:"latency"`
	Attempts   int        `json:"attempts"`
	Error      string     `json:"error,omitempty"`
	Failed     bool       `json:"failed"` // it lost more than before, by more than the test allows

	mac   [6]byte
	local bool // the daemon's host caused Error
}

// reset begins the next attempt.
func (a *Answer) reset() {
	*a = Answer{VM: a.VM, Address: a.Address, Moved: a.Moved, mac: a.mac, Before: a.Before, Attempts: a.Attempts + 1}
}

// who begins a line about the answer: "10.0.0.5 (web-1), moved, ".
func (a *Answer) who() string {
	if !a.Address.IsValid() {
		return ""
	}
	name, kind := "", "a peer"
	if a.VM != "" {
		name = " (" + a.VM + ")"
	}
	if a.Moved {
		kind = "moved"
	}
	return fmt.Sprintf("%s%s, %s, ", a.Address, name, kind)
}

// TestResult is the result of one test.
type TestResult struct {
	Test      string   `json:"check"` // its name
	Verdict   Verdict  `json:"verdict"`
	Reason    string   `json:"reason,omitempty"` // why it did not pass, on one line
	Blind     bool     `json:"blind,omitempty"`  // it is Unknown because nothing answers, and nothing did before
	Addresses int      `json:"addresses"`        // how many were tested
	Failed    int      `json:"failed"`           // of these, worse than before
	Dead      int      `json:"dead"`             // of these, without an answer now and before
	Skipped   int      `json:"skipped"`          // targets of another IP version than the monitor, and the monitor
	Sent      int      `json:"sent"`             // requests of the last attempts
	Received  int      `json:"received"`
	Latency   Latency  `json:"latency"`
	Output    string   `json:"output,omitempty"`  // exec: the end of what the program wrote
	LeftOut   int      `json:"leftOut,omitempty"` // how many answers Evidence has left out
	Answers   []Answer `json:"answers"`
	broken    bool     // it could not be made
}

// Result is the result of a probe.
type Result struct {
	Verdict Verdict      `json:"verdict"`
	Reason  string       `json:"reason,omitempty"` // why it did not pass, on one line
	Started time.Time    `json:"started"`
	Took    Duration     `json:"took"`
	Tests   []TestResult `json:"checks"`
}
