package bgp

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// router is a BGP router of another make, as a process of its own.
type router interface {
	name() string
	start(t *testing.T, c routerConfig)
	// routes is what it has learned from the speaker, by prefix.
	routes(t *testing.T) map[string]route
}

// routerConfig is a router and its one neighbor, the speaker.
type routerConfig struct {
	address, peer netip.Addr
	asn, peerASN  uint32
	password      string
	announces     []string // prefixes of its own
}

// route is one learned route.
type route struct {
	nextHop     string
	communities string
	stale       bool // it is kept for a neighbor that restarts
}

// bothRouters is FRR and BIRD, which expect a speaker at one address.
type bothRouters struct {
	t       *testing.T
	speaker netip.Addr
	frr     *frr
	bird    *bird
	at      map[router]netip.Addr
}

// startRouters runs both in AS 64500, with what set changes.
func startRouters(t *testing.T, set ...func(*routerConfig)) *bothRouters {
	needRouters(t)
	b := &bothRouters{t: t, speaker: loopback(), frr: &frr{}, bird: &bird{}}
	b.at = map[router]netip.Addr{b.frr: loopback(), b.bird: loopback()}
	for r, address := range b.at {
		c := routerConfig{address: address, peer: b.speaker, asn: 64500, peerASN: 64512}
		for _, f := range set {
			f(&c)
		}
		r.start(t, c)
	}
	return b
}

func (b *bothRouters) addresses() []netip.Addr {
	return slices.SortedFunc(maps.Values(b.at), netip.Addr.Compare)
}

// until waits until something holds of each of them.
func (b *bothRouters) until(what string, holds func(r router, at netip.Addr) bool) {
	b.t.Helper()
	for r, at := range b.at {
		until(b.t, r.name()+": "+what, func() bool { return holds(r, at) })
	}
}

// have waits until both have exactly these routes.
func (b *bothRouters) have(what string, want map[string]route) {
	b.t.Helper()
	b.until(what, func(r router, _ netip.Addr) bool { return cmp.Equal(want, r.routes(b.t), cmp.AllowUnexported(route{})) })
}

const frrDaemon = "/usr/lib/frr/bgpd"

// frr is FRR's bgpd, without zebra.
type frr struct {
	dir  string
	peer netip.Addr
}

func (*frr) name() string { return "FRR" }

func (f *frr) start(t *testing.T, c routerConfig) {
	t.Helper()
	f.dir, f.peer = t.TempDir(), c.peer
	lines := []string{
		fmt.Sprintf("router bgp %d", c.asn), fmt.Sprintf("bgp router-id %s", c.address),
		"no bgp ebgp-requires-policy", "no bgp network import-check",
		fmt.Sprintf("neighbor %s remote-as %d", c.peer, c.peerASN), fmt.Sprintf("neighbor %s passive", c.peer),
		fmt.Sprintf("neighbor %s update-source %s", c.peer, c.address), fmt.Sprintf("neighbor %s ebgp-multihop 255", c.peer),
	}
	if c.password != "" {
		lines = append(lines, fmt.Sprintf("neighbor %s password %s", c.peer, c.password))
	}
	lines = append(lines, "address-family ipv4 unicast")
	for _, p := range c.announces {
		lines = append(lines, "network "+p)
	}
	lines = append(lines, "exit-address-family", "address-family ipv6 unicast", fmt.Sprintf("neighbor %s activate", c.peer), "exit-address-family")
	conf := filepath.Join(f.dir, "bgpd.conf")
	if err := os.WriteFile(conf, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	process(t, frrDaemon, "-f", conf, "-i", filepath.Join(f.dir, "pid"), "-z", filepath.Join(f.dir, "zserv"), "-p", "179",
		"-l", c.address.String(), "--vty_socket", f.dir, "-P", "0", "-Z", "-S", "--log", "stdout", "--log-level", "debugging")
	until(t, "bgpd answers", func() bool { _, err := f.show(t, "show bgp summary json"); return err == nil })
}

func (f *frr) show(t *testing.T, commands ...string) (string, error) {
	t.Helper()
	args := []string{"--vty_socket", f.dir, "-d", "bgpd"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	return ask(t, "vtysh", args...)
}

func (f *frr) routes(t *testing.T) map[string]route {
	t.Helper()
	out, err := f.show(t, "show bgp ipv4 unicast json", "show bgp ipv6 unicast json")
	if err != nil {
		t.Fatalf("vtysh: %v: %s", err, out)
	}
	var prefixes, commands []string
	for tables := json.NewDecoder(strings.NewReader(out)); tables.More(); {
		var table struct{ Routes map[string]json.RawMessage }
		if err := tables.Decode(&table); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		for prefix := range table.Routes {
			family := "ipv4"
			if strings.Contains(prefix, ":") {
				family = "ipv6"
			}
			prefixes, commands = append(prefixes, prefix), append(commands, "show bgp "+family+" unicast "+prefix+" json")
		}
	}
	all := map[string]route{}
	if len(commands) == 0 {
		return all
	}
	if out, err = f.show(t, commands...); err != nil {
		t.Fatalf("vtysh: %v: %s", err, out)
	}
	details := json.NewDecoder(strings.NewReader(out))
	for _, prefix := range prefixes {
		f.add(t, all, prefix, details)
	}
	return all
}

// add reads the paths of a prefix, and takes those that come from the speaker.
func (f *frr) add(t *testing.T, all map[string]route, prefix string, details *json.Decoder) {
	t.Helper()
	var detail struct {
		Paths []struct {
			Stale     bool
			Community struct{ String string }
			Nexthops  []struct{ IP string }
			Peer      struct{ PeerID string }
		}
	}
	if err := details.Decode(&detail); err != nil {
		t.Fatalf("FRR's detail of %s: %v", prefix, err)
	}
	for _, p := range detail.Paths {
		if p.Peer.PeerID == f.peer.String() {
			all[prefix] = route{nextHop: p.Nexthops[0].IP, communities: p.Community.String, stale: p.Stale}
		}
	}
}

// bird is BIRD 2.
type bird struct {
	socket string
	log    *lockedBuffer
}

func (*bird) name() string { return "BIRD" }

func (b *bird) start(t *testing.T, c routerConfig) {
	t.Helper()
	dir := t.TempDir()
	b.socket = filepath.Join(dir, "ctl")
	var static strings.Builder
	password := ""
	if c.password != "" {
		password = fmt.Sprintf("password %q;", c.password)
	}
	for _, p := range c.announces {
		fmt.Fprintf(&static, "\troute %s blackhole;\n", p)
	}
	conf := fmt.Sprintf(`log stderr all;
router id %s;
protocol device {}
protocol static own {
	ipv4;
%s}
protocol bgp gray {
	local %[1]s as %[3]d;
	neighbor %[4]s as %[5]d;
	multihop;
	strict bind yes;
	passive yes;
	debug { states, routes };
	%[6]s
	ipv4 { import all; export where proto = "own"; };
	ipv6 { import all; export none; };
}
`, c.address, static.String(), c.asn, c.peer, c.peerASN, password)
	file := filepath.Join(dir, "bird.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	b.log = process(t, "bird", "-f", "-c", file, "-s", b.socket, "-P", filepath.Join(dir, "pid"))
	until(t, "bird answers", func() bool { _, err := b.show(t, "status"); return err == nil })
}

func (b *bird) show(t *testing.T, what ...string) (string, error) {
	t.Helper()
	return ask(t, "birdc", append([]string{"-r", "-s", b.socket, "show"}, what...)...)
}

var (
	birdPrefix    = regexp.MustCompile(`^([0-9a-f:.]+/\d+)\s`)
	birdNextHop   = regexp.MustCompile(`BGP\.next_hop: (\S+)`)
	birdCommunity = regexp.MustCompile(`\((\d+),(\d+)\)`)
)

func (b *bird) routes(t *testing.T) map[string]route {
	t.Helper()
	session, err := b.show(t, "protocols", "all", "gray")
	if err != nil {
		t.Fatalf("birdc: %v: %s", err, session)
	}
	out, err := b.show(t, "route", "protocol", "gray", "all")
	if err != nil {
		t.Fatalf("birdc: %v: %s", err, out)
	}
	all := map[string]route{}
	prefix := ""
	for line := range strings.Lines(out) {
		if m := birdPrefix.FindStringSubmatch(line); m != nil {
			prefix = m[1]
			all[prefix] = route{stale: strings.Contains(session, "Neighbor graceful restart active")}
		}
		r := all[prefix]
		if m := birdNextHop.FindStringSubmatch(line); m != nil {
			r.nextHop = m[1]
		}
		if strings.Contains(line, "BGP.community:") {
			var list []string
			for _, m := range birdCommunity.FindAllStringSubmatch(line, -1) {
				list = append(list, m[1]+":"+m[2])
			}
			r.communities = strings.Join(list, " ")
		}
		if prefix != "" {
			all[prefix] = r
		}
	}
	return all
}
