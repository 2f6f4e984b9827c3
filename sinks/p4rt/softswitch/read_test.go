package softswitch

import (
	"bytes"
	"slices"
	"testing"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// TestFilters reads by every filter of the specification.
func TestFilters(t *testing.T) {
	r := ready(t)
	tcp443 := []*p4v1.FieldMatch{ternary(5, num(6), num(255)), between(7, num(443), num(443))}
	entries := []*p4v1.TableEntry{
		vpc(1, 1001, 2), vpc(1, 1002, 3), vpc(2, 1001, 2),
		flow(10, 1, 2, tcp443...), flow(20, 1, 3, tcp443...), flow(10, 1, 4), flow(20, 2, 4),
		with(vpc(3, 1, 1), func(e *p4v1.TableEntry) { e.Metadata, e.ControllerMetadata = []byte("m"), 7 }),
		tableEntry(pipeline.TableBackend, action(pipeline.ActionForwardMAC, num(1), num(2), num(3)), exact(1, num(1))),
		tableEntry(pipeline.TableBackend, action(pipeline.ActionForwardIPv4, num(1), num(2), num(3), num(4)), exact(1, num(2))),
	}
	for _, e := range entries {
		r.mustWrite(insert(e))
	}
	in := func(table uint32, change func(*p4v1.TableEntry)) *p4v1.TableEntry {
		return with(&p4v1.TableEntry{TableId: table}, change)
	}
	noAction := pipeline.Index().Tables[pipeline.TableVPC].Default
	for _, c := range []struct {
		name   string
		filter *p4v1.TableEntry
		want   []*p4v1.TableEntry
	}{
		{"all", &p4v1.TableEntry{}, entries},
		{"one table", in(pipeline.TableVPC, func(*p4v1.TableEntry) {}), []*p4v1.TableEntry{entries[0], entries[1], entries[2], entries[7]}},
		{"empty table", in(pipeline.TableVIPv6, func(*p4v1.TableEntry) {}), nil},
		{"match", in(pipeline.TableVPC, func(e *p4v1.TableEntry) { e.Match = entries[1].Match }), entries[1:2]},
		{"match that is not there", in(pipeline.TableVPC, func(e *p4v1.TableEntry) { e.Match = vpc(9, 9, 9).Match }), nil},
		{"match and priority", in(pipeline.TableFlowV4, func(e *p4v1.TableEntry) { e.Match, e.Priority = entries[3].Match, 20 }), entries[4:5]},
		{"match of any priority", in(pipeline.TableFlowV4, func(e *p4v1.TableEntry) { e.Match = entries[3].Match }), entries[3:5]},
		{"match with other wildcards", in(pipeline.TableFlowV4, func(e *p4v1.TableEntry) { e.Match = entries[5].Match }), entries[5:6]},
		{"priority", in(pipeline.TableFlowV4, func(e *p4v1.TableEntry) { e.Priority = 10 }), []*p4v1.TableEntry{entries[3], entries[5]}},
		{"action", in(pipeline.TableBackend, func(e *p4v1.TableEntry) { e.Action = action(pipeline.ActionForwardIPv4) }), entries[9:]},
		{"action and match", in(pipeline.TableBackend, func(e *p4v1.TableEntry) {
			e.Action, e.Match = action(pipeline.ActionForwardIPv4), entries[8].Match
		}), nil},
		{"metadata", in(pipeline.TableVPC, func(e *p4v1.TableEntry) { e.Metadata = []byte("m") }), entries[7:8]},
		{"other metadata", in(pipeline.TableVPC, func(e *p4v1.TableEntry) { e.Metadata = []byte("n") }), nil},
		{"controller metadata", in(pipeline.TableVPC, func(e *p4v1.TableEntry) { e.ControllerMetadata = 7 }), entries[7:8]},
		{"default entry", in(pipeline.TableVPC, func(e *p4v1.TableEntry) { e.IsDefaultAction = true }), []*p4v1.TableEntry{
			{TableId: pipeline.TableVPC, IsDefaultAction: true, Action: action(noAction)},
		}},
		{"constant table", in(pipeline.TableResolve, func(*p4v1.TableEntry) {}), nil},
	} {
		got, err := r.read(asked(c.filter))
		wantCode(t, c.name, err, codes.OK)
		if !sameEntries(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// sameEntries compares without regard to order.
func sameEntries(got []*p4v1.Entity, want []*p4v1.TableEntry) bool {
	left := slices.Clone(want)
	for _, g := range got {
		i := slices.IndexFunc(left, func(w *p4v1.TableEntry) bool { return proto.Equal(g.GetTableEntry(), w) })
		if i < 0 {
			return false
		}
		left = slices.Delete(left, i, i+1)
	}
	return len(left) == 0
}

// TestReadRefusals asks for entities that cannot be read: the valid ones of the request
// are answered nevertheless.
func TestReadRefusals(t *testing.T) {
	r := ready(t)
	r.mustWrite(insert(vpc(1, 1001, 2)))
	for _, c := range []struct {
		name  string
		asked *p4v1.Entity
		code  codes.Code
	}{
		{"nothing", &p4v1.Entity{}, codes.InvalidArgument},
		{"unknown table", asked(&p4v1.TableEntry{TableId: 0x02000099}), codes.InvalidArgument},
		{"all tables with a priority", asked(&p4v1.TableEntry{Priority: 1}), codes.InvalidArgument},
		{"all tables with a match", asked(&p4v1.TableEntry{Match: vpc(1, 1, 1).Match}), codes.InvalidArgument},
		{"all tables' default entries", asked(&p4v1.TableEntry{IsDefaultAction: true}), codes.InvalidArgument},
		{"bad match", asked(with(vpc(1, 1001, 2), func(e *p4v1.TableEntry) { e.Match = e.Match[:1] })), codes.InvalidArgument},
		{"default entry with a match", asked(with(vpc(1, 1001, 2), func(e *p4v1.TableEntry) { e.IsDefaultAction = true })), codes.InvalidArgument},
		{"register", &p4v1.Entity{Entity: &p4v1.Entity_RegisterEntry{RegisterEntry: &p4v1.RegisterEntry{}}}, codes.Unimplemented},
		{"meter", &p4v1.Entity{Entity: &p4v1.Entity_DirectMeterEntry{DirectMeterEntry: &p4v1.DirectMeterEntry{}}}, codes.Unimplemented},
		{"counter of no entry", askedCounter(vpc(9, 9, 9)), codes.NotFound},
		{"counter of a table without", askedCounter(&p4v1.TableEntry{TableId: pipeline.TablePool}), codes.InvalidArgument},
	} {
		good := asked(&p4v1.TableEntry{TableId: pipeline.TableVPC})
		got, err := r.read(good, c.asked, good)
		wantCode(t, c.name, err, codes.Unknown)
		errs := perUpdate(t, err)
		if len(errs) != 3 || errs[0].GetCanonicalCode() != 0 || codes.Code(errs[1].GetCanonicalCode()) != c.code || errs[2].GetCanonicalCode() != 0 {
			t.Errorf("%s: %v, want %s in the middle", c.name, errs, c.code)
		}
		if len(got) != 2 {
			t.Errorf("%s: %d entities beside it, want 2", c.name, len(got))
		}
	}
	if got, err := r.read(); len(got) != 0 || err != nil {
		t.Errorf("an empty request: %v, %v", got, err)
	}
}

// TestChunks reads more than one response holds.
func TestChunks(t *testing.T) {
	r := ready(t)
	var all []*p4v1.Update
	for i := range uint64(2*readChunk + 1) {
		all = append(all, insert(vpc(1, i, 2)))
	}
	r.mustWrite(all...)
	s, err := r.client.Read(t.Context(), &p4v1.ReadRequest{DeviceId: device, Entities: []*p4v1.Entity{asked(&p4v1.TableEntry{})}})
	if err != nil {
		t.Fatal(err)
	}
	var sizes []int
	for {
		res, err := s.Recv()
		if err != nil {
			break
		}
		sizes = append(sizes, len(res.GetEntities()))
	}
	if !slices.Equal(sizes, []int{readChunk, readChunk, 1}) {
		t.Errorf("responses of %v entities", sizes)
	}
}

// counted is the sum of all counters.
type counted struct {
	packets, octets int64
	entries         int
}

func (r *rig) counts(filter *p4v1.Entity) (c counted) {
	r.Helper()
	all, err := r.read(filter)
	if err != nil {
		r.Fatal(err)
	}
	for _, e := range all {
		d := e.GetTableEntry().GetCounterData()
		if x := e.GetDirectCounterEntry(); x != nil {
			d = x.GetData()
		}
		c.packets, c.octets, c.entries = c.packets+d.GetPacketCount(), c.octets+d.GetByteCount(), c.entries+1
	}
	return c
}

// counting is a gateway with a frame that hits an entry of every kind of rule.
func counting(t *testing.T) (r *rig, process func(), size int64) {
	r = ready(t)
	for _, e := range gateway() {
		r.mustWrite(insert(e))
	}
	frame := in4(1001, inner4("10.0.0.5", "10.0.0.6", tcp(40001, 443)))
	return r, func() {
		t.Helper()
		if _, _, ok := r.sw.Process(bytes.Clone(frame)); !ok {
			t.Fatal("dropped")
		}
	}, int64(len(frame))
}

// TestCounters counts packets at every entry that they hit, and reads the counts
// in all the ways there are.
func TestCounters(t *testing.T) {
	r, process, size := counting(t)
	for range 3 {
		process()
	}
	for name, c := range map[string]struct {
		asked *p4v1.Entity
		want  counted
	}{
		// The flow, source, destination and VPC entries, and the backend.
		"all counters":           {askedCounter(&p4v1.TableEntry{}), counted{5 * 3, 5 * 3 * size, 12}},
		"one counter":            {askedCounter(vpc(1, 1001, vpcPool)), counted{3, 3 * size, 1}},
		"one table's counters":   {askedCounter(&p4v1.TableEntry{TableId: pipeline.TableBackend}), counted{3, 3 * size, 5}},
		"entry with its counter": {asked(&p4v1.TableEntry{TableId: pipeline.TableVPC, CounterData: &p4v1.CounterData{}}), counted{3, 3 * size, 1}},
		"entry without":          {asked(&p4v1.TableEntry{TableId: pipeline.TableVPC}), counted{0, 0, 1}},
		"table without counters": {asked(&p4v1.TableEntry{TableId: pipeline.TablePool, CounterData: &p4v1.CounterData{}}), counted{0, 0, 5}},
	} {
		if got := r.counts(c.asked); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// TestSetCounters sets counts in all the ways there are.
func TestSetCounters(t *testing.T) {
	r, process, size := counting(t)
	for range 3 {
		process()
	}
	counterOf := func(d *p4v1.CounterData) *p4v1.TableEntry {
		return with(vpc(1, 1001, vpcPool), func(e *p4v1.TableEntry) { e.CounterData = d })
	}
	set := func(d *p4v1.CounterData) *p4v1.Update {
		e := askedCounter(vpc(1, 1001, 0))
		e.GetDirectCounterEntry().Data = d
		return &p4v1.Update{Type: p4v1.Update_MODIFY, Entity: e}
	}
	expect := func(what string, packets, octets int64) {
		t.Helper()
		if got := r.counts(askedCounter(vpc(1, 1001, vpcPool))); got != (counted{packets, octets, 1}) {
			t.Errorf("%s: %+v, want %d packets and %d bytes", what, got, packets, octets)
		}
	}
	r.mustWrite(modify(counterOf(nil)))
	expect("a modification keeps the count", 3, 3*size)
	r.mustWrite(modify(counterOf(&p4v1.CounterData{PacketCount: 100, ByteCount: 200})))
	expect("a modification that brings one", 100, 200)
	r.mustWrite(set(nil))
	expect("setting nothing", 100, 200)
	r.mustWrite(set(&p4v1.CounterData{}))
	process()
	expect("clearing", 1, size)
	// An entry that is read without asking for its counter has none.
	all, err := r.read(asked(&p4v1.TableEntry{TableId: pipeline.TableVPC}))
	if err != nil || len(all) != 1 || !proto.Equal(all[0].GetTableEntry(), counterOf(nil)) {
		t.Errorf("read %v, error %v", all, err)
	}
	r.mustWrite(remove(counterOf(nil)))
	r.mustWrite(insert(counterOf(nil)))
	expect("an entry that comes anew", 0, 0)
	r.mustWrite(remove(counterOf(nil)))
	r.mustWrite(insert(counterOf(&p4v1.CounterData{PacketCount: 50})))
	process()
	expect("an entry that comes with a count", 51, size)
}
