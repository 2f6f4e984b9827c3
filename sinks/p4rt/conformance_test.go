package p4rt

import (
	"testing"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/p4rt/softswitch"
	"github.com/gray-release/gray/sinks/sinktest"
)

// TestConformance runs the suite of all sinks against the software gateway.
func TestConformance(t *testing.T) {
	conformance(t, "strict")
}

// TestConformancePersonalities runs it against the gateway with other personalities.
func TestConformancePersonalities(t *testing.T) {
	for _, name := range softswitch.PersonalityNames()[1:] {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			conformance(t, name)
		})
	}
}

func newLabLike(t *testing.T, personality string) *lab {
	t.Helper()
	l := &lab{TB: t, address: "127.0.0.1:0", like: personality}
	l.start()
	t.Cleanup(l.stop)
	return l
}

func conformance(t *testing.T, personality string) {
	sinktest.Run(t, sinktest.Config{Start: func(t *testing.T) *sinktest.Rig {
		l := newLabLike(t, personality)
		r := newConformanceRig(t, l.address, l.client)
		r.Sent = func() int { return int(l.sent.Load()) }
		r.Kill = l.stop
		r.Stall = l.stall
		r.Refused = refusedRule
		return r
	}})
}

// newConformanceRig describes a switch. A controller of another role disturbs it, so
// that gray stays primary of its own role.
func newConformanceRig(t *testing.T, address string, client func() p4v1.P4RuntimeClient) *sinktest.Rig {
	sink := newSink(t, 1)
	epoch := uint64(1)
	r := &sinktest.Rig{Sink: sink, Target: TargetOf("gw-a")}
	r.Base, r.Changed = sinktest.Documents(t, address)
	r.Restart = func() reconciler.Sink {
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
		epoch++
		sink = newSink(t, epoch)
		return sink
	}
	disturb := func(updates ...*p4v1.Update) {
		t.Helper()
		o := newOther(t, client(), "disturber", &p4v1.Uint128{Low: 1})
		defer o.close()
		o.write(updates...)
	}
	r.Foreign = func() { disturb(foreign()...) }
	r.Damage = func() { disturb(damage(t, sink, r)...) }
	return r
}

// foreign are entries that no document asks for, one of every kind, with some
// that gray would never write.
func foreign() []*p4v1.Update {
	anyPort := packets.PortRange{Hi: 65535}
	flow := &ruleBody{table: kindTables["gray_flow_v4"], vip: 3, pool: 9, priority: 7, match: packets.Match{AnyVNI: true, Protocol: 17, SrcPort: anyPort, DstPort: anyPort}}
	odd := entryOf(flow)
	odd.Match = append(odd.Match, ternary(3, []byte{1, 0, 1}, []byte{1, 0, 1})) // a mask that is no prefix
	var all []*p4v1.Update
	for _, e := range []*p4v1.TableEntry{
		entryOf(flow), odd,
		entryOf(&ruleBody{table: kindTables["gray_vpc"], vip: 1, pool: 9, match: vniOnly(77)}),
		entryOf(&backendBody{id: 4000, port: 5}),
		entryOf(&profileBody{profile: 200, masks: fullMasks}),
		entryOf(&poolBody{pool: 200, mask: 3}),
		bucketKey{200, 0, 1}.encode(new(block), 4), bucketKey{200, 1, 1}.encode(new(block), 4), bucketKey{201, 0, 9}.encode(new(block), 4),
	} {
		all = append(all, updateOf(p4v1.Update_INSERT, e))
	}
	return all
}

// damage changes every second entry and deletes the others.
func damage(t *testing.T, s *Sink, r *sinktest.Rig) []*p4v1.Update {
	t.Helper()
	s.mu.Lock()
	d := s.devices[r.Target]
	s.mu.Unlock()
	state, err := s.Observe(t.Context(), r.Target, targetAt(d.spec.address))
	if err != nil {
		t.Fatal(err)
	}
	var all []*p4v1.Update
	for k, res := range state {
		switch b := res.Body.(type) {
		case *ruleBody:
			changed := *b
			changed.pool = 250
			all = append(all, updateOf(p4v1.Update_MODIFY, entryOf(&changed)))
		case *backendBody:
			all = append(all, updateOf(p4v1.Update_DELETE, entryOf(b)))
		case *poolBody:
			changed := *b
			changed.generation, changed.mask = 1, 1
			all = append(all, updateOf(p4v1.Update_MODIFY, entryOf(&changed)),
				updateOf(p4v1.Update_DELETE, bucketKey{b.pool, 0, 3}.encode(new(block), 0)),
				updateOf(p4v1.Update_MODIFY, bucketKey{b.pool, 0, 4}.encode(new(block), 999)))
		case entryBody:
			all = append(all, updateOf(p4v1.Update_DELETE, entryOf(b)))
		default:
			if k.Kind != reconciler.KindTarget {
				t.Fatalf("%s has a body of a kind that the test does not know", k)
			}
		}
	}
	return all
}

// refusedRule is a cell with two rules, of which the switch refuses the one with a
// VNI that is too large.
func refusedRule(ir *policies.IR) (policies.Name, reconciler.Key) {
	n := policies.Name{Kind: schema.KindGateway, Name: "vpc-gw", Part: "vni/16777216"}
	rule := packets.Rule{Table: packets.TableVPC, Match: vniOnly(1 << 24), Pool: "v2", Origin: schema.Position{Path: "x.yaml", Line: 1}}
	good := rule
	good.Match = vniOnly(1<<24 - 1)
	ir.Put(n, &packets.Cell{Gateway: "vpc-gw", Rules: []packets.Rule{good, rule}})
	gw := ir.Gateway("vpc-gw")
	return n, lowerRule(ir, gw, "gw-a", &rule).Key
}
