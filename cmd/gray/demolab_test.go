package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/p4rt/softswitch"
	"github.com/gray-release/gray/sources/probe"
)

// TestShardLab pings every VM of the laboratory of gray demo --rollout through the
// versions that match policies of a real daemon give it: all answer through v1, and
// none of a VPC that v2 loses.
func TestShardLab(t *testing.T) {
	d := &demo{dir: t.TempDir()}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok(d.choosePorts("9559", "18000", "18001"))
	set, err := d.makeShard(t.Context())
	ok(err)
	sw := softswitch.New(1)
	lab, err := newShardLab(sw, set)
	ok(err)
	ctx, cancel := context.WithCancel(t.Context())
	stopSwitch, err := d.serveSwitch(ctx, sw)
	ok(err)
	stopDaemon, err := d.startDaemon(ctx)
	ok(err)
	defer func() {
		cancel()
		ok(errors.Join(stopDaemon(), stopSwitch(), lab.close()))
	}()
	lab.lose("v2", 1002)
	prober := probe.New(probe.Options{Underlay: lab.underlay, Interval: time.Millisecond, Pause: time.Millisecond})
	for _, c := range []struct {
		policy string
		moved  int // of VPC 1001
		lost   int // of VPC 1002
	}{
		{"", 0, 0},
		{"vms: [{network: vpc-1001, addresses: [10.0.0.1, 10.0.0.7]}, {network: vpc-1002, addresses: [10.0.0.7]}]", 2, 1},
		{"networks: [vpc-1001, vpc-1002]", 20, 20},
		{"", 0, 0},
	} {
		text := ""
		if c.policy != "" {
			text = labPolicy(c.policy)
		}
		ok(d.write("policies/gateway-v2.yaml", text))
		ok(d.git(t.Context(), "add", "-A"))
		ok(d.git(t.Context(), "commit", "-q", "--allow-empty", "-m", "match"))
		ok(d.live(t.Context()))
		before := map[string][]shardVM{}
		for _, v := range lab.vpcs {
			before[v.name] = lab.look(v)
		}
		for i, v := range lab.vpcs {
			n := set.Get(schema.Name{Kind: schema.KindNetwork, Name: v.name}).Spec.(*schema.NetworkSpec)
			res := prober.Verify(t.Context(), probe.Request{
				Network: v.name, VNI: *n.VNI, Monitor: n.Monitor, Survey: true,
				Targets: probe.Select(n.Routes, func(schema.Route) bool { return true }, 0, 1).Targets,
				Checks:  []probe.Check{{Kind: probe.PingOverlay, Count: 3, Timeout: time.Second, VIP: lab.vip}},
			})
			want := []int{0, c.lost}[i]
			if out := res.Checks[0]; out.Addresses != 20 || out.Failed != want || out.Received != 3*(20-want) {
				t.Errorf("%q: %s: %s: %+v", c.policy, v.name, res.Reason, out)
			}
			moved := 0
			for j, vm := range lab.look(v) {
				old := before[v.name][j].served
				v1, v2 := vm.served["v1"]-old["v1"], vm.served["v2"]-old["v2"]
				if v1+v2 != 3 || v1 != 0 && v2 != 0 {
					t.Errorf("%q: %s: %s had %d packets by v1 and %d by v2", c.policy, v.name, vm.name, v1, v2)
				}
				if v2 > 0 {
					moved++
				}
			}
			if moved != []int{c.moved, c.lost}[i] {
				t.Errorf("%q: %s: %d VMs are on v2", c.policy, v.name, moved)
			}
		}
	}
}

// TestDemoRollout runs both stories of gray demo --rollout at the same time, as
// somebody without Envoy, root and terminal would.
func TestDemoRollout(t *testing.T) {
	t.Setenv("PATH", gitOnly(t))
	for broken, wants := range map[bool][]string{
		false: {"vpc-1002  22222 11111 11111 11111   5/20 on v2", "PhaseCompleted", "the rollout is Completed, with 40 of 40 VMs moved", "0 were lost, by nobody"},
		true:  {"vpc-1002  x1111 11111 11111 11111   1/20 on v2", "PhaseRolledBack", "The evidence: batch 1 of vpc-1002, at main@sha1:", "still RolledBack, in its first run", "were lost, by vpc-1002/vm-1"},
	} {
		t.Run(fmt.Sprintf("broken=%v", broken), func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			r := &rolloutDemo{demo: &demo{out: &out}, broken: broken}
			if err := r.run(t.Context()); err != nil {
				t.Fatalf("%v\n%s", err, &out)
			}
			for _, want := range append(wants, "All expectations held") {
				if !strings.Contains(out.String(), want) {
					t.Errorf("the demo did not say %q:\n%s", want, &out)
				}
			}
			if strings.Contains(out.String(), "\x1b") {
				t.Errorf("without a terminal there are escape sequences:\n%q", &out)
			}
		})
	}
}

// gitOnly is a folder with git and nothing else.
func gitOnly(t *testing.T) string {
	t.Helper()
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(git, filepath.Join(dir, "git")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestScreen draws the lines at the end of a terminal over again, and nothing else.
func TestScreen(t *testing.T) {
	var out strings.Builder
	s := &screen{out: &out, live: true}
	s.show("bar 1", "bar 2")
	fmt.Fprintln(s, "news")
	s.show("bar 3")
	s.show()
	const clear2, clear1 = "\x1b[2A\r\x1b[J", "\x1b[1A\r\x1b[J"
	want := "bar 1\nbar 2\n" + clear2 + "news\nbar 1\nbar 2\n" + clear2 + "bar 3\n" + clear1
	if out.String() != want {
		t.Errorf("drew %q, want %q", &out, want)
	}
	if got := s.paint(31, "x"); got != "x" {
		t.Errorf("without colors there is %q", got)
	}
	out.Reset()
	s = newScreen(&out)
	s.show("bar 1")
	fmt.Fprintln(s, "news")
	if out.String() != "news\n" {
		t.Errorf("without a terminal there is %q", &out)
	}
}
