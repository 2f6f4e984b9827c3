package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/reconciler"
)

// labFlow is traffic between two VMs of one VPC: a ping and a TCP stream.
type labFlow struct{ from, to labVM }

func (f labFlow) has(s sight) bool {
	return s.vni == strconv.Itoa(f.from.vni) && s.src == f.from.address && s.dst == f.to.address
}

// flowResult is what a TCP stream says when it ends. Lost is the segments that
// were sent again and had not arrived before: on a slow machine an answer may
// come so late that the kernel repeats what is not lost, and the receiver says so.
type flowResult struct{ Sent, Received, Lost int }

// running is a flow that runs.
type running struct {
	labFlow
	ping, stream *exec.Cmd // stream: nil where there is none
	out          string
	underWay     int // how many of the last pings may have no answer yet when it ends: a second's, as a busy machine takes its time
}

// flow starts a flow; the test binary itself is the stream's two ends.
func (l *netlab) flow(f labFlow) *running {
	l.t.Helper()
	port := strconv.Itoa(7000 + f.from.host)
	l.start(f.to.name, []string{"GRAY_TEST_STREAM=listen", "GRAY_TEST_ADDRESS=" + f.to.address + ":" + port}, nil, l.gray)
	r := l.pings(f, 10*time.Millisecond)
	r.stream = l.start(f.from.name, []string{"GRAY_TEST_STREAM=dial", "GRAY_TEST_ADDRESS=" + f.to.address + ":" + port}, l.file(r.out+".stream"), l.gray)
	return r
}

// pings starts a flow of pings alone.
func (l *netlab) pings(f labFlow, every time.Duration) *running {
	l.t.Helper()
	r := &running{labFlow: f, out: filepath.Join(l.dir, f.from.name+f.to.name), underWay: int(time.Second / every)}
	r.ping = l.start(f.from.name, nil, l.file(r.out+".ping"), "ping", "-n", "-i", fmt.Sprint(every.Seconds()), f.to.address)
	return r
}

func (l *netlab) file(name string) *os.File {
	l.t.Helper()
	f, err := os.Create(name)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = f.Close() })
	return f
}

var (
	pinged   = regexp.MustCompile(`(\d+) packets transmitted`)
	answered = regexp.MustCompile(`icmp_seq=(\d+) ttl=`)
)

// answersOf is how many pings were answered, and the number of the last of them.
func answersOf(output []byte) (answers, last int) {
	seen := map[int]bool{}
	for _, m := range answered.FindAllSubmatch(output, -1) {
		n, _ := strconv.Atoi(string(m[1]))
		seen[n], last = true, max(last, n)
	}
	return len(seen), last
}

// end ends a flow, and says how many of its pings were sent and answered, and which
// was the last that was.
func (l *netlab) end(r *running) (sent, answers, last int) {
	l.t.Helper()
	for _, c := range []*exec.Cmd{r.ping, r.stream} {
		if c != nil {
			_ = c.Process.Signal(os.Interrupt)
			_ = c.Wait()
		}
	}
	b, _ := os.ReadFile(r.out + ".ping")
	m := pinged.FindSubmatch(b)
	if m == nil {
		l.t.Fatalf("ping %s -> %s said %q", r.from.name, r.to.name, b)
	}
	sent, _ = strconv.Atoi(string(m[1]))
	answers, last = answersOf(b)
	return sent, answers, last
}

// stop ends a flow: it must have lost nothing. Pings without an answer after the
// last one that has one may be under way.
func (l *netlab) stop(r *running) {
	l.t.Helper()
	sent, received, last := l.end(r)
	if received != last || sent-last > r.underWay || received < r.underWay {
		l.t.Errorf("ping %s -> %s: %d sent, %d answered, the last one was number %d", r.from.name, r.to.name, sent, received, last)
	}
	if r.stream == nil {
		return
	}
	b, _ := os.ReadFile(r.out + ".stream")
	var res flowResult
	if err := json.Unmarshal(b, &res); err != nil || res.Received < 100 || res.Received != res.Sent || res.Lost > 0 {
		l.t.Errorf("the TCP stream %s -> %s ended with %s (%v)", r.from.name, r.to.name, b, err)
	}
	l.t.Logf("%s -> %s: %d of %d pings, stream %+v", r.from.name, r.to.name, received, sent, res)
}

// streamMain is the program of a stream's ends: one echoes, the other sends
// numbers and counts those that come back.
func streamMain(mode, address string) error {
	if mode == "listen" {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		for {
			c, err := listener.Accept()
			if err != nil {
				return err
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}
	var c net.Conn
	var err error
	for range 200 {
		if c, err = net.DialTimeout("tcp", address, time.Second); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond) // the other end has just been started
	}
	if err != nil {
		return err
	}
	return stream(c.(*net.TCPConn))
}

func stream(c *net.TCPConn) error {
	var received atomic.Int64
	done := make(chan error, 1)
	go func() {
		var b [8]byte
		for want := uint64(0); ; want++ {
			if _, err := io.ReadFull(c, b[:]); err != nil {
				done <- err
				return
			}
			if got := binary.BigEndian.Uint64(b[:]); got != want {
				done <- fmt.Errorf("got %d, want %d", got, want)
				return
			}
			received.Add(1)
		}
	}()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt)
	tick := time.NewTicker(2 * time.Millisecond)
	for sent := uint64(0); ; sent++ {
		select {
		case <-tick.C:
		case <-stop:
			raw, err := c.SyscallConn()
			if err != nil {
				return err
			}
			_ = c.CloseWrite()
			_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
			if err := <-done; err != io.EOF {
				return err
			}
			res := flowResult{Sent: int(sent), Received: int(received.Load())}
			err = raw.Control(func(fd uintptr) {
				if info, err := unix.GetsockoptTCPInfo(int(fd), syscall.SOL_TCP, unix.TCP_INFO); err == nil {
					res.Lost = int(info.Total_retrans) - int(info.Dsack_dups)
				}
			})
			if err != nil {
				return err
			}
			return json.NewEncoder(os.Stdout).Encode(res)
		}
		if _, err := c.Write(binary.BigEndian.AppendUint64(nil, sent)); err != nil {
			return err
		}
	}
}

// labGateway is the Gateway of the laboratory and its Switch.
func labGateway() map[string]string {
	var gateway strings.Builder
	gateway.WriteString("apiVersion: gray.dev/v1alpha1\nkind: Gateway\nmetadata: {name: vpc-gw}\nspec:\n  vips: [" + labVIP + "]\n  switches: [gw-a]\n  hash: {buckets: 256}\n  healthCheck: {icmp: {}, interval: 100ms, rise: 2, fall: 3}\n  default: v1\n  versions:\n")
	for _, version := range []string{"v1", "v2"} {
		fmt.Fprintf(&gateway, "  - name: %s\n    backends:\n", version)
		for _, s := range labServers {
			if s.version == version {
				fmt.Fprintf(&gateway, "    - {name: %s, address: 192.0.2.1%d, mac: %q, port: %d}\n", s.name, s.number, s.mac(), s.number)
			}
		}
	}
	return map[string]string{
		"gateway.yaml": gateway.String(),
		"switch.yaml":  "apiVersion: gray.dev/v1alpha1\nkind: Switch\nmetadata: {name: gw-a}\nspec: {address: 127.0.0.1:9559, mac: \"" + labSwitchMAC + "\"}\n",
	}
}

// labNetworks is the VPCs of the laboratory; the account of each is made of its VNI.
func (l *netlab) labNetworks(labels map[int]string) string {
	var networks strings.Builder
	for _, vni := range l.vnis() {
		fmt.Fprintf(&networks, "---\napiVersion: gray.dev/v1alpha1\nkind: Network\nmetadata: {name: vpc-%d, labels: {%s}}\nspec:\n  vni: %d\n  account: %q\n", vni, labels[vni], vni, labAccount(vni))
		fmt.Fprintf(&networks, "  monitor: {address: %s, mac: %q, vtep: %s}\n  routes:\n", labMonitor, labMonitorMAC, labMonitorVTEP)
		for _, v := range l.vms {
			if v.vni == vni {
				fmt.Fprintf(&networks, "  - {vm: %s, prefix: %s/32, mac: %q, vtep: %s}\n", v.name, v.address, v.mac(), v.vtep())
			}
		}
	}
	return networks.String()
}

func labAccount(vni int) string { return fmt.Sprintf("5000%d", vni) }

func labPolicy(match string) string {
	return "apiVersion: gray.dev/v1alpha1\nkind: GrayPolicy\nmetadata: {name: gw-v2}\nspec:\n  targets: [{kind: Gateway, name: vpc-gw}]\n  version: v2\n  match:\n  - " + match + "\n"
}

// begin makes a repository with no policy, which may have further documents, and
// starts everything.
func (l *netlab) begin(labels map[int]string, more map[string]string, flags ...string) (live time.Time) {
	l.t.Helper()
	l.must("git", "init", "-q", "-b", "main", l.repo)
	l.startGray(flags...)
	files := labGateway()
	files["networks.yaml"] = l.labNetworks(labels)
	maps.Copy(files, more)
	return l.commit(files)
}

// TestMovesLoseNothing moves a VM, then its VPC, then back, under pings and TCP
// streams. Captures on the servers hold who gets what.
func TestMovesLoseNothing(t *testing.T) {
	needNetwork(t, "ip", "bridge", "ping", "tshark", "git")
	l := newNetlab(t, labVMs...)
	live := l.begin(nil, nil)
	vms := labVMs
	flows := []labFlow{{vms[0], vms[1]}, {vms[2], vms[1]}, {vms[3], vms[4]}}
	var all []*running
	for _, f := range flows {
		all = append(all, l.flow(f))
	}
	captures := l.watch()
	for _, step := range []struct {
		what, policy string
		moved        func(s sight) bool
	}{
		{"nobody", "", func(sight) bool { return false }},
		{"one VM", labPolicy("vms: [{network: vpc-1001, addresses: [10.0.0.5]}]"), func(s sight) bool {
			return s.vni == "1001" && (s.src == "10.0.0.5" || s.dst == "10.0.0.5")
		}},
		{"its VPC", labPolicy("networks: [vpc-1001]"), func(s sight) bool { return s.vni == "1001" }},
		{"one VM again", labPolicy("vms: [{network: vpc-1001, addresses: [10.0.0.5]}]"), func(s sight) bool {
			return s.vni == "1001" && (s.src == "10.0.0.5" || s.dst == "10.0.0.5")
		}},
		{"nobody again", "-", func(sight) bool { return false }},
	} {
		switch step.policy {
		case "":
		case "-":
			live = l.commit(map[string]string{"policy.yaml": ""})
		default:
			live = l.commit(map[string]string{"policy.yaml": step.policy})
		}
		wrong := 0
		for _, s := range l.after(captures, live, 50, flows...) {
			if gray := s.server == "gw9"; gray != step.moved(s) {
				if wrong++; wrong < 4 {
					t.Errorf("%s moved: a packet %+v arrived", step.what, s)
				}
			}
		}
	}
	for _, r := range all {
		l.stop(r)
	}
}

// TestDeadServerLeaves cuts a server off: its buckets go to the other one, and
// come back with it.
func TestDeadServerLeaves(t *testing.T) {
	needNetwork(t, "ip", "bridge", "ping", "tshark", "git")
	l := newNetlab(t, labVMs...)
	live := l.begin(nil, nil)
	var flows []labFlow
	for i := range 2 { // enough flows that some are on either server
		for j := range 3 {
			if i != j {
				flows = append(flows, labFlow{labVMs[i], labVMs[j]})
			}
		}
	}
	for _, f := range flows {
		l.start(f.from.name, nil, nil, "ping", "-q", "-i", "0.01", f.to.address)
	}
	captures := l.watch()
	degraded := func(want bool) time.Time {
		t.Helper()
		return l.until(func(s *admin.Status) bool {
			for _, d := range s.Documents {
				if d.Kind == "Gateway" {
					return want == slices.ContainsFunc(d.Conditions, func(c reconciler.Condition) bool { return c.Type == "Degraded" }) && settled(s)
				}
			}
			return false
		})
	}
	servers := func(since time.Time) map[string]int {
		t.Helper()
		n := map[string]int{}
		for _, s := range l.after(captures, since, 20, flows...) {
			n[s.server]++
		}
		return n
	}
	if n := servers(live); n["gw1"] == 0 || n["gw2"] == 0 || n["gw9"] != 0 {
		t.Fatalf("packets by server: %v", n)
	}
	l.in("gw2", "ip", "link", "set", "under", "down")
	if n := servers(degraded(true)); n["gw2"] != 0 || n["gw9"] != 0 {
		t.Errorf("with gw2 cut off, packets by server: %v", n)
	}
	l.in("gw2", "ip", "link", "set", "under", "up")
	if n := servers(degraded(false)); n["gw1"] == 0 || n["gw2"] == 0 || n["gw9"] != 0 {
		t.Errorf("with gw2 back, packets by server: %v", n)
	}
}
