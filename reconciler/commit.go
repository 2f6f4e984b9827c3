package reconciler

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/gray-release/gray/policies"
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
			r.cfg.Log.Error("fetch failed, the last good commit stays", "error", f.err, "revision", r.revision)
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
		r.heedLeader() // a hint of it may still wait to be heard
	}
	r.badErr = r.follow(f.snapshot)
	if r.settled {
		r.refetch = backoff{}
	}
	if errors.Is(r.badErr, errUnknown) {
		r.cfg.Log.Info("commit waits until it is known what the leader has moved", "revision", r.seen)
		return
	}
	if r.badErr != nil {
		r.cfg.Log.Error("commit refused, the last good one stays", "refused", r.seen, "revision", r.revision, "error", r.badErr)
		return
	}
	r.warn()
	r.cfg.Log.Info("commit adopted", "revision", r.revision, "documents", r.meaning.set.Len())
}

// follow puts a snapshot in force, or leaves the one that is. Where that is for
// want of disk, it has it tried again.
func (r *Reconciler) follow(s *schema.Snapshot) error {
	now := time.Now()
	d, err := r.meaning.read(s)
	if wait := r.cfg.Follow.waits(now); err == nil && r.revision == "" && wait > 0 && r.meaning.compiler.NeedsProgress() {
		r.settled = false
		r.refetch.until = now.Add(wait)
		return errUnknown
	}
	if err == nil {
		if err = r.save(d); err != nil {
			r.settled = false
			r.refetch.failed(now)
			err = fmt.Errorf("cannot write the --state file: %w; make room or set its rights, it is tried again", err)
		}
	}
	if err != nil {
		return err
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
	r.revision = d.snapshot.Revision
	r.index(d.docs, now)
	r.notice(d, now)
	r.lookUp(d, now)
	gone := map[Key]bool{}
	for _, res := range r.meaning.accept(d) {
		gone[res.Key] = true
	}
	for _, l := range d.fresh {
		for _, res := range l.resources {
			delete(gone, res.Key)
			t := r.target(res.Target, l.sink)
			t.want(res.Key, res)
			if res.Kind == KindTarget {
				t.unit = l.unit
			}
		}
	}
	for k := range gone {
		r.targets[k.Target].want(k, nil)
		r.touch(r.targets[k.Target], k)
	}
	for _, l := range d.fresh {
		for _, res := range l.resources {
			r.touch(r.targets[res.Target], res.Key)
		}
	}
	r.heedSpecs(d)
	if !news {
		return
	}
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
	put := map[string][]byte{}
	for _, n := range d.units {
		sw, ok := d.ir.Get(n).(*policies.Switch)
		if !ok {
			continue
		}
		b, err := json.Marshal(sw)
		if err != nil {
			return err
		}
		put[n.Name] = b
	}
	if len(put) == 0 {
		return nil
	}
	return r.cfg.Store.Write(bucketSwitches, put, nil)
}

// recall makes targets of the switches of the last process that the first commit
// no longer has, so that they are cleaned.
func (r *Reconciler) recall(now *policies.IR) {
	for _, sw := range r.former {
		if now.Switch(sw.Name) != nil {
			continue
		}
		n := policies.Name{Kind: schema.KindSwitch, Name: sw.Name}
		ir := policies.NewIR(policies.NewIDs())
		ir.Put(n, sw)
		all, err := lowerUnits(r.cfg.Sinks, ir, []policies.Name{n})
		if err != nil {
			r.cfg.Log.Error("a switch without a document is not cleaned", "switch", sw.Name, "error", err)
			continue
		}
		for _, l := range all {
			for _, res := range l.resources {
				if res.Kind == KindTarget {
					t := r.target(res.Target, l.sink)
					t.self, t.unit = res, n
				}
			}
		}
	}
	r.former = nil
}

// forget removes the record of a switch when the last target that was made of it
// is gone.
func (r *Reconciler) forget(gone *target) {
	if r.cfg.Store == nil || gone.unit.Kind != schema.KindSwitch || r.meaning.made[gone.unit] != nil {
		return
	}
	for _, t := range r.targets {
		if t.unit == gone.unit {
			return
		}
	}
	if err := r.cfg.Store.Write(bucketSwitches, nil, []string{gone.unit.Name}); err != nil {
		r.cfg.Log.Error("cannot write the --state file", "error", err) // it is cleaned once more after a restart
	}
}
