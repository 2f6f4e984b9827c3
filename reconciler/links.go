package reconciler

import (
	"iter"
	"maps"
	"slices"
)

// References to other targets. What refers to a key of another target is created
// or updated only once that key is live there and read back, and goes before that
// key goes. So a VIP is announced when its switch has it, and withdrawn before
// the switch loses it.

// touch looks at a key after its desired or live resource changed, and at what
// refers to it from other targets.
func (r *Reconciler) touch(t *target, k Key) {
	if t.running {
		t.later[k] = true
	}
	r.relink(t, k)
	r.look(t, k)
	users := maps.Keys(r.users[k])
	if k.Kind == KindTarget {
		users = r.usersOf(t.name)
	}
	for user := range users {
		r.look(r.targets[user.Target], user)
	}
}

// usersOf yields what refers to anything at a target from elsewhere.
func (r *Reconciler) usersOf(target string) iter.Seq[Key] {
	return func(yield func(Key) bool) {
		for k, users := range r.users {
			if k.Target != target {
				continue
			}
			for user := range users {
				if !yield(user) {
					return
				}
			}
		}
	}
}

// look compares what a key is to be with what is live.
func (r *Reconciler) look(t *target, k Key) {
	t.poked = true
	d, o := t.desired[k], t.observed[k]
	if left, relied := r.relied[k]; relied && o == nil && t.flying[k] == nil {
		delete(r.relied, k)
		r.poke(left)
	}
	if t.differs(k) || o != nil && !r.supported(d) {
		t.dirty[k] = true
	} else {
		delete(t.dirty, k)
		if d == nil {
			delete(t.troubles, k)
		} else if d != o && !t.running {
			t.observed[k] = d // equal, and it knows its document
		}
	}
	r.charge(t, k)
}

// relink records which keys of other targets a key refers to, as it is to be, as
// it is and as it is being made, and has those targets see whether they can go on.
func (r *Reconciler) relink(t *target, k Key) {
	var now []Key
	for _, res := range [...]*Resource{t.desired[k], t.observed[k], t.flying[k]} {
		if res == nil {
			continue
		}
		for _, ref := range res.Refs {
			if ref.Target != k.Target && !slices.Contains(now, ref) {
				now = append(now, ref)
			}
		}
	}
	last := r.refs[k]
	if len(now) == 0 && len(last) == 0 {
		return
	}
	for _, ref := range last {
		delete(r.users[ref], k)
		if len(r.users[ref]) == 0 {
			delete(r.users, ref)
		}
		r.poke(ref.Target)
	}
	for _, ref := range now {
		if r.users[ref] == nil {
			r.users[ref] = map[Key]bool{}
		}
		r.users[ref][k] = true
		r.poke(ref.Target)
	}
	r.refs[k] = now
	if len(now) == 0 {
		delete(r.refs, k)
	}
}

func (r *Reconciler) poke(name string) {
	if t := r.targets[name]; t != nil {
		t.poked = true
	}
}

// supported tells whether a resource that is live may stay: what it refers to at
// other targets is to be there, and is neither known to be gone nor about to go
// with its target's pipeline; and it was not made for a device that is left. A target
// that cannot be read supports what it did.
func (r *Reconciler) supported(res *Resource) bool {
	if res == nil {
		return true
	}
	if r.relied[res.Key] != "" {
		return false
	}
	for _, ref := range r.refs[res.Key] {
		if !refersTo(res, ref) {
			continue
		}
		t := r.targets[ref.Target]
		if t == nil || t.desired[ref] == nil || t.observed != nil && t.observed[ref] == nil || t.observed == nil && t.moved || t.resets() {
			return false
		}
	}
	return true
}

// waitsFor tells which key of another target a change has to wait for.
func (r *Reconciler) waitsFor(c Change) (Key, bool) {
	k := c.Key()
	if k.Kind == KindTarget && takesAll(c) {
		for user := range r.usersOf(k.Target) {
			if t := r.targets[user.Target]; t.observed[user] != nil || t.flying[user] != nil {
				return user, true
			}
		}
	}
	if c.New == nil {
		if t := r.targets[k.Target]; t != nil && t.was != "" {
			k.Target = t.was // as others know it
			for user := range r.users[k] {
				if r.relied[user] == t.name {
					return user, true
				}
			}
			return Key{}, false
		}
		for user := range r.users[k] {
			if t := r.targets[user.Target]; refersTo(t.observed[user], k) || refersTo(t.flying[user], k) {
				return user, true
			}
		}
		return Key{}, false
	}
	for _, ref := range r.refs[k] {
		if refersTo(c.New, ref) && !r.proved(ref) {
			return ref, true
		}
	}
	return Key{}, false
}

func refersTo(res *Resource, k Key) bool { return res != nil && slices.Contains(res.Refs, k) }

// proved tells whether a key is live as it is to be, and was read back, with its
// target as it is to be. What a job changes right now is neither.
func (r *Reconciler) proved(k Key) bool {
	t := r.targets[k.Target]
	if t == nil || t.observed[k] == nil || t.dirty[k] || t.resets() {
		return false
	}
	for _, k := range [...]Key{k, {Target: k.Target, Kind: KindTarget}} {
		if _, changing := t.flying[k]; changing || t.unproved[k] {
			return false
		}
	}
	return true
}
