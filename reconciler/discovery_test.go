package reconciler

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler/board"
)

// lookedUp is a service with one version a target; without a target it has an
// endpoint of its own.
func lookedUp(name string, targets ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, apiVersion+"kind: Service\nmetadata: {name: %s}\nspec:\n  hosts: [%s.internal]\n  default: v1\n  versions:\n", name, name)
	for i, t := range targets {
		where := "etcd: {target: " + t + "}"
		if t == "" {
			where = "endpoints: [{address: 192.0.2.9, port: 9}]"
		}
		fmt.Fprintf(&b, "  - {name: v%d, %s}\n", i+1, where)
	}
	return b.String()
}

// services lowers services to their endpoints, and nothing where those are unknown.
func services(w *world) fake {
	return fake{w, func(ir *policies.IR, n policies.Name) ([]*Resource, error) {
		svc, ok := ir.Get(n).(*requests.Service)
		if !ok {
			return nil, nil
		}
		var all []*Resource
		for _, v := range svc.Versions {
			if !v.Unknown {
				k := Key{"mem", "endpoints", svc.Name + "/" + v.Name}
				all = append(all, &Resource{Key: k, Rank: rankRoute, Body: text(fmt.Sprint(v.Endpoints)), Origin: v.Origin})
			}
		}
		return all, nil
	}}
}

func found(ports ...uint16) board.Found {
	f := board.Found{Endpoints: []requests.Endpoint{}, Cluster: 1, Revision: 7}
	for _, p := range ports {
		f.Endpoints = append(f.Endpoints, requests.Endpoint{Address: netip.MustParseAddr("192.0.2.1"), Port: p, Weight: 1})
	}
	return f
}

func newBoard(t testing.TB, store *Store) *board.Discovery {
	t.Helper()
	var records *board.Records
	if store != nil {
		records = &store.Records
	}
	d, err := board.NewDiscovery(records)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// wanted is a target as the board wants it; what it never wanted has the number 0.
func wanted(d *board.Discovery, target string) board.Wanted {
	for _, w := range d.Wanted() {
		if w.Target == target {
			return w
		}
	}
	return board.Wanted{Target: target}
}

func targets(d *board.Discovery) []string {
	var all []string
	for _, w := range d.Wanted() {
		all = append(all, w.Target)
	}
	return all
}

func report(t testing.TB, d *board.Discovery, target string, f board.Found) {
	t.Helper()
	if err := d.Report(wanted(d, target), f); err != nil {
		t.Fatal(err)
	}
}

func TestEndpointsFromEtcdBecomeLive(t *testing.T) {
	store := newStore()
	bubble(t, func(t *testing.T) {
		d := newBoard(t, store)
		run := func(d *board.Discovery) *rig {
			return start(t, newWorld(t), func(c *Config) { c.Sinks = []Sink{services(c.Sinks[0].(fake).world)}; c.Discovery = d })
		}
		g := run(d)
		g.quiet()
		report(t, d, "/a", found(9)) // nobody has asked yet
		g.commit("1", lookedUp("api", "/b", "/a"), lookedUp("web", "/b"), lookedUp("own", ""))
		if want := []string{"/a", "/b"}; !slices.Equal(targets(d), want) {
			t.Errorf("wanted are %q, want %q", targets(d), want)
		}
		select {
		case <-d.Renewed():
		default:
			t.Error("nobody was told that the targets changed")
		}
		own := "endpoints own/v1: [{192.0.2.9 9 1}]"
		g.live("mem", own)
		if !d.Pending() || g.idle() {
			t.Error("all is settled before anybody looked")
		}
		report(t, d, "/a", found(1, 2))
		g.quiet()
		g.live("mem", "endpoints api/v2: [{192.0.2.1 1 1} {192.0.2.1 2 1}]", own)

		// What is wrong with a target shows at every document that names it, and a
		// refused commit holds nothing up.
		g.commit("2", "kind: nonsense\n")
		d.Fail(wanted(d, "/b"), board.Trouble{"NotRead", "no"})
		g.quiet()
		if d.Pending() || !g.idle() {
			t.Error("somebody looked everywhere, and all is not settled")
		}
		first := of(g.status().document("api").Conditions, "Degraded")
		if first.Status != "True" || first.Reason != "NotRead" || first.Message != "a.yaml:8: version v1, etcd /b: no" {
			t.Errorf("a target that cannot be read shows as %+v", first)
		}
		if c := of(g.status().document("web").Conditions, "Degraded"); c.Message != "b.yaml:8: version v1, etcd /b: no" {
			t.Errorf("a target that cannot be read shows as %+v", c)
		}
		g.after(time.Minute)
		f := found(3)
		f.Trouble = board.Trouble{"RecordsLeftOut", "1 of 2"}
		report(t, d, "/b", f)
		g.quiet()
		g.live("mem", "endpoints api/v1: [{192.0.2.1 3 1}]", "endpoints api/v2: [{192.0.2.1 1 1} {192.0.2.1 2 1}]", own, "endpoints web/v1: [{192.0.2.1 3 1}]")
		if c := of(g.status().document("api").Conditions, "Degraded"); c.Reason != "RecordsLeftOut" || !c.LastTransitionTime.Equal(first.LastTransitionTime) {
			t.Errorf("records that are left out show as %+v", c)
		}
		report(t, d, "/b", found(3))
		d.Away(board.Trouble{"EtcdAway", "gone"})
		g.quiet()
		if c := of(g.status().document("api").Conditions, "Degraded"); c.Reason != "EtcdAway" || !strings.HasSuffix(c.Message, "a.yaml:9: version v2, etcd /a: gone") {
			t.Errorf("an etcd that is away shows as %+v", c)
		}
		d.Away(board.Trouble{})
		g.quiet()
		if c := of(g.status().document("api").Conditions, "Degraded"); c.Type != "" {
			t.Errorf("all is well, and it shows %+v", c)
		}
		passing := found(3, 4)
		passing.Passing = true
		report(t, d, "/b", passing)
		g.quiet()
		g.stop()

		// Another process knows what was found, and makes no change of it.
		d = newBoard(t, store)
		again := start(t, g.w, func(c *Config) { c.Sinks = []Sink{services(g.w)}; c.Discovery = d })
		_, before := g.w.calls("mem")
		again.commit("3", lookedUp("api", "/b", "/a"), lookedUp("web", "/b"), lookedUp("own", ""))
		again.live("mem", "endpoints api/v1: [{192.0.2.1 3 1}]", "endpoints api/v2: [{192.0.2.1 1 1} {192.0.2.1 2 1}]", own, "endpoints web/v1: [{192.0.2.1 3 1}]")
		if _, after := g.w.calls("mem"); after != before+1 { // what was passing goes
			t.Errorf("a restarted process made %d batches of changes, want 1", after-before)
		}
		// A target that no document names any more is forgotten.
		again.commit("4", lookedUp("api", "", ""), lookedUp("web", "/b"))
		if _, known := d.Known("/a"); known || !slices.Equal(targets(d), []string{"/b"}) {
			t.Errorf("wanted are %q, and what was found under /a is known: %v", targets(d), known)
		}
		late := wanted(d, "/b") // of a look that is on its way
		if err := errors.Join(d.Want(nil), d.Want([]string{"/b"}), d.Report(late, found(5))); err != nil {
			t.Fatal(err)
		}
		if f, known := d.Known("/b"); known {
			t.Errorf("a late report counts: %v", f)
		}
		report(t, d, "/b", found(6))
		again.stop()
		if d = newBoard(t, store); len(d.Endpoints()) != 1 {
			t.Errorf("the store holds %v, want /b alone", d.Endpoints())
		}
	})
}

// open is a body that is equal to whatever is live.
type open struct{ text }

func (open) Equal(Body) bool { return true }

// TestWhatIsKnownAtLastIsTriedAtOnce has endpoints that could not be made while
// nobody knew them.
func TestWhatIsKnownAtLastIsTriedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := newBoard(t, nil)
		w := newWorld(t)
		known := services(w)
		k := Key{"mem", "endpoints", "api/v1"}
		sink := fake{w, func(ir *policies.IR, n policies.Name) ([]*Resource, error) {
			if svc, ok := ir.Get(n).(*requests.Service); ok && svc.Versions[0].Unknown {
				return []*Resource{{Key: k, Rank: rankRoute, Body: open{"unknown"}, Origin: svc.Origin}}, nil
			}
			return known.Lower(ir, n)
		}}
		g := start(t, w, func(c *Config) { c.Sinks, c.Discovery = []Sink{sink}, d })
		w.at("mem", func(p *place) { p.refuse[k] = errors.New("nobody knows") })
		g.commit("1", lookedUp("api", "/a"))
		if c := g.status().document("api").Conditions[0]; c.Reason != "Refused" {
			t.Fatalf("unknown endpoints show as %+v", c)
		}
		w.at("mem", func(p *place) { clear(p.refuse) })
		report(t, d, "/a", found(1))
		g.quiet() // and no time goes by
		g.live("mem", "endpoints api/v1: [{192.0.2.1 1 1}]")
	})
}
