package reconciler

import (
	"encoding/json"
	"strings"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/schema"
)

// A Switch whose address changes is another device: the old one is a target that
// goes, which is withdrawn and emptied, and the new one a target that comes. The old
// one's name gets the place behind it: "p4rt/gw-a@192.0.2.1:9559/1".

// device is a Body of KindTarget that says which device it describes.
type device interface {
	Place() string // equal for two bodies that describe one device
}

// placeOf is the device that a target's resource describes; empty where it does not
// say.
func placeOf(self *Resource) string {
	if self == nil {
		return ""
	}
	if d, ok := self.Body.(device); ok {
		return d.Place()
	}
	return ""
}

// replaces tells whether a target's resource describes another device than before.
func replaces(now, was *Resource) bool {
	return now != nil && was != nil && placeOf(now) != placeOf(was)
}

// replacedBy tells whether resources to be desired give a target another device.
func (t *target) replacedBy(next State) bool {
	return replaces(next[Key{Target: t.name, Kind: KindTarget}], t.self)
}

// leaving is the name of a target for a device that it leaves.
func leaving(target string, self *Resource) string { return target + "@" + placeOf(self) }

// rename gives a resource another target.
func (res *Resource) rename(target string) *Resource {
	out := *res
	out.Target = target
	return &out
}

// renamed is what is live, with what is on devices that are left under the names of
// their own.
func renamed(desired, observed State) State {
	names := map[string]string{}
	for k, res := range observed {
		if k.Kind == KindTarget && replaces(desired[k], res) {
			names[k.Target] = leaving(k.Target, res)
		}
	}
	if len(names) == 0 {
		return observed
	}
	all := make(State, len(observed))
	for k, res := range observed {
		if name, left := names[k.Target]; left {
			k.Target = name
			res = res.rename(name)
		}
		all[k] = res
	}
	return all
}

// retire makes targets of their own of the devices that a delta leaves.
func (r *Reconciler) retire(d *delta) {
	for _, l := range d.fresh {
		for _, res := range l.resources {
			if t := r.targets[res.Target]; t != nil && res.Kind == KindTarget && replaces(res, t.self) {
				r.leave(t, res)
			}
		}
	}
}

// leave has a target begin anew at another device, which nothing is known of, and a
// new one clean the device that it was at.
func (r *Reconciler) leave(t *target, to *Resource) {
	back := r.comeBack(leaving(t.name, to))
	old := newTarget(leaving(t.name, t.self), t.sink)
	old.follow(t)
	old.self, old.unit, old.was, old.record = t.self.rename(old.name), t.unit, t.name, leaving(t.record, t.self)
	r.targets[old.name] = old
	fresh := newTarget(t.name, t.sink)
	fresh.desired, fresh.always, fresh.unit, fresh.record, fresh.moved = t.desired, t.always, t.unit, t.record, true
	fresh.follow(back)
	r.targets[t.name] = fresh
	for user := range r.usersOf(t.name) {
		if u := r.targets[user.Target]; u.observed[user] != nil || u.flying[user] != nil {
			r.relied[user] = old.name
		}
	}
	for k := range t.charged {
		r.tally(t, k, charge{})
	}
	for _, keys := range []State{t.observed, t.desired} {
		for k := range keys {
			r.touch(fresh, k)
		}
	}
}

// comeBack forgets a device that was to be cleaned, as it is to be used again, and
// returns what it was; nil: it was not.
func (r *Reconciler) comeBack(name string) *target {
	t := r.targets[name]
	if t != nil {
		for k := range t.charged {
			r.tally(t, k, charge{})
		}
		delete(r.targets, name)
	}
	return t
}

// follow has a target wait for the job that another one has at the same device.
func (t *target) follow(was *target) {
	if was != nil && was.running {
		was.after, t.running = t, true
	}
}

// recall makes targets of the devices of the last process that the first commit no
// longer has, so that they are cleaned.
func (r *Reconciler) recall(now *policies.IR) {
	for key, sw := range r.former {
		n := policies.Name{Kind: schema.KindSwitch, Name: sw.Name}
		was, err := r.lowerSwitch(sw)
		if err != nil {
			r.cfg.Log.Error("a switch without a document is not cleaned", "switch", key, "error", err)
			continue
		}
		next := State{}
		if is := now.Switch(sw.Name); is != nil {
			all, _ := r.lowerSwitch(is) // the commit was lowered before
			next = stateOf(all)
		}
		for _, l := range was {
			for _, res := range l.resources {
				at := next[res.Key]
				if res.Kind != KindTarget || at != nil && !replaces(at, res) {
					continue // there as it was
				}
				name, record := res.Target, key
				switch left := strings.Contains(key, "@"); {
				case left && placeOf(res) == "":
					continue
				case left:
					name = leaving(name, res)
				case at != nil: // it is left by this commit
					name, record = leaving(name, res), leaving(key, res)
				}
				t := r.target(name, l.sink)
				t.self, t.unit, t.record = res.rename(name), n, record
				if name != res.Target {
					t.was = res.Target
				}
			}
		}
	}
	r.former = nil
}

// lowerSwitch is what the sinks make of a switch by itself.
func (r *Reconciler) lowerSwitch(sw *policies.Switch) ([]lowered, error) {
	n := policies.Name{Kind: schema.KindSwitch, Name: sw.Name}
	ir := policies.NewIR(policies.NewIDs())
	ir.Put(n, sw)
	return lowerUnits(r.cfg.Sinks, ir, []policies.Name{n})
}

// stateOf is lowered resources by key.
func stateOf(all []lowered) State {
	s := State{}
	for _, l := range all {
		for _, res := range l.resources {
			s[res.Key] = res
		}
	}
	return s
}

// switchesOf is the records of switches to put and remove before a delta is in force:
// the new ones, and those of devices that are left or come back.
func (r *Reconciler) switchesOf(d *delta) (put map[string][]byte, remove []string, err error) {
	put = map[string][]byte{}
	next := stateOf(d.fresh)
	for _, n := range d.units {
		sw, ok := d.ir.Get(n).(*policies.Switch)
		if !ok {
			continue
		}
		if old := r.switches[n.Name]; old != nil {
			was := new(policies.Switch)
			if err := json.Unmarshal(old, was); err != nil {
				return nil, nil, err
			}
			selves, _ := r.lowerSwitch(was) // of one that fails nothing is cleaned, as recall says
			for k, res := range stateOf(selves) {
				if !replaces(next[k], res) {
					continue
				}
				put[leaving(n.Name, res)] = old
				if again := leaving(n.Name, next[k]); r.switches[again] != nil {
					remove = append(remove, again)
				}
			}
		}
		if put[n.Name], err = json.Marshal(sw); err != nil {
			return nil, nil, err
		}
	}
	return put, remove, nil
}

// forget removes the record of a switch when the last target that was made of it
// is gone.
func (r *Reconciler) forget(gone *target) {
	if r.cfg.Store == nil || gone.record == "" || gone.record == gone.unit.Name && r.meaning.made[gone.unit] != nil {
		return
	}
	for _, t := range r.targets {
		if t.record == gone.record {
			return
		}
	}
	if err := r.cfg.Store.Write(bucketSwitches, nil, []string{gone.record}); err != nil {
		r.cfg.Log.Error("cannot write the --state file", "error", err) // it is cleaned once more after a restart
		return
	}
	delete(r.switches, gone.record)
}
