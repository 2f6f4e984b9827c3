package p4rt

import (
	"net/netip"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// Messages that belong together are made in one piece: a switch may get half a
// million of them.

// entryBlock is a table entry with one action.
type entryBlock struct {
	entry  p4v1.TableEntry
	action p4v1.TableAction
	one    p4v1.TableAction_Action
	act    p4v1.Action
}

// newEntry makes a table entry with one action, whose parameters are numbered
// from 1.
func newEntry(table uint32, match []*p4v1.FieldMatch, action uint32, params ...[]byte) *p4v1.TableEntry {
	b := new(entryBlock)
	list, pointers := make([]p4v1.Action_Param, len(params)), make([]*p4v1.Action_Param, len(params))
	for i, p := range params {
		list[i].ParamId, list[i].Value = uint32(i+1), p
		pointers[i] = &list[i]
	}
	b.act.ActionId, b.act.Params = action, pointers
	b.one.Action = &b.act
	b.action.Type = &b.one
	b.entry.TableId, b.entry.Match, b.entry.Action = table, match, &b.action
	return &b.entry
}

type updateBlock struct {
	update p4v1.Update
	entity p4v1.Entity
	one    p4v1.Entity_TableEntry
}

func newUpdate(t p4v1.Update_Type, e *p4v1.TableEntry) *p4v1.Update {
	b := new(updateBlock)
	b.one.TableEntry = e
	b.entity.Entity = &b.one
	b.update.Type, b.update.Entity = t, &b.entity
	return &b.update
}

type exactBlock struct {
	field p4v1.FieldMatch
	one   p4v1.FieldMatch_Exact_
	exact p4v1.FieldMatch_Exact
}

// exacts makes exact fields, numbered from 1.
func exacts(values ...[]byte) []*p4v1.FieldMatch {
	blocks, match := make([]exactBlock, len(values)), make([]*p4v1.FieldMatch, len(values))
	for i, v := range values {
		b := &blocks[i]
		b.exact.Value = v
		b.one.Exact = &b.exact
		b.field.FieldId, b.field.FieldMatchType = uint32(i+1), &b.one
		match[i] = &b.field
	}
	return match
}

func ternary(id uint32, value, mask []byte) *p4v1.FieldMatch {
	return &p4v1.FieldMatch{FieldId: id, FieldMatchType: &p4v1.FieldMatch_Ternary_{Ternary: &p4v1.FieldMatch_Ternary{Value: value, Mask: mask}}}
}

func ranged(id uint32, r policies.PortRange) *p4v1.FieldMatch {
	v := &p4v1.FieldMatch_Range{Low: pipeline.FromUint(uint64(r.Lo)), High: pipeline.FromUint(uint64(r.Hi))}
	return &p4v1.FieldMatch{FieldId: id, FieldMatchType: &p4v1.FieldMatch_Range_{Range: v}}
}

func number[T uint8 | uint16 | uint32](v T) []byte { return pipeline.FromUint(uint64(v)) }

// The entry of each body.

func (b *backendBody) entry() *p4v1.TableEntry {
	match := exacts(number(b.id))
	params := [][]byte{pipeline.Canonical(b.dstMAC[:]), pipeline.Canonical(b.srcMAC[:]), number(b.port)}
	switch {
	case !b.address.IsValid():
		return newEntry(pipeline.TableBackend, match, pipeline.ActionForwardMAC, params...)
	case b.address.Is4():
		return newEntry(pipeline.TableBackend, match, pipeline.ActionForwardIPv4, append(params, pipeline.FromAddr(b.address))...)
	}
	return newEntry(pipeline.TableBackend, match, pipeline.ActionForwardIPv6, append(params, pipeline.FromAddr(b.address))...)
}

func (b *profileBody) entry() *p4v1.TableEntry {
	var params [][]byte
	for _, m := range b.masks {
		params = append(params, number(m))
	}
	return newEntry(pipeline.TableHashProfile, exacts(number(b.profile)), pipeline.ActionSetMasks, params...)
}

func (b *vipBody) entry() *p4v1.TableEntry {
	table := pipeline.TableVIPv4
	if b.address.Is6() {
		table = pipeline.TableVIPv6
	}
	match := exacts(pipeline.FromAddr(b.address))
	return newEntry(table, match, pipeline.ActionSetVIP, number(b.vip), number(b.pool), number(b.profile))
}

func (b *poolBody) entry() *p4v1.TableEntry {
	match := exacts(number(b.pool))
	return newEntry(pipeline.TablePool, match, pipeline.ActionSetGeneration, number(b.generation), number(b.mask))
}

func bucketEntry(k bucketKey, backend uint16) *p4v1.TableEntry {
	match := exacts(number(k.pool), number(k.generation), number(k.hash))
	return newEntry(pipeline.TableBucket, match, pipeline.ActionSetBackend, number(backend))
}

// ruleActions is the action of each rule table.
var ruleActions = map[uint32]uint32{
	pipeline.TableFlowV4: pipeline.ActionFlowPoolV4, pipeline.TableFlowV6: pipeline.ActionFlowPoolV6,
	pipeline.TableVMSrcV4: pipeline.ActionSrcPoolV4, pipeline.TableVMSrcV6: pipeline.ActionSrcPoolV6,
	pipeline.TableVMDstV4: pipeline.ActionDstPoolV4, pipeline.TableVMDstV6: pipeline.ActionDstPoolV6,
	pipeline.TableVPC: pipeline.ActionVPCPool,
}

func (b *ruleBody) entry() *p4v1.TableEntry {
	var match []*p4v1.FieldMatch
	switch b.table {
	case pipeline.TableFlowV4, pipeline.TableFlowV6:
		match = append(exacts(number(b.vip)), b.flowFields()...)
	case pipeline.TableVPC:
		match = exacts(number(b.vip), number(b.match.VNI))
	default:
		match = exacts(number(b.vip), number(b.match.VNI), pipeline.FromAddr(b.vmAddr()))
	}
	e := newEntry(b.table, match, ruleActions[b.table], number(b.pool))
	e.Priority = b.priority
	return e
}

func (b *ruleBody) vmAddr() netip.Addr {
	if b.match.Src.IsValid() {
		return b.match.Src.Addr()
	}
	return b.match.Dst.Addr()
}

// flowFields are the fields of a flow rule; don't-care fields are left out.
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
	for i, r := range []policies.PortRange{m.SrcPort, m.DstPort} {
		if !r.Any() {
			match = append(match, ranged(uint32(6+i), r))
		}
	}
	return match
}
