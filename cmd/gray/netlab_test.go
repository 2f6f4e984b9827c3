package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gray-release/gray/admin"
)

// netlab is a laboratory of network namespaces: VMs with kernel VXLAN, gateway
// servers that own the VIP and route VXLAN, and between them `gray switch` on
// veth ports. The daemon runs beside the switch.
//
//	VM -- vxlan -- fabric bridge -- switch port 10 | ports 1, 2, 3 -- servers -- fabric bridge
type netlab struct {
	t      *testing.T
	prefix string
	dir    string
	repo   string
	gray   string
	logs   string
}

// The addresses of the laboratory.
const (
	labVIP       = "203.0.113.10"
	labSwitchMAC = "02:00:00:00:00:01"
	labRouterMAC = "02:aa:00:00:ff:ff" // of the VPCs' router on every server
)

// labServer is a gateway server.
type labServer struct {
	name, version string
	number        int // its switch port, and the end of its addresses
}

var labServers = []labServer{{"gw1", "v1", 1}, {"gw2", "v1", 2}, {"gw9", "v2", 3}}

func (s labServer) mac() string { return fmt.Sprintf("02:00:00:00:00:1%d", s.number) }

// labVM is a VM on a host of its own.
type labVM struct {
	name    string
	vni     int
	address string
	number  int
}

var labVMs = []labVM{
	{"vma", 1001, "10.0.0.5", 1},
	{"vmb", 1001, "10.0.0.6", 2},
	{"vmc", 1001, "10.0.0.7", 3},
	{"vmd", 1002, "10.0.0.5", 4},
	{"vme", 1002, "10.0.0.6", 5},
}

func (v labVM) vtep() string { return fmt.Sprintf("192.0.2.%d", 100+v.number) }
func (v labVM) mac() string  { return fmt.Sprintf("02:aa:00:00:00:%02d", v.number) }

// needNetwork skips where there is no root or a tool is missing; on CI it fails.
func needNetwork(t *testing.T, tools ...string) {
	t.Helper()
	missing := ""
	if os.Getuid() != 0 {
		missing = "this test needs root for network namespaces"
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing = tool + " is missing; run make tools"
		}
	}
	switch {
	case missing == "":
	case os.Getenv("CI") == "true":
		t.Fatal(missing)
	default:
		t.Skip(missing)
	}
}

func newNetlab(t *testing.T) *netlab {
	t.Helper()
	l := &netlab{t: t, prefix: fmt.Sprintf("gray%d", os.Getpid()), dir: t.TempDir()}
	l.repo, l.logs = filepath.Join(l.dir, "repo"), filepath.Join(l.dir, "daemon.log")
	var err error
	if l.gray, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	l.namespace("fab")
	l.in("fab", "ip", "link", "add", "br0", "type", "bridge")
	l.in("fab", "ip", "link", "set", "br0", "up")
	l.namespace("sw")
	l.cable("fab", "uplink", "sw", "p10")
	l.in("sw", "ip", "addr", "add", "192.0.2.250/24", "dev", "p10") // of the daemon, which checks the servers
	l.in("fab", "bridge", "fdb", "add", labSwitchMAC, "dev", "uplink", "master", "static")
	for _, s := range labServers {
		l.server(s)
	}
	for _, v := range labVMs {
		l.vm(v)
	}
	return l
}

// must runs a command.
func (l *netlab) must(args ...string) string {
	l.t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (l *netlab) ns(name string) string { return l.prefix + "-" + name }

// in runs a command in a namespace.
func (l *netlab) in(ns string, args ...string) string {
	l.t.Helper()
	return l.must(append([]string{"ip", "netns", "exec", l.ns(ns)}, args...)...)
}

func (l *netlab) namespace(name string) {
	l.t.Helper()
	l.must("ip", "netns", "add", l.ns(name))
	l.t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", l.ns(name)).Run() })
	l.in(name, "ip", "link", "set", "lo", "up")
	for _, k := range []string{"all", "default"} {
		l.in(name, "sysctl", "-qw", "net.ipv4.conf."+k+".rp_filter=0", "net.ipv6.conf."+k+".disable_ipv6=1")
	}
}

// cable puts a veth pair between two namespaces; an end in the fabric is a port
// of its bridge.
func (l *netlab) cable(a, aName, b, bName string) {
	l.t.Helper()
	l.must("ip", "link", "add", aName, "netns", l.ns(a), "type", "veth", "peer", "name", bName, "netns", l.ns(b))
	if a == "fab" {
		l.in(a, "ip", "link", "set", aName, "master", "br0")
	}
	l.in(a, "ip", "link", "set", aName, "up")
	l.in(b, "ip", "link", "set", bName, "up")
}

// server makes a host that owns the VIP and routes between the VXLANs.
func (l *netlab) server(s labServer) {
	l.t.Helper()
	l.namespace(s.name)
	l.cable("sw", fmt.Sprintf("p%d", s.number), s.name, "tosw")
	l.cable("fab", "f"+s.name, s.name, "under")
	l.in(s.name, "ip", "link", "set", "tosw", "address", s.mac())
	l.in(s.name, "ip", "addr", "add", fmt.Sprintf("192.0.2.1%d/24", s.number), "dev", "under")
	l.in(s.name, "ip", "addr", "add", labVIP+"/32", "dev", "lo")
	l.in(s.name, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0")
	for _, vni := range []int{1001, 1002} {
		dev := fmt.Sprintf("vx%d", vni)
		l.in(s.name, "ip", "link", "add", dev, "address", labRouterMAC, "type", "vxlan", "id", strconv.Itoa(vni),
			"local", labVIP, "dstport", "4789", "nolearning")
		l.in(s.name, "ip", "link", "set", dev, "up")
		// Two VPCs may use the same addresses: each has a table of its own.
		l.in(s.name, "ip", "rule", "add", "iif", dev, "table", strconv.Itoa(vni))
		l.in(s.name, "sysctl", "-qw", "net.ipv4.conf."+dev+".rp_filter=0", "net.ipv4.conf."+dev+".send_redirects=0")
	}
	for _, v := range labVMs {
		dev := fmt.Sprintf("vx%d", v.vni)
		l.in(s.name, "ip", "route", "add", v.address+"/32", "dev", dev, "table", strconv.Itoa(v.vni))
		l.in(s.name, "ip", "neigh", "add", v.address, "lladdr", v.mac(), "dev", dev, "nud", "permanent")
		l.in(s.name, "bridge", "fdb", "add", v.mac(), "dev", dev, "dst", v.vtep())
	}
}

// vm makes a VM on a host of its own: all of its traffic goes to the VIP.
func (l *netlab) vm(v labVM) {
	l.t.Helper()
	l.namespace(v.name)
	l.cable("fab", "f"+v.name, v.name, "under")
	l.in(v.name, "ip", "addr", "add", v.vtep()+"/24", "dev", "under")
	l.in(v.name, "ip", "neigh", "add", "192.0.2.1", "lladdr", labSwitchMAC, "dev", "under", "nud", "permanent")
	l.in(v.name, "ip", "route", "add", labVIP+"/32", "via", "192.0.2.1")
	l.in(v.name, "ip", "link", "add", "vx", "address", v.mac(), "mtu", "1450", "type", "vxlan", "id", strconv.Itoa(v.vni),
		"local", v.vtep(), "dstport", "4789", "nolearning")
	l.in(v.name, "ip", "link", "set", "vx", "up")
	l.in(v.name, "bridge", "fdb", "add", labRouterMAC, "dev", "vx", "dst", labVIP)
	l.in(v.name, "ip", "addr", "add", v.address+"/32", "dev", "vx")
	l.in(v.name, "ip", "neigh", "add", "10.0.0.1", "lladdr", labRouterMAC, "dev", "vx", "nud", "permanent")
	l.in(v.name, "ip", "route", "add", "10.0.0.1/32", "dev", "vx")
	l.in(v.name, "ip", "route", "add", "10.0.0.0/16", "via", "10.0.0.1", "dev", "vx")
}

// start runs a command in a namespace until the test ends.
func (l *netlab) start(ns string, env []string, out *os.File, args ...string) *exec.Cmd {
	l.t.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", l.ns(ns)}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

// startGray runs the switch and the daemon.
func (l *netlab) startGray() {
	l.t.Helper()
	log, err := os.Create(l.logs)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = log.Close() })
	run := []string{"GRAY_TEST_RUN_MAIN=1"}
	l.start("sw", run, log, l.gray, "switch", "-i", "10@p10", "-i", "1@p1", "-i", "2@p2", "-i", "3@p3")
	l.start("sw", run, log, l.gray, "daemon", "--repo", l.repo, "--state", "file:"+filepath.Join(l.dir, "state.db"), "--log-format", "json")
}

// status asks the daemon.
func (l *netlab) status() (*admin.Status, error) {
	cmd := exec.Command("ip", "netns", "exec", l.ns("sw"), l.gray, "status", "-o", "json")
	cmd.Env = append(os.Environ(), "GRAY_TEST_RUN_MAIN=1")
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	s := new(admin.Status)
	return s, json.Unmarshal(out, s)
}

// commit writes documents, commits them and waits until all of it is live. It
// returns when it was committed and when it was live.
func (l *netlab) commit(files map[string]string) (from, live time.Time) {
	l.t.Helper()
	for name, text := range files {
		p := filepath.Join(l.repo, name)
		if text == "" {
			l.must("git", "-C", l.repo, "rm", "-q", name)
			continue
		}
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			l.t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			l.t.Fatal(err)
		}
	}
	from = time.Now()
	l.must("git", "-C", l.repo, "add", "-A")
	l.must("git", "-C", l.repo, "-c", "user.name=lab", "-c", "user.email=lab@example.com", "commit", "-q", "-m", "lab")
	want := "main@sha1:" + strings.TrimSpace(l.must("git", "-C", l.repo, "rev-parse", "HEAD"))
	return from, l.until(func(s *admin.Status) bool {
		return s.Revision == want && s.Conditions[0].Status == "True" && len(s.Targets) > 0
	})
}

// until waits for a condition on the daemon's status, and returns when it held.
func (l *netlab) until(holds func(*admin.Status) bool) time.Time {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := l.status()
		if err == nil && holds(s) {
			return time.Now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			log, _ := os.ReadFile(l.logs)
			l.t.Fatalf("it never came: %v %+v\n%s", err, s, log)
		}
	}
}

// sight is a packet that a capture saw.
type sight struct {
	server   string
	at       time.Time
	vni      string
	src, dst string // inner
}

// eyes are the captures on the servers.
type eyes struct {
	mu   sync.Mutex
	seen []sight
	news chan struct{} // closed and replaced with each packet
}

// watch starts a tshark on every server's port to the switch.
func (l *netlab) watch() *eyes {
	l.t.Helper()
	e := &eyes{news: make(chan struct{})}
	for _, s := range labServers {
		cmd := exec.Command("ip", "netns", "exec", l.ns(s.name), "tshark", "-i", "tosw", "-l", "-n", "-Q", "-f", "udp port 4789",
			"-T", "fields", "-E", "separator=;", "-e", "frame.time_epoch", "-e", "vxlan.vni", "-e", "ip.src", "-e", "ip.dst")
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			l.t.Fatal(err)
		}
		l.t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
		go func() {
			lines := bufio.NewScanner(out)
			for lines.Scan() {
				e.note(s.name, lines.Text())
			}
		}()
	}
	return e
}

// note takes one line of a capture.
func (e *eyes) note(server, line string) {
	f := strings.Split(line, ";")
	if len(f) != 4 {
		return
	}
	seconds, err := strconv.ParseFloat(f[0], 64)
	src, dst := strings.Split(f[2], ","), strings.Split(f[3], ",")
	if err != nil || len(src) < 2 || len(dst) < 2 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = append(e.seen, sight{server, time.UnixMicro(int64(seconds * 1e6)), f[1], src[1], dst[1]})
	close(e.news)
	e.news = make(chan struct{})
}

// after waits until every pair of a VPC's addresses was seen so often since a
// time, and returns all that was seen since.
func (l *netlab) after(e *eyes, since time.Time, often int, flows ...labFlow) []sight {
	l.t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		e.mu.Lock()
		news := e.news
		recent := slices.DeleteFunc(slices.Clone(e.seen), func(s sight) bool { return !s.at.After(since) })
		e.mu.Unlock()
		missing := ""
		for _, f := range flows {
			n := 0
			for _, s := range recent {
				if f.has(s) {
					n++
				}
			}
			if n < often {
				missing = fmt.Sprintf("%d packets of %s -> %s were seen, want %d", n, f.from.name, f.to.name, often)
			}
		}
		if missing == "" {
			return recent
		}
		select {
		case <-news:
		case <-timeout:
			log, _ := os.ReadFile(l.logs)
			l.t.Fatalf("%s\n%s", missing, log)
		}
	}
}
