package reconciler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/packets"
)

// The ranks of the fake's resources.
const (
	rankSelf = iota
	rankBackend
	rankPool
	rankVIP
	rankRule
	rankRoute = rankBackend
)

// text is a body that is one string.
type text string

func (b text) Equal(o Body) bool     { return b == o }
func (b text) String() string        { return string(b) }
func (b text) Delta(old Body) string { return old.String() + " -> " + string(b) }

// world is the semantic fake of all places that resources live at. It refuses
// what a strict server refuses, and reports a change that breaks a reference,
// a stale change and a mixed batch as failures of the test.
type world struct {
	t      testing.TB
	mu     sync.Mutex
	places map[string]*place
	made   func(Change) // told of every change that is made
}

// place is one target.
type place struct {
	live     State
	refuse   map[Key]error // keys that it does not take
	trouble  map[Key]error // keys that an Observe reports as being in trouble
	down     error         // the error of every call
	broken   error         // the error of every Apply, which makes half of the batch
	loses    map[Key]bool  // keys that it says it takes and then does not have
	room     int           // how many resources it holds; 0: any number
	gate     chan struct{} // an Apply waits for it where there is one
	readGate chan struct{} // a read that has looked waits for it where there is one
	foreign  bool          // somebody else changed it since it was last read
	lost     bool          // it lost something since then
	observed int           // Observes so far
	applied  int           // Applies so far
}

func newWorld(t testing.TB) *world { return &world{t: t, places: map[string]*place{}} }

// at has f look at a place, or change it.
func (w *world) at(target string, f func(*place)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w.place(target))
}

func (w *world) place(target string) *place {
	p := w.places[target]
	if p == nil {
		p = &place{live: State{}, refuse: map[Key]error{}, trouble: map[Key]error{}, loses: map[Key]bool{}}
		w.places[target] = p
	}
	return p
}

// live lists what is live at a target, as "kind name: body", sorted.
func (w *world) live(target string) []string {
	var all []string
	w.at(target, func(p *place) {
		for _, k := range slices.SortedFunc(maps.Keys(p.live), Key.Compare) {
			all = append(all, fmt.Sprintf("%s %s: %s", k.Kind, k.Name, p.live[k].Body))
		}
	})
	return all
}

// calls counts the Observes and Applies at a target.
func (w *world) calls(target string) (observed, applied int) {
	w.at(target, func(p *place) { observed, applied = p.observed, p.applied })
	return observed, applied
}

// fake is a Sink for the world. What it lowers to is up to the test.
type fake struct {
	*world
	lower func(*policies.IR, policies.Name) ([]*Resource, error)
}

func (s fake) Lower(ir *policies.IR, n policies.Name) ([]*Resource, error) { return s.lower(ir, n) }

// Observe returns what is live, as a server would: without documents.
func (s fake) Observe(ctx context.Context, target string, _ *Resource) (State, error) {
	state, gate, err := s.observe(target)
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return state, err
}

func (s fake) observe(target string) (State, chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.place(target)
	p.observed++
	if p.down != nil {
		return nil, p.readGate, p.down
	}
	p.foreign, p.lost = false, false
	state := State{}
	for k, r := range p.live {
		state[k] = &Resource{Key: k, Rank: r.Rank, Refs: r.Refs, Body: r.Body}
	}
	var partial *PartialError
	for k, err := range p.trouble {
		partial = partial.Add(k, err)
	}
	return state, p.readGate, partial.Or()
}

func (s fake) Apply(ctx context.Context, _ *Resource, changes []Change) error {
	s.mu.Lock()
	p := s.place(changes[0].Key().Target)
	p.applied++
	gate := p.gate
	s.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.down != nil {
		return p.down
	}
	var partial *PartialError
	for i, c := range changes {
		if p.broken != nil && i >= len(changes)/2 {
			return p.broken
		}
		if c.Op() != changes[0].Op() || c.Rank() != changes[0].Rank() || c.Key().Target != changes[0].Key().Target {
			s.t.Errorf("one batch holds %s and %s", changes[0], c)
		}
		partial = partial.Add(c.Key(), s.apply(p, c))
	}
	return partial.Or()
}

// apply makes one change if the rules of the place allow it. What breaks them is
// the test's failure, unless the caller could not know better.
func (s fake) apply(p *place, c Change) error {
	k := c.Key()
	if err := p.refuse[k]; err != nil {
		return err
	}
	if have := p.live[k]; (have == nil) != (c.Old == nil) || have != nil && !have.Body.Equal(c.Old.Body) {
		return s.broken(p.foreign || p.lost, "%s: it is not what is live", c)
	}
	if c.New == nil {
		for _, other := range s.places {
			for _, r := range other.live {
				if slices.Contains(r.Refs, k) {
					return s.broken(p.foreign || other.foreign, "%s: %s still refers to it", c, r.Key)
				}
			}
		}
		if s.made != nil {
			s.made(c)
		}
		delete(p.live, k)
		return nil
	}
	for _, ref := range c.New.Refs {
		if to := s.place(ref.Target); to.live[ref] == nil {
			return s.broken(to.foreign || to == p && p.lost, "%s: it refers to %s, which is not live", c, ref)
		}
	}
	if p.room > 0 && c.Old == nil && len(p.live) >= p.room {
		return errors.New("the table is full")
	}
	if k.Kind == KindTarget {
		for _, other := range s.places {
			for _, r := range other.live {
				if other != p && slices.ContainsFunc(r.Refs, func(ref Key) bool { return p.live[ref] != nil }) {
					return s.broken(p.foreign || other.foreign, "%s: %s refers to what it takes away", c, r.Key)
				}
			}
		}
		clear(p.live) // a new pipeline empties the tables
	} else if self := p.live[Key{Target: k.Target, Kind: KindTarget}]; self == nil && s.needsSelf(k.Target) {
		return s.broken(p.foreign || p.lost, "%s: no pipeline is loaded", c)
	}
	if s.made != nil {
		s.made(c)
	}
	if p.live[k] = c.New; p.loses[k] {
		delete(p.live, k)
		p.lost = true
	}
	return nil
}

// broken is what a strict server answers to a change that breaks a rule.
func (s fake) broken(excused bool, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if !excused {
		s.t.Error(err)
	}
	return err
}

// needsSelf tells whether a target takes nothing before it is set up.
func (s fake) needsSelf(target string) bool { return len(target) > 4 && target[:4] == "mem/" }

// switches is a Sink that lowers switches, gateways and rules to targets
// "mem/<switch>". The address of a switch stands for its pipeline.
func switches(w *world) fake {
	return fake{w, func(ir *policies.IR, n policies.Name) ([]*Resource, error) {
		switch unit := ir.Get(n).(type) {
		case *policies.Switch:
			k := Key{Target: "mem/" + unit.Name, Kind: KindTarget}
			return []*Resource{{Key: k, Rank: rankSelf, Body: text(unit.Address), Origin: unit.Origin}}, nil
		case *packets.Gateway:
			var all []*Resource
			for _, sw := range unit.Switches {
				all = append(all, lowerFake("mem/"+sw, unit)...)
			}
			return all, nil
		case *packets.Cell:
			var all []*Resource
			for _, sw := range ir.Gateway(unit.Gateway).Switches {
				for i := range unit.Rules {
					r, t := &unit.Rules[i], "mem/"+sw
					all = append(all, &Resource{
						Key: Key{t, "rule", fmt.Sprintf("%s/%d", unit.Gateway, r.Match.VNI)}, Rank: rankRule, Origin: r.Origin,
						Refs: []Key{{t, "pool", unit.Gateway + "/" + r.Pool}}, Body: text("-> " + r.Pool),
					})
				}
			}
			return all, nil
		}
		return nil, nil
	}}
}

func lowerFake(t string, gw *packets.Gateway) []*Resource {
	var all []*Resource
	vipRefs := []Key(nil)
	for _, p := range gw.Pools {
		name := gw.Name + "/" + p.Version
		var refs []Key
		words := ""
		for _, b := range p.Backends {
			k := Key{t, "backend", name + "/" + b.Name}
			all = append(all, &Resource{Key: k, Rank: rankBackend, Body: text(b.Address.String()), Origin: b.Origin})
			refs = append(refs, k)
			if !b.Down {
				words += b.Name + " "
			}
		}
		k := Key{t, "pool", name}
		all = append(all, &Resource{Key: k, Rank: rankPool, Refs: refs, Body: text(words), Origin: p.Origin})
		vipRefs = append(vipRefs, k)
	}
	for _, vip := range gw.VIPs {
		all = append(all, &Resource{Key: Key{t, "vip", vip.String()}, Rank: rankVIP, Refs: vipRefs, Body: text("default " + gw.Default), Origin: gw.Origin})
	}
	return all
}

// routes is a Sink that announces every VIP of a switch at "bgp/<switch>" once
// "mem/<switch>" has it.
func routes(w *world) fake {
	return fake{w, func(ir *policies.IR, n policies.Name) ([]*Resource, error) {
		gw, ok := ir.Get(n).(*packets.Gateway)
		if !ok {
			return nil, nil
		}
		var all []*Resource
		for _, sw := range gw.Switches {
			for _, vip := range gw.VIPs {
				all = append(all, &Resource{
					Key: Key{"bgp/" + sw, "route", vip.String()}, Rank: rankRoute, Origin: gw.Origin,
					Refs: []Key{{"mem/" + sw, "vip", vip.String()}}, Body: text("announced"),
				})
			}
		}
		return all, nil
	}}
}
