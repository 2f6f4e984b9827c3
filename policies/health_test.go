package policies

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/schema"
)

// repo is a repository of one file that is followed from commit to commit.
type repo struct {
	t     *testing.T
	set   *schema.Set
	c     *Compiler
	facts Facts
	files schema.Files
}

func newRepo(t *testing.T, documents ...string) *repo {
	r := &repo{t: t, set: schema.NewSet(), c: NewCompiler(NewIDs(), nil)}
	for i, d := range documents {
		r.put(fmt.Sprintf("%d.yaml", i), d)
	}
	return r
}

// put changes one file of the next commit.
func (r *repo) put(name, text string) {
	r.files = r.files.With([]*schema.File{fileOf(name, text)}, nil)
}

func (r *repo) commit() (*IR, []Name, error) {
	return r.c.Compile(r.set, r.set.Update(&schema.Snapshot{Files: r.files}), r.facts)
}

// must commits what has to be valid.
func (r *repo) must() (*IR, []Name) {
	r.t.Helper()
	ir, units, err := r.commit()
	if err != nil {
		r.t.Fatal(err)
	}
	return ir, units
}

// gatewayOf is a gateway document with n servers gw1 ... of version v1.
func gatewayOf(n int, fields string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: gray.dev/v1alpha1\nkind: Gateway\nmetadata: {name: gw}\nspec:\n  vips: [203.0.113.10]\n  switches: [sw]\n  default: v1\n%s\n  versions:\n  - name: v1\n    backends:\n", fields)
	for i := range n {
		fmt.Fprintf(&b, "    - {name: gw%d, address: 192.0.2.%d, mac: \"02:00:00:00:00:%02x\", port: %d}\n", i+1, i+1, i+1, i+1)
	}
	b.WriteString("  - name: v2\n    backends: [{name: gray, address: 192.0.2.100, mac: \"02:00:00:00:01:00\", port: 100}]\n")
	return b.String()
}

const switchDoc = "apiVersion: gray.dev/v1alpha1\nkind: Switch\nmetadata: {name: sw}\nspec: {address: \"127.0.0.1:9559\"}\n"

var gatewayUnit = Name{Kind: schema.KindGateway, Name: "gw"}

// serversOf counts the buckets of each server of a version.
func serversOf(g *packets.Gateway, version string) map[string]int {
	shares := map[string]int{}
	for _, p := range g.Pools {
		if p.Version == version {
			for _, b := range p.Buckets {
				shares[p.Backends[b].Name]++
			}
		}
	}
	return shares
}

func TestDownServersLeaveTheBuckets(t *testing.T) {
	r := newRepo(t, switchDoc, gatewayOf(5, "  healthCheck: {icmp: {}}"))
	ir, _ := r.must()
	if got := len(serversOf(ir.Gateway("gw"), "v1")); got != 5 {
		t.Fatalf("%d of 5 servers have buckets", got)
	}
	for _, test := range []struct {
		down string
		in   string // who has buckets
		kept int
	}{
		{"v1/gw2", "gw1 gw3 gw4 gw5", 0},
		{"v1/gw2 v1/gw4", "gw1 gw3 gw5", 0},
		{"v1/gw2 v1/gw4 v1/gw5", "gw1 gw2 gw3", 1},
		{"v1/gw1 v1/gw2 v1/gw3 v1/gw4 v1/gw5", "gw1 gw2 gw3", 3},
		{"v2/gray v1/gw9 v9/gw1", "gw1 gw2 gw3 gw4 gw5", 0},
		{"", "gw1 gw2 gw3 gw4 gw5", 0},
	} {
		down := strings.Fields(test.down)
		r.facts.Down = map[string][]string{"gw": down}
		ir, units := r.must()
		if !slices.Equal(units, []Name{gatewayUnit}) {
			t.Errorf("%s is down: %v changed, want the gateway alone", test.down, units)
		}
		g := ir.Gateway("gw")
		shares := serversOf(g, "v1")
		for name := range shares {
			if !slices.Contains(strings.Fields(test.in), name) {
				t.Errorf("%s is down, and %s has %d buckets", test.down, name, shares[name])
			}
		}
		if len(shares) != len(strings.Fields(test.in)) || g.Pools[0].Kept != test.kept {
			t.Errorf("%s is down: %v have buckets and %d are kept, want %s and %d", test.down, shares, g.Pools[0].Kept, test.in, test.kept)
		}
		// A server that stays though it is down is not alive.
		if alive := g.Alive(); alive != !strings.Contains(test.down, "gw1 v1/gw2 v1/gw3") {
			t.Errorf("%s is down: alive is %v", test.down, alive)
		}
		if len(serversOf(g, "v2")) != 1 {
			t.Errorf("%s is down: v2 has no server in its buckets", test.down)
		}
		// Said again, it is no change.
		r.facts.Down = map[string][]string{"gw": down}
		if _, units := r.must(); len(units) != 0 {
			t.Errorf("the same set of servers changed %v", units)
		}
	}
}

func TestDownOutlivesCommitsAndEndsWithTheCheck(t *testing.T) {
	r := newRepo(t, switchDoc, gatewayOf(4, "  healthCheck: {icmp: {}}"))
	r.facts.Down = map[string][]string{"gw": {"v1/gw2"}} // before the gateway is known
	ir, _ := r.must()
	if serversOf(ir.Gateway("gw"), "v1")["gw2"] != 0 {
		t.Error("a server that was down before the first commit has buckets")
	}
	r.put("1.yaml", gatewayOf(5, "  healthCheck: {icmp: {}}"))
	ir, _ = r.must()
	if shares := serversOf(ir.Gateway("gw"), "v1"); shares["gw2"] != 0 || shares["gw5"] == 0 {
		t.Errorf("after a commit that adds a server: %v", shares)
	}
	r.put("1.yaml", gatewayOf(5, ""))
	ir, _ = r.must()
	if serversOf(ir.Gateway("gw"), "v1")["gw2"] == 0 {
		t.Error("nobody checks the servers any more, and one is still out")
	}
}

func TestChecksListWhatIsToBeChecked(t *testing.T) {
	r := newRepo(t, switchDoc, gatewayOf(2, "  healthCheck: {http: {path: /healthz, port: 8080}, interval: 5s, rise: 1, fall: 4}"))
	ir, _ := r.must()
	var got []string
	for _, c := range ir.Checks() {
		got = append(got, fmt.Sprintln(c.Of, c.Server, c.Address, c.How.HTTP, c.How.Interval, c.How.Timeout, c.How.Rise, c.How.Fall))
	}
	want := []string{
		"gw v1/gw1 192.0.2.1 {8080 /healthz} 5s 1s 1 4\n", "gw v1/gw2 192.0.2.2 {8080 /healthz} 5s 1s 1 4\n",
		"gw v2/gray 192.0.2.100 {8080 /healthz} 5s 1s 1 4\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	r.put("1.yaml", gatewayOf(2, "  healthCheck: {tcp: {port: 22}, interval: 500ms}"))
	ir, _ = r.must()
	how := packets.HealthCheck{TCP: 22, Interval: 500 * time.Millisecond, Timeout: 500 * time.Millisecond, Rise: 2, Fall: 3}
	if diff := cmp.Diff(how, ir.Checks()[0].How); diff != "" {
		t.Error(diff)
	}
	r.put("1.yaml", gatewayOf(2, ""))
	if ir, _ = r.must(); len(ir.Checks()) != 0 {
		t.Errorf("%d checks of a gateway that asks for none", len(ir.Checks()))
	}
}

func TestHealthCheckIsRefused(t *testing.T) {
	for fields, want := range map[string]string{
		"{}":                                    "spec.healthCheck: has 0 kinds of checks; give one of icmp, tcp and http",
		"{icmp: {}, tcp: {port: 1}}":            "spec.healthCheck: has 2 kinds of checks; give one of icmp, tcp and http",
		"{tcp: {}}":                             "spec.healthCheck.tcp: has no port; give the one that the servers listen on",
		"{http: {path: x}}":                     `spec.healthCheck.http.path: "x" does not begin with /`,
		"{icmp: {}, interval: 1ms}":             "spec.healthCheck.interval: 1ms is out of range; want 100ms to 1h0m0s",
		"{icmp: {}, interval: 1s, timeout: 2s}": "spec.healthCheck.timeout: 2s is longer than the interval, 1s",
		"{icmp: {}, fall: 0}":                   "spec.healthCheck.fall: 0 is out of range; want 1 to 100",
	} {
		r := newRepo(t, switchDoc, gatewayOf(1, "  healthCheck: "+fields))
		_, _, err := r.commit()
		if err == nil || !strings.HasPrefix(err.Error(), "1.yaml:8: "+want) {
			t.Errorf("%s: %v\nwant 1.yaml:8: %s", fields, err, want)
		}
	}
}
