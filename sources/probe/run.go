package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/schema"
)

// How long a Job that cannot be done waits until it is tried again: twice as long
// each time.
const (
	minAgain = time.Second
	maxAgain = time.Minute
)

// keptAnswers is how many answers a check are kept of a verification that a Job
// asked for.
const keptAnswers = 50

// Run makes the regression tests that the board wants until ctx ends, each on its
// own. A Job ends with a verdict only when it was found out; until then the board is
// told why not, and it is tried again.
func Run(ctx context.Context, b *board.Probes, p *Prober, log *slog.Logger) {
	b.Tend(ctx, func(ctx context.Context, j *board.Job) {
		p.tend(ctx, b, j, log.With("policy", j.Policy, "network", j.Network, "batch", batchOf(j), "revision", j.Revision))
	})
}

// tend does one Job.
func (p *Prober) tend(ctx context.Context, b *board.Probes, j *board.Job, log *slog.Logger) {
	if j.Attempt > 0 && sleep(ctx, p.opt.Pause) != nil {
		return
	}
	said := ""
	for again := minAgain; ; again = min(2*again, maxAgain) {
		v, res, err := p.test(ctx, j)
		if ctx.Err() != nil {
			return // what was found out by then is half a test
		}
		if err == nil {
			log.Info("probed", "baseline", j.Baseline, "attempt", j.Attempt, "verdict", res.Verdict, "reason", res.Reason, "took", res.Took.String())
			b.Report(board.Ended{Job: j, Verdict: v, Result: res.Evidence(keptAnswers)})
			return
		}
		if b.Fail(j, err.Error()); err.Error() != said {
			said = err.Error()
			log.Warn("cannot probe, will try again", "baseline", j.Baseline, "attempt", j.Attempt, "error", said)
		}
		if sleep(ctx, again) != nil {
			return
		}
	}
}

// test makes the verification that a Job asks for; the error says in one line why
// it says nothing.
func (p *Prober) test(ctx context.Context, j *board.Job) (v rollout.Verdict, res *Result, err error) {
	r, s, err := requestOf(j)
	if err == nil && len(r.Checks) == 0 {
		line := fmt.Sprintf("Network %s has no routes: there is nobody to ask", j.Network)
		return rollout.Verdict{Passed: true, Evidence: []string{line}}, &Result{Verdict: Passed, Reason: line, Started: time.Now(), Checks: []CheckResult{}}, nil
	}
	if err == nil {
		res = p.Verify(ctx, r)
		err = untested(j, res)
	}
	if err != nil {
		if j.Baseline {
			return v, nil, fmt.Errorf("the baseline of Network %s cannot be taken: %w", j.Network, err)
		}
		return v, nil, fmt.Errorf("batch %s of Network %s cannot be tested: %w", batchOf(j), j.Network, err)
	}
	v.Passed = res.Verdict == Passed
	v.Evidence = append(res.Lines(shownAnswers), s.lines()...)
	if !j.Baseline {
		return v, res, nil
	}
	if v.Dead = res.Baseline().Lines(); len(v.Dead) > MaxTargets {
		return v, nil, fmt.Errorf("the baseline of Network %s cannot be taken: %d checks fail before anything moves, and at most %d can be kept; mend its monitor, or exclude it from the rollout", j.Network, len(v.Dead), MaxTargets)
	}
	return v, res, nil
}

// batchOf names the batch of a Job, as 2 of 4; a baseline comes before the first.
func batchOf(j *board.Job) string {
	return fmt.Sprintf("%d of %d", j.Batch, len(j.Spec.Rollout.Batches))
}

// requestOf makes the verification of a Job: of a baseline all VMs of the Network,
// else those that have moved and some peers.
func requestOf(j *board.Job) (Request, selection, error) {
	net, _ := j.Spec.Network(j.Network)
	if net == nil {
		return Request{}, selection{}, errors.New("the rollout does not have it any more")
	}
	verify := j.Spec.Rollout.Verify
	if verify == nil {
		return Request{}, selection{}, errors.New("the rollout has no verify any more")
	}
	r := Request{
		Policy: j.Policy, Network: j.Network, Commit: j.Revision, Batch: batchOf(j), VNI: schema.VNI(net.VNI), Monitor: net.Monitor,
		Named: slices.Concat(j.Spec.VIPs, j.Spec.Servers), Survey: j.Baseline, Baseline: ParseBaseline(j.Ignore),
	}
	peers := 0
	if verify.Ping != nil {
		peers = verify.Ping.Peers
	}
	if j.Baseline {
		// A packet that was lost by chance would excuse the same loss later.
		peers, r.Retries = MaxTargets, min(1, verify.Retries)
	}
	vms, fresh := set(j.VMs), set(j.Fresh)
	whole := !j.Baseline && j.Batch == len(j.Spec.Rollout.Batches) // what is no single VM moves with it
	s := choose(net.Routes, func(r schema.Route) bool {
		return vms.has(r) || whole && !r.Prefix.IsSingleIP()
	}, fresh.has, peers, j.Generation)
	if len(vms) > 0 && (len(s.Targets) == 0 || !s.Targets[0].Moved) {
		return r, s, errors.New("nothing of what has moved is in its route table any more")
	}
	r.Targets = s.Targets
	if len(net.Routes) == 0 { // what asks its VMs has nobody to ask
		verify = &schema.Verify{HTTP: verify.HTTP, Exec: verify.Exec}
	}
	vips, err := reachable(j.Spec.VIPs, verify, net.Monitor)
	r.Checks = ChecksOf(verify, vips...)
	return r, s, err
}

// addresses is a set of inner addresses.
type addresses map[netip.Addr]bool

func set(list []netip.Addr) addresses {
	a := make(addresses, len(list))
	for _, addr := range list {
		a[addr] = true
	}
	return a
}

// has tells whether a route is to one of them.
func (a addresses) has(r schema.Route) bool { return r.Prefix.IsSingleIP() && a[r.Prefix.Addr()] }

// reachable are the VIPs that a monitor's VTEP can send to. An overlay ping that has
// none would be no check at all.
func reachable(vips []netip.Addr, verify *schema.Verify, m *schema.Monitor) ([]netip.Addr, error) {
	if verify.Ping == nil || verify.Ping.Source == "host" {
		return nil, nil
	}
	if m == nil {
		return nil, errors.New("it has no monitor to ping from; give it one, or ping from the host")
	}
	var out []netip.Addr
	for _, v := range vips {
		if v.Is4() == m.VTEP.Is4() {
			out = append(out, v)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no VIP of the policy's Gateways is of the family of its monitor's VTEP %s; give the monitor another one", m.VTEP)
	}
	return out, nil
}

// untested says why a Result says nothing, or nil where it does. Of a baseline every
// check has to say something, as each is held against it later.
func untested(j *board.Job, res *Result) error {
	if res.Verdict != Unknown && !j.Baseline {
		return nil
	}
	var blind *CheckResult
	for i := range res.Checks {
		switch c := &res.Checks[i]; {
		case c.Verdict != Unknown:
		case !c.Blind:
			return fmt.Errorf("%s: %s", c.Check, c.Reason)
		case blind == nil:
			blind = c
		}
	}
	switch {
	case blind == nil && res.Verdict == Unknown:
		return errors.New(res.Reason)
	case blind == nil:
		return nil
	case blind.Addresses == 0 && blind.Skipped == 0:
		return fmt.Errorf("%s: there is nobody to ask, as its route table has no route to a single address; give it one, or exclude the Network from the rollout", blind.Check)
	case blind.Addresses == 0:
		return fmt.Errorf("%s: %s; mend its monitor, or exclude the Network from the rollout", blind.Check, blind.Reason)
	}
	return fmt.Errorf("%s: none of %d addresses answers, and before the rollout none did either, so that nothing is tested; mend its monitor, or exclude the Network from the rollout", blind.Check, blind.Addresses)
}
