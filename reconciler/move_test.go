package reconciler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/schema"
)

// boxBody is the body of a target that is at the place of its address.
type boxBody struct{ text }

func (b boxBody) Equal(o Body) bool { return b == o }
func (b boxBody) Place() string     { return string(b.text) }

// boxes is a Sink of the world whose target "mem/s" is the device "mem/ADDRESS" of
// its address, and "mem/s@ADDRESS" that of the address behind it.
type boxes struct {
	fake
	now *string // the device that mem/s is
}

// moving makes a rig's switch s one that has a place.
func moving(c *Config) {
	now := new(string)
	for i, s := range c.Sinks {
		c.Sinks[i] = boxes{s.(fake), now}
	}
	c.MaxDelete = 100
}

func box(port int) string { return fmt.Sprintf("mem/127.0.0.1:%d", port) }

func (s boxes) Lower(ir *policies.IR, n policies.Name) ([]*Resource, error) {
	all, err := s.fake.Lower(ir, n)
	for _, res := range all {
		if b, ok := res.Body.(text); ok && res.Kind == KindTarget {
			res.Body = boxBody{b}
		}
	}
	return all, err
}

// at is the device that a target is.
func (s boxes) at(target string, self *Resource) string {
	if self == nil {
		return target
	}
	name := "mem/" + self.Body.(boxBody).Place()
	if target == "mem/s" {
		s.mu.Lock()
		*s.now = name
		s.mu.Unlock()
	}
	return name
}

// with gives a resource and what it refers to other targets.
func with(res *Resource, change func(target string) string) *Resource {
	if res == nil {
		return nil
	}
	out := *res
	out.Target, out.Refs = change(res.Target), slices.Clone(res.Refs)
	for i := range out.Refs {
		out.Refs[i].Target = change(out.Refs[i].Target)
	}
	return &out
}

func (s boxes) Observe(ctx context.Context, target string, self *Resource) (State, error) {
	at := s.at(target, self)
	live, err := s.fake.Observe(ctx, at, self)
	if live == nil {
		return nil, err
	}
	named := State{}
	for _, res := range live {
		res = with(res, func(name string) string {
			switch {
			case name == at:
				return target
			case strings.HasPrefix(name, "mem/127."):
				return "mem/s"
			}
			return name
		})
		named[res.Key] = res
	}
	return named, err
}

func (s boxes) Apply(ctx context.Context, self *Resource, changes []Change) error {
	target := changes[0].Key().Target
	at := s.at(target, self)
	there := func(name string) string {
		switch name {
		case target:
			return at
		case "mem/s":
			s.mu.Lock()
			defer s.mu.Unlock()
			return *s.now
		}
		return name
	}
	var moved []Change
	names := map[Key]Key{}
	for _, c := range changes {
		to := Change{with(c.Old, there), with(c.New, there)}
		names[to.Key()] = c.Key()
		moved = append(moved, to)
	}
	err := s.fake.Apply(ctx, self, moved)
	partial, is := errors.AsType[*PartialError](err)
	if !is {
		return err
	}
	var named *PartialError
	for k, err := range partial.Keys {
		named = named.Add(names[k], err)
	}
	return named
}

// moveDocs are a switch at a port, and a gateway with one VIP on it.
func moveDocs(port int) []string {
	return []string{switchDoc("s", port), gatewayDoc("gw", aVIP, "s", 2)}
}

const theRoute = "route 203.0.113.10: announced"

// moved fails unless the switch is at a port and nowhere else, and announced.
func (g *rig) moved(port, from int) {
	g.t.Helper()
	g.live(box(port), onePlace(fmt.Sprint(port))...)
	g.live(box(from))
	g.live("bgp/s", theRoute)
	if s := g.status(); len(s.Targets) != 2 || s.Conditions[0].Status != "True" {
		g.t.Errorf("after the move the status is %+v, %+v", s.Conditions, s.Targets)
	}
	if failed := g.log.records(g.t, "not applied, will try again"); len(failed) > 0 {
		g.t.Errorf("something failed: %+v", failed)
	}
}

func TestAnotherAddressIsGuarded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, store := newWorld(t), newStore()
		g := start(t, w, moving, func(c *Config) { c.Store, c.MaxDelete = store, 30 })
		g.commit("1", moveDocs(1)...)
		g.commit("2", moveDocs(2)...)
		if c := g.status().Conditions[0]; c.Reason != "DeleteRefused" || !strings.Contains(c.Message, "5 of 5 live resources of mem/s") {
			t.Errorf("the commit shows as %+v", c)
		}
		g.live(box(1), onePlace("1")...)
		g.live("bgp/s", theRoute)
		g.stop()
		w.at("bgp/s", func(p *place) { clear(p.live) }) // what the process announced ended with it
		g = start(t, w, moving, func(c *Config) { c.Store, c.MaxDelete = store, 30 })
		g.commit("2", moveDocs(2)...)
		if c := g.status().Conditions[0]; c.Reason != "DeleteRefused" {
			t.Errorf("after a restart it shows as %+v", c)
		}
		g.live(box(1), onePlace("1")...)
		g.live(box(2))
		g.stop()
		g = start(t, w, moving, func(c *Config) { c.Store, c.MaxDelete, c.Confirm = store, 30, "2" })
		g.commit("2", moveDocs(2)...)
		g.moved(2, 1)
	})
}

func TestASwitchMovesBehindItsRoutes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t), moving)
		g.commit("1", moveDocs(1)...)
		gate := make(chan struct{})
		g.w.at("bgp/s", func(p *place) { p.gate = gate })
		g.commit("2", moveDocs(2)...)
		g.live(box(1), onePlace("1")...) // as long as it is announced
		if c := condition(t, g.status(), "mem/s@127.0.0.1:1"); c.Reason != "Waiting" {
			t.Errorf("the device that is left shows as %+v", c)
		}
		close(gate)
		g.quiet()
		g.moved(2, 1)
		g.before("- bgp/s route", "- mem/s@127.0.0.1:1 vip")
		g.before("- mem/s@127.0.0.1:1 backend", "- mem/s@127.0.0.1:1 target")
		lines := g.applied()
		slices.Reverse(lines)
		announced := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "+ bgp/s route") })
		programmed := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "+ mem/s vip") })
		if announced < 0 || announced > programmed {
			t.Errorf("it was not announced after it was programmed:\n%s", strings.Join(g.applied(), "\n"))
		}
	})
}

// A route that is on its way, or cannot be withdrawn in time, holds the device that is
// left, and goes as soon as it can.
func TestADeviceIsLeftOnceNothingReliesOnIt(t *testing.T) {
	for _, slow := range []bool{true, false} {
		t.Run(fmt.Sprint("slow is ", slow), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				g := start(t, newWorld(t), moving)
				gate := make(chan struct{})
				if slow {
					g.w.at("bgp/s", func(p *place) { p.gate = gate })
				}
				g.commit("1", moveDocs(1)...)
				if !slow {
					g.w.at("bgp/s", func(p *place) { p.down = errors.New("no route to host") })
				}
				g.commit("2", moveDocs(2)...)
				g.after(time.Minute)
				g.live(box(1), onePlace("1")...)
				g.live(box(2), onePlace("2")...)
				g.w.at("bgp/s", func(p *place) { p.gate, p.down = nil, nil })
				close(gate)
				g.after(10 * time.Minute)
				g.live(box(1))
				g.live("bgp/s", theRoute)
				g.before("- bgp/s route", "- mem/s@127.0.0.1:1 vip")
				if s := g.status(); len(s.Targets) != 2 || s.Conditions[0].Status != "True" {
					t.Errorf("after the move the status is %+v, %+v", s.Conditions, s.Targets)
				}
			})
		})
	}
}

func TestADeviceThatCannotBeReachedHoldsNoMove(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t), moving)
		g.commit("1", moveDocs(1)...)
		g.w.at(box(1), func(p *place) { p.down = errors.New("it burnt") })
		g.commit("2", moveDocs(2)...)
		g.after(time.Minute)
		g.live(box(2), onePlace("2")...)
		g.live("bgp/s", theRoute)
		g.after(giveUp - 2*time.Minute)
		if n := len(g.status().Targets); n != 3 {
			t.Errorf("%d targets are there before the device is given up, want 3", n)
		}
		g.after(4 * time.Minute)
		if s := g.status(); len(s.Targets) != 2 || s.Conditions[0].Status != "True" {
			t.Errorf("after it was given up the status is %+v, %+v", s.Conditions, s.Targets)
		}
		if said := g.log.records(t, "target given up, what is on it stays"); len(said) != 1 || said[0].Target != "mem/s@127.0.0.1:1" {
			t.Errorf("given up was %+v", said)
		}
	})
}

func TestASwitchMovesBackWhileItIsEmptied(t *testing.T) {
	for _, point := range []string{"before anything", "its routes are going", "half of it is gone"} {
		t.Run(point, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				g := start(t, newWorld(t), moving)
				g.commit("1", moveDocs(1)...)
				gate := make(chan struct{})
				switch point {
				case "before anything":
					g.w.at(box(1), func(p *place) { p.readGate = gate })
				case "its routes are going":
					g.w.at("bgp/s", func(p *place) { p.gate = gate })
				default:
					g.w.at(box(1), func(p *place) { p.refuse[Key{box(1), "backend", "gw/v1/a"}] = errors.New("not now") })
				}
				g.commit("2", moveDocs(2)...)
				g.put("3", moveDocs(1)...)
				g.quiet()
				for _, name := range []string{box(1), "bgp/s"} {
					g.w.at(name, func(p *place) {
						p.gate, p.readGate = nil, nil
						clear(p.refuse)
					})
				}
				close(gate)
				g.after(5 * time.Minute)
				g.live(box(1), onePlace("1")...)
				g.live(box(2))
				g.live("bgp/s", theRoute)
				if s := g.status(); len(s.Targets) != 2 || s.Conditions[0].Status != "True" {
					t.Errorf("after it came back the status is %+v, %+v", s.Conditions, s.Targets)
				}
			})
		})
	}
}

// What was under way at a device when it was left is done before that is cleaned, or
// used again: two jobs at one device would not know of each other.
func TestADeviceIsLeftBehindItsJob(t *testing.T) {
	for _, back := range []bool{false, true} {
		t.Run(fmt.Sprint("back is ", back), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				g := start(t, newWorld(t), moving)
				g.commit("1", switchDoc("s", 1))
				gate := make(chan struct{})
				g.w.at(box(1), func(p *place) { p.gate = gate })
				g.commit("2", moveDocs(1)...)
				g.commit("3", moveDocs(2)...)
				g.live(box(2), onePlace("2")...)
				reads, _ := g.w.calls(box(1))
				at, left := 2, 1
				if back {
					g.commit("4", moveDocs(1)...)
					at, left = 1, 2
				}
				if now, _ := g.w.calls(box(1)); now != reads {
					t.Errorf("the device was read %d times while an Apply was under way there", now-reads)
				}
				g.w.at(box(1), func(p *place) { p.gate = nil })
				close(gate)
				g.after(time.Minute)
				g.moved(at, left)
			})
		})
	}
}

// A restart loses nothing of a move, whether it happens in the middle of one or
// while the address changes.
func TestAMoveOutlivesARestart(t *testing.T) {
	for _, half := range []bool{true, false} {
		t.Run(fmt.Sprint("half is ", half), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w, store := newWorld(t), newStore()
				stored := func(c *Config) { c.Store = store }
				g := start(t, w, moving, stored)
				g.commit("1", moveDocs(1)...)
				if half {
					w.at(box(1), func(p *place) { p.refuse[Key{box(1), "vip", aVIP}] = errors.New("not now") })
					g.commit("2", moveDocs(2)...)
					g.live(box(2), onePlace("2")...)
				}
				g.stop()
				w.at("bgp/s", func(p *place) { clear(p.live) }) // what the process announced ended with it
				w.at(box(1), func(p *place) { clear(p.refuse) })
				g = start(t, w, moving, stored)
				g.commit("2", moveDocs(2)...)
				g.moved(2, 1)
				if left, _, err := store.switches(); err != nil || len(left) != 1 || left["s"] == nil || left["s"].Address != "127.0.0.1:2" {
					t.Errorf("stored are the switches %v, %v, want s", left, err)
				}
				g.stop()
				w.at("bgp/s", func(p *place) { clear(p.live) })
				g = start(t, w, moving, stored)
				g.commit("2", moveDocs(2)...)
				g.moved(2, 1)
			})
		})
	}
}

// A move back is stored as well: the device that was left first is the switch again.
func TestAMoveBackOutlivesARestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, store := newWorld(t), newStore()
		stored := func(c *Config) { c.Store = store }
		g := start(t, w, moving, stored)
		g.commit("1", moveDocs(1)...)
		w.at(box(1), func(p *place) { p.refuse[Key{box(1), "vip", aVIP}] = errors.New("not now") })
		g.commit("2", moveDocs(2)...)
		w.at(box(2), func(p *place) { p.refuse[Key{box(2), "vip", aVIP}] = errors.New("not now") })
		g.commit("3", moveDocs(1)...)
		g.stop()
		w.at("bgp/s", func(p *place) { clear(p.live) })
		for _, name := range []string{box(1), box(2)} {
			w.at(name, func(p *place) { clear(p.refuse) })
		}
		g = start(t, w, moving, stored)
		g.commit("3", moveDocs(1)...)
		g.moved(1, 2)
	})
}

func TestADryRunOfAMoveNamesBothDevices(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t), moving)
		g.commit("1", moveDocs(1)...)
		plan, err := g.DryRun(t.Context(), &schema.Snapshot{Revision: "2", Files: files(moveDocs(2)...)})
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			"+ mem/s target : 127.0.0.1:2", "+ mem/s vip 203.0.113.10: default v1",
			"- mem/s@127.0.0.1:1 vip 203.0.113.10: default v1", "- mem/s@127.0.0.1:1 target : 127.0.0.1:1",
		}
		for _, line := range want {
			if !strings.Contains(plan.String(), line+"  # ") {
				t.Errorf("the plan lacks %q:\n%s", line, plan)
			}
		}
		if n := plan.Counts(); n != (Counts{Create: 6, Delete: 6}) {
			t.Errorf("it counts %+v:\n%s", n, plan)
		}
	})
}
