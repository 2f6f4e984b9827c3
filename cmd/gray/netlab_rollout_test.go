package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler"
)

// shardOrder is the order in which the VPCs move: the one that is named, then the
// others by name.
var shardOrder = []int{1002, 1001, 1003}

const labRollout = `apiVersion: gray.dev/v1alpha1
kind: GrayPolicy
metadata: {name: gw-v2}
spec:
  targets: [{kind: Service, name: vpc-api}, {kind: Gateway, name: vpc-gw}]
  version: v2
  rollout:
    networkSelector: {shard: s1}
    order: [vpc-1002]
    batches: [1, 50%, 100%]
    bake: 200ms
    deadline: 1m
    verify: {ping: {count: 3, timeout: 1s, source: overlay}}
`

// rings has every VM ping the next one of its VPC, and runs a TCP stream in the last
// VPC that moves and in the one that does not.
func (l *netlab) rings() (all []*running, flows []labFlow) {
	l.t.Helper()
	for _, vni := range l.vnis() {
		vms := slices.DeleteFunc(slices.Clone(l.vms), func(v labVM) bool { return v.vni != vni })
		for i, v := range vms {
			f := labFlow{v, vms[(i+1)%len(vms)]}
			flows = append(flows, f)
			if i == 0 && (vni == shardControl || vni == shardOrder[2]) {
				all = append(all, l.flow(f))
			} else {
				all = append(all, l.pings(f, 50*time.Millisecond))
			}
		}
	}
	return all, flows
}

// rollout is how the rollout stands, nil where there is none.
func rolloutOf(s *admin.Status) *reconciler.RolloutStatus {
	for i := range s.Rollouts {
		if s.Rollouts[i].Policy == "gw-v2" {
			return &s.Rollouts[i]
		}
	}
	return nil
}

// TestRolloutInSteps moves a shard VPC after VPC and batch after batch, under pings,
// TCP streams and requests. Captures on the servers hold who gets what, and when.
func TestRolloutInSteps(t *testing.T) {
	l := newShard(t)
	eyes := l.watch()
	callers := l.call()
	all, flows := l.rings()
	l.after(eyes, time.Time{}, 5, flows...)
	l.push(map[string]string{"policy.yaml": labRollout})
	l.until(func(s *admin.Status) bool {
		r := rolloutOf(s)
		return r != nil && r.Phase == rollout.PhaseCompleted
	})
	l.after(eyes, time.Now(), 5, flows...) // and some more when all is done
	for _, r := range all {
		l.stop(r)
	}
	callers.stop()
	l.isGray(len(shardVNIs), 0)
	var want [][3]int
	for _, vni := range shardOrder {
		want = append(want, [3]int{vni, 1, 1}, [3]int{vni, 2, 4}, [3]int{vni, 3, 8})
	}
	l.judgeRuns(eyes.stop(), callers, [][][3]int{want})
}

// accountsLast shuts the way to the switch while the second batch of the second VPC is
// tested, and holds that the accounts stay where they are until the switch has taken
// the VMs back.
func (l *shard) accountsLast(c *callers) {
	l.t.Helper()
	l.until(func(s *admin.Status) bool {
		r := rolloutOf(s)
		return r != nil && slices.ContainsFunc(r.Networks, func(n reconciler.NetworkProgress) bool {
			return n.Name == "vpc-1001" && n.Batch == 2 && n.Stage == rollout.StageVerifying
		})
	})
	open := l.valve.close(l.t)
	since := l.until(func(s *admin.Status) bool { return rolloutOf(s).Phase == rollout.PhaseRollingBack })
	moved := []string{labAccount(1002), labAccount(1001)}
	l.until(func(s *admin.Status) bool {
		return rolloutOf(s).Phase != rollout.PhaseRollingBack ||
			!slices.ContainsFunc(moved, func(a string) bool { return len(c.since(a, since)) < 20 })
	})
	for _, a := range moved {
		if got := c.since(a, since); len(got) < 20 || slices.ContainsFunc(got, func(v string) bool { return v != "v2" }) {
			l.t.Errorf("before the switch had taken the VMs back, account %s was answered %q", a, got)
		}
	}
	open()
}

// TestRolloutCaught has a gray server that drops what goes to one VM: the batch of
// that VM is caught, and nobody stays at the gray server. The same content is not
// tried again; what is put right is.
func TestRolloutCaught(t *testing.T) {
	l := newShard(t)
	eyes := l.watch()
	callers := l.call()
	all, flows := l.rings()
	l.after(eyes, time.Time{}, 5, flows...)

	sick := l.shardVM(1001, 2) // of the second batch of the second VPC
	lose := func(vtep string) {
		l.batch("bridge", "gw9", fmt.Sprintf("fdb replace %s dev vx%d dst %s", sick.mac(), sick.vni, vtep))
	}
	lose("192.0.2.199")
	revision := l.push(map[string]string{"policy.yaml": labRollout})
	l.accountsLast(callers)
	var r *reconciler.RolloutStatus
	l.until(func(s *admin.Status) bool {
		r = rolloutOf(s)
		return r != nil && r.Phase == rollout.PhaseRolledBack
	})
	l.caught(r, sick, revision)
	l.isGray(0, 0)
	l.after(eyes, time.Now(), 5, flows...) // the sick VM too has what it had
	known := len(l.transitions())

	// Another pace is no other content.
	pace := strings.ReplaceAll(labRollout, "1, 50%, 100%", "50%, 100%")
	revision = l.push(map[string]string{"policy.yaml": pace})
	l.until(func(s *admin.Status) bool { return s.Revision == revision && s.Conditions[0].Status == "True" })
	if now := l.transitions(); len(now) != known {
		t.Errorf("what failed is tried again: %+v", now[known:])
	}

	// Another server is.
	lose(sick.vtep())
	gateway := labGateway()["gateway.yaml"]
	l.push(map[string]string{"gateway.yaml": strings.ReplaceAll(gateway, "name: gw9", "name: gw9-repaired")})
	l.until(func(s *admin.Status) bool { return rolloutOf(s).Phase == rollout.PhaseCompleted })
	l.isGray(len(shardVNIs), 0)
	l.after(eyes, time.Now(), 5, flows...)

	for _, r := range all {
		if r.from != sick && r.to != sick {
			l.stop(r)
			continue
		}
		sent, answered, last := l.end(r)
		if answered == last || sent-last > r.underWay {
			t.Errorf("ping %s -> %s: %d sent, %d answered, the last one was number %d; want some lost, and not for long", r.from.name, r.to.name, sent, answered, last)
		}
		t.Logf("ping %s -> %s: %d sent, %d answered", r.from.name, r.to.name, sent, answered)
	}
	callers.stop()
	l.judgeRuns(eyes.stop(), callers, [][][3]int{
		{{1002, 1, 1}, {1002, 2, 4}, {1002, 3, 8}, {1001, 1, 1}, {1001, 2, 4}},
		{{1002, 1, 4}, {1002, 2, 8}, {1001, 1, 4}, {1001, 2, 8}, {1003, 1, 4}, {1003, 2, 8}},
	})
}
