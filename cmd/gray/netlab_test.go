package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/admin"
)

// netlab is a laboratory of network namespaces: VMs with kernel VXLAN, gateway
// servers that own the VIP and route VXLAN, and between them `gray switch` on
// veth ports. The daemon runs beside the switch, and so do the monitors of the VPCs.
//
//	VM -- vxlan -- fabric bridge -- switch port 10 | ports 1, 2, 3 -- servers -- fabric bridge
type netlab struct {
	t      *testing.T
	prefix string
	dir    string
	repo   string
	gray   string
	logs   string
	vms    []labVM
	client *http.Client // beside the daemon
}

// The addresses of the laboratory.
const (
	labVIP         = "203.0.113.10"
	labSwitchMAC   = "02:00:00:00:00:01"
	labRouterMAC   = "02:aa:00:00:ff:ff" // of the VPCs' router on every server
	labMonitor     = "10.0.255.254"      // of every VPC, on the daemon's host
	labMonitorMAC  = "02:aa:00:00:00:fe"
	labMonitorVTEP = "192.0.2.200"
)

// labServer is a gateway server.
type labServer struct {
	name, version string
	number        int // its switch port, and the end of its addresses
}

var labServers = []labServer{{"gw1", "v1", 1}, {"gw2", "v1", 2}, {"gw9", "v2", 3}}

func (s labServer) mac() string { return fmt.Sprintf("02:00:00:00:00:1%d", s.number) }

// labVM is a VM. A host has one of a VPC at the most.
type labVM struct {
	name    string
	vni     int
	address string
	host    int
}

var labVMs = []labVM{
	{"vma", 1001, "10.0.0.5", 1},
	{"vmb", 1001, "10.0.0.6", 2},
	{"vmc", 1001, "10.0.0.7", 3},
	{"vmd", 1002, "10.0.0.5", 4},
	{"vme", 1002, "10.0.0.6", 5},
}

func (v labVM) vtep() string { return fmt.Sprintf("192.0.2.%d", 100+v.host) }
func (v labVM) mac() string  { return fmt.Sprintf("02:aa:00:00:%02x:%02x", v.vni%256, v.host) }

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

func newNetlab(t *testing.T, vms ...labVM) *netlab {
	t.Helper()
	l := &netlab{t: t, prefix: fmt.Sprintf("gray%d", os.Getpid()), dir: t.TempDir(), vms: vms}
	l.repo, l.logs = filepath.Join(l.dir, "repo"), filepath.Join(l.dir, "daemon.log")
	var err error
	if l.gray, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	l.client = &http.Client{Transport: &http.Transport{DialContext: l.dial, MaxIdleConnsPerHost: 8}}
	t.Cleanup(l.client.CloseIdleConnections)
	l.build()
	return l
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
func (l *netlab) startGray(flags ...string) {
	l.t.Helper()
	log, err := os.Create(l.logs)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = log.Close() })
	run := []string{"GRAY_TEST_RUN_MAIN=1"}
	l.start("sw", run, log, l.gray, "switch", "-i", "10@p10", "-i", "1@p1", "-i", "2@p2", "-i", "3@p3")
	l.start("sw", run, log, append([]string{l.gray, "daemon", "--repo", l.repo, "--state", "file:" + filepath.Join(l.dir, "state.db"), "--log-format", "json"}, flags...)...)
}

// status asks the daemon.
func (l *netlab) status() (*admin.Status, error) {
	s := new(admin.Status)
	return s, l.get("/v1/status", s)
}

// get asks the daemon's API.
func (l *netlab) get(path string, into any) error {
	res, err := l.client.Get("http://127.0.0.1:18001" + path)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s is answered with %s: %s", path, res.Status, b)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

// push writes documents and commits them; an empty text removes one. It returns the
// revision.
func (l *netlab) push(files map[string]string) string {
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
	l.must("git", "-C", l.repo, "add", "-A")
	l.must("git", "-C", l.repo, "-c", "user.name=lab", "-c", "user.email=lab@example.com", "commit", "-q", "-m", "lab")
	return "main@sha1:" + strings.TrimSpace(l.must("git", "-C", l.repo, "rev-parse", "HEAD"))
}

// commit pushes documents and waits until all of it is live. It returns when it
// was.
func (l *netlab) commit(files map[string]string) (live time.Time) {
	l.t.Helper()
	want := l.push(files)
	return l.until(func(s *admin.Status) bool {
		return s.Revision == want && settled(s)
	})
}

// until waits for a condition on the daemon's status, and returns when it held.
func (l *netlab) until(holds func(*admin.Status) bool) time.Time {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
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
