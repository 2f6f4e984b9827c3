package p4rt

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
	"github.com/gray-release/gray/tools/testnet"
)

// TestDrift inserts, changes and deletes 1,000 random entries on a switch of 20,000.
// One cycle of the real loop corrects and reports all of them, a pool and its buckets as
// one; the next finds no drift.
func TestDrift(t *testing.T) {
	sw := newLab(t)
	documents := []string{switchDoc("sw", sw.address), gatewayDoc("sw")}
	for vni := range 10 {
		documents = append(documents, networkDoc(vni+1), vmsDoc(vni+1, addresses(0, 1000)...))
	}
	l := newLoop(t, documents...)
	l.settle()
	before := entriesAt(t, sw)
	if len(before) < 20_000 {
		t.Fatalf("the switch holds %d entries", len(before))
	}
	want := map[string]bool{} // as "op key"
	o := newOther(t, sw.client(), "other", &p4v1.Uint128{Low: 1})
	const changes = 1000
	disturbance := disturb(t, before, want, changes)
	if len(want) < changes*9/10 || len(disturbance) < changes {
		t.Fatalf("%d updates disturb %d resources", len(disturbance), len(want))
	}
	o.write(disturbance...)

	reads := sw.reads.Load()
	l.look()
	if n := sw.reads.Load() - reads; n != int64(len(pipeline.Index().Tables)-1) {
		t.Errorf("%d reads, want one of each table that can be written", n)
	}
	after := entriesAt(t, sw)
	if !slices.Equal(slices.Sorted(maps.Keys(after)), slices.Sorted(maps.Keys(before))) {
		t.Errorf("%d entries are there, want the %d of before", len(after), len(before))
	}
	for k, e := range before {
		if a := after[k]; a == nil || rawText(a) != rawText(e) {
			t.Errorf("%s is there as %s", rawText(e), rawText(a))
		}
	}
	found := l.log.found(t)
	for _, line := range found {
		k, _, _ := strings.Cut(line, ": ")
		if !want[k] {
			t.Errorf("reported, and it was not so: %s", line)
		}
		delete(want, k)
	}
	for k := range want {
		t.Errorf("not reported: %s", k)
	}
	l.look()
	if more := l.log.found(t); len(more) != len(found) {
		t.Errorf("the next cycle finds %d more", len(more)-len(found))
	}
}

// entriesAt is everything that a switch holds, by table and match.
func entriesAt(t *testing.T, sw *lab) map[string]*p4v1.TableEntry {
	t.Helper()
	d := &device{spec: targetBody{address: sw.address, deviceID: 1}, client: sw.client(), known: newKnown()}
	d.setProgram(pipeline.V1Model())
	sw.mu.Lock()
	defer sw.mu.Unlock()
	before := sw.reads.Load()
	defer sw.reads.Store(before)
	r := &targetRig{T: t, d: d}
	return r.readAll()
}

// disturb makes updates of different entries at random: a third inserts, a third
// changes, a third deletes. It notes in found what a read is to find, as "op key".
func disturb(t *testing.T, entries map[string]*p4v1.TableEntry, found map[string]bool, n int) []*p4v1.Update {
	t.Helper()
	r := rand.New(rand.NewPCG(20, 26))
	keys := slices.Sorted(maps.Keys(entries))
	r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	note := func(op reconciler.Op, e *p4v1.TableEntry) {
		k := reconciler.Key{Target: TargetOf("sw"), Kind: tableKinds[e.GetTableId()]}
		switch e.GetTableId() {
		case pipeline.TablePool, pipeline.TableBucket:
			k.Kind, k.Name = "pool", poolKey(uint8(pipeline.ToUint(e.GetMatch()[0].GetExact().GetValue())))
			if entries[rawName(&p4v1.TableEntry{TableId: pipeline.TablePool, Match: e.GetMatch()[:1]})] != nil {
				op = reconciler.Update
			} else {
				op = reconciler.Create
			}
		default:
			_, k.Name = decode(e, new(block))
		}
		found[fmt.Sprintf("%c %s", op, k)] = true
	}
	var all []*p4v1.Update
	for i := range n {
		switch e := entries[keys[i]]; i % 3 {
		case 0:
			foreign := foreignEntry(r, i)
			note(reconciler.Create, foreign)
			all = append(all, updateOf(p4v1.Update_INSERT, foreign))
		case 1:
			changed := changedEntry(e)
			note(reconciler.Update, e)
			all = append(all, updateOf(p4v1.Update_MODIFY, changed))
		default:
			note(reconciler.Delete, e)
			all = append(all, updateOf(p4v1.Update_DELETE, e))
		}
	}
	return all
}

// changedEntry is an entry with the same match that does something else.
func changedEntry(e *p4v1.TableEntry) *p4v1.TableEntry {
	changed := proto.CloneOf(e)
	params := changed.GetAction().GetAction().GetParams()
	last := params[len(params)-1]
	last.Value = pipeline.FromUint(pipeline.ToUint(last.GetValue()) ^ 1)
	return changed
}

// foreignEntry is an entry that no document asks for.
func foreignEntry(r *rand.Rand, i int) *p4v1.TableEntry {
	prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(i >> 8), byte(i)}), 24)
	id := uint16(2000 + i)
	switch r.IntN(8) {
	case 0:
		return entryOf(vmBody(pipeline.TableVMSrcV4, uint32(5000+i), "10.0.0.1"))
	case 1:
		return entryOf(vmBody(pipeline.TableVMDstV6, uint32(5000+i), "fd00::1"))
	case 2:
		return entryOf(&ruleBody{table: pipeline.TableVPC, vip: 9, pool: 9, match: vniOnly(uint32(5000 + i))})
	case 3:
		return entryOf(flowBody(pipeline.TableFlowV4, int32(100+i), packets.Match{AnyVNI: true, Protocol: 6, Src: prefix}))
	case 4:
		return entryOf(flowBody(pipeline.TableFlowV6, int32(100+i), packets.Match{VNI: 3, Protocol: -1}))
	case 5:
		return entryOf(&backendBody{id: id, port: 1})
	case 6:
		return bucketKey{uint8(200 + i%20), uint8(i % 2), id}.encode(new(block), 1)
	}
	return entryOf(&vipBody{address: prefix.Addr().Next(), vip: 9, pool: 9, profile: 9})
}

// TestDeadSwitches has one gateway on several switches: one does not exist, one never
// answers, one hangs while it is programmed. The others apply commit after commit, and
// the one that hung catches up when it answers again.
func TestDeadSwitches(t *testing.T) {
	a, b, hung := newLab(t), newLab(t), newLab(t)
	release := make(chan struct{})
	hung.onWrite(func(ctx context.Context, _ *p4v1.WriteRequest) error {
		if hung.batches.Load() < 3 {
			return nil
		}
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	names := []string{"a", "b", "hung", "nobody", "silent"}
	base := []string{gatewayDoc(names...), networkDoc(1)}
	for i, address := range []string{a.address, b.address, hung.address, "127.0.0.1:1", silent(t)} {
		base = append(base, switchDoc(names[i], address))
	}
	l := newLoop(t, append(base, vmsDoc(1, addresses(0, 50)...))...)
	live := func(names []string, vms int) {
		t.Helper()
		testnet.Eventually(t, l.log.String, func() bool {
			s, err := l.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, target := range s.Targets {
				name := strings.TrimPrefix(target.Name, "p4rt/")
				good := target.Conditions[0].Status == "True"
				if good && (name == "nobody" || name == "silent") {
					t.Errorf("%s is said to be programmed", name)
				}
				if good && slices.Contains(names, name) && target.Resources == 2*vms+8 {
					n++
				}
			}
			return n == len(names)
		})
	}
	for _, vms := range []int{50, 60, 40} {
		l.adopt(append(base, vmsDoc(1, addresses(0, vms)...))...)
		live([]string{"a", "b"}, vms)
	}
	close(release)
	live([]string{"a", "b", "hung"}, 40)
	if n := hung.sw.Stats().Writes; n < 80 {
		t.Errorf("the switch that hung has taken %d entries", n)
	}
}
