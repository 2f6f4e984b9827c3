package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/xds"
	"github.com/gray-release/gray/sources/dir"
)

// TestChurn has requests of 1,000 accounts go through a real Envoy by HTTP/1.1,
// HTTP/2 and gRPC while commits add, change and remove accounts, endpoints,
// versions and services: none fails, and each is answered by a version that a
// commit allows which may have been live at the time. GRAY_COMMITS is how many
// commits there are.
func TestChurn(t *testing.T) {
	envoy := testEnvoy(t)
	commits := 40
	if n, err := strconv.Atoi(os.Getenv("GRAY_COMMITS")); err == nil {
		commits = n
	}
	l := newLab(t)
	c := newChurn(t, l)
	l.ok(os.MkdirAll(filepath.Join(l.Repo, "policies"), 0o700))
	c.write()
	l.ok(l.Commit(t.Context(), "first"))
	l.startDaemon("--max-delete", "100", "--drift-interval", "30s")
	stop, err := l.StartEnvoy(t.Context(), envoy)
	l.ok(err)
	t.Cleanup(func() { _ = stop() })
	c.made()
	c.follow()
	l.until("the first commit is live", func(*admin.Status) bool { return c.settled() >= 0 })
	load := startLoad(t, c, l.Address("15001"))
	for range commits {
		for range 1 + c.rnd.IntN(3) {
			c.step()
		}
		c.write()
		c.made() // first, as it may be live before git has ended
		l.ok(l.Git(t.Context(), "add", "-A"))
		l.ok(l.Git(t.Context(), "commit", "-q", "--allow-empty", "-m", "churn"))
		c.named(l.head())
		load.some(20)
	}
	last := len(c.history()) - 1
	l.until("the last commit is live", func(*admin.Status) bool { return c.settled() == last })
	load.some(200)
	load.stop()
	t.Logf("%d commits under %s", commits, load)
}

// churn is a repository that changes, and what its commits say.
type churn struct {
	t        *testing.T
	l        *lab
	rnd      *rand.Rand
	backends map[string][]string // by service/version: addresses
	services map[string]*churnService
	policies map[string]*churnPolicy

	mu    sync.Mutex
	irs   []*policies.IR
	index map[string]int // by revision
	seen  []churnSeen    // when commits were found live, in time's order
}

type churnService struct {
	byDefault string
	versions  map[string]int // how many endpoints each has
}

type churnPolicy struct {
	service, version string
	accounts         map[int]bool
	percent          int
}

type churnSeen struct {
	index int
	at    time.Time
}

// The services: what they speak, as their name says.
var churnServices = []string{"http", "http2", "grpc", "grpc-too"}

func newChurn(t *testing.T, l *lab) *churn {
	c := &churn{
		t: t, l: l, rnd: rand.New(rand.NewPCG(11, 11)), backends: map[string][]string{}, services: map[string]*churnService{},
		policies: map[string]*churnPolicy{}, index: map[string]int{},
	}
	for _, s := range churnServices {
		for _, v := range []string{"v1", "v2", "v3"} {
			for range 2 {
				c.backends[s+"/"+v] = append(c.backends[s+"/"+v], churnBackend(t, s+"/"+v))
			}
		}
		c.services[s] = &churnService{"v1", map[string]int{"v1": 2, "v2": 1}}
	}
	for range 20 {
		c.step()
	}
	return c
}

// step makes one random change that leaves the documents valid.
func (c *churn) step() {
	name := churnServices[c.rnd.IntN(len(churnServices))]
	s := c.services[name]
	switch op := c.rnd.IntN(10); {
	case s == nil:
		c.services[name] = &churnService{"v2", map[string]int{"v2": 1}}
	case op == 0 && len(c.services) > 2:
		delete(c.services, name)
		maps.DeleteFunc(c.policies, func(_ string, p *churnPolicy) bool { return p.service == name })
	case op <= 2: // a version comes or goes
		v := fmt.Sprintf("v%d", 1+c.rnd.IntN(3))
		if s.versions[v] == 0 {
			s.versions[v] = 1 + c.rnd.IntN(2)
			return
		}
		if len(s.versions) == 1 {
			return
		}
		delete(s.versions, v)
		if s.byDefault == v {
			s.byDefault = slices.Min(slices.Collect(maps.Keys(s.versions)))
		}
		maps.DeleteFunc(c.policies, func(_ string, p *churnPolicy) bool { return p.service == name && p.version == v })
	case op <= 4: // an endpoint comes or goes
		v := c.version(s)
		s.versions[v] = 3 - s.versions[v]
	case op == 5:
		s.byDefault = c.version(s)
	default: // accounts come or go
		id := fmt.Sprintf("p%d", c.rnd.IntN(12))
		p := c.policies[id]
		if p == nil {
			p = &churnPolicy{service: name, version: c.version(s), accounts: map[int]bool{}, percent: c.rnd.IntN(3) * 20}
			c.policies[id] = p
		}
		for range 1 + c.rnd.IntN(40) {
			if a := c.rnd.IntN(churnAccounts); p.accounts[a] {
				delete(p.accounts, a)
			} else {
				p.accounts[a] = true
			}
		}
		if len(p.accounts) == 0 {
			delete(c.policies, id)
		}
	}
}

const churnAccounts = 1000

func (c *churn) version(s *churnService) string {
	versions := slices.Sorted(maps.Keys(s.versions))
	return versions[c.rnd.IntN(len(versions))]
}

// write writes the documents.
func (c *churn) write() {
	c.t.Helper()
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(c.services)) {
		s := c.services[name]
		protocol := strings.TrimSuffix(name, "-too")
		fmt.Fprintf(&b, "---\nkind: Service\nmetadata: {name: %s}\nspec:\n  hosts: [%s.internal]\n  protocol: %s\n  default: %s\n  retries: 2\n  versions:\n", name, name, protocol, s.byDefault)
		for _, v := range slices.Sorted(maps.Keys(s.versions)) {
			fmt.Fprintf(&b, "  - name: %s\n    endpoints:\n", v)
			for _, addr := range c.backends[name+"/"+v][:s.versions[v]] {
				host, port, _ := strings.Cut(addr, ":")
				fmt.Fprintf(&b, "    - {address: %s, port: %s}\n", host, port)
			}
		}
	}
	c.l.ok(os.WriteFile(filepath.Join(c.l.Repo, "services", "churn.yaml"), []byte(b.String()), 0o600))
	for i := range 12 {
		id := fmt.Sprintf("p%d", i)
		file := filepath.Join(c.l.Repo, "policies", id+".yaml")
		p := c.policies[id]
		if p == nil {
			_ = os.Remove(file)
			continue
		}
		b.Reset()
		fmt.Fprintf(&b, "kind: GrayPolicy\nmetadata: {name: %s}\nspec:\n  targets: [{kind: Service, name: %s}]\n  version: %s\n  priority: %d\n  match:\n  - accounts:\n", id, p.service, p.version, 100+i)
		for _, a := range slices.Sorted(maps.Keys(p.accounts)) {
			fmt.Fprintf(&b, "    - \"%d\"\n", a)
		}
		if p.percent > 0 {
			fmt.Fprintf(&b, "  - percent: %d\n", p.percent)
		}
		c.l.ok(os.WriteFile(file, []byte(b.String()), 0o600))
	}
}

// made notes what the files mean, as of the next commit.
func (c *churn) made() {
	c.t.Helper()
	snapshot, err := dir.Read(c.t.Context(), c.l.Repo)
	c.l.ok(err)
	set := schema.NewSet()
	ir, _, err := policies.NewCompiler(policies.NewIDs(), nil).Compile(set, set.Update(snapshot), policies.Facts{})
	c.l.ok(err)
	c.mu.Lock()
	c.irs = append(c.irs, ir)
	c.mu.Unlock()
	if len(c.irs) == 1 {
		c.named(c.l.head())
	}
}

// named gives the last commit its revision.
func (c *churn) named(revision string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index[revision] = len(c.irs) - 1
}

func (c *churn) history() []*policies.IR {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.irs
}

// follow looks which commit is live: applied, and acknowledged by the Envoy.
func (c *churn) follow() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for c.t.Context().Err() == nil {
			s, _, err := (admin.Client{Address: c.l.Address("18001")}).Status(c.t.Context())
			if err == nil && s.Conditions[0].Status == "True" && synced(s.Proxies) {
				c.mu.Lock()
				if i, known := c.index[s.Revision]; known && (len(c.seen) == 0 || c.seen[len(c.seen)-1].index < i) {
					c.seen = append(c.seen, churnSeen{i, time.Now()})
				}
				c.mu.Unlock()
			}
			select {
			case <-c.t.Context().Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	c.t.Cleanup(func() { <-done })
}

func synced(proxies []xds.Proxy) bool { return len(proxies) == 1 && proxies[0].Synced }

// adoption is how long an Envoy's workers may take to adopt what it has
// acknowledged.
const adoption = 300 * time.Millisecond

// settled is the newest commit that an Envoy follows for sure; -1 where there is none.
func (c *churn) settled() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := -1
	for _, s := range c.seen {
		if time.Since(s.at) > adoption {
			last = s.index
		}
	}
	return last
}

// allows tells whether one of the commits that were or became live from one on may
// answer a request so: with a cluster's name, or with an empty one that no service
// has the host.
func (c *churn) allows(from int, r requests.Request, cluster string) bool {
	return slices.ContainsFunc(c.history()[from:], func(ir *policies.IR) bool { return requests.Follow(ir, r).Cluster == cluster })
}
