package reconciler

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/schema"
)

const apiVersion = "apiVersion: gray.dev/v1alpha1\n"

func switchDoc(name string, port int) string {
	return fmt.Sprintf(apiVersion+"kind: Switch\nmetadata: {name: %s}\nspec: {address: \"127.0.0.1:%d\"}\n", name, port)
}

// gatewayDoc is a gateway with versions v1 (one backend) and v2, whose backends
// are given by their last octets.
func gatewayDoc(name, vip, switches string, v2 ...int) string {
	var b strings.Builder
	fmt.Fprintf(&b, apiVersion+`kind: Gateway
metadata: {name: %s}
spec:
  vips: [%s]
  switches: [%s]
  default: v1
  hash: {buckets: 256}
  versions:
  - {name: v1, backends: [{name: a, address: 192.0.2.1, mac: "02:00:00:00:00:01", port: 1}]}
  - name: v2
    backends:
`, name, vip, switches)
	for _, n := range v2 {
		fmt.Fprintf(&b, "    - {name: b%d, address: 192.0.2.%d, mac: \"02:00:00:00:00:02\", port: 2}\n", n, n)
	}
	return b.String()
}

// policyDoc moves VNIs of a gateway to v2.
func policyDoc(name, gateway string, vnis ...int) string {
	var b strings.Builder
	fmt.Fprintf(&b, apiVersion+"kind: GrayPolicy\nmetadata: {name: %s}\nspec:\n  version: v2\n  priority: 100\n  targets: [{kind: Gateway, name: %s}]\n  match:\n", name, gateway)
	for _, v := range vnis {
		fmt.Fprintf(&b, "  - flow: {vni: %d}\n", v)
	}
	return b.String()
}

// memory is a Source that holds one snapshot.
type memory struct {
	mu      sync.Mutex
	next    *schema.Snapshot
	err     error
	fetches int
	busy    bool
	overlap bool          // two Fetches at one time
	hold    chan struct{} // a Fetch that has looked waits for it where there is one
	changed chan struct{}
}

func (m *memory) Changed() <-chan struct{} { return m.changed }

func (m *memory) Fetch(ctx context.Context) (*schema.Snapshot, error) {
	m.mu.Lock()
	m.fetches++
	m.overlap = m.overlap || m.busy
	m.busy = true
	s, err, hold := m.next, m.err, m.hold
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.busy = false
		m.mu.Unlock()
	}()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if s == nil && err == nil {
		err = errors.New("nothing was committed yet")
	}
	return s, err
}

// asked counts the Fetches.
func (m *memory) asked() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fetches
}

// rig is a running reconciler in a world, in a synctest bubble: quiet returns
// when nothing can happen before time goes on.
type rig struct {
	*Reconciler
	t      testing.TB
	w      *world
	source *memory
	log    *logBuffer
	cancel func() // as a signal that kills does
	stop   func()
}

// start runs a reconciler with both fake sinks.
func start(t testing.TB, w *world, change ...func(*Config)) *rig {
	t.Helper()
	g := &rig{t: t, w: w, source: &memory{changed: make(chan struct{}, 1)}, log: &logBuffer{}}
	cfg := Config{
		Source: g.source, Sinks: []Sink{switches(w), routes(w)}, Hints: board.NewHints(), MaxDelete: 30,
		Log: slog.New(slog.NewJSONHandler(g.log, nil)),
	}
	for _, f := range change {
		f(&cfg)
	}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.Reconciler = r
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	}()
	g.cancel, g.stop = cancel, func() { cancel(); <-done }
	t.Cleanup(func() {
		g.stop()
		if g.source.overlap {
			t.Error("the source was asked twice at one time")
		}
	})
	return g
}

// files makes a set of files: a.yaml, b.yaml and so on.
func files(docs ...string) schema.Files {
	var all []*schema.File
	for i, d := range docs {
		all = append(all, &schema.File{Path: fmt.Sprintf("%c.yaml", 'a'+i), ID: d, Data: []byte(d)})
	}
	return schema.NewFiles(all...)
}

// commit makes documents the newest commit and waits until all is quiet.
func (g *rig) commit(revision string, docs ...string) {
	g.t.Helper()
	g.put(revision, docs...)
	g.quiet()
}

// put makes documents the newest commit.
func (g *rig) put(revision string, docs ...string) {
	g.source.mu.Lock()
	g.source.next = &schema.Snapshot{Revision: revision, Files: files(docs...)}
	g.source.mu.Unlock()
	g.source.poke()
}

func (m *memory) poke() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

func (g *rig) quiet() { synctest.Wait() }

// after lets time go on.
func (g *rig) after(d time.Duration) {
	time.Sleep(d) // of the bubble
	synctest.Wait()
}

// do runs f in the loop.
func (g *rig) do(f func()) {
	g.t.Helper()
	if err := g.inLoop(g.t.Context(), f); err != nil {
		g.t.Fatal(err)
	}
}

func (g *rig) status() *Status {
	g.t.Helper()
	s, err := g.Status(g.t.Context())
	if err != nil {
		g.t.Fatal(err)
	}
	return s
}

// live compares what is live at a target.
func (g *rig) live(target string, want ...string) {
	g.t.Helper()
	if got := g.w.live(target); !slices.Equal(got, want) {
		g.t.Errorf("at %s is live\n  %s\nwant\n  %s\nlog:\n%s", target, strings.Join(got, "\n  "), strings.Join(want, "\n  "), g.log)
	}
}

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// record is one line of the log.
type record struct {
	Msg, Target, Plan, Resource, Error, Found, Document string
}

// records returns the records of one message.
func (l *logBuffer) records(t testing.TB, msg string) []record {
	t.Helper()
	var all []record
	for sc := bufio.NewScanner(strings.NewReader(l.String())); sc.Scan(); {
		var r record
		if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		if r.Msg == msg {
			all = append(all, r)
		}
	}
	return all
}

// bubble runs a test in a synctest bubble.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}
