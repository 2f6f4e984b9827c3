package policies

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/policies/rollout"
)

// judgeStep holds that a Network gets more only where all that it had has passed,
// and that only a verdict that counts makes a rollout fail.
func (o *ordeal) judgeStep(name string, spec *rollout.Spec, was, next *rollout.State) {
	if spec == nil {
		return
	}
	had := was.Progress()
	if was.Identity != next.Identity || next.Run != was.Run {
		had = rollout.Progress{}
	}
	for i := range spec.Networks {
		n := &spec.Networks[i]
		key := name + "/" + n.Name
		if spec.Rollout.Verify == nil {
			if j := movingAt(was, n.Name); j >= 0 && was.Moving[j].Stage == rollout.StageApplying && o.live[name] >= was.Moving[j].Generation && was.Fingerprint == spec.Fingerprint {
				o.passed[key] = was.Moving[j].VMs // being live is all that is asked for
			}
		}
		whole, before := had.Moved(n.Name)
		wholeNow, _ := next.Progress().Moved(n.Name)
		before = rollout.CommonVMs(before, n.VMs)
		j := movingAt(next, n.Name)
		grows := wholeNow && !whole || j >= 0 && len(next.Moving[j].VMs) > len(before) && !whole
		if grows && len(before) > 0 && len(rollout.CommonVMs(before, o.passed[key])) < len(before) {
			o.fatal("%s gets more on top of %v, of which %v has passed", key, before, o.passed[key])
		}
		if _, tested := o.passed[key]; slices.Contains(next.Done, n.Name) && !slices.Contains(was.Done, n.Name) && !tested {
			o.fatal("%s is done, and nothing of it was tested", key)
		}
	}
	if f := next.Failure; f != nil && was.Failure == nil && f.Reason == "VerificationFailed" && !o.failed[name] {
		o.fatal("%s failed without a verdict that counts", name)
	}
	delete(o.failed, name)
}

// check holds what is to be live against what the rollouts say has moved.
func (o *ordeal) check() {
	gw := o.ir.Gateway("gw")
	stranger := netip.MustParseAddr("192.168.0.1")
	for n, vms := range o.routed {
		for _, number := range vms {
			a, want := vmAddress(number), "v1"
			for _, name := range []string{"p", "q"} {
				if o.moved(name, n, a) {
					want = o.c.Rollout(name).Version
				}
			}
			vni := uint32(n[1] - '0')
			for _, p := range []packets.Packet{{Src: a, Dst: stranger}, {Src: stranger, Dst: a}} {
				p.VIP, p.VNI, p.Protocol = gw.VIPs[0], vni, 6
				if got := packets.Follow(o.ir, "sw", p).Version; got != want {
					o.fatal("%s of %s goes to %s, want %s\n%s", a, n, got, want, dumpRules(o.ir))
				}
			}
		}
	}
	for name, s := range o.state {
		spec := o.c.Rollout(name)
		if s.Phase == rollout.PhaseRolledBack || s.Phase == rollout.PhaseRollingBack {
			if !s.Empty() {
				o.fatal("%s is %s, and units are left", name, s.Phase)
			}
		}
		if s.Failure != nil && !failing(s) && s.Aborted == "" {
			o.fatal("%s has a failure that is none any more: %s", name, s.Failure)
		}
		if s.Phase == rollout.PhaseCompleted && spec != nil && s.Fingerprint == spec.Fingerprint {
			for i := range spec.Networks {
				if !slices.Contains(s.Done, spec.Networks[i].Name) {
					o.fatal("%s is completed without %s", name, spec.Networks[i].Name)
				}
			}
		}
	}
}

// moved tells whether a policy's rollout, as the documents have it, has moved a VM.
func (o *ordeal) moved(name, network string, a netip.Addr) bool {
	spec, s := o.c.Rollout(name), o.state[name]
	if spec == nil || s == nil || s.Identity != spec.Identity {
		return false
	}
	if _, i := spec.Network(network); i < 0 {
		return false
	}
	p := s.Progress()
	whole, vms := p.Moved(network)
	return whole || slices.Contains(vms, a)
}

// forget what has passed of Networks that begin anew, once that is written: what was
// never written never was.
func (o *ordeal) forget(name string, spec *rollout.Spec, was, next *rollout.State) {
	for key := range o.passed {
		policy, network, _ := strings.Cut(key, "/")
		if policy != name {
			continue
		}
		if spec != nil {
			if _, i := spec.Network(network); i >= 0 && (!next.Empty() || next.Run == was.Run) {
				continue
			}
		}
		delete(o.passed, key)
	}
}

// complete holds that every VM of every Network of a rollout has moved.
func (o *ordeal) complete() {
	o.check()
	for name := range o.state {
		for _, n := range o.c.Rollout(name).Networks {
			for _, a := range n.VMs {
				if !o.moved(name, n.Name, a) {
					o.fatal("%s is completed without %s of %s", name, a, n.Name)
				}
			}
		}
	}
}

// movingAt is the index of a Network in Moving, or -1.
func movingAt(s *rollout.State, network string) int {
	return slices.IndexFunc(s.Moving, func(m *rollout.Move) bool { return m.Network == network })
}
