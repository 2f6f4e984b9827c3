package softswitch

import (
	"testing"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// refusal is an update that must fail, and how.
type refusal struct {
	name   string
	update *p4v1.Update
	code   codes.Code
}

// installed has the entries on the switch during the refusals.
var installed = []*p4v1.TableEntry{vpc(1, 1001, 2), flow(10, 1, 2, ternary(2, num(1001), num(1<<24-1)))}

// TestRefusals sends every update that the P4Runtime specification refuses, in one batch
// with valid ones: each has its own code, the valid ones succeed, and nothing else
// changes.
func TestRefusals(t *testing.T) {
	r := ready(t)
	for _, e := range installed {
		r.mustWrite(insert(e))
	}
	var cases []refusal
	for _, group := range [][]refusal{refusedKeys(), refusedFlows(), refusedActions(), refusedKinds(), refusedCounters()} {
		cases = append(cases, group...)
	}
	good := insert(vpc(1, 1002, 2))
	var batch []*p4v1.Update
	for _, c := range cases {
		batch = append(batch, c.update)
	}
	before := r.sw.Stats().Writes
	err := r.write(append(batch, good)...)
	wantCode(t, "the batch", err, codes.Unknown)
	errs := perUpdate(t, err)
	if len(errs) != len(cases)+1 {
		t.Fatalf("%d errors for %d updates", len(errs), len(cases)+1)
	}
	for i, c := range cases {
		if got := codes.Code(errs[i].GetCanonicalCode()); got != c.code || errs[i].GetMessage() == "" {
			t.Errorf("%s: code %s, message %q; want %s and a message", c.name, got, errs[i].GetMessage(), c.code)
		}
	}
	if e := errs[len(cases)]; e.GetCanonicalCode() != 0 || e.GetMessage() != "" {
		t.Errorf("the good update: %v", e)
	}
	if n := r.sw.Stats().Writes - before; n != 1 {
		t.Errorf("%d updates were carried out, want 1", n)
	}
	all, err := r.read(asked(&p4v1.TableEntry{}))
	if err != nil || len(all) != 3 {
		t.Errorf("%d entries, error %v; want 3", len(all), err)
	}
	for _, c := range cases { // each alone is refused as well
		if errs := perUpdate(t, r.write(c.update)); len(errs) != 1 || codes.Code(errs[0].GetCanonicalCode()) != c.code {
			t.Errorf("%s alone: %v", c.name, errs)
		}
	}
}

// refusedKeys are wrong tables and exact fields.
func refusedKeys() []refusal {
	field := func(m ...*p4v1.FieldMatch) *p4v1.Update {
		return insert(with(vpc(1, 1002, 2), func(e *p4v1.TableEntry) { e.Match = m }))
	}
	vip := exact(1, num(1))
	return []refusal{
		{"table 0", insert(with(vpc(1, 1002, 2), func(e *p4v1.TableEntry) { e.TableId = 0 })), codes.InvalidArgument},
		{"unknown table", insert(with(vpc(1, 1002, 2), func(e *p4v1.TableEntry) { e.TableId = 0x020000ff })), codes.InvalidArgument},
		{"unknown field", field(vip, exact(2, num(1)), exact(9, num(1))), codes.InvalidArgument},
		{"field 0", field(vip, exact(0, num(1))), codes.InvalidArgument},
		{"missing exact field", field(vip), codes.InvalidArgument},
		{"no field at all", field(), codes.InvalidArgument},
		{"field twice", field(vip, exact(2, num(1)), exact(2, num(1))), codes.InvalidArgument},
		{"field twice with other values", field(vip, exact(2, num(1)), exact(2, num(2))), codes.InvalidArgument},
		{"field without a value", field(vip, &p4v1.FieldMatch{FieldId: 2}), codes.InvalidArgument},
		{"ternary for an exact field", field(vip, ternary(2, num(1), num(1))), codes.InvalidArgument},
		{"range for an exact field", field(vip, between(2, num(1), num(2))), codes.InvalidArgument},
		{"leading zero", field(vip, exact(2, []byte{0, 1})), codes.InvalidArgument},
		{"two zeros", field(vip, exact(2, []byte{0, 0})), codes.InvalidArgument},
		{"empty value", field(vip, exact(2, nil)), codes.OutOfRange},
		{"value of 25 bits in 24", field(vip, exact(2, num(1<<24))), codes.OutOfRange},
		{"value of 9 bits in 8", field(exact(1, num(256)), exact(2, num(1))), codes.OutOfRange},
		{"generation 2 in 1 bit", insert(tableEntry(pipeline.TableBucket, action(pipeline.ActionSetBackend, num(1)),
			exact(1, num(1)), exact(2, num(2)), exact(3, num(1)))), codes.OutOfRange},
		{"priority on an exact table", insert(with(vpc(1, 1002, 2), func(e *p4v1.TableEntry) { e.Priority = 1 })), codes.InvalidArgument},
		{"insert of what is there", insert(vpc(1, 1001, 2)), codes.AlreadyExists},
		{"insert of what is there with another action", insert(vpc(1, 1001, 3)), codes.AlreadyExists},
		{"modify of what is not there", modify(vpc(1, 1003, 2)), codes.NotFound},
		{"delete of what is not there", remove(vpc(1, 1003, 2)), codes.NotFound},
		{"delete with a bad key", remove(with(vpc(1, 1001, 2), func(e *p4v1.TableEntry) { e.Priority = 3 })), codes.InvalidArgument},
	}
}

// refusedFlows are wrong ternary and range fields, and priorities.
func refusedFlows() []refusal {
	field := func(m ...*p4v1.FieldMatch) *p4v1.Update { return insert(flow(20, 1, 2, m...)) }
	priority := func(p int32) *p4v1.Update { return insert(flow(p, 1, 2, ternary(5, num(6), num(255)))) }
	return []refusal{
		{"priority 0", priority(0), codes.InvalidArgument},
		{"negative priority", priority(-1), codes.InvalidArgument},
		{"no exact field", insert(with(flow(20, 1, 2), func(e *p4v1.TableEntry) { e.Match = nil })), codes.InvalidArgument},
		{"exact for a ternary field", field(exact(2, num(1))), codes.InvalidArgument},
		{"exact for a range field", field(exact(6, num(1))), codes.InvalidArgument},
		{"value outside the mask", field(ternary(3, num(0x0a000001), num(0xffffff00))), codes.InvalidArgument},
		{"value longer than the mask", field(ternary(3, num(0x100), num(0xff))), codes.InvalidArgument},
		{"mask of zero", field(ternary(3, num(0), num(0))), codes.InvalidArgument},
		{"mask of zero below a value", field(ternary(3, num(1), num(0))), codes.InvalidArgument},
		{"no mask", field(ternary(3, num(1), nil)), codes.OutOfRange},
		{"no value", field(ternary(3, nil, num(1))), codes.OutOfRange},
		{"mask with a leading zero", field(ternary(3, num(1), []byte{0, 255})), codes.InvalidArgument},
		{"mask too wide", field(ternary(2, num(1), num(1<<25-1))), codes.OutOfRange},
		{"whole range", field(between(6, num(0), num(65535))), codes.InvalidArgument},
		{"empty range", field(between(6, num(256), num(255))), codes.InvalidArgument},
		{"empty range of equal length", field(between(6, num(2), num(1))), codes.InvalidArgument},
		{"range too wide", field(between(6, num(1), num(65536))), codes.OutOfRange},
		{"range without low", field(between(6, nil, num(9))), codes.OutOfRange},
		{"range with a leading zero", field(between(6, []byte{0, 1}, num(9))), codes.InvalidArgument},
		{"flow that is there", insert(flow(10, 1, 3, ternary(2, num(1001), num(1<<24-1)))), codes.AlreadyExists},
		{"flow of another priority", modify(flow(11, 1, 3, ternary(2, num(1001), num(1<<24-1)))), codes.NotFound},
		{"flow of another mask", remove(flow(10, 1, 3, ternary(2, num(1000), num(1<<24-8)))), codes.NotFound},
	}
}

// refusedActions are wrong actions and parameters.
func refusedActions() []refusal {
	act := func(a *p4v1.TableAction) *p4v1.Update {
		return insert(with(vpc(1, 1002, 2), func(e *p4v1.TableEntry) { e.Action = a }))
	}
	params := func(p ...*p4v1.Action_Param) *p4v1.TableAction {
		a := &p4v1.Action{ActionId: pipeline.ActionVPCPool, Params: p}
		return &p4v1.TableAction{Type: &p4v1.TableAction_Action{Action: a}}
	}
	pool := &p4v1.Action_Param{ParamId: 1, Value: num(2)}
	noAction := pipeline.Index().Tables[pipeline.TableVPC].Default
	return []refusal{
		{"no action", act(nil), codes.InvalidArgument},
		{"empty action", act(&p4v1.TableAction{}), codes.InvalidArgument},
		{"member of an action profile", act(&p4v1.TableAction{Type: &p4v1.TableAction_ActionProfileMemberId{ActionProfileMemberId: 1}}), codes.InvalidArgument},
		{"action 0", act(action(0, num(2))), codes.InvalidArgument},
		{"unknown action", act(action(0x010000ff, num(2))), codes.InvalidArgument},
		{"action of another table", act(action(pipeline.ActionFlowPoolV4, num(2))), codes.InvalidArgument},
		{"action for the default entry only", act(action(noAction)), codes.PermissionDenied},
		{"missing parameter", act(params()), codes.InvalidArgument},
		{"extra parameter", act(params(pool, &p4v1.Action_Param{ParamId: 2, Value: num(2)})), codes.InvalidArgument},
		{"unknown parameter", act(params(&p4v1.Action_Param{ParamId: 2, Value: num(2)})), codes.InvalidArgument},
		{"parameter twice", act(params(pool, pool)), codes.InvalidArgument},
		{"parameter too wide", act(params(&p4v1.Action_Param{ParamId: 1, Value: num(256)})), codes.OutOfRange},
		{"parameter without value", act(params(&p4v1.Action_Param{ParamId: 1})), codes.OutOfRange},
		{"parameter with a leading zero", act(params(&p4v1.Action_Param{ParamId: 1, Value: []byte{0, 2}})), codes.InvalidArgument},
		{"modify with a bad action", modify(with(vpc(1, 1001, 2), func(e *p4v1.TableEntry) { e.Action = params() })), codes.InvalidArgument},
		{"port of 10 bits in 9", insert(tableEntry(pipeline.TableBackend,
			action(pipeline.ActionForwardMAC, num(1), num(2), num(512)), exact(1, num(1)))), codes.OutOfRange},
	}
}

// refusedKinds are entities that are not table entries, or cannot be written.
func refusedKinds() []refusal {
	fresh := func(change func(*p4v1.TableEntry)) *p4v1.Update { return insert(with(vpc(1, 1002, 2), change)) }
	standard := func(change func(*p4v1.TableEntry)) *p4v1.TableEntry {
		e := &p4v1.TableEntry{TableId: pipeline.TableVPC, IsDefaultAction: true}
		change(e)
		return e
	}
	entity := func(kind p4v1.Update_Type, e *p4v1.Entity) *p4v1.Update { return &p4v1.Update{Type: kind, Entity: e} }
	resolve := with(tableEntry(pipeline.TableResolve, action(0x01000011)), func(e *p4v1.TableEntry) { e.Priority = 1 })
	noop := func(*p4v1.TableEntry) {}
	return []refusal{
		{"no type", update(p4v1.Update_UNSPECIFIED, vpc(1, 1002, 2)), codes.InvalidArgument},
		{"unknown type", update(9, vpc(1, 1002, 2)), codes.InvalidArgument},
		{"no entity", entity(p4v1.Update_INSERT, nil), codes.InvalidArgument},
		{"empty entity", entity(p4v1.Update_INSERT, &p4v1.Entity{}), codes.InvalidArgument},
		{"register", entity(p4v1.Update_MODIFY, &p4v1.Entity{Entity: &p4v1.Entity_RegisterEntry{RegisterEntry: &p4v1.RegisterEntry{}}}), codes.Unimplemented},
		{"member", entity(p4v1.Update_INSERT, &p4v1.Entity{Entity: &p4v1.Entity_ActionProfileMember{ActionProfileMember: &p4v1.ActionProfileMember{}}}), codes.Unimplemented},
		{"multicast", entity(p4v1.Update_INSERT, &p4v1.Entity{Entity: &p4v1.Entity_PacketReplicationEngineEntry{PacketReplicationEngineEntry: &p4v1.PacketReplicationEngineEntry{}}}), codes.Unimplemented},
		{"indirect counter", entity(p4v1.Update_MODIFY, &p4v1.Entity{Entity: &p4v1.Entity_CounterEntry{CounterEntry: &p4v1.CounterEntry{}}}), codes.Unimplemented},
		{"constant table, insert", insert(resolve), codes.PermissionDenied},
		{"constant table, modify", modify(resolve), codes.PermissionDenied},
		{"constant table, delete", remove(resolve), codes.PermissionDenied},
		{"default entry, insert", insert(standard(noop)), codes.InvalidArgument},
		{"default entry, delete", remove(standard(noop)), codes.InvalidArgument},
		{"default entry, modify", modify(standard(noop)), codes.PermissionDenied},
		{"default entry with a match", modify(standard(func(e *p4v1.TableEntry) { e.Match = vpc(1, 1, 1).Match })), codes.InvalidArgument},
		{"default entry with a priority", modify(standard(func(e *p4v1.TableEntry) { e.Priority = 1 })), codes.InvalidArgument},
		{"constant entry", fresh(func(e *p4v1.TableEntry) { e.IsConst = true }), codes.InvalidArgument},
		{"delete of a constant entry", remove(with(vpc(1, 1001, 2), func(e *p4v1.TableEntry) { e.IsConst = true })), codes.InvalidArgument},
		{"meter", fresh(func(e *p4v1.TableEntry) { e.MeterConfig = &p4v1.MeterConfig{} }), codes.InvalidArgument},
		{"meter counter", fresh(func(e *p4v1.TableEntry) { e.MeterCounterData = &p4v1.MeterCounterData{} }), codes.InvalidArgument},
		{"idle timeout", fresh(func(e *p4v1.TableEntry) { e.IdleTimeoutNs = 1 }), codes.InvalidArgument},
		{"time since last hit", fresh(func(e *p4v1.TableEntry) { e.TimeSinceLastHit = &p4v1.TableEntry_IdleTimeout{} }), codes.InvalidArgument},
	}
}

// refusedCounters are wrong uses of direct counters.
func refusedCounters() []refusal {
	counter := func(kind p4v1.Update_Type, e *p4v1.TableEntry) *p4v1.Update {
		return &p4v1.Update{Type: kind, Entity: askedCounter(e)}
	}
	vip := tableEntry(pipeline.TableVIPv4, action(pipeline.ActionSetVIP, num(1), num(1), num(1)), exact(1, num(9)))
	counted := with(proto.CloneOf(vip), func(e *p4v1.TableEntry) { e.CounterData = &p4v1.CounterData{PacketCount: 1} })
	return []refusal{
		{"counter, insert", counter(p4v1.Update_INSERT, vpc(1, 1001, 2)), codes.InvalidArgument},
		{"counter, delete", counter(p4v1.Update_DELETE, vpc(1, 1001, 2)), codes.InvalidArgument},
		{"counter of no entry", counter(p4v1.Update_MODIFY, vpc(1, 1009, 2)), codes.NotFound},
		{"counter without entry", counter(p4v1.Update_MODIFY, nil), codes.InvalidArgument},
		{"counter of a table without", counter(p4v1.Update_MODIFY, vip), codes.InvalidArgument},
		{"counter data on a table without", insert(counted), codes.InvalidArgument},
	}
}
