package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/cmd/gray/daemon"
	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/p4rt/softswitch"
	"github.com/gray-release/gray/sources/probe"
)

const (
	rolloutWait  = time.Minute            // bounds a whole rollout
	trafficEvery = 200 * time.Millisecond // between the tenants' packets to a VM
)

// rolloutDemo is a rollout of two VPCs. If broken, the new server drops the packets of
// the second one.
type rolloutDemo struct {
	*demo
	broken bool
	screen *screen
	lab    *shardLab
	began  time.Time
	scenes chan scene
	passed []passed
	stop   func() // stops the tenants' traffic
}

// scene is a transition of the rollout, and where the packets of each VPC went at that
// moment.
type scene struct {
	reconciler.Event
	vpcs [][]shardVM
}

// passed is a batch that has passed, and how many VMs of its VPC were on v2 then.
type passed struct {
	network string
	batch   int
	vms     int
}

func (r *rolloutDemo) run(ctx context.Context) error {
	if _, err := exec.LookPath("git"); err != nil {
		return errors.New("there is no git on the PATH; install it")
	}
	r.screen = newScreen(r.out)
	r.out = r.screen
	r.scenes = make(chan scene, 1000)
	return r.perform(ctx, r.start, r.story, r.hints)
}

func (r *rolloutDemo) hints() {
	r.say("  gray rollout status gateway-v2 --admin-listen %s", r.Address("18001"))
	if r.broken {
		r.say("  gray rollout retry gateway-v2 --admin-listen %s", r.Address("18001"))
	}
	r.say("  cd %s, edit policies/, then", r.Repo)
	r.say("  gray diff --admin-listen %s", r.Address("18001"))
	r.say("  git commit -a -m 'another version'")
}

// start starts everything, as demo.start does.
func (r *rolloutDemo) start(ctx context.Context) error {
	if err := r.ChoosePorts("9559", "18000", "18001"); err != nil {
		return err
	}
	set, err := r.makeShard(ctx)
	if err != nil {
		return err
	}
	sw := softswitch.New(1)
	if r.lab, err = newShardLab(sw, set); err != nil {
		return err
	}
	r.parts.add(r.lab.close)
	if err := r.serveSwitch(ctx, sw); err != nil {
		return err
	}
	return r.startDaemon(ctx, func(c *daemon.Config) {
		c.Outward.Probes, c.Outward.Events = probe.Options{Underlay: r.lab.underlay}, r.note
	})
}

// note records a transition. The rollout waits until it returns, so that it sees where
// packets go at that moment.
func (r *rolloutDemo) note(e reconciler.Event) {
	if e.Policy == "" {
		return
	}
	select {
	case r.scenes <- scene{e, r.lab.lookAll()}:
	default: // somebody is trying things out
	}
}

// story moves the shard to v2, or shows how that fails.
func (r *rolloutDemo) story(ctx context.Context) error {
	r.say("gray demo --rollout: two VPCs of 20 VMs, a software gateway, two servers of v1 and one of v2,")
	r.say("a Git repository and the daemon. A tenant sends a packet to every VM five times a second; the")
	r.say("bars show which version handled the last one, and x where there was no answer.")
	r.say("\n1. The first commit has no policy: everybody is on v1.")
	if err := r.live(ctx); err != nil {
		return err
	}
	r.stop = r.lab.traffic(trafficEvery)
	r.everybodyOn(ctx, "v1")
	if r.broken {
		r.say("\n   The server of v2 will drop all packets of vpc-1002, and nobody knows that yet.")
		r.lab.lose("v2", 1002)
	}
	r.say("\n2. A rollout, batch by batch. Each batch is tested with pings through the VIP to the VMs.\n\n%s", indent(shardPolicy))
	if err := r.write("policies/gateway-v2.yaml", shardPolicy); err != nil {
		return err
	}
	r.say("$ git commit -m 'The shard goes to v2'\n")
	r.began = time.Now()
	if err := r.Commit(ctx, "The shard goes to v2"); err != nil {
		return err
	}
	last := "PhaseCompleted"
	if r.broken {
		last = "PhaseRolledBack"
	}
	if err := r.watch(ctx, last); err != nil || r.failed > 0 {
		return err
	}
	r.say("")
	if r.broken {
		return r.afterRollback(ctx)
	}
	return r.afterCompletion(ctx)
}

// watch shows what happens until the transition called last.
func (r *rolloutDemo) watch(ctx context.Context, last string) error {
	ctx, cancel := context.WithTimeout(ctx, rolloutWait)
	defer cancel()
	defer r.screen.show()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case s := <-r.scenes:
			r.tell(s)
			if s.Reason == last {
				return nil
			}
			if slices.Contains([]string{"PhaseCompleted", "PhaseRolledBack", "PhasePaused"}, s.Reason) {
				r.expect(false, "the rollout ends with %s, but ended with %s", last, s.Reason)
				return nil
			}
		case <-tick.C:
			r.redraw(ctx)
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err() // by Ctrl-C
			}
			r.expect(false, "the rollout gets to %s within %s", last, rolloutWait)
			return nil
		}
	}
}

// tell prints a transition, and the bars if packets go another way now.
func (r *rolloutDemo) tell(s scene) {
	if s.Reason == "PhaseProgressing" || s.Reason == "PhaseRollingBack" {
		return // the next transitions say more
	}
	const most = 130 // bytes of a message; the evidence is shown later
	message := schema.Clip(strings.TrimSuffix(s.Message, ": "), most)
	text := fmt.Sprintf("%5.1fs  %-20s %s", s.Time.Sub(r.began).Seconds(), s.Reason, message)
	if s.Warning {
		text = r.screen.paint(31, text)
	}
	r.say("%s", text)
	switch s.Reason {
	case "BatchPassed":
		i := slices.IndexFunc(r.lab.vpcs, func(v *shardVPC) bool { return v.name == s.Network })
		r.passed = append(r.passed, passed{s.Network, s.Batch, by(s.vpcs[i], "v2")})
		if !r.screen.live { // a terminal shows them all the time
			r.bars(s.vpcs)
		}
	case "VerificationFailed":
		r.bars(s.vpcs)
	}
}

// by counts the VMs whose last packet a version handled.
func by(vms []shardVM, version string) int {
	n := 0
	for _, vm := range vms {
		if vm.via == version {
			n++
		}
	}
	return n
}

// bars prints which version handles the packets of each VM.
func (r *rolloutDemo) bars(vpcs [][]shardVM) {
	for i, v := range r.lab.vpcs {
		bar, text := r.bar(vpcs[i])
		r.say("        %s  %s  %s", v.name, bar, text)
	}
}

// bar draws the VMs of a VPC by address, and sums them up.
func (r *rolloutDemo) bar(vms []shardVM) (bar, text string) {
	const late = 3 // rounds, more than half a second
	var b strings.Builder
	lost := 0
	for i, vm := range vms {
		if i > 0 && i%5 == 0 {
			b.WriteByte(' ')
		}
		lost += vm.lost
		switch {
		case vm.late > late:
			b.WriteString(r.screen.paint(31, "x"))
		case vm.via == "v2":
			b.WriteString(r.screen.paint(32, "2"))
		default:
			b.WriteString(r.screen.paint(2, strings.TrimPrefix(cmp.Or(vm.via, "?"), "v")))
		}
	}
	text = fmt.Sprintf("%2d/%d on v2", by(vms, "v2"), len(vms))
	if lost > 0 {
		text += fmt.Sprintf(", %d lost", lost)
	}
	return b.String(), text
}

// redraw shows the current state of the rollout at the end of a terminal.
func (r *rolloutDemo) redraw(ctx context.Context) {
	if !r.screen.live {
		return
	}
	head := fmt.Sprintf("%5.1fs  gateway-v2", time.Since(r.began).Seconds())
	stages := map[string]string{}
	if s, err := r.rollout(ctx); err == nil {
		head = fmt.Sprintf("%s  %s, %d/%d VMs moved, %s", head, s.Phase, s.Moved, s.Total, cmp.Or(s.Waits, s.Conditions[0].Reason))
		for _, n := range s.Networks {
			if n.Stage != "" && n.Batch > 0 {
				stages[n.Name] = fmt.Sprintf(", batch %d/%d %s", n.Batch, len(s.Batches), n.Stage)
			}
		}
	}
	lines := []string{"", r.screen.cut(head, 0)}
	for _, v := range r.lab.vpcs {
		const before = 2 + 8 + 2 + 23 + 2 // columns
		bar, text := r.bar(r.lab.look(v))
		lines = append(lines, fmt.Sprintf("  %s  %s  %s", v.name, bar, r.screen.cut(text+stages[v.name], before)))
	}
	r.screen.show(lines...)
}

// rollout asks the daemon for the state of the rollout.
func (r *rolloutDemo) rollout(ctx context.Context) (*reconciler.RolloutStatus, error) {
	s, _, err := (admin.Client{Address: r.Address("18001")}).Status(ctx)
	if err != nil {
		return nil, err
	}
	if len(s.Rollouts) != 1 {
		return nil, fmt.Errorf("the daemon has %d rollouts, want 1", len(s.Rollouts))
	}
	return &s.Rollouts[0], nil
}

// status prints what gray rollout status prints.
func (r *rolloutDemo) status(ctx context.Context) error {
	r.say("\n$ gray rollout status gateway-v2")
	return r.Gray(ctx, r.out, "rollout", "status", "gateway-v2", "--admin-listen", r.Address("18001"))
}

// expect prints an expectation and whether it holds.
func (r *rolloutDemo) expect(holds bool, format string, args ...any) {
	sign := r.screen.paint(32, "ok    ")
	if !holds {
		sign = r.screen.paint(31, "FAILED")
		r.failed++
	}
	r.say("  %s %s", sign, fmt.Sprintf(format, args...))
}

// everybodyOn expects that a version handles the packets of all VMs, and that all answer.
func (r *rolloutDemo) everybodyOn(ctx context.Context, version string) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if err := r.lab.answers(ctx, version); err != nil {
		r.expect(false, "every VM answers, and its packets go through %s: %s", version, err)
		return
	}
	r.expect(true, "every VM answers, and its packets go through %s", version)
	r.bars(r.lab.lookAll())
}

// batches expects that these batches have passed in this order, and how many VMs were
// on v2 each time.
func (r *rolloutDemo) batches(want ...passed) {
	r.expect(slices.Equal(r.passed, want), "the batches passed one after another, and only their VMs were on v2: %s", wordsOf(r.passed))
}

func wordsOf(batches []passed) string {
	var words []string
	for _, b := range batches {
		words = append(words, fmt.Sprintf("%d of %s", b.vms, b.network))
	}
	return cmp.Or(strings.Join(words, ", "), "none")
}

// loss expects that the given VMs lost packets, and no others.
func (r *rolloutDemo) loss(ctx context.Context, losers map[string]bool) {
	r.stop()
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if err := r.lab.settle(ctx); err != nil {
		r.expect(false, "every packet was answered, or dropped by a server that was told to: %s", err)
		return
	}
	sent, lost, wrong := 0, 0, []string(nil)
	for i, v := range r.lab.lookAll() {
		for _, vm := range v {
			name := r.lab.vpcs[i].name + "/" + vm.name
			sent += vm.sent
			if lost += vm.lost; vm.lost > 0 != losers[name] {
				wrong = append(wrong, name)
			}
		}
	}
	if len(wrong) > 0 {
		r.expect(false, "these VMs lost packets, or should have: %s", strings.Join(wrong, ", "))
		return
	}
	who := "nobody"
	for name := range losers {
		who = name
	}
	r.expect(true, "of %d packets of the tenants %d were lost: by %s", sent, lost, who)
}

func (r *rolloutDemo) afterCompletion(ctx context.Context) error {
	s, err := r.rollout(ctx)
	if err != nil {
		return err
	}
	r.expect(s.Phase == rollout.PhaseCompleted && s.Moved == 40 && s.Total == 40, "the rollout is %s, with %d of %d VMs moved", s.Phase, s.Moved, s.Total)
	r.everybodyOn(ctx, "v2")
	r.batches(passed{"vpc-1001", 1, 1}, passed{"vpc-1001", 2, 5}, passed{"vpc-1001", 3, 20}, passed{"vpc-1002", 1, 1}, passed{"vpc-1002", 2, 5}, passed{"vpc-1002", 3, 20})
	r.loss(ctx, nil)
	return r.status(ctx)
}

func (r *rolloutDemo) afterRollback(ctx context.Context) error {
	s, err := r.rollout(ctx)
	if err != nil {
		return err
	}
	head, err := r.head(ctx)
	if err != nil {
		return err
	}
	r.expect(s.Phase == rollout.PhaseRolledBack && s.Moved == 0, "the rollout is %s, with %d of %d VMs moved", s.Phase, s.Moved, s.Total)
	r.everybodyOn(ctx, "v1")
	r.batches(passed{"vpc-1001", 1, 1}, passed{"vpc-1001", 2, 5}, passed{"vpc-1001", 3, 20})
	if err := r.status(ctx); err != nil {
		return err
	}
	r.say("")
	if f := s.Failure; f == nil {
		r.expect(false, "the daemon says why")
	} else {
		evidence := strings.Join(f.Evidence, "\n")
		names := f.Network == "vpc-1002" && f.Batch == 1 && strings.HasSuffix(f.Revision, head) &&
			strings.Contains(evidence, "10.0.0.1 (vm-1)") && strings.Contains(evidence, "lost 100%")
		r.expect(names, "the evidence names the address, the loss, the batch and the commit")
	}
	r.say("\n3. A commit that changes only the pace does not retry content that has failed.\n\n$ git commit -m 'Slower'\n")
	if err := r.write("policies/gateway-v2.yaml", strings.Replace(shardPolicy, "bake: 1s", "bake: 2s", 1)); err != nil {
		return err
	}
	if err := r.Commit(ctx, "Slower"); err != nil {
		return err
	}
	if err := r.live(ctx); err != nil {
		return err
	}
	again, err := r.rollout(ctx)
	if err != nil {
		return err
	}
	r.expect(again.Phase == rollout.PhaseRolledBack && again.Run == 1 && again.Moved == 0, "the rollout is still %s, in run %d, with %d VMs moved", again.Phase, again.Run, again.Moved)
	r.everybodyOn(ctx, "v1")
	r.loss(ctx, map[string]bool{"vpc-1002/vm-1": true})
	return nil
}

// head returns the newest commit.
func (d *demo) head(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "git", "rev-parse", "HEAD")
	cmd.Dir = d.Repo
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// live waits until the newest commit is live.
func (d *demo) live(ctx context.Context) error {
	head, err := d.head(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("commit %s was not live within %s", head, wait))
	defer cancel()
	for {
		s, _, err := (admin.Client{Address: d.Address("18001")}).Status(ctx)
		if err == nil && strings.HasSuffix(s.Revision, head) && s.Conditions[0].Status == "True" && len(s.Targets) > 0 {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// indent indents a document.
func indent(text string) string {
	return "   " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n   ") + "\n"
}
