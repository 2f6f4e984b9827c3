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

// How long to wait before a Job is retried that could not be done: twice as long each
// time.
const (
	minAgain = time.Second
	maxAgain = time.Minute
)

// keptAnswers is how many answers per test the result of a Job keeps.
const keptAnswers = 50

// Run runs the probes that the board wants until ctx ends, each on its own. A Job that
// has no verdict yet is retried, and the board is told why.
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
			return // the result would be incomplete
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

// test runs the probe of a Job. The error says on one line why there is no verdict.
func (p *Prober) test(ctx context.Context, j *board.Job) (v rollout.Verdict, res *Result, err error) {
	r, s, err := requestOf(j)
	if err == nil && len(r.Tests) == 0 {
		line := fmt.Sprintf("Network %s has no routes, so there is nothing to test", j.Network)
		return rollout.Verdict{Passed: true, Evidence: []string{line}}, &Result{Verdict: Passed, Reason: line, Started: time.Now(), Tests: []TestResult{}}, nil
	}
	if err == nil {
		res = p.Probe(ctx, r)
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
		return v, nil, fmt.Errorf("the baseline of Network %s cannot be taken: %d checks fail before anything moves, and at most %d can be stored; repair its monitor, or exclude it from the rollout", j.Network, len(v.Dead), MaxTargets)
	}
	return v, res, nil
}

// batchOf names the batch of a Job, such as 2 of 4; that of a baseline is 0.
func batchOf(j *board.Job) string {
	return fmt.Sprintf("%d of %d", j.Batch, len(j.Spec.Rollout.Batches))
}

// requestOf makes the probe of a Job. A baseline tests all VMs of the Network, any other
// probe those that have moved and some peers.
func requestOf(j *board.Job) (Request, selection, error) {
	net, _ := j.Spec.Network(j.Network)
	if net == nil {
		return Request{}, selection{}, errors.New("the rollout no longer has it")
	}
	verify := j.Spec.Rollout.Verify
	if verify == nil {
		return Request{}, selection{}, errors.New("the rollout no longer has verify")
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
		// Without a retry, one packet lost by chance would excuse a real loss later.
		peers, r.Retries = MaxTargets, min(1, verify.Retries)
	}
	vms, fresh := set(j.VMs), set(j.Fresh)
	whole := !j.Baseline && j.Batch == len(j.Spec.Rollout.Batches) // routes to several addresses move with the last batch
	s := choose(net.Routes, func(r schema.Route) bool {
		return vms.has(r) || whole && !r.Prefix.IsSingleIP()
	}, fresh.has, peers, j.Generation)
	if len(vms) > 0 && (len(s.Targets) == 0 || !s.Targets[0].Moved) {
		return r, s, errors.New("its route table no longer has any VM that has moved")
	}
	r.Targets = s.Targets
	if len(net.Routes) == 0 { // there is no VM for ping and tcp
		verify = &schema.Verify{HTTP: verify.HTTP, Exec: verify.Exec}
	}
	vips, err := reachable(j.Spec.VIPs, verify, net.Monitor)
	r.Tests = TestsOf(verify, vips...)
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

// has reports whether a route is to one of the addresses.
func (a addresses) has(r schema.Route) bool { return r.Prefix.IsSingleIP() && a[r.Prefix.Addr()] }

// reachable returns the VIPs that a monitor's VTEP can reach. An overlay ping without
// any would test nothing.
func reachable(vips []netip.Addr, verify *schema.Verify, m *schema.Monitor) ([]netip.Addr, error) {
	if verify.Ping == nil || verify.Ping.Source == "host" {
		return nil, nil
	}
	if m == nil {
		return nil, errors.New("it has no monitor to ping from; add one, or ping from the host")
	}
	var out []netip.Addr
	for _, v := range vips {
		if v.Is4() == m.VTEP.Is4() {
			out = append(out, v)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no VIP of the policy's Gateways has the IP version of its monitor's VTEP %s; give the monitor another VTEP", m.VTEP)
	}
	return out, nil
}

// untested says why a Result has no meaning, or nil if it has. In a baseline every test
// needs a verdict, because later probes compare with each.
func untested(j *board.Job, res *Result) error {
	if res.Verdict != Unknown && !j.Baseline {
		return nil
	}
	var blind *TestResult
	for i := range res.Tests {
		switch c := &res.Tests[i]; {
		case c.Verdict != Unknown:
		case !c.Blind:
			return fmt.Errorf("%s: %s", c.Test, c.Reason)
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
		return fmt.Errorf("%s: there is nothing to test, because its route table has no route to a single address; add one, or exclude the Network from the rollout", blind.Test)
	case blind.Addresses == 0:
		return fmt.Errorf("%s: %s; repair its monitor, or exclude the Network from the rollout", blind.Test, blind.Reason)
	}
	return fmt.Errorf("%s: none of %d addresses answers, and none did before the rollout, so this tests nothing; repair its monitor, or exclude the Network from the rollout", blind.Test, blind.Addresses)
}
