package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/cmd/gray/daemon"
	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
	"github.com/gray-release/gray/stores/bolt"
)

// killAtWrite has this process, as a daemon, end itself by SIGKILL at the n-th Write
// of its store, where GRAY_TEST_KILL says "n before" or "n after".
func killAtWrite() {
	var k killer
	if n, _ := fmt.Sscan(os.Getenv("GRAY_TEST_KILL"), &k.at, &k.when); n != 2 {
		return
	}
	daemon.OpenStore = func(state string) (*reconciler.Store, error) {
		s, err := bolt.Open(state)
		if err == nil {
			k.under, s.Write = s.Write, k.write
		}
		return s, err
	}
}

// killer is a Write that ends the process.
type killer struct {
	under func(bucket string, put map[string][]byte, remove []string) error
	at    int
	when  string

	mu     sync.Mutex
	writes int
}

func (k *killer) write(bucket string, put map[string][]byte, remove []string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.writes++
	die := func(when string) {
		if k.writes == k.at && k.when == when {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	die("before")
	err := k.under(bucket, put, remove)
	die("after")
	return err
}

// killLab is a lab in which what is tested and what is written to the switch is
// taken down, in one order, by whoever does it.
type killLab struct {
	*lab
	record string
	flags  []string
}

const killRollout = `apiVersion: gray.dev/v1alpha1
kind: GrayPolicy
metadata: {name: shard}
spec:
  targets: [{kind: Service, name: vpc-api}, {kind: Gateway, name: vpc-gw}]
  version: v2
  priority: 100
  rollout:
    networkSelector: {shard: s1}
    batches: [1, 50%, 100%]
    verify: {exec: {command: [check]}}
`

func newKillLab(t *testing.T, broken bool) *killLab {
	k := &killLab{record: filepath.Join(t.TempDir(), "record")}
	k.lab = newLab(t, grpc.UnaryInterceptor(k.write))
	execs := t.TempDir()
	k.flags = []string{"--exec-dir", execs}
	verdict := "exit 0"
	if broken { // the last batch of the second VPC
		verdict = `[ "$GRAY_NETWORK $GRAY_BATCH" != "vpc-1002 3 of 3" ]`
	}
	script := fmt.Sprintf("#!/bin/sh\necho \"tested $GRAY_NETWORK $GRAY_BATCH\" >>%s\n%s\n", k.record, verdict)
	k.ok(os.WriteFile(filepath.Join(execs, "check"), []byte(script), 0o755))
	k.ok(os.MkdirAll(filepath.Join(k.Repo, "policies"), 0o755))
	k.ok(os.WriteFile(filepath.Join(k.Repo, "policies", "shard.yaml"), []byte(killRollout), 0o644))
	k.ok(k.Commit(t.Context(), "The shard goes gray"))
	return k
}

// write takes down entries of VMs and VPCs that the switch is given.
func (k *killLab) write(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if w, is := req.(*p4v1.WriteRequest); is {
		for _, u := range w.Updates {
			e := u.GetEntity().GetTableEntry()
			if u.Type == p4v1.Update_INSERT && (e.GetTableId() == pipeline.TableVMSrcV4 || e.GetTableId() == pipeline.TableVPC) {
				vni, vm := e.Match[1].GetExact().GetValue(), 0
				if e.TableId == pipeline.TableVMSrcV4 {
					a := e.Match[2].GetExact().GetValue()
					vm = int(a[len(a)-1])
				}
				k.note(fmt.Sprintf("made vpc-%d %d", int(vni[len(vni)-2])<<8|int(vni[len(vni)-1]), vm))
			}
		}
	}
	return next(ctx, req)
}

func (k *killLab) note(line string) {
	f, err := os.OpenFile(k.record, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		k.t.Error(err)
		return
	}
	defer f.Close()
	_, err = fmt.Fprintln(f, line)
	if err != nil {
		k.t.Error(err)
	}
}

// life runs a daemon until the rollout has ended, or until it has ended itself.
func (k *killLab) life(kill string) (killed bool) {
	k.t.Helper()
	k.t.Setenv("GRAY_TEST_KILL", kill)
	k.startDaemon(k.flags...)
	gone := make(chan error, 1)
	daemon := k.daemon
	go func() { gone <- daemon.Wait() }()
	defer func() { k.daemon = nil }()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-gone:
			if status, is := daemon.ProcessState.Sys().(syscall.WaitStatus); !is || status.Signal() != syscall.SIGKILL {
				log, _ := os.ReadFile(k.log)
				k.t.Fatalf("the daemon ended by itself: %v; log:\n%s", err, log)
			}
			return true
		case <-deadline:
			log, _ := os.ReadFile(k.log)
			k.t.Fatalf("the rollout does not end; log:\n%s", log)
		case <-tick.C:
		}
		s, _, err := (admin.Client{Address: k.Address("18001")}).Status(k.t.Context())
		if err != nil || !settled(s) || len(s.Rollouts) != 1 {
			continue
		}
		if p := s.Rollouts[0].Phase; p == rollout.PhaseCompleted || p == rollout.PhaseRolledBack {
			_ = daemon.Process.Kill()
			<-gone
			return false
		}
	}
}

// audit is the audit log, out of the store itself.
func (k *killLab) audit() (records []reconciler.AuditRecord) {
	k.t.Helper()
	s, err := bolt.Open("file:" + filepath.Join(k.Dir, "state.db"))
	k.ok(err)
	defer func() { k.ok(s.Close()) }()
	k.ok(s.Load(reconciler.BucketRollouts, func(key string, v []byte) error {
		if !strings.HasPrefix(key, reconciler.PrefixAudit) {
			return nil
		}
		var r reconciler.AuditRecord
		records = append(records, r)
		return json.Unmarshal(v, &records[len(records)-1])
	}))
	return records
}

// check holds the record and the audit log against each other: no batch is made
// before the one before it was tested, and has passed.
func (k *killLab) check(broken bool) {
	k.t.Helper()
	var passed []string
	for i, r := range k.audit() {
		if r.Number != uint64(i+1) {
			k.t.Errorf("record %d has the number %d", i+1, r.Number)
		}
		for _, e := range r.Events {
			if e.Reason == "BatchPassed" {
				passed = append(passed, fmt.Sprintf("%s %d of 3", e.Network, e.Batch))
			}
		}
	}
	// Of VPC 1001 the batches are 10.0.0.5, 10.0.0.6, and the rest as one entry; VPC
	// 1002 has two VMs, so that its second batch is its first.
	want := []string{"vpc-1001 1 of 3", "vpc-1001 2 of 3", "vpc-1001 3 of 3", "vpc-1002 1 of 3", "vpc-1002 3 of 3"}
	if broken {
		want = want[:4]
	}
	if !slices.Equal(passed, want) {
		k.t.Errorf("the audit log has as passed %q, want %q", passed, want)
	}
	needs := map[string]string{
		"made vpc-1001 6": "tested vpc-1001 1 of 3", "made vpc-1001 0": "tested vpc-1001 2 of 3",
		"made vpc-1002 5": "tested vpc-1001 3 of 3", "made vpc-1002 0": "tested vpc-1002 1 of 3",
	}
	b, err := os.ReadFile(k.record)
	k.ok(err)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for i, line := range lines {
		if need := needs[line]; need != "" && !slices.Contains(lines[:i], need) {
			k.t.Errorf("%q before %q", line, need)
		}
	}
	for _, line := range want {
		if !slices.Contains(lines, "tested "+line) {
			k.t.Errorf("%s has passed, and was not tested", line)
		}
	}
}

// rules counts the entries that take traffic away from the default.
func (k *killLab) rules() (n int) {
	for _, table := range []uint32{pipeline.TableVMSrcV4, pipeline.TableVMDstV4, pipeline.TableVPC} {
		n += k.entries(table)
	}
	return n
}

// TestRolloutKilled kills the daemon, a process with a file for its store, by
// SIGKILL at Writes in random places, over rollouts that end well and that go back:
// each ends as one without kills does, and skips no test. GRAY_KILLS says how many.
func TestRolloutKilled(t *testing.T) {
	total, err := strconv.Atoi(os.Getenv("GRAY_KILLS"))
	if err != nil {
		total = 24
		if testing.Short() {
			total = 8
		}
	}
	kills, runs := 0, 0
	for ; kills < total; runs++ {
		broken := runs%2 == 1
		t.Run(fmt.Sprint(runs), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(runs), 7))
			k := newKillLab(t, broken)
			for k.life(fmt.Sprint(1+rng.IntN(8), []string{" before", " after"}[rng.IntN(2)])) {
				kills++
			}
			k.check(broken)
			want := 2 // an entry for each VPC
			if broken {
				want = 0
			}
			if got := k.rules(); got != want {
				t.Errorf("%d entries at the end, want %d", got, want)
			}
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d kills in %d rollouts", kills, runs)
}
