package schema

import (
	"testing"
	"time"
)

const rolloutHead = "apiVersion: gray.dev/v1alpha1\nkind: GrayPolicy\nmetadata: {name: p}\nspec:\n  targets: [{kind: Gateway, name: gw}]\n  version: v2\n  rollout: "

func TestRolloutIsRefused(t *testing.T) {
	for fields, want := range map[string]string{
		"{}": "spec.rollout: names no networks; give networks or networkSelector",
		"{networks: [a], networkSelector: {x: y}}":                   "spec.rollout.networkSelector: cannot be used with networks; give one of the two",
		"{networks: [a, a]}":                                         `spec.rollout.networks[1]: "a" is listed twice; remove one`,
		"{networks: [a], order: [a, a]}":                             `spec.rollout.order[1]: "a" is listed twice; remove one`,
		"{networks: [a], batches: [1, 50%]}":                         "spec.rollout.batches[1]: 50% is the last batch and would leave VMs behind; end with 100%",
		"{networks: [a], batches: [5, 5, 100%]}":                     "spec.rollout.batches[1]: 5 is not above 5 before it; batches are cumulative",
		"{networks: [a], batches: [50%, 1, 20%, 100%]}":              "spec.rollout.batches[2]: 20% is not above 50% before it; batches are cumulative",
		"{networks: [a], batches: [0, 100%]}":                        `spec.rollout.batches[0]: "0" is not a batch; want a count from 1 or a percentage`,
		"{networks: [a], through: {network: a, batch: 2}}":           "spec.rollout.through.batch: there are 1 batches; want one of 1 to 1",
		"{networks: [a], bake: 1000h}":                               "spec.rollout.bake: 1000h0m0s is out of range; want up to 720h0m0s",
		"{networks: [a], deadline: 1ms}":                             "spec.rollout.deadline: 1ms is out of range; want 1s or more",
		"{networks: [a], verify: {}}":                                "spec.rollout.verify: has no probe and would let everything pass; give ping, tcp, http or exec",
		"{networks: [a], verify: {ping: {maxLoss: 100%}}}":           "spec.rollout.verify.ping.maxLoss: 100% would let everything pass; want less",
		"{networks: [a], verify: {ping: {timeout: 1ms}}}":            "spec.rollout.verify.ping.timeout: 1ms is out of range; want 10ms to 10m0s",
		"{networks: [a], verify: {http: {url: \"ftp://a/b\"}}}":      `spec.rollout.verify.http.url: "ftp://a/b" is not a URL to get; want http://host/path or https://host/path`,
		"{networks: [a], verify: {http: {url: \"http://u:p@a/b\"}}}": "spec.rollout.verify.http.url: holds a user; documents are no place for passwords",
		"{networks: [a], verify: {exec: {command: [../x]}}}":         `spec.rollout.verify.exec.command[0]: "../x" is not a clean path below --exec-dir`,
		"{networks: [a], verify: {exec: {command: [/bin/sh]}}}":      `spec.rollout.verify.exec.command[0]: "/bin/sh" is not a clean path below --exec-dir`,
	} {
		set, _ := Parse(snapshot("p.yaml", rolloutHead+fields+"\n"))
		if got := problems(set); got != "p.yaml:7: "+want {
			t.Errorf("%s:\n%s\nwant p.yaml:7: %s", fields, got, want)
		}
	}
}

func TestRolloutDefaults(t *testing.T) {
	set := wantProblems(t, snapshot("p.yaml", rolloutHead+"{networks: [a], verify: {ping: {}, tcp: {port: 22}, exec: {command: [x]}}}\n"))
	r := set.Get(Name{KindPolicy, "p"}).Spec.(*PolicySpec).Rollout
	v := r.Verify
	if len(r.Batches) != 1 || r.Batches[0] != (Batch{100, true}) || r.Parallel != 1 || r.Approval != "none" || r.OnFailure != "rollback" || r.Deadline != Duration(30*time.Minute) {
		t.Errorf("%+v", r)
	}
	if v.Ping.Timeout != Duration(time.Second) || v.TCP.Timeout != Duration(time.Second) || v.Exec.Timeout != Duration(time.Minute) || v.Ping.Count != 3 {
		t.Errorf("%+v %+v %+v", v.Ping, v.TCP, v.Exec)
	}
}

func TestBatchOf(t *testing.T) {
	for _, test := range []struct {
		batch     Batch
		vms, want int
	}{
		{Batch{1, false}, 0, 0},
		{Batch{5, false}, 3, 3},
		{Batch{5, false}, 8, 5},
		{Batch{25, true}, 0, 0},
		{Batch{25, true}, 1, 1},
		{Batch{25, true}, 4, 1},
		{Batch{25, true}, 5, 2},
		{Batch{1, true}, 1000, 10},
		{Batch{1, true}, 1001, 11},
		{Batch{100, true}, 7, 7},
	} {
		if got := test.batch.Of(test.vms); got != test.want {
			t.Errorf("%s of %d VMs is %d, want %d", test.batch, test.vms, got, test.want)
		}
	}
}
