package sinktest

import (
	"testing"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
)

// patience bounds each call that a test waits for.
const patience = 10 * time.Second

// Config is a sink and its kind of target.
type Config struct {
	// Start starts a new live target and a sink for it, which end with the test.
	Start func(t *testing.T) *Rig
	// Skip has the parts of the suite that do not work with this kind of target, and why.
	Skip map[string]string
}

// Rig is a live target and its sink. Functions may be nil: the parts that need them are
// skipped.
type Rig struct {
	Sink   reconciler.Sink
	Target string // the target under test

	// Elsewhere are the sinks of other targets to which resources refer. They only
	// lower: what they lower is assumed to be live, as the reconciler ensures.
	Elsewhere []reconciler.Sink

	// The documents of a commit and of a later one, by path. The later one creates,
	// updates and deletes resources of the target.
	Base, Changed map[string]string

	// Restart closes the sink and returns a new one for the same live target, as after
	// a restart of the process.
	Restart func() reconciler.Sink
	// Forgets says that the target ends with its sink: after a restart it is empty.
	Forgets bool
	// Sent counts what the sink has sent to change the target, in any unit.
	Sent func() int
	// Kill ends the target, or what the sink cannot work without.
	Kill func()
	// Stall makes the target receive without answering.
	Stall func()
	// Foreign adds something to the target that no document asks for.
	Foreign func()
	// Damage changes or removes something at the target without the sink.
	Damage func()
	// Refused adds a unit to an IR with a resource that the target refuses, and returns
	// the unit's name and the resource's key.
	Refused func(*policies.IR) (policies.Name, reconciler.Key)
}

// parts are the tests of the suite, by name.
var parts = []struct {
	name string
	run  func(*testing.T, *Rig)
}{
	{"Lower", testLower},
	{"Lines", testLines},
	{"Order", testOrder},
	{"Full", testFull},
	{"NoOp", testNoOp},
	{"Again", testAgain},
	{"Update", testUpdate},
	{"Delete", testDelete},
	{"Restart", testRestart},
	{"Leftover", testLeftover},
	{"Foreign", testForeign},
	{"Damage", testDamage},
	{"Refused", testRefused},
	{"Dead", testDead},
	{"Cancelled", testCancelled},
	{"Stalled", testStalled},
}

// Run runs the suite, each part against a target of its own.
func Run(t *testing.T, cfg Config) {
	for _, p := range parts {
		t.Run(p.name, func(t *testing.T) {
			if why := cfg.Skip[p.name]; why != "" {
				t.Skip(why)
			}
			p.run(t, cfg.Start(t))
		})
	}
	for name := range cfg.Skip {
		if !isPart(name) {
			t.Errorf("there is no part %q", name)
		}
	}
}

func isPart(name string) bool {
	for _, p := range parts {
		if p.name == name {
			return true
		}
	}
	return false
}

// need skips a part that needs what this kind of target does not have.
func need(t *testing.T, have bool, what string) {
	t.Helper()
	if !have {
		t.Skipf("this kind of target has no way to %s", what)
	}
}
