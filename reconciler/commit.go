package reconciler

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/schema"
)

// adopt makes a snapshot the desired state if all of it is good; else the last
// good one stays. Numbers are on disk before anything that uses them is desired.
func (r *Reconciler) adopt(f fetched) {
	r.fetching = false
	now := time.Now()
	news := f.err != nil && (r.fetchErr == nil || r.fetchErr.Error() != f.err.Error())
	if r.fetchErr = f.err; f.err != nil {
		if news {
			r.cfg.Log.Error("fetch failed, "+r.stays("the last good commit stays"), "error", f.err, "revision", r.revision)
		}
		r.refetch.failed(now)
		return
	}
	if f.snapshot.Revision == r.seen && r.settled {
		r.refetch = backoff{}
		return
	}
	r.seen, r.settled = f.snapshot.Revision, true
	if r.revision == "" && r.cfg.Follow != nil {
		r.takeLeader() // a hint of it may still wait to be heard
	}
	r.badErr = r.decide(f.snapshot)
	if r.settled {
		r.refetch = backoff{}
	}
	if waits(r.badErr) {
		r.cfg.Log.Info("commit waits", "revision", r.seen, "reason", r.badErr)
		return
	}
	if r.badErr != nil {
		r.cfg.Log.Error("commit refused, "+r.stays("the last good one stays"), "refused", r.seen, "revision", r.revision, "error", r.badErr)
		return
	}
	r.warn()
	r.cfg.Log.Info("commit adopted", "revision", r.revision, "documents", r.meaning.set.Len())
}

// stays says what is in force while something failed.
func (r *Reconciler) stays(good string) string {
	if r.revision == "" && r.last.Revision == "" {
		return "no commit is in force yet"
	}
	return good
}

// waits tells whether a commit is neither in force nor refused.
func waits(err error) bool {
	return errors.Is(err, board.ErrUnknown) || errors.Is(err, board.ErrUndecided)
}

// decide puts a snapshot in force, or refuses it. If it cannot be stored, it is
// tried again.
func (r *Reconciler) decide(s *schema.Snapshot) error {
	now := time.Now()
	d, err := r.meaning.read(s, r.facts)
	if err != nil {
		return err
	}
	if s.Revision != r.revision {
		adopted, again, err := r.cfg.Follow.Says(s.Revision, r.revision == "" && r.meaning.compiler.NeedsProgress(), now)
		if err != nil {
			if r.settled = again == 0; !r.settled {
				r.refetch.until = now.Add(again)
			}
			return err
		}
		if err := r.guard(d); err != nil && !adopted {
			r.saveCommit(board.Commit{Revision: r.last.Revision, Refused: s.Revision, Live: r.last.Live})
			return err
		}
	}
	if err := r.save(d); err != nil {
		r.settled = false
		r.refetch.failed(now)
		return fmt.Errorf("cannot write the --state file: %w; make room or set its rights, it is tried again", err)
	}
	r.enforce(d, now)
	return nil
}

// enforce makes a delta the desired state.
func (r *Reconciler) enforce(d *delta, now time.Time) {
	if r.revision == "" {
		r.recall(d.ir)
	}
	news := r.revision != d.snapshot.Revision
	r.revision, r.live = d.snapshot.Revision, r.liveWith(d)
	r.index(d.docs, now)
	r.serve(d)
	r.notice(d, now)
	r.lookUp(d, now)
	r.retire(d)
	gone := map[Key]bool{}
	r.facts = d.facts
	for _, res := range r.meaning.accept(d) {
		if !isWish(res) {
			gone[res.Key] = true
		}
	}
	atSinks := slices.DeleteFunc(slices.Clone(d.fresh), func(l lowered) bool { return l.sink == nil })
	for _, l := range atSinks {
		for _, res := range l.resources {
			delete(gone, res.Key)
			t := r.target(res.Target, l.sink)
			t.want(res.Key, res)
			if res.Kind == KindTarget {
				t.unit = l.unit
				if l.unit.Kind == schema.KindSwitch {
					t.record = l.unit.Name
				}
			}
		}
	}
	for k := range gone {
		r.targets[k.Target].want(k, nil)
		r.touch(r.targets[k.Target], k)
	}
	for _, l := range atSinks {
		for _, res := range l.resources {
			r.touch(r.targets[res.Target], res.Key)
		}
	}
	r.takeSpecs(d)
	if !news {
		return
	}
	r.unrecorded = true
	for _, t := range r.targets {
		t.wakeUp()
	}
}

// mostWarned bounds how many warnings of one commit are logged.
const mostWarned = 20

// warn logs the warnings that the last commit did not have.
func (r *Reconciler) warn() {
	warned := map[string]bool{}
	said := 0
	for _, w := range r.meaning.compiler.Warnings() {
		text := w.Error()
		warned[text] = true
		if r.warned[text] {
			continue
		}
		if said++; said <= mostWarned {
			r.cfg.Log.Warn("odd", "warning", text)
		}
	}
	if said > mostWarned {
		r.cfg.Log.Warn("odd", "more", said-mostWarned)
	}
	r.warned = warned
}

// save keeps what has to outlive the process before a delta is in force: the
// numbers, and how to reach the switches, so that one whose document goes is
// still cleaned after a restart.
func (r *Reconciler) save(d *delta) error {
	if r.cfg.Store == nil {
		return nil
	}
	numbers, freed, err := r.meaning.compiler.UnsavedIDs()
	if err != nil {
		return err
	}
	if len(numbers)+len(freed) > 0 {
		if err := r.cfg.Store.Write(bucketIDs, numbers, freed); err != nil {
			return err
		}
		r.meaning.compiler.IDsSaved()
	}
	if err := r.saveHeld(d); err != nil {
		return err
	}
	put, remove, err := r.switchesOf(d)
	if err != nil || len(put) == 0 {
		return err
	}
	if err := r.cfg.Store.Write(bucketSwitches, put, remove); err != nil {
		return err
	}
	for _, key := range remove {
		delete(r.switches, key)
	}
	maps.Copy(r.switches, put)
	return nil
}
