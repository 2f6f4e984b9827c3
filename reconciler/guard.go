package reconciler

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"github.com/gray-release/gray/reconciler/board"
)

// The guard: a commit that deletes more than a set share of what the commit before
// has live at any target is refused for all targets, so that the planes do not part.
// What is not ours never counts.

// keyCommit is the record of the commit in force, in BucketRollouts.
const keyCommit = PrefixState + "commit/last"

// liveWith is how many resources are asked for at each target once a delta is in
// force, without those that describe the targets.
func (r *Reconciler) liveWith(d *delta) map[string]int {
	live := maps.Clone(r.live)
	for _, n := range d.units {
		for _, res := range r.meaning.made[n] {
			if res.Kind != KindTarget && !isWish(res) {
				live[res.Target]--
			}
		}
	}
	for _, l := range d.fresh {
		for _, res := range l.resources {
			if res.Kind != KindTarget && !isWish(res) {
				live[res.Target]++
			}
		}
	}
	maps.DeleteFunc(live, func(_ string, n int) bool { return n == 0 })
	return live
}

// guard tells why a commit is refused that would replace the one in force.
func (r *Reconciler) guard(d *delta) error {
	if r.revision == "" || r.cfg.Confirm == d.snapshot.Revision {
		return nil
	}
	next, gone, lost := stateOf(d.fresh), map[Key]bool{}, losses{live: map[string]int{}}
	lose := func(t *target, res *Resource) {
		if gone[res.Key] = true; t.observed == nil || t.observed[res.Key] != nil {
			lost.gone = append(lost.gone, res)
		}
	}
	for _, n := range d.units {
		for _, res := range r.meaning.made[n] {
			if t := r.targets[res.Target]; t != nil && next[res.Key] == nil && !t.replacedBy(next) {
				lose(t, res)
			}
		}
	}
	for name, t := range r.targets {
		lost.live[name] = t.liveOwn()
		if t.replacedBy(next) { // all that is on the other device goes with it
			for _, res := range t.desired {
				lose(t, res)
			}
		}
	}
	stays := func(k Key) bool {
		t := r.targets[k.Target]
		return next[k] != nil || t != nil && t.desired[k] != nil && !gone[k]
	}
	if refusals := refuse(lost, stays, r.ongoing().returns(specsOf(r.meaning.compiler)), r.cfg.MaxDelete); len(refusals) > 0 {
		return &RefusedError{d.snapshot.Revision, refusals}
	}
	return nil
}

// liveOwn is how much of what is desired at a target is live, without the target
// itself. Where nothing was read yet, it counts as live.
func (t *target) liveOwn() int {
	n := len(t.desired)
	if t.desired[Key{Target: t.name, Kind: KindTarget}] != nil {
		n--
	}
	if t.observed == nil {
		return n
	}
	for k := range t.dirty {
		if k.Kind != KindTarget && t.desired[k] != nil && t.observed[k] == nil {
			n--
		}
	}
	return n
}

// admit decides about the first commit of this process, once it is known what is
// live at the targets that the last process had resources at. Until then nothing is
// changed anywhere.
func (r *Reconciler) admit() {
	if r.admitted || r.revision == "" {
		return
	}
	if r.cfg.Confirm != r.revision && r.last.Revision != r.revision {
		desired, observed, had := State{}, State{}, r.had()
		for name := range had {
			t := r.targets[name]
			if t == nil {
				continue // it is given up, or no sink knows it any more
			}
			if t.observed == nil && t.err == nil {
				return
			}
			maps.Copy(desired, t.desired)
			maps.Copy(observed, t.observed)
		}
		if refusals := refuseFirst(desired, observed, had, r.cfg.MaxDelete); len(refusals) > 0 {
			r.holdFirst(&RefusedError{r.revision, refusals})
			return
		}
	}
	r.admitted = true
	if _, refused := errors.AsType[*RefusedError](r.badErr); refused {
		r.badErr = nil
	}
	for _, t := range r.targets {
		t.wakeUp()
	}
}

// had is how much the last process had live by target, also at the devices that the
// first commit leaves.
func (r *Reconciler) had() map[string]int {
	had := map[string]int{}
	maps.Copy(had, r.last.Live)
	for name, t := range r.targets {
		if n := r.last.Live[t.was]; n > 0 {
			had[name] = n
		}
	}
	return had
}

// holdFirst says, once, why the first commit is not admitted.
func (r *Reconciler) holdFirst(refused *RefusedError) {
	if r.badErr != nil && r.badErr.Error() == refused.Error() {
		return
	}
	r.badErr = refused
	r.cfg.Log.Error("commit refused, everything stays as it is", "refused", r.revision, "error", refused)
	r.saveCommit(board.Commit{r.last.Revision, r.revision, r.last.Live})
}

// refuseFirst tells at which targets a first commit deletes more than the set share
// of what the last process had there, of which only the number is known: what is live
// and not desired is at most what is missing of that, and somebody else's beyond.
func refuseFirst(desired, observed State, had map[string]int, limit int) []Refusal {
	extra, kept := map[string]int{}, map[string]int{}
	for k, res := range observed {
		switch {
		case k.Kind == KindTarget:
		case desired[k] != nil:
			kept[k.Target]++
		case !inherited(res, desired.has):
			extra[k.Target]++
		}
	}
	var all []Refusal
	for _, target := range slices.Sorted(maps.Keys(had)) {
		if n := min(extra[target], max(had[target]-kept[target], 0)); n*100 > had[target]*limit {
			all = append(all, Refusal{target, n, had[target], limit})
		}
	}
	return all
}

// Last is the commit that an earlier process on the same store had in force; empty: none.
func (r *Reconciler) Last() string { return r.last.Revision }

// record stores which commit is in force, while its changes are already under way:
// what is not stored is no reason not to make them.
func (r *Reconciler) record() {
	if r.admitted && r.unrecorded {
		r.unrecorded = false
		r.saveCommit(board.Commit{Revision: r.revision, Live: r.live})
	}
}

// saveCommit stores the record of commits.
func (r *Reconciler) saveCommit(rec board.Commit) {
	if r.cfg.Store == nil || r.cfg.Follow != nil {
		return
	}
	b, err := json.Marshal(rec)
	if err == nil {
		err = r.cfg.Store.Write(BucketRollouts, map[string][]byte{keyCommit: b}, nil)
	}
	if err != nil {
		r.cfg.Log.Error("cannot write the --state file; after a restart the guard knows an older commit", "error", err)
		return
	}
	r.last = rec
}
