package bgp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/tools/testnet"
)

// needRouters skips where the real routers are missing, which CI must not.
func needRouters(t *testing.T) {
	t.Helper()
	var missing []string
	for _, tool := range []string{frrDaemon, "vtysh", "bird", "birdc"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if os.Getuid() != 0 {
		missing = append(missing, "root")
	}
	if len(missing) == 0 {
		return
	}
	text := fmt.Sprintf("needs %s: run make tools, as root", strings.Join(missing, ", "))
	if os.Getenv("CI") == "true" {
		t.Fatal(text)
	}
	t.Skip(text)
}

// loopback returns a fresh address of 127.0.0.0/8, so that each router has the
// BGP port of its own; test processes beside this one have other addresses.
var loopback = func() func() netip.Addr {
	a, b := byte(1+rand.N(254)), byte(rand.N(256))
	var n atomic.Uint32
	return func() netip.Addr { return netip.AddrFrom4([4]byte{127, a, b, byte(n.Add(1))}) }
}()

// process runs a program until the test ends and returns what it prints.
func process(t *testing.T, name string, args ...string) *lockedBuffer {
	t.Helper()
	cmd := exec.Command(name, args...)
	out := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, out)
		}
	})
	return out
}

// ask runs a program and returns what it prints.
func ask(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	return string(out), err
}

// until waits for a condition.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	testnet.Eventually(t, func() string { return "until " + what }, holds)
}

// rig is a sink with one target, driven as the reconciler does it.
type rig struct {
	*Sink
	t       *testing.T
	desired reconciler.State
	log     *lockedBuffer
}

const target = "bgp/gw-a"

func newRig(t *testing.T, secrets string) *rig {
	t.Helper()
	log := &lockedBuffer{}
	s := New(Config{SecretsDir: secrets, Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the sink's log:\n%s", log)
		}
	})
	return &rig{Sink: s, t: t, desired: reconciler.State{}, log: log}
}

// speak wants a speaker of AS 64512 with exactly these neighbors of AS 64500.
func (r *rig) speak(local netip.Addr, neighbors ...netip.Addr) {
	for k := range r.desired {
		if k.Kind == kindNeighbor {
			delete(r.desired, k)
		}
	}
	r.want(&targetBody{asn: 64512, routerID: netip.MustParseAddr("192.0.2.1")})
	for _, a := range neighbors {
		r.want(&neighborBody{address: a, local: local, asn: 64500})
	}
}

// want sets desired resources.
func (r *rig) want(bodies ...reconciler.Body) {
	for _, b := range bodies {
		res := &reconciler.Resource{Key: reconciler.Key{Target: target, Kind: reconciler.KindTarget}, Rank: rankTarget, Body: b}
		switch b := b.(type) {
		case *neighborBody:
			res.Key, res.Rank = neighborKey(target, b.address), rankNeighbor
		case *pathBody:
			res.Key, res.Rank = pathKey(target, b.prefix), rankPath
		}
		r.desired[res.Key] = res
	}
}

// plan is what differs.
func (r *rig) plan() []reconciler.Change {
	r.t.Helper()
	observed, err := r.Observe(r.t.Context(), target, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return reconciler.Diff(r.desired, observed, reconciler.Union(r.desired, observed))
}

// apply makes what differs so, stage by stage.
func (r *rig) apply() error {
	r.t.Helper()
	changes := r.plan()
	var errs []error
	for len(changes) > 0 {
		n := 1
		for n < len(changes) && changes[n].Op() == changes[0].Op() && changes[n].Rank() == changes[0].Rank() {
			n++
		}
		errs = append(errs, r.Apply(r.t.Context(), nil, changes[:n]))
		changes = changes[n:]
	}
	return errors.Join(errs...)
}

// settle applies, and expects that nothing differs afterwards.
func (r *rig) settle() {
	r.t.Helper()
	if err := r.apply(); err != nil {
		r.t.Fatal(err)
	}
	if left := r.plan(); len(left) > 0 {
		r.t.Fatalf("after Apply there is still to do: %v", left)
	}
}

// neighbor is how the session with an address stands.
func (r *rig) neighbor(a netip.Addr) Neighbor {
	for _, n := range r.Neighbors() {
		if n.Address == a {
			return n
		}
	}
	return Neighbor{}
}

func (r *rig) established(a netip.Addr) bool { return r.neighbor(a).State == stateEstablished }

// vip is an announced path.
func vip(prefix string, communities ...uint32) *pathBody {
	p := netip.MustParsePrefix(prefix)
	b := &pathBody{prefix: p, nextHop: netip.MustParseAddr("192.0.2.1"), communities: communities}
	if p.Addr().Is6() {
		b.nextHop = netip.MustParseAddr("2001:db8::1")
	}
	return b
}

// lockedBuffer is a log that many write to.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
