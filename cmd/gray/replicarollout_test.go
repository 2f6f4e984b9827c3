package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler"
)

// TestRolloutOverReplicas has a rollout go on at another replica when the leader is
// frozen in the middle of a batch. What has moved stays so at the Envoys of both, also
// where one starts anew, and where etcd goes.
func TestRolloutOverReplicas(t *testing.T) {
	t.Parallel()
	p := newPair(t, testEnvoy(t))
	p.live()
	p.serves(p.second)
	p.synced(p.lab, p.second)
	p.answers("50009999", "v1")
	defer p.load()()
	var tests atomic.Int64
	tested := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { tests.Add(1) }))
	t.Cleanup(tested.Close)
	file := filepath.Join(p.Repo, "policies", "shard.yaml")
	p.ok(os.MkdirAll(filepath.Dir(file), 0o700))
	p.ok(os.WriteFile(file, []byte(`apiVersion: gray.dev/v1alpha1
kind: GrayPolicy
metadata: {name: shard}
spec:
  targets: [{kind: Service, name: vpc-api}, {kind: Gateway, name: vpc-gw}]
  version: v2
  rollout:
    networkSelector: {shard: s1}
    batches: [1, 50%, 100%]
    bake: 2s
    verify: {http: {url: `+tested.URL+`}}
`), 0o600))
	p.ok(p.Commit(t.Context(), "shard"))
	p.answers("50002001", "v2") // with the first batch
	defer p.stays("50002001")()
	one, two := p.lab, p.second
	one.until("the first batch has passed", func(s *admin.Status) bool {
		return len(s.Rollouts) == 1 && s.Rollouts[0].Networks[0].Stage == rollout.StagePassed && s.Rollouts[0].Moved == 1
	})
	held, release := p.recorder.holdNext() // of the second one
	<-held
	one.signal(syscall.SIGSTOP)
	before, _ := p.recorder.counts()
	two.until("the second leads", leads("two"))
	two.live() // the switch knows it
	release()
	one.signal(syscall.SIGCONT)
	one.until("the first follows", follows("two"))
	two.until("the rollout is complete", completed)
	two.live()
	p.serves(one)
	one.until("the first knows", completed)
	one.refuses("shard")
	p.fencedOff(before)
	p.answers("50002002", "v2")
	defer p.stays("50002002")()
	p.verified(tests.Load())

	one.kill()
	one.startReplica(p.server, "one")
	p.serves(one)
	two.kill() // its Envoys turn to the one that follows
	p.synced(one)
	one.until("the first leads again", leads("one"))
	one.until("the rollout is complete", completed)
	one.live()
	two.startReplica(p.server, "two")
	p.serves(two)
	two.until("the second knows", completed)

	p.server.Kill()
	for _, l := range []*lab{one, two} { // also who led goes on from where it was
		l.until("nobody is known to lead", follows(""))
	}
	p.policy("one-flow")
	p.serves(one)
	p.serves(two)
	p.server.Start()
	p.leader().live()
}

func completed(s *admin.Status) bool {
	return len(s.Rollouts) == 1 && s.Rollouts[0].Phase == rollout.PhaseCompleted
}

// refuses holds that a replica that follows tells how a rollout stands, and leaves the
// verbs and the audit log to the one that leads.
func (l *lab) refuses(policy string) {
	l.t.Helper()
	c := admin.Client{Address: l.Address("18001")}
	if _, _, err := c.Rollout(l.t.Context(), policy); err != nil {
		l.t.Error(err)
	}
	_, verbErr := c.Do(l.t.Context(), policy, rollout.Verb{Verb: rollout.VerbPause, Who: "ann"})
	_, _, auditErr := c.Audit(l.t.Context(), policy, 1)
	for _, err := range []error{verbErr, auditErr} {
		if err == nil || !strings.Contains(err.Error(), "ask the leader") {
			l.t.Errorf("a replica that follows answers %v", err)
		}
	}
}

// stays has an account that has moved answered by v2 at both Envoys until the function
// is called.
func (p *pair) stays(account string) func() {
	ctx, cancel := context.WithCancel(p.t.Context())
	var all sync.WaitGroup
	for i, e := range p.envoys {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if got, err := e.request(ctx, account); (err != nil || got != "v2") && ctx.Err() == nil {
					p.t.Errorf("Envoy %d, request %d: account %s has moved and is answered by %q (%v)", i+1, n, account, got, err)
					return
				}
				select { // a small load
				case <-time.After(2 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	return func() { cancel(); all.Wait() }
}

// fencedOff holds that the switch took nothing more from the leader that it knew.
func (p *pair) fencedOff(before map[uint64]int) {
	p.t.Helper()
	after, refused := p.recorder.counts()
	if len(before) != 1 || len(after) != 2 {
		p.t.Fatalf("writes by epoch: %v, then %v", before, after)
	}
	for epoch, n := range before {
		if after[epoch] != n || refused[epoch] == 0 {
			p.t.Errorf("of the old leader's writes the switch took %d and refused %d since another leads", after[epoch]-n, refused[epoch])
		}
	}
}

// verified holds that every batch was tested, in its order and once, by the audit log
// in etcd.
func (p *pair) verified(tests int64) {
	p.t.Helper()
	res, err := p.server.Client().Get(p.t.Context(), "/gray/data/rollouts/audit", clientv3.WithPrefix())
	p.ok(err)
	var passed []string
	for i, kv := range res.Kvs {
		var rec reconciler.AuditRecord
		p.ok(json.Unmarshal(kv.Value, &rec))
		if rec.Number != uint64(i+1) || rec.Run != 1 || rec.Policy != "shard" {
			p.t.Errorf("record %d of the audit log is %+v", i+1, rec)
		}
		for _, e := range rec.Events {
			if e.Warning || e.Reason == "Restarted" {
				p.t.Errorf("the rollout was not as it is to be: %+v", e)
			}
			if e.Reason == "BatchPassed" {
				passed = append(passed, fmt.Sprintf("%s/%d", e.Network, e.Batch))
			}
		}
	}
	want := strings.Fields("vpc-1001/1 vpc-1001/2 vpc-1001/3 vpc-1002/1 vpc-1002/3")
	if !slices.Equal(passed, want) {
		p.t.Errorf("batches passed in the order %q, want %q", passed, want)
	}
	if least := int64(len(want) + 2); tests < least { // and a baseline of each VPC
		p.t.Errorf("%d tests were made, want %d at least", tests, least)
	}
}
