package reconciler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/schema"
)

// Key names a resource. Target is where it lives: "xds" for the Envoys,
// "p4rt/<switch>" for a switch. Kind is the sink's word for what it is (Cluster,
// gray_vpc); Name is unique among a target's resources of that kind.
type Key struct{ Target, Kind, Name string }

// String gives "target kind name".
func (k Key) String() string { return k.Target + " " + k.Kind + " " + k.Name }

// Compare orders keys by target, kind and name.
func (k Key) Compare(l Key) int {
	return cmp.Or(strings.Compare(k.Target, l.Target), strings.Compare(k.Kind, l.Kind), strings.Compare(k.Name, l.Name))
}

// Body is a sink's native resource in canonical form: what was lowered and what
// was read back are Equal exactly when nothing has to be done. It is immutable. A
// desired one may be Equal to whatever is live, while it is not known what is to be.
// One with a method Heir names the kind and the name of what, where it is to be at
// the same target, serves in its place: the guard does not count it as lost.
// One with a method Takes names the VNI or the account whose traffic it takes away
// from the default. One of KindTarget with a method Resets tells whether to come from
// old to this takes all that is on the target; else any difference does.
type Body interface {
	Equal(Body) bool
	String() string        // the whole of it on one line, for a plan; no secrets
	Delta(old Body) string // what has to change to come from old to this, on one line
}

// FromTo is the Delta of a Body that shows both as a whole.
func FromTo(old, b Body) string { return old.String() + " -> " + b.String() }

// Resource is one thing that a sink keeps somewhere.
type Resource struct {
	Key
	Rank   int   // references point to lower ranks only; creates go up the ranks, deletes down
	Refs   []Key // what must be live before this is, here or at another target, and as long as this is
	Body   Body
	Origin schema.Position // the document that causes it; zero where nobody knows

	// Together says that what happens to the target's resources of this mark
	// happens at once, in one Apply between the updates and the deletes: any part of
	// it alone would be neither what was nor what is to be.
	Together bool

	unit *policies.Name // that it was lowered from; nil where it was read back
}

// State is resources by key.
type State map[Key]*Resource

// Change takes one key from Old to New: nil Old is a create, nil New a delete.
type Change struct{ Old, New *Resource }

// Op is what a change does, as the sign that plans print for it.
type Op byte

// The three operations, in the order in which they are applied (but see KindTarget
// and Together).
const (
	Create Op = '+'
	Update Op = '~'
	Delete Op = '-'
)

// Op tells what the change does.
func (c Change) Op() Op {
	switch {
	case c.Old == nil:
		return Create
	case c.New == nil:
		return Delete
	}
	return Update
}

// Key is the key that changes.
func (c Change) Key() Key { return c.either().Key }

// Rank is the rank at which the change takes its turn.
func (c Change) Rank() int { return c.either().Rank }

// Origin is the document that causes the change; for a delete, the one that
// had caused the resource.
func (c Change) Origin() schema.Position { return c.either().Origin }

func (c Change) either() *Resource {
	if c.New != nil {
		return c.New
	}
	return c.Old
}

// String is the change's line in a plan.
func (c Change) String() string {
	var text string
	switch c.Op() {
	case Create:
		text = c.New.Body.String()
	case Update:
		text = c.New.Body.Delta(c.Old.Body)
	case Delete:
		text = c.Old.Body.String()
	}
	line := fmt.Sprintf("%c %s: %s", c.Op(), c.Key(), text)
	if o := c.Origin(); o.Path != "" {
		line += "  # " + o.String()
	}
	return line
}

// Compare orders changes as they are applied. Each target has its own sequence:
// what the target itself is to be, creates, updates, what has to be done together
// (deletes last), deletes; within each by rank (downwards for deletes), then by key.
func (c Change) Compare(d Change) int {
	return cmp.Or(strings.Compare(c.Key().Target, d.Key().Target), cmp.Compare(c.turn(), d.turn()),
		cmp.Compare(c.step(), d.step()), c.Key().Compare(d.Key()))
}

// step is the place of a change in its turn: up the ranks, and down again for the
// deletes, which come last where there are others.
func (c Change) step() int {
	if c.Op() == Delete {
		return math.MaxInt - c.Rank()
	}
	return c.Rank()
}

// The turns of a target's sequence.
const (
	turnTarget = iota
	turnCreate
	turnUpdate
	turnTogether
	turnDelete
	turnRelease
)

// turn is the place of a change in its target's sequence. Nothing can be put on a
// switch before its pipeline is loaded, be that a create or an update, and it is
// let go last of all.
func (c Change) turn() int {
	switch {
	case c.Key().Kind == KindTarget && c.Op() == Delete:
		return turnRelease
	case c.Key().Kind == KindTarget:
		return turnTarget
	case c.either().Together:
		return turnTogether
	case c.Op() == Create:
		return turnCreate
	case c.Op() == Update:
		return turnUpdate
	}
	return turnDelete
}

// Sink is one kind of place where decisions go.
type Sink interface {
	// Lower says in canonical form what one unit of the IR is at this sink: no
	// resource where the unit does not concern it. It is pure. The result of
	// one name holds all resources that come from it.
	Lower(*policies.IR, policies.Name) ([]*Resource, error)
	// Observe reads what is live at a target and belongs to gray. self is the
	// resource of KindTarget that describes the target, nil where it has none.
	// A *PartialError beside a whole State names keys that are in trouble. The
	// State is the caller's; its resources name in Refs what they need at other
	// targets, all else in Refs may be left out.
	Observe(ctx context.Context, target string, self *Resource) (State, error)
	// Apply makes the changes, all of one target, Op and Rank, or those that have to
	// be made Together. A *PartialError
	// names the keys that failed, all others are done; any other error leaves all
	// of them unknown, and the target is read again before anything else is tried.
	// self is as for Observe.
	Apply(ctx context.Context, self *Resource, changes []Change) error
}

// KindTarget is the kind of the one resource that describes a target itself
// (a switch's address and pipeline); its Name is empty. It is created or updated
// before anything else at its target, and deleted after everything else; where
// that fails, the whole target waits.
const KindTarget = "target"

// PartialError is the errors of a batch by key.
type PartialError struct{ Keys map[Key]error }

// Error lists the errors, sorted by key, the first few of many.
func (e *PartialError) Error() string {
	const most = 5
	keys := slices.SortedFunc(maps.Keys(e.Keys), Key.Compare)
	var lines []string
	for _, k := range keys[:min(most, len(keys))] {
		lines = append(lines, fmt.Sprintf("%s: %v", k, e.Keys[k]))
	}
	if len(keys) > most {
		lines = append(lines, fmt.Sprintf("and %d more", len(keys)-most))
	}
	return strings.Join(lines, "; ")
}

// ReasonError is an error of a key with the reason that status gives for it.
type ReasonError struct {
	Reason string // in CamelCase
	Err    error
}

// ReasonNotConnected is the reason for what nobody has connected to take.
const ReasonNotConnected = "NotConnected"

// Error is the error without the reason.
func (e *ReasonError) Error() string { return e.Err.Error() }

// Unwrap is the error without the reason.
func (e *ReasonError) Unwrap() error { return e.Err }

// reasonOf is the reason for an error of a key.
func reasonOf(err error) string {
	if e, has := errors.AsType[*ReasonError](err); has {
		return e.Reason
	}
	return "Refused"
}

// Add records an error for a key; a nil error is ignored. The receiver may be
// nil; it returns the receiver or a new error.
func (e *PartialError) Add(k Key, err error) *PartialError {
	if err == nil {
		return e
	}
	if e == nil {
		e = &PartialError{Keys: map[Key]error{}}
	}
	e.Keys[k] = err
	return e
}

// Or gives e as an error, nil where nothing failed (a nil *PartialError in an
// error is not a nil error).
func (e *PartialError) Or() error {
	if e == nil || len(e.Keys) == 0 {
		return nil
	}
	return e
}
