package sinktest

import (
	"testing"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
)

// patience is how long a sink may take for what has to be prompt.
const patience = 10 * time.Second

// Config is a sink and its kind of target.
type Config struct {
	// Start makes a fresh live target and a sink that reaches it. Everything ends
	// with the test.
	Start func(t *testing.T) *Rig
	// Skip says which parts this kind of target cannot take, and why.
	Skip map[string]string
}

// Rig is a live target and a sink on it. Functions that are nil are for what
// this kind of target does not have; the parts that need them are skipped.
type Rig struct {
	Sink   reconciler.Sink
	Target string // the target that is looked at

	// Elsewhere are the sinks whose targets the resources refer to. They only lower:
	// what is referred to there is taken to be live, as the reconciler promises.
	Elsewhere []reconciler.Sink

	// Documents of a commit and of a later one, by path: the second adds, changes
	// and takes away resources of the target.
	Base, Changed map[string]string

	// Restart ends the sink and returns another one on the same live target, as a
	// restarted process has it.
	Restart func() reconciler.Sink
	// Forgets says that the target ends with its sink: after a restart it is empty and
	// has to be filled again.
	Forgets bool
	// Sent counts what the sink has sent to the target to change it, in whatever
	// unit.
	Sent func() int
	// Kill ends the target, or what the sink cannot work without.
	Kill func()
	// Stall makes the target take what is sent and answer no more.
	Stall func()
	// Foreign puts something on the target that no document asks for.
	Foreign func()
	// Damage changes or removes something behind the sink's back.
	Damage func()
	// Refused puts a unit into an IR whose resource the target refuses, and returns
	// the unit and the resource's key.
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
			t.Errorf("there is no part %q to skip", name)
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

// need skips a part that this kind of target does not have.
func need(t *testing.T, have bool, what string) {
	t.Helper()
	if !have {
		t.Skipf("this kind of target has no way to %s", what)
	}
}
