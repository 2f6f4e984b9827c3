package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// The bounds of all probes together; those called default can be changed by Options.
const (
	maxParallel     = 256              // connections at the same time
	maxPrograms     = 4                // programs at the same time
	DefaultRate     = 20_000           // packets and connections a second
	DefaultLimit    = 30 * time.Minute // a program alone may take 10 minutes
	defaultInterval = 100 * time.Millisecond
	defaultPause    = time.Second
)

// Options are the bounds of a Prober. Zero values mean the defaults.
type Options struct {
	Allow    []netip.Prefix // --probe-allow: what http may reach in addition to the addresses in documents
	ExecDir  string         // --exec-dir; empty: no program is run
	Rate     int            // packets and connections a second
	Limit    time.Duration  // of a whole probe with its retries
	Interval time.Duration  // between two echo requests to an address
	Pause    time.Duration  // before a retry

	// Underlay maps an outer address of the overlay to the address to use, for
	// laboratories; nil: the same.
	Underlay func(netip.AddrPort) netip.AddrPort
}

// Prober runs probes, several at the same time within common bounds.
type Prober struct {
	opt      Options
	limiter  *rate.Limiter
	slots    chan struct{}
	programs chan struct{}

	mu      sync.Mutex
	sockets map[string]*socket // those in use
}

// New makes a Prober.
func New(o Options) *Prober {
	o.Rate = cmp.Or(o.Rate, DefaultRate)
	o.Limit = cmp.Or(o.Limit, DefaultLimit)
	o.Interval = cmp.Or(o.Interval, defaultInterval)
	o.Pause = cmp.Or(o.Pause, defaultPause)
	if o.Underlay == nil {
		o.Underlay = func(outer netip.AddrPort) netip.AddrPort { return outer }
	}
	return &Prober{
		opt:      o,
		limiter:  rate.NewLimiter(rate.Limit(o.Rate), chunk),
		slots:    make(chan struct{}, maxParallel),
		programs: make(chan struct{}, maxPrograms),
		sockets:  map[string]*socket{},
	}
}

// attempt tests the addresses of answers, once each. The error says why it could not.
type attempt func(ctx context.Context, todo []*Answer) error

// Probe runs a probe: one test after another. After one that failed it stops, unless
// the probe is a survey. It returns within Options.Limit, and soon after ctx ends; what
// it has not found out by then is Unknown.
func (p *Prober) Probe(ctx context.Context, r Request) *Result {
	res := &Result{Verdict: Passed, Started: time.Now(), Tests: []TestResult{}}
	defer func() { res.Took = Duration(time.Since(res.Started)) }()
	if err := r.validate(); err != nil {
		res.Verdict, res.Reason = Unknown, err.Error()
		return res
	}
	ctx, cancel := context.WithTimeoutCause(ctx, p.opt.Limit, fmt.Errorf("the probe took longer than %s", p.opt.Limit))
	defer cancel()
	for _, c := range r.Tests {
		out := p.check(ctx, r, c)
		res.Tests = append(res.Tests, out)
		if out.Verdict == Failed && res.Verdict != Failed || out.Verdict == Unknown && res.Verdict == Passed {
			res.Verdict, res.Reason = out.Verdict, out.Test+": "+out.Reason
		}
		if res.Verdict == Failed && !r.Survey {
			break
		}
	}
	return res
}

// check makes one test with its retries.
func (p *Prober) check(ctx context.Context, r Request, c Test) TestResult {
	out := TestResult{Test: c.Name(), Answers: []Answer{}}
	try, done, err := p.prepare(r, c, &out)
	if err == nil {
		defer done()
		err = p.attempts(ctx, r, c, &out, try)
	}
	conclude(&out, err)
	return out
}

// prepare adds an answer for each address to test, and returns how to test them.
func (p *Prober) prepare(r Request, c Test, out *TestResult) (try attempt, done func(), err error) {
	done = func() {}
	switch c.Kind {
	case PingOverlay:
		s, transmit, err := p.overlay(r, c)
		if err != nil {
			return nil, nil, err
		}
		done = func() { p.release(s) }
		try = func(ctx context.Context, todo []*Answer) error {
			return p.echo(ctx, s, c, r.VNI, r.Monitor.Address.Addr, todo, transmit)
		}
	case PingHost:
		try = func(ctx context.Context, todo []*Answer) error { return p.pingHost(ctx, c, todo) }
	case TCP:
		try = p.each(func(ctx context.Context, a *Answer) { p.connect(ctx, c, a) })
	case HTTP:
		allow := p.allow(r)
		try = p.each(func(ctx context.Context, a *Answer) { p.get(ctx, c, allow, a) })
	case Exec:
		var program string
		if program, err = resolve(p.opt.ExecDir, c.Command); err != nil {
			return nil, nil, err
		}
		try = func(ctx context.Context, todo []*Answer) error { return p.run(ctx, program, r, c, todo[0], out) }
	default:
		return nil, nil, fmt.Errorf("%q is not a kind of test", c.Kind)
	}
	if c.Kind == HTTP || c.Kind == Exec {
		out.Answers = append(out.Answers, Answer{Before: r.Baseline[out.Test][netip.Addr{}]})
		return try, done, nil
	}
	skipped, probed := 0, 0 // moved addresses
	for _, t := range r.Targets {
		if c.Kind == PingOverlay && (t.Address.Is4() != r.Monitor.Address.Is4() || t.Address == r.Monitor.Address.Addr) {
			out.Skipped++
			if t.Moved {
				skipped++
			}
			continue
		}
		if t.Moved {
			probed++
		}
		out.Answers = append(out.Answers, Answer{VM: t.VM, Address: t.Address, Moved: t.Moved, mac: t.MAC, Before: r.Baseline[out.Test][t.Address]})
	}
	out.Addresses = len(out.Answers)
	if skipped > 0 && probed == 0 {
		// Peers that answer say nothing about the moved addresses.
		done()
		return nil, nil, fmt.Errorf("none of the %d moved addresses has the IP version of the monitor's address %s", skipped, r.Monitor.Address)
	}
	return try, done, nil
}

// attempts tests all answers, and retries those that failed.
func (p *Prober) attempts(ctx context.Context, r Request, c Test, out *TestResult, try attempt) error {
	todo := make([]*Answer, len(out.Answers))
	for i := range out.Answers {
		todo[i] = &out.Answers[i]
	}
	for left := r.Retries; len(todo) > 0; left-- {
		for _, a := range todo {
			a.reset()
		}
		err := try(ctx, todo)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var failed []*Answer
		for _, a := range todo {
			judge(c, a)
			if a.Failed {
				failed = append(failed, a)
			}
		}
		if todo = failed; left > 0 && len(todo) > 0 {
			if err := sleep(ctx, p.opt.Pause); err != nil {
				return err
			}
			continue
		}
		return err
	}
	return nil
}

// judge compares the loss of an answer with the baseline.
func judge(c Test, a *Answer) {
	if a.Loss = 100; a.Sent > 0 {
		a.Loss = 100 * float64(a.Sent-a.Received) / float64(a.Sent)
	}
	a.Failed = a.Loss-a.Before > float64(c.MaxLoss)
}

// conclude counts the answers and sets the verdict. If err is not nil, it is Unknown.
func conclude(out *TestResult, err error) {
	alive := false
	var first *Answer
	for i := range out.Answers {
		a := &out.Answers[i]
		if a.local && err == nil {
			err = errors.New(a.Error)
		}
		out.Sent += a.Sent
		out.Received += a.Received
		out.Latency.merge(a.Latency)
		alive = alive || a.Received > 0
		if a.Failed {
			out.Failed++
			if first == nil || a.Moved && !first.Moved {
				first = a
			}
		} else if a.Received == 0 {
			out.Dead++
		}
	}
	switch {
	case err != nil:
		out.Verdict, out.Reason, out.broken = Unknown, err.Error(), true
		for i := range out.Answers {
			out.Answers[i].Failed = false
		}
		out.Failed = 0
	case len(out.Answers) == 0:
		out.Verdict, out.Reason, out.Blind = Unknown, "there is no address to probe", true
		if out.Skipped > 0 {
			out.Reason = fmt.Sprintf("there is no address to probe: %d of another IP version than the monitor, or its own", out.Skipped)
		}
	case out.Failed > 0:
		out.Verdict, out.Reason = Failed, blame(first, out.Failed)
	case !alive:
		out.Verdict, out.Reason, out.Blind = Unknown, "nothing answers, and nothing answered before the release", true
	default:
		out.Verdict = Passed
	}
}

// blame says on one line what failed.
func blame(a *Answer, failed int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%sanswered %d of %d", a.who(), a.Received, a.Sent)
	if a.Late > 0 {
		fmt.Fprintf(&b, " and %d too late", a.Late)
	}
	if a.Before > 0 {
		fmt.Fprintf(&b, " and lost %.0f%% before", a.Before)
	}
	if a.Error != "" {
		fmt.Fprintf(&b, ": %s", a.Error)
	}
	if failed > 1 {
		fmt.Fprintf(&b, "; and %d more addresses failed", failed-1)
	}
	return b.String()
}

// each makes an attempt from a function that tests one address.
func (p *Prober) each(probe func(context.Context, *Answer)) attempt {
	return func(ctx context.Context, todo []*Answer) error {
		var all sync.WaitGroup
		defer all.Wait()
		for _, a := range todo {
			if err := p.wait(ctx, 1); err != nil {
				return err
			}
			select {
			case p.slots <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			all.Go(func() {
				defer func() { <-p.slots }()
				probe(ctx, a)
			})
		}
		return nil
	}
}

// wait waits until n more packets may be sent.
func (p *Prober) wait(ctx context.Context, n int) error {
	err := p.limiter.WaitN(ctx, n)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return fmt.Errorf("the probe would take too long at %d packets a second", p.opt.Rate)
}

// sleep waits, and returns an error if ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
