package schema

import (
	"fmt"
	"io/fs"
	"net/url"
	"time"
)

// The bounds of a rollout.
const (
	maxBatches  = 100
	maxBake     = Duration(30 * 24 * time.Hour)
	minTimeout  = Duration(10 * time.Millisecond) // of a probe
	maxTimeout  = Duration(10 * time.Minute)
	minDeadline = Duration(time.Second)

	defaultDeadline = Duration(30 * time.Minute)
)

// The default timeouts of probes.
const (
	probeTimeout = Duration(time.Second)
	execTimeout  = Duration(time.Minute)
)

// rollout checks the rollout of a policy, and fills defaults.
func (v *validator) rollout(r *Rollout) {
	const at = "spec.rollout"
	switch {
	case r.Networks != nil && r.NetworkSelector != nil:
		v.errorf(at+".networkSelector", "cannot be used with networks; give one of the two")
	case r.Networks == nil && r.NetworkSelector == nil:
		v.errorf(at, "names no networks; give networks or networkSelector")
	}
	once(v, at+".networks", "%q", r.Networks)
	once(v, at+".order", "%q", r.Order)
	if r.Batches == nil && !v.wrong(at+".batches") {
		r.Batches = []Batch{{100, true}}
	}
	v.batches(r.Batches, at+".batches")
	if t := r.Through; t != nil && t.Batch > len(r.Batches) && !v.wrong(at+".batches") {
		v.errorf(at+".through.batch", "there are %d batches; want one of 1 to %d", len(r.Batches), len(r.Batches))
	}
	if r.Bake > maxBake {
		v.errorf(at+".bake", "%s is out of range; want up to %s", r.Bake, maxBake)
	}
	if r.Deadline == 0 && !v.wrong(at+".deadline") {
		r.Deadline = defaultDeadline
	}
	if r.Deadline < minDeadline {
		v.errorf(at+".deadline", "%s is out of range; want %s or more", r.Deadline, minDeadline)
	}
	if r.Verify != nil {
		v.verify(r.Verify, at+".verify")
	}
}

// batches checks that each batch is larger than the one before, as far as that is known
// without the number of VMs, and that the last one is everything.
func (v *validator) batches(batches []Batch, at string) {
	if len(batches) > maxBatches {
		v.errorf(at, "has %d batches; want up to %d", len(batches), maxBatches)
		return
	}
	last := map[bool]Batch{}
	for i, b := range batches {
		if before := last[b.IsPercent]; b.N <= before.N {
			v.errorf(fmt.Sprintf("%s[%d]", at, i), "%s is not above %s before it; batches are cumulative", b, before)
		}
		last[b.IsPercent] = b
	}
	if n := len(batches); n > 0 && batches[n-1] != (Batch{100, true}) {
		v.errorf(fmt.Sprintf("%s[%d]", at, n-1), "%s is the last batch and would leave VMs behind; end with 100%%", batches[n-1])
	}
}

// verify checks the regression test of a batch, and fills defaults.
func (v *validator) verify(p *Verify, at string) {
	if p.Ping == nil && p.TCP == nil && p.HTTP == nil && p.Exec == nil {
		v.errorf(at, "has no probe and would let everything pass; give ping, tcp, http or exec")
	}
	if p.Ping != nil {
		v.probeTimeout(&p.Ping.Timeout, probeTimeout, at+".ping.timeout")
		if p.Ping.MaxLoss == 100 {
			v.errorf(at+".ping.maxLoss", "100%% would let everything pass; want less")
		}
	}
	if p.TCP != nil {
		v.probeTimeout(&p.TCP.Timeout, probeTimeout, at+".tcp.timeout")
	}
	if p.HTTP != nil {
		u, err := url.Parse(p.HTTP.URL)
		switch {
		case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
			v.errorf(at+".http.url", "%q is not a URL to get; want http://host/path or https://host/path", clip(p.HTTP.URL))
		case u.User != nil:
			v.errorf(at+".http.url", "holds a user; documents are no place for passwords")
		}
	}
	if p.Exec != nil {
		v.probeTimeout(&p.Exec.Timeout, execTimeout, at+".exec.timeout")
		if len(p.Exec.Command) > 0 && (!fs.ValidPath(p.Exec.Command[0]) || p.Exec.Command[0] == ".") {
			v.errorf(at+".exec.command[0]", "%q is not a clean path below --exec-dir", clip(p.Exec.Command[0]))
		}
	}
}

// probeTimeout checks the timeout of a probe, and fills its default.
func (v *validator) probeTimeout(d *Duration, byDefault Duration, field string) {
	if *d == 0 && !v.wrong(field) {
		*d = byDefault
	}
	if *d < minTimeout || *d > maxTimeout {
		v.errorf(field, "%s is out of range; want %s to %s", *d, minTimeout, maxTimeout)
	}
}

// String returns the notation of documents.
func (b Batch) String() string {
	if b.IsPercent {
		return fmt.Sprintf("%d%%", b.N)
	}
	return fmt.Sprint(b.N)
}

// Of returns how many of so many VMs have moved with the batch. A percentage is rounded
// up.
func (b Batch) Of(vms int) int {
	if b.IsPercent {
		return (vms*b.N + 99) / 100
	}
	return min(b.N, vms)
}
