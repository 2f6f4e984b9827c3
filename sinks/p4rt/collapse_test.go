package p4rt

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/sinks/p4rt/pipeline"
	"github.com/gray-release/gray/sinks/p4rt/softswitch"
)

// calls counts what comes to a lab by kind.
type calls struct{ writes, updates, reads int64 }

func (l *lab) calls() calls { return calls{l.batches.Load(), l.sent.Load(), l.reads.Load()} }

func (c calls) since(before calls) calls {
	return calls{c.writes - before.writes, c.updates - before.updates, c.reads - before.reads}
}

// TestOneVM counts the calls that a commit about one VM makes: its two entries in
// one Write, and no read.
func TestOneVM(t *testing.T) {
	sw := newLab(t)
	base := []string{switchDoc("sw", sw.address), gatewayDoc("sw"), networkDoc(1), networkDoc(2), vmsDoc(1, addresses(0, 100)...)}
	l := newLoop(t, append(base, vmsDoc(2, "10.0.0.1", "10.0.0.2"))...)
	l.settle()
	for _, vms := range [][]string{{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, {"10.0.0.1", "10.0.0.3"}, {"10.0.0.3"}} {
		before := sw.calls()
		l.adopt(append(base, vmsDoc(2, vms...))...)
		l.settle()
		if got, want := sw.calls().since(before), (calls{writes: 1, updates: 2}); got != want {
			t.Errorf("VMs %v: %+v, want %+v", vms, got, want)
		}
	}
	l.look()
	if drift := l.log.found(t); len(drift) != 0 {
		t.Errorf("drift: %v", drift)
	}
}

// TestCollapse turns the entries of VMs into one of their VPC and back. The
// VPC's is read back, alone, before the VMs' go.
func TestCollapse(t *testing.T) {
	var mu sync.Mutex
	var order []string
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		if len(order) == 0 || order[len(order)-1] != s {
			order = append(order, s)
		}
	}
	sw := readsBy(t, func(sw *softswitch.Switch, req *p4v1.ReadRequest, s p4v1.P4Runtime_ReadServer) error {
		for _, e := range req.GetEntities() {
			what := "read " + tableKinds[e.GetTableEntry().GetTableId()]
			if len(e.GetTableEntry().GetMatch()) == 0 {
				what += " whole"
			}
			note(what)
		}
		return sw.Read(req, s)
	})
	base := []string{switchDoc("sw", sw.address), gatewayDoc("sw"), networkDoc(1)}
	l := newGuardedLoop(t, 30, nil, append(base, vmsDoc(1, addresses(0, 20)...))...) // as a daemon has it
	l.settle()
	sw.onWrite(func(_ context.Context, req *p4v1.WriteRequest) error {
		for _, u := range req.GetUpdates() {
			note(u.GetType().String() + " " + strings.TrimSuffix(tableKinds[u.GetEntity().GetTableEntry().GetTableId()], "_v4"))
		}
		return nil
	})
	for _, c := range []struct {
		doc  string
		want []string
	}{
		{vpcDoc(1), []string{"INSERT gray_vpc", "read gray_vpc", "DELETE gray_vm_dst", "DELETE gray_vm_src"}},
		{vmsDoc(1, addresses(0, 3)...), []string{"INSERT gray_vm_dst", "INSERT gray_vm_src", "DELETE gray_vpc"}},
	} {
		mu.Lock()
		order = nil
		mu.Unlock()
		l.adopt(append(base, c.doc)...)
		l.settle()
		mu.Lock()
		if !slices.Equal(order, c.want) {
			t.Errorf("%v, want %v", order, c.want)
		}
		mu.Unlock()
	}
}

// TestCollapseFails loses the VPC's entry, or the read of it: deleting the VMs' entries
// fails, and succeeds once it is there.
func TestCollapseFails(t *testing.T) {
	var fail error
	l := readsBy(t, func(sw *softswitch.Switch, req *p4v1.ReadRequest, s p4v1.P4Runtime_ReadServer) error {
		if fail != nil {
			return fail
		}
		return sw.Read(req, s)
	})
	s := newSink(t, 1)
	self := l.load(s)
	vms := vmBodies(1, "10.0.0.1", "10.0.0.2")
	other := vmBodies(2, "10.0.0.1")[0]
	old := creates(resourceOf(self, vms[0]), resourceOf(self, vms[1]), resourceOf(self, other))
	mustApply(t, s, self, old...)
	vpc := vpcs(self, 1, 1, 2)[0]
	gone := deletes(old[0].New, old[1].New, old[2].New)

	l.onWrite(func(context.Context, *p4v1.WriteRequest) error { return errDone }) // it says so, and does nothing
	mustApply(t, s, self, creates(vpc)...)
	l.hook.Store(nil)
	for _, want := range []string{"Unavailable: busy", "it is missing or was changed"} {
		if strings.HasPrefix(want, "Unavailable") {
			fail = status.Error(codes.Unavailable, "busy")
		}
		errs := failures(t, apply(t, s, self, gone...))
		fail = nil
		for _, c := range gone[:2] {
			if err := errs[c.Key()]; err == nil || !strings.Contains(err.Error(), `entry "vip=1 vni=1" of gray_vpc cannot be read back: `+want) {
				t.Errorf("%s: error %v, want %q", c.Key(), err, want)
			}
		}
		if len(errs) != 2 {
			t.Errorf("errors %v, want 2", errs)
		}
	}
	mustApply(t, s, self, creates(vpc)...)
	reads := l.reads.Load()
	mustApply(t, s, self, gone[0])
	mustApply(t, s, self, gone[1])
	if n := l.reads.Load() - reads; n != 1 {
		t.Errorf("%d reads, want 1: what was read back is not read again", n)
	}
	holds(t, s, self, vpc)
}

// vmBodies are the source entries of VMs.
func vmBodies(vni uint32, addresses ...string) []*ruleBody {
	var all []*ruleBody
	for _, a := range addresses {
		m := vniOnly(vni)
		m.Src = hostPrefix(a)
		all = append(all, &ruleBody{table: pipeline.TableVMSrcV4, vip: 1, pool: 2, match: m})
	}
	return all
}

func hostPrefix(address string) netip.Prefix {
	a := netip.MustParseAddr(address)
	return netip.PrefixFrom(a, a.BitLen())
}
