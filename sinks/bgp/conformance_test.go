package bgp

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/p4rt"
	"github.com/gray-release/gray/sinks/sinktest"
)

// TestConformance runs the suite of all sinks on a speaker with FRR and BIRD as its
// neighbors. The target is the speaker, which ends with its sink: a new one has
// nothing to observe (Forgets). It cannot die by itself, so the sink is closed where
// the suite kills the target; a neighbor that dies is no error of Apply, as the
// speaker goes on announcing.
func TestConformance(t *testing.T) {
	sinktest.Run(t, sinktest.Config{Start: startConformance, Skip: map[string]string{
		"Stalled": "BGP has no answer to an UPDATE, so Apply waits for none; TestApplyWaitsForWhatItSends has what it waits for",
	}})
}

func startConformance(t *testing.T) *sinktest.Rig {
	routers, secrets := startRouters(t), t.TempDir()
	writeKey := func(key string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(secrets, "key"), []byte(key), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	writeKey("first")
	live := &witness{newRig(t, secrets).Sink, routers}
	r := &sinktest.Rig{Sink: live, Target: target, Forgets: true, Elsewhere: []reconciler.Sink{p4rt.New(p4rt.Config{ReadOnly: true})}}
	r.Base, r.Changed = conformanceDocuments(t, routers)
	r.Sent = func() int { return routers.sent() }
	r.Restart = func() reconciler.Sink {
		if err := live.Close(); err != nil {
			t.Fatal(err)
		}
		live = &witness{newRig(t, secrets).Sink, routers}
		return live
	}
	r.Kill = func() {
		if err := live.Close(); err != nil {
			t.Error(err)
		}
	}
	inside := func(do func(sp *speaker) error) { // as nobody outside of this process can reach a speaker
		t.Helper()
		sp := live.speaker(target)
		sp.mu.Lock()
		defer sp.mu.Unlock()
		if err := do(sp); err != nil {
			t.Fatal(err)
		}
	}
	r.Foreign = func() { inside(func(sp *speaker) error { return sp.announce(vip("198.51.100.7/32")) }) }
	r.Damage = func() {
		writeKey("second")
		inside(func(sp *speaker) error { return damage(sp) })
	}
	r.Refused = refusedNeighbor
	return r
}

// conformanceDocuments are those of the suite with a speaker on their switch. FRR and
// BIRD stay its neighbors; what changes are neighbors that nobody is at.
func conformanceDocuments(t *testing.T, routers *bothRouters) (base, changed map[string]string) {
	t.Helper()
	base, changed = sinktest.Documents(t, "127.0.0.1:9559")
	speaker := func(documents map[string]string, communities string, others ...string) {
		text := fmt.Sprintf("  bgp:\n    asn: 64512\n    routerID: 192.0.2.1\n    localAddress: %s\n    nextHop: 192.0.2.1\n    nextHop6: \"2001:db8::1\"\n"+
			"    communities: [%s]\n    neighbors:\n", routers.speaker, communities)
		for _, a := range routers.addresses() {
			others = append(others, fmt.Sprintf("{address: %s, asn: 64500}", a))
		}
		documents["gateways/vpc-gw.yaml"] += text + "    - " + strings.Join(others, "\n    - ") + "\n"
	}
	first, second, third := loopback(), loopback(), loopback()
	speaker(base, `"64512:100", "64512:50"`, fmt.Sprintf("{address: %s, asn: 64501, passwordFile: key}", first), fmt.Sprintf("{address: %s, asn: 64502}", second))
	speaker(changed, `"64512:200"`, fmt.Sprintf("{address: %s, asn: 64503, passwordFile: key}", first), fmt.Sprintf("{address: %s, asn: 64502}", third))
	return base, changed
}

// witness is a sink whose neighbors are asked whether what it observes is so.
type witness struct {
	*Sink
	routers *bothRouters
}

// Observe implements reconciler.Sink.
func (w *witness) Observe(ctx context.Context, target string, self *reconciler.Resource) (reconciler.State, error) {
	state, err := w.Sink.Observe(ctx, target, self)
	if err != nil || ctx.Err() != nil || !w.open() {
		return state, err
	}
	want := map[string]route{}
	for _, res := range state {
		if b, is := res.Body.(*pathBody); is {
			want[b.prefix.String()] = routeOf(b)
		}
	}
	rig := &rig{Sink: w.Sink}
	for r, at := range w.routers.at {
		want := want
		if state[neighborKey(target, at)] == nil {
			want = map[string]route{}
		} else {
			until(w.routers.t, "the session with "+r.name()+" is up", func() bool { return rig.established(at) })
		}
		for has := r.routes(w.routers.t); !cmp.Equal(want, has, cmp.AllowUnexported(route{})); has = r.routes(w.routers.t) {
			if ctx.Err() != nil {
				return nil, fmt.Errorf("%s has %v; want what the speaker announces, %v", r.name(), has, want)
			}
		}
	}
	return state, nil
}

// open tells whether the sessions are; before, neighbors have what the last speaker
// left.
func (w *witness) open() bool {
	sp := w.speaker(target)
	if sp == nil {
		return false
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.open
}

// routeOf is a path as a neighbor has it.
func routeOf(b *pathBody) route {
	var communities []string
	for _, c := range b.communities {
		communities = append(communities, fmt.Sprintf("%d:%d", c>>16, c&0xffff))
	}
	return route{nextHop: b.nextHop.String(), communities: strings.Join(communities, " ")}
}

// sent is how many messages FRR has received, without KEEPALIVEs, once the marks are
// there that end the first tables.
func (b *bothRouters) sent() int {
	b.t.Helper()
	var peers map[string]struct {
		MessageStats        struct{ TotalRecv, KeepalivesRecv int }
		GracefulRestartInfo struct{ EndOfRibRecv map[string]bool }
	}
	until(b.t, "the first tables have ended", func() bool {
		out, err := b.frr.show(b.t, "show bgp neighbors "+b.speaker.String()+" json")
		if err == nil {
			err = json.Unmarshal([]byte(out), &peers)
		}
		if err != nil {
			b.t.Fatalf("vtysh: %v: %s", err, out)
		}
		ends := peers[b.speaker.String()].GracefulRestartInfo.EndOfRibRecv
		return ends["ipv4Unicast"] && ends["ipv6Unicast"]
	})
	stats := peers[b.speaker.String()].MessageStats
	return stats.TotalRecv - stats.KeepalivesRecv
}

// damage changes one path, removes another, and ends a session.
func damage(sp *speaker) error {
	paths, err := sp.paths()
	if err != nil {
		return err
	}
	changed, gone := paths[netip.MustParsePrefix("203.0.113.10/32")], paths[netip.MustParsePrefix("2001:db8::10/128")]
	changed.communities = []uint32{1}
	if err := sp.announce(changed); err != nil {
		return err
	}
	p, err := wirePath(gone)
	if err != nil {
		return err
	}
	defer reading()()
	if err := sp.server.DeletePath(apiutil.DeletePathRequest{Paths: []*apiutil.Path{p}}); err != nil {
		return err
	}
	for a, n := range sp.neighbors {
		if n.asn == 64502 {
			return sp.server.DeletePeer(context.Background(), &api.DeletePeerRequest{Address: a.String()})
		}
	}
	return fmt.Errorf("there is no neighbor to end a session with among %v", sp.neighbors)
}

// refusedNeighbor is a neighbor whose password file is missing.
func refusedNeighbor(ir *policies.IR) (policies.Name, reconciler.Key) {
	sw, bgp, address := *ir.Switch("gw-a"), *ir.Switch("gw-a").BGP, loopback()
	bgp.Neighbors = append(slices.Clone(bgp.Neighbors), policies.BGPNeighbor{Address: address, ASN: 64500, PasswordFile: "missing"})
	sw.BGP = &bgp
	n := policies.Name{Kind: schema.KindSwitch, Name: sw.Name}
	ir.Put(n, &sw)
	return n, neighborKey(target, address)
}
