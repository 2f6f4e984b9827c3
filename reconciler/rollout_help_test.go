package reconciler

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler/board"
)

// moved is the body of what takes a VM, a VNI or an account away from the default.
type moved struct {
	vni     uint32
	account string
	pool    string
}

func (b moved) Equal(o Body) bool               { return b == o }
func (b moved) String() string                  { return "-> " + b.pool }
func (b moved) Delta(old Body) string           { return old.String() + " " + b.String() }
func (b moved) Heir() (kind, name string)       { return "rule", fmt.Sprint(b.vni) }
func (b moved) Takes() (vni uint32, acc string) { return b.vni, b.account }

// movers are sinks for rollouts: "mem/<switch>" with an entry for each VM or VNI,
// and "web" with one for each account.
func movers(w *world) []Sink {
	gateways := switches(w)
	return []Sink{fake{w, func(ir *policies.IR, n policies.Name) ([]*Resource, error) {
		cell, is := ir.Get(n).(*packets.Cell)
		if !is {
			return gateways.lower(ir, n)
		}
		var all []*Resource
		for _, sw := range ir.Gateway(cell.Gateway).Switches {
			for _, r := range cell.Rules {
				t, name := "mem/"+sw, fmt.Sprintf("%d", r.Match.VNI)
				if r.Match.Dst != (netip.Prefix{}) {
					continue // each VM has a pair
				}
				if r.Match.Src != (netip.Prefix{}) {
					name += "/" + r.Match.Src.Addr().String()
				}
				all = append(all, &Resource{
					Key: Key{t, "rule", name}, Rank: rankRule, Origin: r.Origin,
					Refs: []Key{{t, "pool", cell.Gateway + "/" + r.Pool}}, Body: moved{vni: r.Match.VNI, pool: r.Pool},
				})
			}
		}
		return all, nil
	}}, fake{w, func(ir *policies.IR, n policies.Name) ([]*Resource, error) {
		switch unit := ir.Get(n).(type) {
		case *requests.Service:
			return []*Resource{{Key: Key{"web", "service", unit.Name}, Body: text("default " + unit.Default)}}, nil
		case *requests.AccountRoute:
			return []*Resource{{Key: Key{"web", "account", unit.Account}, Rank: rankRule, Body: moved{account: unit.Account, pool: unit.Rules[0].Version}}}, nil
		}
		return nil, nil
	}}}
}

// networkDoc is VPC n of so many VMs, of account n0.
func networkDoc(n, vms int) string {
	var b strings.Builder
	fmt.Fprintf(&b, apiVersion+"kind: Network\nmetadata: {name: n%d, labels: {shard: s1}}\nspec:\n  account: \"%d0\"\n  vni: %d\n  routes:\n", n, n, n)
	for i := range vms {
		fmt.Fprintf(&b, "  - {vm: vm%d, prefix: 10.0.%d.%d/32, mac: \"02:00:00:00:%02x:%02x\", vtep: 192.0.2.%d}\n", i+1, n, i+1, n, i+1, 100+i%3)
	}
	return b.String()
}

const serviceDoc = apiVersion + `kind: Service
metadata: {name: api}
spec:
  hosts: [api.internal]
  default: v1
  versions:
  - {name: v1, endpoints: [{address: 192.0.2.51, port: 80}]}
  - {name: v2, endpoints: [{address: 192.0.2.52, port: 80}]}
`

// rolloutDoc is policy p, which moves shard s1 to a version of both planes.
func rolloutDoc(version, rollout string) string {
	return fmt.Sprintf(apiVersion+"kind: GrayPolicy\nmetadata: {name: p}\nspec:\n  targets: [{kind: Gateway, name: gw}, {kind: Service, name: api}]\n  version: %s\n  rollout: {networkSelector: {shard: s1}, %s}\n", version, rollout)
}

// verified has a batch tested, by whoever takes the jobs of the test.
const verified = "verify: {exec: {command: [check]}}"

// keeper holds records in memory. It fails, or ends the process, when it is told to.
type keeper struct {
	mu      sync.Mutex
	records map[string]map[string][]byte
	writes  int
	err     error                 // of every Write
	on      func(write int) error // before a Write is made; an error says that it is not
	after   func(write int)       // after it
}

func newKeeper() *keeper { return &keeper{records: map[string]map[string][]byte{}} }

// store is a Store of the records.
func (k *keeper) store() *Store {
	return &Store{Records: board.Records{Load: k.Load, Write: k.Write}, Close: func() error { return nil }}
}

func (k *keeper) Load(bucket string, f func(string, []byte) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(k.records[bucket])) {
		if err := f(key, k.records[bucket][key]); err != nil {
			return err
		}
	}
	return nil
}

func (k *keeper) Write(bucket string, put map[string][]byte, remove []string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.writes++
	if k.err != nil {
		return k.err
	}
	if k.on != nil {
		if err := k.on(k.writes); err != nil {
			return err
		}
	}
	if k.records[bucket] == nil {
		k.records[bucket] = map[string][]byte{}
	}
	for _, key := range remove {
		delete(k.records[bucket], key)
	}
	maps.Copy(k.records[bucket], put)
	if k.after != nil {
		k.after(k.writes)
	}
	return nil
}

// record is the stored rollout of a policy.
func (k *keeper) record(policy string) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.records[BucketRollouts][PrefixState+policy]
}

// count is how many records there are of rollouts and suspended policies.
func (k *keeper) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.records[BucketRollouts])
}

// fails has every Write fail from now on, or none.
func (k *keeper) fails(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
}

// rollRig is a rig with the sinks of rollouts, a store and a prober.
type rollRig struct {
	*rig
	store  *keeper
	probes *board.Probes
	events []Event

	mu   sync.Mutex
	jobs []*board.Job
	say  func(*board.Job) (rollout.Verdict, bool) // false: it hangs
}

// startRoll runs a reconciler with what an earlier one has left.
func startRoll(t testing.TB, w *world, store *keeper, change ...func(*Config)) *rollRig {
	t.Helper()
	g := &rollRig{store: store, probes: board.NewProbes()}
	g.say = func(*board.Job) (rollout.Verdict, bool) { return rollout.Verdict{Passed: true}, true }
	base := func(c *Config) {
		c.Sinks, c.Always = movers(w), nil
		c.Store, c.Probes = store.store(), g.probes
		c.Events = func(e Event) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.events = append(g.events, e)
		}
	}
	g.rig = start(t, w, append([]func(*Config){base}, change...)...)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-g.probes.Renewed():
				g.probe()
			case <-stop:
				return
			}
		}
	}()
	end := g.rig.stop
	g.rig.stop = sync.OnceFunc(func() { end(); close(stop); <-done })
	t.Cleanup(g.rig.stop)
	return g
}

// probe ends every job that is wanted as the test says.
func (g *rollRig) probe() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, j := range g.probes.Wanted() {
		if slices.Contains(g.jobs, j) {
			continue
		}
		g.jobs = append(g.jobs, j)
		if v, ends := g.say(j); ends {
			g.probes.Report(board.Ended{Job: j, Verdict: v, Result: "result"})
		}
	}
}

// tested is every job that was wanted so far.
func (g *rollRig) tested() []*board.Job {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.jobs)
}

// verdicts sets how jobs end.
func (g *rollRig) verdicts(say func(*board.Job) (rollout.Verdict, bool)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.say = say
}

// rollout is how policy p stands.
func (g *rollRig) rollout() RolloutStatus {
	g.t.Helper()
	for _, s := range g.status().Rollouts {
		if s.Policy == "p" {
			return s
		}
	}
	g.t.Fatalf("there is no rollout p; log:\n%s", g.log)
	return RolloutStatus{}
}

// stands compares the phase and the reason of policy p, and what of each Network
// has moved.
func (g *rollRig) stands(phase rollout.Phase, reason string, vms ...int) {
	g.t.Helper()
	s := g.rollout()
	var got []int
	for _, n := range s.Networks {
		got = append(got, n.Moved)
	}
	if s.Phase != phase || s.Conditions[0].Reason != reason || !slices.Equal(got, vms) {
		g.t.Errorf("%s %s (%s), waits %q, moved %v; want %s %s, %v; log:\n%s", s.Phase, s.Conditions[0].Reason, s.Conditions[0].Message, s.Waits, got, phase, reason, vms, g.log)
	}
}

// rules lists the entries of VMs and VNIs on a switch and the accounts at the web.
func (g *rollRig) rules(want ...string) {
	g.t.Helper()
	var got []string
	for _, target := range []string{"mem/sw", "web"} {
		for _, line := range g.w.live(target) {
			if strings.HasPrefix(line, "rule ") || strings.HasPrefix(line, "account ") {
				got = append(got, line)
			}
		}
	}
	if !slices.Equal(got, want) {
		g.t.Errorf("live is\n  %s\nwant\n  %s\nlog:\n%s", strings.Join(got, "\n  "), strings.Join(want, "\n  "), g.log)
	}
}

var errDisk = errors.New("no space left on device")
