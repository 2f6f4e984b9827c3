package p4rt

import (
	"encoding/binary"
	"net/netip"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// block has the messages of one update in one allocation. A switch may get half a
// million updates, so blocks are reused once a batch is done.
type block struct {
	update   p4v1.Update
	entity   p4v1.Entity
	ofEntity p4v1.Entity_TableEntry
	entry    p4v1.TableEntry
	action   p4v1.TableAction
	ofAction p4v1.TableAction_Action
	act      p4v1.Action
	fields   [3]exactField
	match    [3]*p4v1.FieldMatch
	params   [4]p4v1.Action_Param
	pointers [4]*p4v1.Action_Param
	buffer   [32]byte
	bytes    []byte // the values, in buffer while they fit
}

type exactField struct {
	field p4v1.FieldMatch
	one   p4v1.FieldMatch_Exact_
	exact p4v1.FieldMatch_Exact
}

// begin starts an entry with an action, without fields and parameters.
func (b *block) begin(table, action uint32) {
	b.bytes = b.buffer[:0]
	b.act.ActionId, b.act.Params = action, b.pointers[:0]
	b.ofAction.Action = &b.act
	b.action.Type = &b.ofAction
	b.entry.TableId, b.entry.Priority, b.entry.Match, b.entry.Action = table, 0, b.match[:0], &b.action
}

// exact adds exact fields; ids begin at 1.
func (b *block) exact(values ...[]byte) {
	for _, v := range values {
		n := len(b.entry.Match)
		var f *exactField
		if n < len(b.fields) {
			f = &b.fields[n]
		} else {
			f = new(exactField)
		}
		f.exact.Value = v
		f.one.Exact = &f.exact
		f.field.FieldId, f.field.FieldMatchType = uint32(n+1), &f.one
		b.entry.Match = append(b.entry.Match, &f.field)
	}
}

// param adds parameters; ids begin at 1.
func (b *block) param(values ...[]byte) {
	for _, v := range values {
		n := len(b.act.Params)
		var p *p4v1.Action_Param
		if n < len(b.params) {
			p = &b.params[n]
		} else {
			p = new(p4v1.Action_Param)
		}
		p.ParamId, p.Value = uint32(n+1), v
		b.act.Params = append(b.act.Params, p)
	}
}

// number returns the canonical byte string of a number.
func (b *block) number(v uint32) []byte {
	from := len(b.bytes)
	for shift := 24; shift > 0; shift -= 8 {
		if v>>shift != 0 {
			b.bytes = append(b.bytes, byte(v>>shift))
		}
	}
	b.bytes = append(b.bytes, byte(v))
	return b.bytes[from:len(b.bytes):len(b.bytes)]
}

// addr returns the canonical byte string of an address.
func (b *block) addr(a netip.Addr) []byte {
	if a.Is4() {
		v := a.As4()
		return b.number(binary.BigEndian.Uint32(v[:]))
	}
	return pipeline.FromAddr(a)
}

// updateOf makes an update of an entry in the block.
func (b *block) updateOf(t p4v1.Update_Type, e *p4v1.TableEntry) *p4v1.Update {
	b.ofEntity.TableEntry = e
	b.entity.Entity = &b.ofEntity
	b.update.Type, b.update.Entity = t, &b.entity
	return &b.update
}

// entryBody is a body that is one table entry.
type entryBody interface {
	reconciler.Body
	// encode makes the entry in a block, and it is valid until the block is reused.
	encode(*block) *p4v1.TableEntry
}

// entryOf makes the entry of a body in a block of its own.
func entryOf(b entryBody) *p4v1.TableEntry { return b.encode(new(block)) }

func ternary(id uint32, value, mask []byte) *p4v1.FieldMatch {
	return &p4v1.FieldMatch{FieldId: id, FieldMatchType: &p4v1.FieldMatch_Ternary_{Ternary: &p4v1.FieldMatch_Ternary{Value: value, Mask: mask}}}
}

func ranged(id uint32, r packets.PortRange) *p4v1.FieldMatch {
	v := &p4v1.FieldMatch_Range{Low: pipeline.FromUint(uint64(r.Lo)), High: pipeline.FromUint(uint64(r.Hi))}
	return &p4v1.FieldMatch{FieldId: id, FieldMatchType: &p4v1.FieldMatch_Range_{Range: v}}
}

func (b *backendBody) encode(to *block) *p4v1.TableEntry {
	action := pipeline.ActionForwardMAC
	switch {
	case b.address.Is4():
		action = pipeline.ActionForwardIPv4
	case b.address.Is6():
		action = pipeline.ActionForwardIPv6
	}
	to.begin(pipeline.TableBackend, action)
	to.exact(to.number(uint32(b.id)))
	to.param(pipeline.Canonical(b.dstMAC[:]), pipeline.Canonical(b.srcMAC[:]), to.number(b.port))
	if b.address.IsValid() {
		to.param(to.addr(b.address))
	}
	return &to.entry
}

func (b *profileBody) encode(to *block) *p4v1.TableEntry {
	to.begin(pipeline.TableHashProfile, pipeline.ActionSetMasks)
	to.exact(to.number(uint32(b.profile)))
	for _, m := range b.masks {
		to.param(to.number(m))
	}
	return &to.entry
}

func (b *vipBody) encode(to *block) *p4v1.TableEntry {
	table := pipeline.TableVIPv4
	if b.address.Is6() {
		table = pipeline.TableVIPv6
	}
	to.begin(table, pipeline.ActionSetVIP)
	to.exact(to.addr(b.address))
	to.param(to.number(uint32(b.vip)), to.number(uint32(b.pool)), to.number(uint32(b.profile)))
	return &to.entry
}

func (b *poolBody) encode(to *block) *p4v1.TableEntry {
	to.begin(pipeline.TablePool, pipeline.ActionSetGeneration)
	to.exact(to.number(uint32(b.pool)))
	to.param(to.number(uint32(b.generation)), to.number(uint32(b.mask)))
	return &to.entry
}

// encode makes the entry of a bucket in a block.
func (k bucketKey) encode(to *block, backend uint16) *p4v1.TableEntry {
	to.begin(pipeline.TableBucket, pipeline.ActionSetBackend)
	to.exact(to.number(uint32(k.pool)), to.number(uint32(k.generation)), to.number(uint32(k.hash)))
	to.param(to.number(uint32(backend)))
	return &to.entry
}

// ruleActions is the action of each rule table.
var ruleActions = map[uint32]uint32{
	pipeline.TableFlowV4: pipeline.ActionFlowPoolV4, pipeline.TableFlowV6: pipeline.ActionFlowPoolV6,
	pipeline.TableVMSrcV4: pipeline.ActionSrcPoolV4, pipeline.TableVMSrcV6: pipeline.ActionSrcPoolV6,
	pipeline.TableVMDstV4: pipeline.ActionDstPoolV4, pipeline.TableVMDstV6: pipeline.ActionDstPoolV6,
	pipeline.TableVPC: pipeline.ActionVPCPool,
}

func (b *ruleBody) encode(to *block) *p4v1.TableEntry {
	to.begin(b.table, ruleActions[b.table])
	to.exact(to.number(uint32(b.vip)))
	switch b.table {
	case pipeline.TableFlowV4, pipeline.TableFlowV6:
		to.entry.Match = append(to.entry.Match, b.flowFields()...)
	case pipeline.TableVPC:
		to.exact(to.number(b.match.VNI))
	default:
		to.exact(to.number(b.match.VNI), to.addr(b.vmAddr()))
	}
	to.param(to.number(uint32(b.pool)))
	to.entry.Priority = b.priority
	return &to.entry
}

func (b *rawBody) encode(*block) *p4v1.TableEntry { return b.proto }

func (b *ruleBody) vmAddr() netip.Addr {
	if b.match.Src.IsValid() {
		return b.match.Src.Addr()
	}
	return b.match.Dst.Addr()
}

// flowFields returns the fields of a flow rule without the don't-care fields.
func (b *ruleBody) flowFields() []*p4v1.FieldMatch {
	var match []*p4v1.FieldMatch
	m := &b.match
	if !m.AnyVNI {
		match = append(match, ternary(2, number(m.VNI), number(uint32(1<<24-1))))
	}
	for i, p := range []netip.Prefix{m.Src, m.Dst} {
		if p.IsValid() && p.Bits() > 0 {
			mask := pipeline.PrefixMask(p.Bits(), b.table == pipeline.TableFlowV6)
			match = append(match, ternary(uint32(3+i), pipeline.FromAddr(p.Addr()), mask))
		}
	}
	if m.Protocol >= 0 {
		match = append(match, ternary(5, number(uint8(m.Protocol)), []byte{0xff}))
	}
	for i, r := range []packets.PortRange{m.SrcPort, m.DstPort} {
		if !r.Any() {
			match = append(match, ranged(uint32(6+i), r))
		}
	}
	return match
}

func number[T uint8 | uint32](v T) []byte { return pipeline.FromUint(uint64(v)) }
