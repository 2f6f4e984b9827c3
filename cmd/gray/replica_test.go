package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"sigs.k8s.io/yaml"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/cmd/gray/demo"
	"github.com/gray-release/gray/tools/etcdtest"
)

// testLease is short, and still long enough for a machine with much to do.
const testLease = 4 * time.Second

// recorder records the Writes that come to a switch, by the epoch of their leader.
type recorder struct {
	mu      sync.Mutex
	taken   map[uint64]int // by epoch
	refused map[uint64]int // as those of no primary
	hold    chan struct{}  // not nil: the next Write waits here until it is closed
	held    chan struct{}  // is closed when it does
}

func (r *recorder) intercept(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	w, ok := req.(*p4v1.WriteRequest)
	if !ok {
		return next(ctx, req)
	}
	r.mu.Lock()
	hold := r.hold
	if r.hold = nil; hold != nil {
		close(r.held)
	}
	r.mu.Unlock()
	if hold != nil {
		<-hold
	}
	res, err := next(ctx, req)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch status.Code(err) {
	case codes.PermissionDenied:
		r.refused[w.GetElectionId().GetHigh()]++
	default:
		r.taken[w.GetElectionId().GetHigh()]++
	}
	return res, err
}

// holdNext has the next Write wait, and returns what says that it does and what lets
// it go on.
func (r *recorder) holdNext() (held <-chan struct{}, release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	hold := make(chan struct{})
	r.hold, r.held = hold, make(chan struct{})
	return r.held, func() { close(hold) }
}

// counts are the Writes so far.
func (r *recorder) counts() (taken, refused map[uint64]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.taken), maps.Clone(r.refused)
}

// pair is two daemons on one etcd, with one repository, one switch and two Envoys that
// know both.
type pair struct {
	*lab     // of the first
	second   *lab
	server   *etcdtest.Server
	recorder *recorder
	envoys   []*lab // whose ports are those of an Envoy
}

func newPair(t *testing.T, envoy string) *pair {
	t.Helper()
	p := &pair{server: etcdtest.New(t), recorder: &recorder{taken: map[uint64]int{}, refused: map[uint64]int{}}}
	p.lab = newLab(t, grpc.ChainUnaryInterceptor(p.recorder.intercept))
	p.second = p.beside("18000", "18001")
	for _, v := range []string{"1", "2"} {
		s, err := p.StartBackend(v)
		p.ok(err)
		t.Cleanup(s.Close)
	}
	other := p.beside("15001", "15000")
	p.envoys = []*lab{p.lab, other}
	b, err := os.ReadFile(filepath.Join(p.Repo, "nodes", "host-1.yaml"))
	p.ok(err)
	text := strings.ReplaceAll(string(b), "host-1", "host-2")
	for _, port := range []string{"15001", "15000"} {
		text = strings.ReplaceAll(text, strconv.Itoa(p.Ports[port]), strconv.Itoa(other.Ports[port]))
	}
	p.ok(os.WriteFile(filepath.Join(p.Repo, "nodes", "host-2.yaml"), []byte(text), 0o644))
	p.ok(p.Commit(t.Context(), "another host"))
	p.server.Start()
	p.startReplica(p.server, "one")
	p.until("the first leads", leads("one"))
	p.second.startReplica(p.server, "two")
	p.second.until("the second follows", follows("one"))
	for i, e := range p.envoys {
		p.startEnvoy(envoy, e, fmt.Sprintf("host-%d", i+1))
	}
	return p
}

// beside is another lab with the same repository and switch, and ports of its own.
func (l *lab) beside(own ...string) *lab {
	l.t.Helper()
	other := &lab{Lab: &demo.Lab{Dir: l.t.TempDir(), Repo: l.Repo, Gray: gray}, t: l.t, sw: l.sw}
	other.freePorts(own...)
	for name, port := range l.Ports {
		if _, has := other.Ports[name]; !has {
			other.Ports[name] = port
		}
	}
	return other
}

// startReplica starts a daemon that has its state in an etcd.
func (l *lab) startReplica(server *etcdtest.Server, name string, flags ...string) {
	l.t.Helper()
	l.startDaemon(append(flags, "--state", "etcd://"+strings.TrimPrefix(server.URL, "http://"), "--replica", name, "--lease", testLease.String())...)
}

// startEnvoy starts the Envoy of a node that knows both daemons.
func (p *pair) startEnvoy(envoy string, e *lab, node string) {
	p.t.Helper()
	var doc map[string]any
	p.ok(yaml.Unmarshal([]byte(renderBootstrap(p.t, p.Repo, node, p.Address("18000"))), &doc))
	endpoint := func(l *lab) any {
		return map[string]any{"endpoint": map[string]any{"address": map[string]any{
			"socket_address": map[string]any{"address": "127.0.0.1", "port_value": l.Ports["18000"]},
		}}}
	}
	server := doc["static_resources"].(map[string]any)["clusters"].([]any)[0].(map[string]any)
	server["load_assignment"].(map[string]any)["endpoints"] = []any{map[string]any{"lb_endpoints": []any{endpoint(p.lab), endpoint(p.second)}}}
	b, err := yaml.Marshal(doc)
	p.ok(err)
	file := filepath.Join(p.t.TempDir(), "envoy.yaml")
	p.ok(os.WriteFile(file, b, 0o600))
	cmd := exec.Command(envoy, "-c", file, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error")
	p.ok(cmd.Start())
	p.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}

// role is what a status says of the replica.
func role(s *admin.Status) (role, leader, trouble string) {
	if r := s.Replica; r != nil {
		return r.Role, r.Leader, r.Error
	}
	return "", "", ""
}

func leads(name string) func(*admin.Status) bool {
	return func(s *admin.Status) bool {
		r, l, trouble := role(s)
		return r == "leader" && l == name && trouble == ""
	}
}

func follows(name string) func(*admin.Status) bool {
	return func(s *admin.Status) bool { r, l, _ := role(s); return r == "follower" && l == name }
}

// serves waits until a follower's Envoys have the newest commit.
func (p *pair) serves(l *lab) {
	p.t.Helper()
	head := l.head()
	l.until("the newest commit is served", func(s *admin.Status) bool {
		return s.Revision == head && s.Conditions[0].Status == "True" && len(s.Targets) == 1
	})
}

// synced waits until each Envoy has what the daemons serve that run.
func (p *pair) synced(daemons ...*lab) {
	p.t.Helper()
	nodes := map[string]bool{}
	for len(nodes) < 2 {
		clear(nodes)
		for _, d := range daemons {
			s := d.until("status answers", func(*admin.Status) bool { return true })
			for _, x := range s.Proxies {
				if x.Synced {
					nodes[x.Node] = true
				}
			}
		}
	}
}

// answers waits until an account is answered by a version at both Envoys.
func (p *pair) answers(account, version string) {
	p.t.Helper()
	for _, e := range p.envoys {
		got := ""
		for end := time.Now().Add(30 * time.Second); got != version; {
			if time.Now().After(end) {
				p.t.Fatalf("account %s is answered by %q, want %s", account, got, version)
			}
			var err error
			got, err = e.request(p.t.Context(), account)
			p.ok(err)
		}
	}
}

// request sends one request through the Envoy.
func (l *lab) request(ctx context.Context, account string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.Address("15001")+"/", nil)
	if err != nil {
		return "", err
	}
	req.Host = "vpc-api.internal"
	req.Header.Set("x-ucloud-routeby", "account_id="+account)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", res.StatusCode, b)
	}
	return strings.TrimSpace(string(b)), err
}

// load sends requests through both Envoys until the function is called.
func (p *pair) load() func() {
	ctx, cancel := context.WithCancel(p.t.Context())
	var all sync.WaitGroup
	var sent [2]int
	for i, e := range p.envoys {
		all.Go(func() {
			for ctx.Err() == nil {
				if _, err := e.request(ctx, "50009999"); err != nil && ctx.Err() == nil {
					p.t.Errorf("Envoy %d, request %d: %v", i, sent[i], err)
					return
				}
				sent[i]++
				select { // a small load
				case <-time.After(5 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
		p.t.Logf("%d and %d requests", sent[0], sent[1])
	}
}

// allUpdates counts what both Envoys have ever taken.
func (p *pair) allUpdates() int { return p.envoys[0].updates() + p.envoys[1].updates() }

func (l *lab) signal(sig syscall.Signal) {
	l.t.Helper()
	l.ok(l.daemon.Process.Signal(sig))
}

// policy commits a policy of the quickstart.
func (p *pair) policy(name string) {
	p.t.Helper()
	p.ok(p.CopyFile("policies/" + name + ".yaml"))
	p.ok(p.Commit(p.t.Context(), name))
}

// TestReplicas takes two daemons through what befalls them, under load.
func TestReplicas(t *testing.T) {
	t.Parallel()
	p := newPair(t, testEnvoy(t))
	p.live()
	p.serves(p.second)
	p.synced(p.lab, p.second)
	p.answers("50009999", "v1")
	done := p.load()
	defer done()
	p.frozenLeader()
	p.killedLeader()
	p.withoutEtcd(p.server.Kill, p.server.Start)
	p.policy("early-adopter")
	p.leader().live()
	p.withoutEtcd(p.server.Freeze, p.server.Thaw)
	p.allAgain()
}

// frozenLeader stops the leader in mid-write for longer than its lease.
func (p *pair) frozenLeader() {
	p.t.Helper()
	one, two := p.lab, p.second
	before, _ := p.recorder.counts()
	held, release := p.recorder.holdNext()
	p.policy("early-adopter")
	<-held
	one.signal(syscall.SIGSTOP)
	two.until("the second leads", leads("two"))
	two.live()
	release()
	one.signal(syscall.SIGCONT)
	one.until("the first follows", follows("two"))
	if !one.logged("lost the lead, this replica follows", "etcd has not confirmed the lease in time") {
		p.t.Error("the first did not stop by its own clock")
	}
	p.policy("one-flow")
	two.live()
	p.serves(one)
	p.answers("50002001", "v2")
	after, refused := p.recorder.counts()
	if len(before) != 1 || len(after) != 2 {
		p.t.Fatalf("writes by epoch: %v, then %v", before, after)
	}
	for epoch, n := range before {
		if after[epoch] != n || refused[epoch] == 0 {
			p.t.Errorf("of the old leader's writes the switch took %d and refused %d since another leads", after[epoch]-n, refused[epoch])
		}
		for later := range after {
			if later < epoch {
				p.t.Errorf("the epoch %d of the new leader is below %d", later, epoch)
			}
		}
	}
	if p.entries(0x02000009) != 1 {
		p.t.Error("the commit that was made meanwhile is not on the switch")
	}
}

// killedLeader kills the leader; the other takes over.
func (p *pair) killedLeader() {
	p.t.Helper()
	one, two := p.lab, p.second
	writes := p.sw.Stats().Writes
	updates := p.allUpdates()
	two.kill()
	one.until("the first leads again", leads("one"))
	one.live()
	p.synced(one)
	if n := p.sw.Stats().Writes - writes; n != 0 {
		p.t.Errorf("the new leader wrote %d entries that were there", n)
	}
	two.startReplica(p.server, "two")
	two.until("the second follows", follows("one"))
	p.serves(two)
	if n := p.allUpdates() - updates; n != 0 {
		p.t.Errorf("the Envoys got %d updates by a change of leaders and a restart", n)
	}
}

// withoutEtcd takes etcd away: nobody leads, Envoys are served.
func (p *pair) withoutEtcd(away, back func()) {
	p.t.Helper()
	one, two := p.lab, p.second
	away()
	for _, l := range []*lab{one, two} {
		l.until("nobody is known to lead", func(s *admin.Status) bool {
			r, leader, trouble := role(s)
			return r == "follower" && leader == "" && strings.Contains(trouble, "etcd cannot be asked who leads")
		})
	}
	text := new(strings.Builder)
	cmd := newRoot()
	cmd.SetOut(text)
	cmd.SetArgs([]string{"status", "--admin-listen", one.Address("18001")})
	if err := cmd.Execute(); !errors.Is(err, errNo) { // something may not be Ready yet
		p.ok(err)
	}
	if want := "one follows, nobody is known to lead; it serves Envoys only: no switches, BGP, compose files or health checks; etcd cannot be asked"; !strings.Contains(text.String(), want) {
		p.t.Errorf("gray status says\n%s, want %q", text, want)
	}
	if _, err := (&diffFlags{admin: one.Address("18001")}).compare(p.t.Context(), p.Repo); err == nil || !strings.Contains(err.Error(), "ask the leader") {
		p.t.Errorf("a follower compares what it does not know: %v", err)
	}
	writes := p.sw.Stats().Writes
	p.ok(p.Git(p.t.Context(), "rm", "-q", "policies/early-adopter.yaml"))
	p.ok(p.Commit(p.t.Context(), "back"))
	p.serves(one)
	p.serves(two)
	p.answers("50002001", "v1")
	if n := p.sw.Stats().Writes - writes; n != 0 {
		p.t.Errorf("without a leader %d entries were written", n)
	}
	back()
	p.leader().live()
	if p.sw.Stats().Writes == writes || p.entries(0x02000009) != 0 {
		p.t.Error("with etcd back the commit is not on the switch")
	}
}

// leader waits until one of the two leads. An etcd that comes back may name, until its
// lease is over, who led when it went.
func (p *pair) leader() *lab {
	p.t.Helper()
	var leader *lab
	p.until("somebody leads", func(s *admin.Status) bool {
		other, _, err := (admin.Client{Address: p.second.Address("18001")}).Status(p.t.Context())
		switch {
		case leads("one")(s):
			leader = p.lab
		case err == nil && leads("two")(other):
			leader = p.second
		}
		return leader != nil
	})
	return leader
}

// allAgain kills both daemons and etcd, and starts all again: nothing is written and
// nothing is sent.
func (p *pair) allAgain() {
	p.t.Helper()
	one, two := p.lab, p.second
	p.synced(one, two)
	writes, pushes, updates := p.sw.Stats().Writes, p.sw.Stats().Pushes, p.allUpdates()
	one.kill()
	two.kill()
	p.server.Kill()
	one.startReplica(p.server, "one")
	p.serves(one)
	two.startReplica(p.server, "two")
	p.serves(two)
	p.synced(one, two)
	p.server.Start()
	p.leader().live()
	if n := p.allUpdates() - updates; n != 0 {
		p.t.Errorf("the Envoys got %d updates by a restart of all", n)
	}
	if s := p.sw.Stats(); s.Writes != writes || s.Pushes != pushes {
		p.t.Errorf("a restart of all wrote %d entries and loaded %d pipelines", s.Writes-writes, s.Pushes-pushes)
	}
}
