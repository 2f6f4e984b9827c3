package reconciler

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"
)

// Plan is what has to change for a revision to be live, what of it has to wait, and
// why the commit is not made at all. It is what `gray diff` prints and what the loop
// applies.
type Plan struct {
	Revision string
	Changes  []Change  // in the order in which they are applied
	Waiting  []Wait    // those of the changes that cannot be made yet, in the same order
	Refused  []Refusal // why the commit is refused for all targets; none: it is not
	Rollouts []string  // of a dry run: what changes of the rollouts, a line each
	Unknown  []Unknown // of a dry run: the targets that are away, sorted
}

// Unknown is a target that is away: what is compared is what it had when it was read last.
type Unknown struct {
	Target string
	Why    string // one line
	Read   time.Time
}

// String says it on one line.
func (u Unknown) String() string {
	return fmt.Sprintf("%s is away, and what is there is not known: %s; what %s has is as it was read last, at %s", u.Target, u.Why, u.Target, u.Read.UTC().Format(time.RFC3339))
}

// Wait is a change that cannot be made yet.
type Wait struct {
	Key Key
	For Key    // what it waits for; zero: see Why
	Why string // one line; empty where For says it all
}

// String is "KEY waits for ...", on one line.
func (w Wait) String() string {
	if w.For == (Key{}) {
		return fmt.Sprintf("%s waits: %s", w.Key, w.Why)
	}
	text := fmt.Sprintf("%s waits for %s", w.Key, strings.TrimSpace(w.For.String()))
	if w.Why != "" {
		text += ": " + w.Why
	}
	return text
}

// Refusal is one target at which a commit would delete more than it may.
type Refusal struct {
	Target  string
	Deletes int // of what the commit in force has live there
	Live    int // how much that is
	Limit   int // per cent
}

// String says it on one line.
func (r Refusal) String() string {
	return fmt.Sprintf("it would delete %d of %d live resources of %s, more than --max-delete %d%%", r.Deletes, r.Live, r.Target, r.Limit)
}

// View is what a plan rests on beside what is to be and what is live.
type View struct {
	Revision  string
	Keys      iter.Seq[Key]             // where the two states may differ; nil: everywhere, also at devices that are left
	Blocked   func(Change) (Wait, bool) // what is known of other targets, and of what failed before; nil: nothing
	Former    State                     // what the commit in force asks for: nothing else counts as live for the guard; nil: there is no guard
	MaxDelete int                       // per cent of what Former has live at a target that the commit may delete
	Returns   func(*Resource) bool      // what goes back to the default with a rollout, which is no loss; nil: nothing
}

// MakePlan says what takes observed to desired. It is pure: equal arguments give
// plans with equal text.
func MakePlan(desired, observed State, v View) *Plan {
	live := observed
	if v.Keys == nil {
		observed = renamed(desired, observed)
		v.Keys = Union(desired, observed)
	}
	p := &Plan{Revision: v.Revision, Changes: Diff(desired, observed, v.Keys)}
	var g gate
	target := ""
	for _, c := range p.Changes {
		if c.Key().Target != target {
			g, target = gate{}, c.Key().Target
		}
		why, wait := g.blocks(c)
		w := Wait{For: why}
		if !wait && v.Blocked != nil {
			w, wait = v.Blocked(c)
		}
		if wait {
			w.Key = c.Key()
			p.Waiting = append(p.Waiting, w)
			g.shut(c)
		}
	}
	if v.Former != nil {
		p.Refused = refuse(v.losses(desired, live), desired.has, v.Returns, v.MaxDelete)
	}
	return p
}

func (s State) has(k Key) bool { return s[k] != nil }

// Able is the changes that can be made now, in order.
func (p *Plan) Able() []Change {
	if len(p.Waiting) == 0 {
		return p.Changes
	}
	waits := make(map[Key]bool, len(p.Waiting))
	for _, w := range p.Waiting {
		waits[w.Key] = true
	}
	return filter(p.Changes, func(c Change) bool { return !waits[c.Key()] })
}

// losses is what a commit takes away of what the commit in force has live.
type losses struct {
	gone []*Resource
	live map[string]int // by target
}

// losses finds them in whole states. A target of which nothing is known counts as if
// all were live there.
func (v View) losses(desired, observed State) losses {
	l := losses{live: map[string]int{}}
	for k, res := range v.Former {
		if k.Kind == KindTarget || observed[k] == nil || isWish(res) {
			continue
		}
		self := Key{Target: k.Target, Kind: KindTarget}
		if l.live[k.Target]++; desired[k] == nil || replaces(desired[self], v.Former[self]) {
			l.gone = append(l.gone, res)
		}
	}
	return l
}

// refuse tells at which targets a commit deletes more than the set share. What
// describes the target itself carries no traffic and does not count, nor does what
// something else that stays serves instead of: one entry for a whole VPC, say, in
// place of one for each of its VMs.
func refuse(l losses, stays func(Key) bool, returns func(*Resource) bool, limit int) []Refusal {
	deletes := map[string]int{}
	for _, res := range l.gone {
		if res.Kind == KindTarget || inherited(res, stays) || returns != nil && returns(res) {
			continue
		}
		deletes[res.Target]++
	}
	var all []Refusal
	for _, target := range slices.Sorted(maps.Keys(deletes)) {
		if n := deletes[target]; n*100 > l.live[target]*limit {
			all = append(all, Refusal{target, n, l.live[target], limit})
		}
	}
	return all
}

// inherited tells whether something that stays does what a resource does now.
func inherited(res *Resource, stays func(Key) bool) bool {
	body, may := res.Body.(interface{ Heir() (kind, name string) })
	if !may {
		return false
	}
	kind, name := body.Heir()
	return stays(Key{res.Target, kind, name})
}

// String is the text of the changes: one line each, in the order in which they are
// applied, and nothing else; equal plans print equal bytes. It is what `gray diff`
// prints and what the daemon logs as applied.
func (p *Plan) String() string {
	var b strings.Builder
	for _, c := range p.Changes {
		b.WriteString(c.String())
		b.WriteByte('\n')
	}
	return b.String()
}

// Counts is how many changes of each kind a plan holds.
type Counts struct {
	Create int `json:"create"`
	Update int `json:"update"`
	Delete int `json:"delete"`
}

// Counts counts the changes.
func (p *Plan) Counts() Counts {
	var n Counts
	for _, c := range p.Changes {
		switch c.Op() {
		case Create:
			n.Create++
		case Update:
			n.Update++
		case Delete:
			n.Delete++
		}
	}
	return n
}

// RefusedError is why a commit is refused although its documents are good.
type RefusedError struct {
	Revision string
	Refusals []Refusal // at least one
}

// Error names the worst target and what to do.
func (e *RefusedError) Error() string {
	worst := slices.MaxFunc(e.Refusals, func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(a.Deletes*b.Live, b.Deletes*a.Live), strings.Compare(b.Target, a.Target))
	})
	text := worst.String()
	switch n := len(e.Refusals) - 1; n {
	case 0:
	case 1:
		text += " (and too much at 1 more target)"
	default:
		text += fmt.Sprintf(" (and too much at %d more targets)", n)
	}
	return fmt.Sprintf("%s; check the commit, then restart with --confirm-delete %s", text, e.Revision)
}

// Diff compares two states at the given keys and returns the changes that take
// observed to desired, in the order in which they are applied. It is pure; a
// key that comes twice counts once.
func Diff(desired, observed State, keys iter.Seq[Key]) []Change {
	var changes []Change
	for k := range keys {
		d, o := desired[k], observed[k]
		if d == o || d != nil && o != nil && d.Body.Equal(o.Body) {
			continue
		}
		changes = append(changes, Change{Old: o, New: d})
	}
	slices.SortFunc(changes, Change.Compare)
	return slices.CompactFunc(changes, func(a, b Change) bool { return a.Key() == b.Key() })
}

// Union yields the keys of both states.
func Union(a, b State) iter.Seq[Key] {
	return func(yield func(Key) bool) {
		for k := range a {
			if !yield(k) {
				return
			}
		}
		for k := range b {
			if _, both := a[k]; !both && !yield(k) {
				return
			}
		}
	}
}

// Stages cuts changes that are in order into the batches that one Apply gets: runs
// of one turn and Rank, and of any rank where they are made together.
func Stages(changes []Change) iter.Seq[[]Change] {
	return func(yield func([]Change) bool) {
		for len(changes) > 0 {
			n := 1
			for n < len(changes) && changes[n].turn() == changes[0].turn() && (changes[n].Rank() == changes[0].Rank() || changes[n].turn() == turnTogether) {
				n++
			}
			if !yield(changes[:n]) {
				return
			}
			changes = changes[n:]
		}
	}
}
