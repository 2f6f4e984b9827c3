package p4rt

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

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
	"github.com/gray-release/gray/tools/testnet"
)

// loop is the real reconciler with this sink and documents that change.
type loop struct {
	testing.TB
	*reconciler.Reconciler
	sink *Sink
	log  logBuffer

	mu      sync.Mutex
	files   []*schema.File // beside the documents
	next    *schema.Snapshot
	commits int
	changed chan struct{}
}

// Fetch and Changed make it the reconciler's source.
func (l *loop) Fetch(context.Context) (*schema.Snapshot, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next == nil {
		return nil, errors.New("nothing was committed yet")
	}
	return l.next, nil
}

func (l *loop) Changed() <-chan struct{} { return l.changed }

// newLoop runs a reconciler until the test ends. It reads each target once, and then only
// when told to.
func newLoop(t testing.TB, documents ...string) *loop { return newLoopWith(t, nil, documents...) }

// newLoopWith has other files beside the documents.
func newLoopWith(t testing.TB, files []*schema.File, documents ...string) *loop {
	t.Helper()
	return newGuardedLoop(t, 100, files, documents...)
}

// newGuardedLoop has a guard that lets one commit delete maxDelete per cent.
func newGuardedLoop(t testing.TB, maxDelete int, files []*schema.File, documents ...string) *loop {
	t.Helper()
	l := &loop{TB: t, sink: newSink(t, 1), changed: make(chan struct{}, 1), files: files}
	l.set(documents)
	var err error
	l.Reconciler, err = reconciler.New(reconciler.Config{
		Source: l, Sinks: []reconciler.Sink{l.sink}, TableSizes: pipeline.TableSizes, Hints: l.sink.cfg.Hints, MaxDelete: maxDelete,
		Log: slog.New(slog.NewJSONHandler(&l.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return l
}

// set makes documents the newest commit.
func (l *loop) set(documents []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.commits++
	files := slices.Clone(l.files)
	for i, d := range documents {
		files = append(files, &schema.File{Path: fmt.Sprintf("%d.yaml", i), ID: d, Data: []byte(d)})
	}
	l.next = &schema.Snapshot{Revision: fmt.Sprint("r", l.commits), Files: schema.NewFiles(files...)}
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// adopt makes documents the newest commit and waits until they are desired.
func (l *loop) adopt(documents ...string) {
	l.Helper()
	l.set(documents)
	l.adopted()
}

func (l *loop) adopted() {
	l.Helper()
	l.mu.Lock()
	want := l.next.Revision
	l.mu.Unlock()
	testnet.Eventually(l, l.log.String, func() bool {
		s, err := l.Status(l.Context())
		return err == nil && s.Revision == want
	})
}

// settle waits until everything is live and nothing has failed.
func (l *loop) settle() {
	l.Helper()
	l.adopted()
	ctx, cancel := context.WithTimeout(l.Context(), 3*patience)
	defer cancel()
	if err := l.WaitSettled(ctx); err != nil {
		l.Fatalf("it does not settle: %v\n%s", err, l.log.String())
	}
	s, err := l.Status(ctx)
	if err != nil || s.Conditions[0].Status != "True" {
		l.Fatalf("status %+v, error %v\n%s", s, err, l.log.String())
	}
}

// look is one drift cycle: everything is read, and drift is corrected.
func (l *loop) look() {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), 3*patience)
	defer cancel()
	if err := l.ObserveAll(ctx); err != nil {
		l.Fatal(err)
	}
	l.settle()
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

// found is what the log calls drift.
func (l *logBuffer) found(t testing.TB) []string {
	t.Helper()
	var all []string
	sc := bufio.NewScanner(strings.NewReader(l.String()))
	sc.Buffer(nil, 64<<20)
	for sc.Scan() {
		var r struct{ Msg, Found string }
		if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		if r.Msg == "drift" {
			all = append(all, r.Found)
		}
	}
	return all
}

// Documents.

const head = "apiVersion: gray.dev/v1alpha1\n"

func switchDoc(name, address string) string {
	return fmt.Sprintf(head+"kind: Switch\nmetadata: {name: %s}\nspec: {address: %q}\n", name, address)
}

func gatewayDoc(switches ...string) string {
	return fmt.Sprintf(head+`kind: Gateway
metadata: {name: gw}
spec:
  vips: [203.0.113.10]
  switches: [%s]
  default: v1
  hash: {buckets: 256}
  versions:
  - name: v1
    backends:
    - {name: a, address: 192.0.2.1, mac: "02:00:00:00:00:01", port: 1}
    - {name: b, address: 192.0.2.2, mac: "02:00:00:00:00:02", port: 2}
  - {name: v2, backends: [{name: c, address: 192.0.2.3, mac: "02:00:00:00:00:03", port: 3}]}
`, strings.Join(switches, ", "))
}

func networkDoc(vni int) string {
	return fmt.Sprintf(head+"kind: Network\nmetadata: {name: n%d}\nspec: {vni: %d, account: x}\n", vni, vni)
}

// vmsDoc moves VMs of a network to v2.
func vmsDoc(vni int, addresses ...string) string {
	return policyDoc(fmt.Sprintf("vms%d", vni), fmt.Sprintf("vms: [{network: n%d, addresses: [%s]}]", vni, strings.Join(addresses, ", ")))
}

// vpcDoc moves a whole network to v2.
func vpcDoc(vni int) string {
	return policyDoc(fmt.Sprintf("vpc%d", vni), fmt.Sprintf("networks: [n%d]", vni))
}

func policyDoc(name, match string) string {
	return fmt.Sprintf(head+"kind: GrayPolicy\nmetadata: {name: %s}\nspec:\n  targets: [{kind: Gateway, name: gw}]\n  version: v2\n  match:\n  - %s\n", name, match)
}

func addresses(from, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("10.0.%d.%d", (from+i)>>8, (from+i)&0xff)
	}
	return all
}
