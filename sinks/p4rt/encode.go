package p4rt

import (
	"encoding/hex"
	"fmt"
	"net/netip"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// newEntry makes a table entry with one action.
func newEntry(table uint32, match []*p4v1.FieldMatch, action uint32, params ...[]byte) *p4v1.TableEntry {
	a := &p4v1.Action{ActionId: action}
	for i, p := range params {
		a.Params = append(a.Params, &p4v1.Action_Param{ParamId: uint32(i + 1), Value: p})
	}
	return &p4v1.TableEntry{
		TableId: table, Match: match,
		Action: &p4v1.TableAction{Type: &p4v1.TableAction_Action{Action: a}},
	}
}

func exact(id uint32, value []byte) *p4v1.FieldMatch {
	return &p4v1.FieldMatch{FieldId: id, FieldMatchType: &p4v1.FieldMatch_Exact_{Exact: &p4v1.FieldMatch_Exact{Value: value}}}
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
	match := []*p4v1.FieldMatch{exact(1, number(b.id))}
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
	return newEntry(pipeline.TableHashProfile, []*p4v1.FieldMatch{exact(1, number(b.profile))}, pipeline.ActionSetMasks, params...)
}

func (b *vipBody) entry() *p4v1.TableEntry {
	table := pipeline.TableVIPv4
	if b.address.Is6() {
		table = pipeline.TableVIPv6
	}
	match := []*p4v1.FieldMatch{exact(1, pipeline.FromAddr(b.address))}
	return newEntry(table, match, pipeline.ActionSetVIP, number(b.vip), number(b.pool), number(b.profile))
}

func (b *poolBody) entry() *p4v1.TableEntry {
	match := []*p4v1.FieldMatch{exact(1, number(b.pool))}
	return newEntry(pipeline.TablePool, match, pipeline.ActionSetGeneration, number(b.generation), number(b.mask))
}

func bucketEntry(k bucketKey, backend uint16) *p4v1.TableEntry {
	match := []*p4v1.FieldMatch{exact(1, number(k.pool)), exact(2, number(k.generation)), exact(3, number(k.hash))}
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
	match := []*p4v1.FieldMatch{exact(1, number(b.vip))}
	switch b.table {
	case pipeline.TableFlowV4, pipeline.TableFlowV6:
		match = append(match, b.flowFields()...)
	default:
		match = append(match, exact(2, number(b.match.VNI)))
		if b.table != pipeline.TableVPC {
			match = append(match, exact(3, pipeline.FromAddr(b.vmAddr())))
		}
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

// decode reads an entry back into a body; a *rawBody where gray would not have
// written it. Buckets and pool entries are gathered elsewhere.
func decode(e *p4v1.TableEntry) (body entryBody, name string) {
	f := readFields(e)
	switch id := e.GetTableId(); id {
	case pipeline.TableBackend:
		b := &backendBody{id: uint16(f.exact(1)), port: uint32(f.param(3))}
		copyMAC(&b.dstMAC, f.params[1])
		copyMAC(&b.srcMAC, f.params[2])
		if a := e.GetAction().GetAction().GetActionId(); a != pipeline.ActionForwardMAC {
			b.address = pipeline.ToAddr(f.params[4], a == pipeline.ActionForwardIPv6)
		}
		body, name = b, "backend="+itoa(b.id)
	case pipeline.TableHashProfile:
		b := &profileBody{profile: uint8(f.exact(1))}
		for i := range b.masks {
			b.masks[i] = uint32(f.param(i + 1))
		}
		body, name = b, "profile="+itoa(uint16(b.profile))
	case pipeline.TableVIPv4, pipeline.TableVIPv6:
		b := &vipBody{
			address: pipeline.ToAddr(f.match[1].GetExact().GetValue(), id == pipeline.TableVIPv6),
			vip:     uint8(f.param(1)), pool: uint8(f.param(2)), profile: uint8(f.param(3)),
		}
		body, name = b, "dst="+b.address.String()
	default:
		if _, isRule := ruleActions[id]; isRule {
			b := decodeRule(e, f)
			body, name = b, b.name()
		}
	}
	// Whatever does not come out as it went in is none of gray's.
	if body == nil || !proto.Equal(body.entry(), normal(e)) {
		raw := rawName(e)
		return nil, raw
	}
	return body, name
}

// entryBody is a body that is one table entry.
type entryBody interface{ entry() *p4v1.TableEntry }

// normal is an entry with what gray compares, in the order in which it writes.
func normal(e *p4v1.TableEntry) *p4v1.TableEntry {
	n := &p4v1.TableEntry{TableId: e.GetTableId(), Priority: e.GetPriority(), Action: e.GetAction()}
	n.Match = append(n.Match, e.GetMatch()...)
	sortFields(n.Match)
	if a := e.GetAction().GetAction(); a != nil {
		sorted := &p4v1.Action{ActionId: a.GetActionId(), Params: append([]*p4v1.Action_Param(nil), a.GetParams()...)}
		sortParams(sorted.Params)
		n.Action = &p4v1.TableAction{Type: &p4v1.TableAction_Action{Action: sorted}}
	}
	return n
}

// rawName names an entry by its match.
func rawName(e *p4v1.TableEntry) string {
	key := &p4v1.TableEntry{TableId: e.GetTableId(), Priority: e.GetPriority(), Match: append([]*p4v1.FieldMatch(nil), e.GetMatch()...)}
	sortFields(key.Match)
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(key)
	if err != nil {
		return "unreadable"
	}
	return "raw=" + hex.EncodeToString(b)
}

// rawText shows an entry on one line. It is made here and not by the protobuf
// library, whose text differs from build to build on purpose.
func rawText(e *p4v1.TableEntry) string {
	text := "foreign entry"
	for _, m := range normal(e).GetMatch() {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err == nil {
			text += fmt.Sprintf(" field %d %x", m.GetFieldId(), b)
		}
	}
	if e.GetPriority() != 0 {
		text += fmt.Sprintf(" priority %d", e.GetPriority())
	}
	text += fmt.Sprintf(" -> action %#x", e.GetAction().GetAction().GetActionId())
	for _, p := range e.GetAction().GetAction().GetParams() {
		text += fmt.Sprintf(" %x", p.GetValue())
	}
	return text
}

func decodeRule(e *p4v1.TableEntry, f fieldsOf) *ruleBody {
	id := e.GetTableId()
	b := &ruleBody{
		table: id, vip: uint8(f.exact(1)), pool: uint8(f.param(1)), priority: e.GetPriority(),
		match: policies.Match{Protocol: -1, SrcPort: policies.PortRange{Hi: 65535}, DstPort: policies.PortRange{Hi: 65535}},
	}
	v6 := id == pipeline.TableFlowV6 || id == pipeline.TableVMSrcV6 || id == pipeline.TableVMDstV6
	switch id {
	case pipeline.TableFlowV4, pipeline.TableFlowV6:
		decodeFlow(&b.match, f, v6)
		return b
	case pipeline.TableVMSrcV4, pipeline.TableVMSrcV6:
		a := pipeline.ToAddr(f.match[3].GetExact().GetValue(), v6)
		b.match.Src = netip.PrefixFrom(a, a.BitLen())
	case pipeline.TableVMDstV4, pipeline.TableVMDstV6:
		a := pipeline.ToAddr(f.match[3].GetExact().GetValue(), v6)
		b.match.Dst = netip.PrefixFrom(a, a.BitLen())
	}
	b.match.VNI = uint32(f.exact(2))
	return b
}

func decodeFlow(m *policies.Match, f fieldsOf, v6 bool) {
	m.AnyVNI = f.match[2] == nil
	m.VNI = uint32(pipeline.ToUint(f.match[2].GetTernary().GetValue()))
	for i, p := range []*netip.Prefix{&m.Src, &m.Dst} {
		if t := f.match[3+i].GetTernary(); t != nil {
			a := pipeline.ToAddr(t.GetValue(), v6)
			*p = netip.PrefixFrom(a, onesOf(t.GetMask(), a.BitLen()))
		}
	}
	if t := f.match[5].GetTernary(); t != nil {
		m.Protocol = int16(uint8(pipeline.ToUint(t.GetValue())))
	}
	for i, r := range []*policies.PortRange{&m.SrcPort, &m.DstPort} {
		if x := f.match[6+i].GetRange(); x != nil {
			*r = policies.PortRange{Lo: uint16(pipeline.ToUint(x.GetLow())), Hi: uint16(pipeline.ToUint(x.GetHigh()))}
		}
	}
}
