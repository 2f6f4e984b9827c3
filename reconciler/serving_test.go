package reconciler

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/schema"
)

const checkedService = apiVersion + `kind: Service
metadata: {name: api}
spec:
  hosts: [api.internal]
  default: v1
  healthCheck: {tcp: {}}
  versions:
  - {name: v1, endpoints: [{address: 192.0.2.1, port: 80}, {address: 192.0.2.2, port: 80}]}
  - {name: v2, endpoints: [{address: 192.0.2.3, port: 80}]}
  - {name: v3}
`

func servicePolicy(name, version, account string) string {
	return apiVersion + "kind: GrayPolicy\nmetadata: {name: " + name + "}\nspec:\n  version: " + version + "\n  targets: [{kind: Service, name: api}]\n  match: [{accounts: [\"" + account + "\"]}]\n"
}

// stands is a document's Ready condition without its times.
func (g *rig) stands(name string) string {
	s := g.status()
	d := s.document(name)
	if len(d.Conditions) == 0 {
		g.t.Fatalf("there is no document %s: %v", name, s.Errors)
	}
	return d.Conditions[0].String()
}

// wants checks the Ready conditions of documents, and of everything by the name "".
func (g *rig) wants(want map[string]string) {
	g.t.Helper()
	for name, want := range want {
		got := g.status().Conditions[0].String()
		if name != "" {
			got = g.stands(name)
		}
		if got != want {
			g.t.Errorf("%q stands as\n  %s\nwant\n  %s", name, got, want)
		}
	}
}

// TestDeadSwitchMakesItsDocumentsNotReady has a switch go away after everything was
// live: all that is on it is not Ready, with the reason, and what is not on it is.
func TestDeadSwitchMakesItsDocumentsNotReady(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t), func(c *Config) { c.Drift = 30 * time.Second })
		g.commit("1", switchDoc("s", 1), switchDoc("r", 2), gatewayDoc("gw", aVIP, "s, r", 2), gatewayDoc("other", "203.0.113.99", "r", 2), policyDoc("p", "gw", 7), policyDoc("q", "other", 8))
		good := "True Applied"
		g.wants(map[string]string{"": good, "gw": good, "p": good, "s": good})
		g.w.at("mem/s", func(p *place) { p.down = errors.New("connection refused\nand more") })
		begin := time.Now()
		g.after(31 * time.Second)
		why := "Switch s: mem/s: connection refused (and more)"
		g.wants(map[string]string{
			"": "False TargetFailed mem/s failed, see targets", "s": "False Unreachable mem/s: connection refused (and more)",
			"gw": "False Unreachable " + why, "p": "False Unreachable Gateway gw: " + why, "other": good, "q": good, "r": good,
		})
		if c := g.status().document("p").Conditions[0]; c.LastTransitionTime.Sub(begin) != 30*time.Second {
			t.Errorf("it is not Ready since %s", c.LastTransitionTime.Sub(begin))
		}
		g.commit("2", switchDoc("s", 1), switchDoc("r", 2), gatewayDoc("gw", aVIP, "s, r", 2), gatewayDoc("other", "203.0.113.99", "r", 2), policyDoc("late", "gw", 7))
		if got := g.stands("late"); got != "False Unreachable Gateway gw: "+why {
			t.Errorf("a policy that came while the switch was away stands as %s", got)
		}
		g.w.at("mem/s", func(p *place) { p.down = nil })
		g.after(2 * time.Minute)
		g.wants(map[string]string{"": good, "gw": good, "late": good, "s": good})
	})
}

// TestNoServerMakesDocumentsNotReady has the servers of Gateways and Services fail
// their checks, or be none: whatever goes to such a version is not Ready.
func TestNoServerMakesDocumentsNotReady(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := board.NewHealth()
		g := start(t, newWorld(t), func(c *Config) { c.Health = h })
		g.commit("1", switchDoc("s", 1), checked(2), policyDoc("p", "gw", 7), checkedService, servicePolicy("two", "v2", "1"), servicePolicy("three", "v3", "2"))
		good := "True Applied"
		var servers []string
		for _, c := range h.Wanted() {
			servers = append(servers, c.Of+" "+c.Server)
		}
		if !slices.Contains(servers, "Service/api v1/192.0.2.1:80") {
			t.Errorf("checked are %q", servers)
		}
		three := "version v3 of Service api has no endpoint"
		g.wants(map[string]string{"gw": good, "p": good, "api": good, "two": good, "three": "False NoEndpoints " + three, "": "False NoEndpoints GrayPolicy/three: " + three})
		refused := errors.New("refused")
		h.Report("Service/api", "v1/192.0.2.1:80", refused)
		g.quiet()
		g.wants(map[string]string{"api": good})
		h.Report("Service/api", "v1/192.0.2.2:80", refused)
		h.Report("Service/api", "v2/192.0.2.3:80", refused)
		h.Report("gw", "v1/a", refused)
		g.quiet()
		one := "version v1 of Service api: all 2 endpoints fail their checks (192.0.2.1:80: refused, 192.0.2.2:80: refused)"
		g.wants(map[string]string{
			"api": "False NoEndpoints " + one, "two": "False NoEndpoints version v2 of Service api: all 1 endpoints fail their checks (192.0.2.3:80: refused)",
			"gw": "False NoServers version v1 of Gateway gw: all 1 servers fail their checks (a: refused)",
			"p":  "False NoServers Gateway gw: version v1 of Gateway gw: all 1 servers fail their checks (a: refused)",
		})
		for _, s := range []string{"v1/192.0.2.1:80", "v2/192.0.2.3:80"} {
			h.Report("Service/api", s, nil)
		}
		h.Report("gw", "v1/a", nil)
		h.Report("gw", "v2/b2", refused)
		g.quiet()
		g.wants(map[string]string{"api": good, "two": good, "gw": good, "p": "False NoServers version v2 of Gateway gw: all 1 servers fail their checks (b2: refused)"})
		g.commit("2", switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2), policyDoc("p", "gw", 7))
		g.wants(map[string]string{"": good, "gw": good, "p": good})
	})
}

// TestRolloutBesideOthers has another policy with half of the shard on the new version:
// the rollout neither counts nor tests it, and an abort says that it stays. With nothing
// left to move the rollout is not completed.
func TestRolloutBesideOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		other := func(networks string) string {
			return apiVersion + "kind: GrayPolicy\nmetadata: {name: q}\nspec:\n  targets: [{kind: Gateway, name: gw}]\n  version: v2\n  priority: 200\n  match: [{networks: [" + networks + "]}]\n"
		}
		shard := func(rollout, others string) []string {
			only := strings.Replace(rolloutDoc("v2", rollout), ", {kind: Service, name: api}", "", 1)
			return []string{switchDoc("sw", 1), gatewayDoc("gw", "203.0.113.1", "sw", 2), networkDoc(1, 4), networkDoc(2, 4), only, other(others)}
		}
		g := startRoll(t, newWorld(t), newKeeper())
		g.commit("c1", shard("batches: [1, 100%], bake: 10s, "+verified, "n1")...)
		g.stands(rollout.PhaseProgressing, "Baking", 1)
		g.after(time.Minute)
		g.stands(rollout.PhaseCompleted, "Completed", 4)
		s := g.rollout()
		if s.Total != 4 || !slices.Equal(s.Others, []string{"4 VMs of Network n1 are moved by GrayPolicy q"}) {
			t.Errorf("it counts %d VMs, others have %q", s.Total, s.Others)
		}
		for _, j := range g.tested() {
			if j.Network == "n1" {
				t.Errorf("what another policy moved is tested: %+v", j.Probe)
			}
		}
		g.commit("c2", shard("batches: [1, 100%], "+verified, "n1, n2")...)
		g.after(time.Minute)
		s = g.rollout()
		if c := of(s.Conditions, "Stalled"); s.Phase == rollout.PhaseCompleted || c.Reason != rollout.ReasonNothing || s.Conditions[0].Status != "False" {
			t.Errorf("with nothing to move it stands as %+v", s)
		}
		// What the other one leaves is moved.
		g.commit("c3", shard("batches: [1, 100%], "+verified, "n2")...)
		g.after(time.Minute)
		g.stands(rollout.PhaseCompleted, "Completed", 4)
		if _, err := g.Do(t.Context(), "p", rollout.Verb{Verb: rollout.VerbAbort, Who: "ann"}); err != nil {
			t.Fatal(err)
		}
		g.after(time.Minute)
		g.rules("rule 2: -> v2")
		if n := g.rollout().Networks[0]; n.Reached == nil || n.Reached.VMs != 4 {
			t.Errorf("after an abort nobody knows how far it had come: %+v", n)
		}
		if !strings.Contains(g.log.String(), "every unit is at the default again, but what others move is not: 4 VMs of Network n2 are moved by GrayPolicy q") {
			t.Errorf("an abort does not say what stays:\n%s", g.log)
		}
	})
}

// TestPlightsAreTold has everything go wrong that is no rollout's, and right again: each
// is told once, and once when it is over.
func TestPlightsAreTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var told []string
		h := board.NewHealth()
		g := start(t, newWorld(t), func(c *Config) {
			c.Health, c.Drift = h, 30*time.Second
			c.Events = func(e Event) { told = append(told, e.Reason+" "+e.Message) }
		})
		g.after(5 * time.Second) // nothing was committed
		docs := []string{switchDoc("s", 1), checked(2)}
		steps := []struct {
			do   func()
			want []string
		}{
			{func() {}, []string{"FetchFailed the repository: nothing was committed yet"}},
			{func() { g.commit("1", docs...) }, []string{"Recovered the repository: no longer FetchFailed"}},
			{func() { g.commit("2", docs[0], "kind: nonsense\n") }, []string{"CommitRefused the commit: 2: b.yaml:1: kind: "}},
			{func() { g.commit("3", docs[0]) }, []string{"DeleteRefused the commit: 3: "}},
			{func() { g.commit("4", docs...) }, []string{"Recovered the commit: no longer DeleteRefused"}},
			{func() { g.w.at("mem/s", func(p *place) { p.down = errors.New("away") }); g.after(time.Minute) }, []string{"Unreachable mem/s: away"}},
			{func() { g.w.at("mem/s", func(p *place) { p.down = nil }); g.after(2 * time.Minute) }, []string{"Recovered mem/s: no longer Unreachable"}},
			{func() { h.Report("gw", "v1/a", errors.New("refused")); g.quiet() }, []string{"NoServers Gateway/gw: version v1 of Gateway gw: all 1 servers fail"}},
			{func() { h.Report("gw", "v1/a", nil); g.quiet() }, []string{"Recovered Gateway/gw: no longer NoServers"}},
		}
		for i, s := range steps {
			s.do()
			var now []string
			g.do(func() { now, told = told, nil })
			if !slices.EqualFunc(now, s.want, strings.HasPrefix) {
				t.Errorf("step %d tells %q, want %q", i, now, s.want)
			}
		}
	})
}

// TestNotLive asks of targets that do otherwise than is meant: away, behind, refused.
func TestNotLive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t), func(c *Config) { c.Drift = 30 * time.Second })
		says := func(want string) {
			t.Helper()
			why, err := g.NotLive(t.Context(), "mem/s", schema.Name{Kind: schema.KindGateway, Name: "gw"})
			if err != nil || !strings.HasPrefix(why, want) || want == "" && why != "" {
				t.Errorf("it says %q, %v; want %q", why, err, want)
			}
		}
		docs := []string{switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2)}
		g.commit("1", docs...)
		says("")
		g.w.at("mem/s", func(p *place) { p.refuse[Key{"mem/s", "rule", "gw/7"}] = errors.New("no") })
		g.commit("2", append(docs, policyDoc("p", "gw", 7))...)
		says("1 changes are not live yet at mem/s, of which 1 fail and 0 wait")
		g.commit("3", docs...)
		says("")
		g.w.at("mem/s", func(p *place) { p.down = errors.New("gone") })
		g.after(31 * time.Second)
		says("mem/s is away, and does what it was given last: gone")
	})
}
