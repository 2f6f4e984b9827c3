package reconciler

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/reconciler/board"
)

// checked is a gateway whose servers are checked.
func checked(v2 ...int) string {
	return strings.Replace(gatewayDoc("gw", aVIP, "s", v2...), "spec:\n", "spec:\n  healthCheck: {tcp: {port: 22}, interval: 2s}\n", 1)
}

// pools is what mem/s has of pools.
func (g *rig) pools() []string {
	return slices.DeleteFunc(g.w.live("mem/s"), func(s string) bool { return !strings.HasPrefix(s, "pool") })
}

func TestFailingServersLeaveThePools(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := board.NewHealth()
		g := start(t, newWorld(t), func(c *Config) { c.Health = h })
		g.quiet()
		refused := errors.New("refused")
		h.Report("gw", "v2/b3", refused) // nobody has asked yet
		g.commit("1", switchDoc("s", 1), checked(2, 3, 4))
		var servers []string
		for _, c := range h.Wanted() {
			servers = append(servers, c.Of+" "+c.Server+" "+c.Address.String())
		}
		if want := []string{"gw v1/a 192.0.2.1", "gw v2/b2 192.0.2.2", "gw v2/b3 192.0.2.3", "gw v2/b4 192.0.2.4"}; !slices.Equal(servers, want) {
			t.Errorf("to be checked are %q, want %q", servers, want)
		}
		select {
		case <-h.Renewed():
		default:
			t.Error("nobody was told that the checks changed")
		}
		h.Report("gw", "v2/b3", refused)
		g.quiet()
		if got, want := g.pools(), []string{"pool gw/v1: a ", "pool gw/v2: b2 b4 "}; !slices.Equal(got, want) {
			t.Errorf("live are %q, want %q", got, want)
		}
		first := of(g.status().document("gw").Conditions, "Degraded")
		if first.Status != "True" || first.Message != "1 of 3 servers of v2 fail their checks (b3: refused)" {
			t.Errorf("a failing server shows as %+v", first)
		}
		if said := g.dryRun(switchDoc("s", 1), checked(2, 3, 4)); said != "" {
			t.Errorf("a dry run of what is in force would have the failing server back:\n%s", said)
		}
		// A commit that is refused does not hold it up.
		g.after(time.Minute)
		g.commit("2", switchDoc("s", 1), "kind: nonsense\n", checked(2, 3))
		h.Report("gw", "v2/b2", refused)
		g.quiet()
		if got, want := g.pools(), []string{"pool gw/v1: a ", "pool gw/v2: b4 "}; !slices.Equal(got, want) {
			t.Errorf("live are %q, want %q", got, want)
		}
		s := g.status()
		if s.Revision != "1" || s.Fetched != "2" || len(s.Errors) == 0 || s.Conditions[0].Reason != "CommitRefused" {
			t.Errorf("the refused commit shows as %+v", s)
		}
		if c := of(s.document("gw").Conditions, "Degraded"); !c.LastTransitionTime.Equal(first.LastTransitionTime) ||
			c.Message != "2 of 3 servers of v2 fail their checks (b2: refused, b3: refused), 1 of them keep their buckets, as half always stay" {
			t.Errorf("failing servers show as %+v", c)
		}
		// What failed before is tried at once where it is another thing now.
		g.w.at("mem/s", func(p *place) { p.refuse[Key{"mem/s", "pool", "gw/v2"}] = errors.New("no") })
		h.Report("gw", "v2/b2", nil)
		g.after(100 * time.Second)
		g.w.at("mem/s", func(p *place) { clear(p.refuse) })
		h.Report("gw", "v2/b3", nil)
		h.Report("unknown", "v1/a", refused)
		g.quiet()
		if got, want := g.pools(), []string{"pool gw/v1: a ", "pool gw/v2: b2 b3 b4 "}; !slices.Equal(got, want) {
			t.Errorf("live are %q, want %q", got, want)
		}
		if c := of(g.status().document("gw").Conditions, "Degraded"); c.Type != "" {
			t.Errorf("all servers are well, and it shows %+v", c)
		}
		g.commit("3", switchDoc("s", 1), checked(2))
		if n := len(h.Wanted()); n != 2 {
			t.Errorf("%d servers are to be checked, want 2", n)
		}
		if c := g.status().Conditions; len(c) != 1 || c[0].Status != "True" {
			t.Errorf("the conditions are %+v", c)
		}
	})
}
