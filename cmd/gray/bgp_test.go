package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// gate is called before a Write that inserts or deletes a VIP reaches the switch.
type gate struct {
	mu     sync.Mutex
	before func(p4v1.Update_Type)
}

func (g *gate) set(before func(p4v1.Update_Type)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.before = before
}

func (g *gate) intercept(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if w, ok := req.(*p4v1.WriteRequest); ok {
		g.mu.Lock()
		before := g.before
		g.mu.Unlock()
		for _, u := range w.GetUpdates() {
			if id := u.GetEntity().GetTableEntry().GetTableId(); before != nil && (id == pipeline.TableVIPv4 || id == pipeline.TableVIPv6) {
				before(u.GetType())
			}
		}
	}
	return handler(ctx, req)
}

// bgpLab is a lab whose switch is announced to FRR and BIRD.
type bgpLab struct {
	*lab
	gate         *gate
	network      string // of the loopback addresses of this test
	vtysh, birdc []string
}

func newBGPLab(t *testing.T) *bgpLab {
	t.Helper()
	needNetwork(t, "/usr/lib/frr/bgpd", "vtysh", "bird", "birdc")
	g := &gate{}
	l := &bgpLab{lab: newLab(t, grpc.ChainUnaryInterceptor(g.intercept)), gate: g, network: fmt.Sprintf("127.%d.%d.", 1+rand.N(254), rand.N(256))}
	l.startFRR()
	l.startBIRD()
	l.announce("203.0.113.10")
	return l
}

func (l *bgpLab) write(name, format string, args ...any) string {
	l.t.Helper()
	path := filepath.Join(l.Dir, name)
	l.ok(os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o600))
	return path
}

func (l *bgpLab) run(name string, args ...string) {
	l.t.Helper()
	cmd := exec.Command(name, args...)
	l.ok(cmd.Start())
	l.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}

func (l *bgpLab) startFRR() {
	conf := l.write("bgpd.conf", `router bgp 64500
bgp router-id %[1]s2
no bgp ebgp-requires-policy
neighbor %[1]s1 remote-as 64512
neighbor %[1]s1 passive
neighbor %[1]s1 ebgp-multihop 255
neighbor %[1]s1 password secret
address-family ipv6 unicast
neighbor %[1]s1 activate
`, l.network)
	l.vtysh = []string{"vtysh", "--vty_socket", l.Dir, "-d", "bgpd", "-c"}
	l.run("/usr/lib/frr/bgpd", "-f", conf, "-i", filepath.Join(l.Dir, "frr.pid"), "-z", filepath.Join(l.Dir, "zserv"),
		"-l", l.network+"2", "--vty_socket", l.Dir, "-P", "0", "-Z", "-S")
}

func (l *bgpLab) startBIRD() {
	conf := l.write("bird.conf", `router id %[1]s3;
protocol device {}
protocol bgp gray {
	local %[1]s3 as 64501;
	neighbor %[1]s1 as 64512;
	multihop; passive yes; strict bind yes;
	password "secret";
	ipv4 { import all; export none; };
	ipv6 { import all; export none; };
}
`, l.network)
	socket := filepath.Join(l.Dir, "bird.ctl")
	l.birdc = []string{"birdc", "-r", "-s", socket, "show", "route", "protocol", "gray"}
	l.run("bird", "-f", "-c", conf, "-s", socket, "-P", filepath.Join(l.Dir, "bird.pid"))
}

// announce commits a gateway with these VIPs, on a switch that announces them.
func (l *bgpLab) announce(vips ...string) {
	l.t.Helper()
	l.ok(l.CopyFile("gateways/vpc-gw.yaml"))
	path := filepath.Join(l.Repo, "gateways", "vpc-gw.yaml")
	b, err := os.ReadFile(path)
	l.ok(err)
	text := strings.Replace(string(b), "vips: [203.0.113.10]", fmt.Sprintf("vips: [%s]", strings.Join(vips, ", ")), 1)
	text += fmt.Sprintf(`  bgp:
    asn: 64512
    routerID: 192.0.2.1
    localAddress: %[1]s1
    nextHop: 192.0.2.1
    nextHop6: "2001:db8::1"
    neighbors:
    - {address: %[1]s2, asn: 64500, passwordFile: bgp}
    - {address: %[1]s3, asn: 64501, passwordFile: bgp}
`, l.network)
	l.ok(os.WriteFile(path, []byte(text), 0o644))
	l.ok(l.Commit(l.t.Context(), strings.Join(vips, " ")))
}

// routes is the prefixes that FRR and BIRD have.
func (l *bgpLab) routes() (frr, bird []string) {
	for _, family := range []string{"ipv4", "ipv6"} {
		out, _ := exec.Command(l.vtysh[0], append(l.vtysh[1:], "show bgp "+family+" unicast json")...).Output()
		var table struct{ Routes map[string]json.RawMessage }
		_ = json.Unmarshal(out, &table)
		for p := range table.Routes {
			frr = append(frr, p)
		}
	}
	out, _ := exec.Command(l.birdc[0], l.birdc[1:]...).Output()
	for line := range strings.Lines(string(out)) {
		if p, _, ok := strings.Cut(line, " "); ok && strings.Contains(p, "/") {
			bird = append(bird, p)
		}
	}
	slices.Sort(frr)
	slices.Sort(bird)
	return frr, bird
}

// have tells whether both routers have exactly these prefixes.
func (l *bgpLab) have(prefixes ...string) bool {
	frr, bird := l.routes()
	return slices.Equal(frr, prefixes) && slices.Equal(bird, prefixes)
}

// wait waits until both routers have exactly these prefixes.
func (l *bgpLab) wait(prefixes ...string) bool {
	deadline := time.Now().Add(20 * time.Second)
	for !l.have(prefixes...) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

func (l *bgpLab) expect(what string, prefixes ...string) {
	l.t.Helper()
	if !l.wait(prefixes...) {
		frr, bird := l.routes()
		log, _ := os.ReadFile(l.log)
		l.t.Fatalf("%s: FRR has %v and BIRD %v, want %v; log:\n%s", what, frr, bird, prefixes, log)
	}
}

func TestVIPsAreAnnouncedInOrder(t *testing.T) {
	t.Parallel()
	const a, b, c = "203.0.113.10/32", "203.0.113.11/32", "2001:db8::10/128"
	l := newBGPLab(t)
	secrets := t.TempDir()
	l.ok(os.WriteFile(filepath.Join(secrets, "bgp"), []byte("secret\n"), 0o600))
	flags := []string{"--secrets-dir", secrets, "--max-delete", "100"}
	l.startDaemon(flags...)
	l.expect("the first VIP", a)
	l.until("both sessions are up", func(s *admin.Status) bool {
		text := fmt.Sprint(s.Neighbors)
		return strings.Count(text, "established") == 2 && !strings.Contains(text, "secret")
	})

	status := exec.Command(os.Args[0], "status", "--admin-listen", l.Address("18001"))
	status.Env = append(os.Environ(), "GRAY_TEST_RUN_MAIN=1")
	out, err := status.Output()
	if _, exit := errors.AsType[*exec.ExitError](err); !exit || // no Envoy is connected
		!regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(l.network)+`3 +bgp/gw-a +64501 +established `).Match(out) {
		t.Errorf("gray status says, with error %v:\n%s", err, out)
	}

	// While the switch has not taken the second VIP, it is not announced.
	var inserts, deletes atomic.Int32
	l.gate.set(func(op p4v1.Update_Type) {
		for range 10 {
			if op == p4v1.Update_INSERT && !l.have(a) {
				t.Error("a VIP is announced that the switch does not have")
			}
		}
		inserts.Add(1)
	})
	l.announce("203.0.113.10", "203.0.113.11", `"2001:db8::10"`)
	l.expect("three VIPs", c, a, b)
	if inserts.Load() == 0 {
		t.Error("no VIP was inserted")
	}

	// A VIP that leaves is withdrawn before the switch loses it.
	l.gate.set(func(op p4v1.Update_Type) {
		if op == p4v1.Update_DELETE && !l.wait(a) {
			t.Error("the switch loses a VIP that is still announced")
		}
		deletes.Add(1)
	})
	l.announce("203.0.113.10")
	l.until("the switch has one VIP", func(*admin.Status) bool {
		return l.entries(pipeline.TableVIPv4) == 1 && l.entries(pipeline.TableVIPv6) == 0
	})
	if deletes.Load() == 0 {
		t.Error("no VIP was deleted")
	}

	// A VIP that the switch lost is withdrawn until the switch has it again.
	l.gate.set(func(op p4v1.Update_Type) {
		if op == p4v1.Update_INSERT && !l.wait() {
			t.Error("a VIP is announced that the switch has lost")
		}
	})
	l.drop(pipeline.TableVIPv4)
	l.until("the drift is seen", func(*admin.Status) bool { return l.logged("drift", "vip_v4") })
	l.expect("the VIP that is back", a)
	l.gate.set(nil)

	// A daemon that is ended and started again is not noticed.
	l.ok(l.daemon.Process.Signal(syscall.SIGTERM))
	l.ok(l.daemon.Wait())
	l.daemon = nil
	l.startDaemon(flags...)
	l.until("the sessions are up again", func(s *admin.Status) bool {
		if !l.have(a) {
			t.Fatal("a restart of the daemon took the VIP away")
		}
		return strings.Count(fmt.Sprint(s.Neighbors), "established") == 2
	})
}

// drop deletes the entries of a table as the daemon itself would.
func (l *bgpLab) drop(table uint32) {
	l.t.Helper()
	c, closeConn := l.client()
	defer closeConn()
	ctx, cancel := context.WithCancel(l.t.Context())
	defer cancel()
	stream, err := c.StreamChannel(ctx)
	l.ok(err)
	l.ok(stream.Send(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Arbitration{
		Arbitration: &p4v1.MasterArbitrationUpdate{DeviceId: 1},
	}}))
	m, err := stream.Recv()
	l.ok(err)
	w := &p4v1.WriteRequest{DeviceId: 1, ElectionId: m.GetArbitration().GetElectionId()}
	for _, e := range l.read(c, table) {
		w.Updates = append(w.Updates, &p4v1.Update{Type: p4v1.Update_DELETE, Entity: e})
	}
	_, err = c.Write(ctx, w)
	l.ok(err)
}
