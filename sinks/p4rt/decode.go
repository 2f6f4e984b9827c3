package p4rt

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// decode turns an entry that was read into a body and its name. An entry that gray
// would not write becomes a *rawBody. If its match is one that gray writes, it gets the
// name of gray's own entry, so that it is modified instead of deleted. Pools and buckets
// are handled by reader. The block is scratch space.
func decode(e *p4v1.TableEntry, scratch *block) (body reconciler.Body, name string) {
	if own := decodeOwn(e); own != nil && sameEntry(own.encode(scratch), e) { // almost always
		return own, own.name()
	}
	n := normal(e)
	if own := decodeOwn(n); own != nil {
		written := own.encode(scratch)
		if sameEntry(written, n) {
			return own, own.name()
		}
		if sameKey(written, n) {
			return &rawBody{text: rawText(n), proto: e}, own.name()
		}
	}
	return &rawBody{text: rawText(n), proto: e}, rawName(n)
}

// decodeOwn reads an entry as if gray had written it, without checks; nil for a table
// that gray does not write to.
func decodeOwn(e *p4v1.TableEntry) namedBody {
	f := readFields(e)
	switch id := e.GetTableId(); id {
	case pipeline.TableBackend:
		b := &backendBody{id: uint16(f.exact(1)), port: uint32(f.param(3))}
		copyMAC(&b.dstMAC, f.params[1])
		copyMAC(&b.srcMAC, f.params[2])
		if a := e.GetAction().GetAction().GetActionId(); a != pipeline.ActionForwardMAC {
			b.address = pipeline.ToAddr(f.params[4], a == pipeline.ActionForwardIPv6)
		}
		return b
	case pipeline.TableHashProfile:
		b := &profileBody{profile: uint8(f.exact(1))}
		for i := range b.masks {
			b.masks[i] = uint32(f.param(i + 1))
		}
		return b
	case pipeline.TableVIPv4, pipeline.TableVIPv6:
		b := &vipBody{
			address: pipeline.ToAddr(f.match[1].GetExact().GetValue(), id == pipeline.TableVIPv6),
			vip:     uint8(f.param(1)), pool: uint8(f.param(2)), profile: uint8(f.param(3)),
		}
		return b
	default:
		if _, isRule := ruleActions[id]; isRule {
			return decodeRule(e, f)
		}
	}
	return nil
}

// namedBody is a body that is one of gray's entries.
type namedBody interface {
	entryBody
	name() string // in the key; it follows from the match
}

// sameEntry tells whether two entries have the same match, priority and action,
// with fields and parameters in the same order.
func sameEntry(a, b *p4v1.TableEntry) bool {
	x, y := a.GetAction().GetAction(), b.GetAction().GetAction()
	return sameKey(a, b) && x != nil && y != nil && x.GetActionId() == y.GetActionId() &&
		slices.EqualFunc(x.GetParams(), y.GetParams(), func(p, q *p4v1.Action_Param) bool {
			return p.GetParamId() == q.GetParamId() && bytes.Equal(p.GetValue(), q.GetValue())
		})
}

// sameKey tells whether two entries have the same match, with fields in the same
// order, and priority.
func sameKey(a, b *p4v1.TableEntry) bool {
	return a.GetTableId() == b.GetTableId() && a.GetPriority() == b.GetPriority() && slices.EqualFunc(a.GetMatch(), b.GetMatch(), sameField)
}

func sameField(a, b *p4v1.FieldMatch) bool {
	if a.GetFieldId() != b.GetFieldId() {
		return false
	}
	switch x := a.GetFieldMatchType().(type) {
	case *p4v1.FieldMatch_Exact_:
		y, ok := b.GetFieldMatchType().(*p4v1.FieldMatch_Exact_)
		return ok && bytes.Equal(x.Exact.GetValue(), y.Exact.GetValue())
	case *p4v1.FieldMatch_Ternary_:
		y, ok := b.GetFieldMatchType().(*p4v1.FieldMatch_Ternary_)
		return ok && bytes.Equal(x.Ternary.GetValue(), y.Ternary.GetValue()) && bytes.Equal(x.Ternary.GetMask(), y.Ternary.GetMask())
	case *p4v1.FieldMatch_Range_:
		y, ok := b.GetFieldMatchType().(*p4v1.FieldMatch_Range_)
		return ok && bytes.Equal(x.Range.GetLow(), y.Range.GetLow()) && bytes.Equal(x.Range.GetHigh(), y.Range.GetHigh())
	}
	return false // gray writes no others
}

// normal returns the parts of an entry that gray compares, in the form in which gray
// writes them: some switches pad values and return don't-care fields.
func normal(e *p4v1.TableEntry) *p4v1.TableEntry {
	n := &p4v1.TableEntry{TableId: e.GetTableId(), Priority: e.GetPriority(), Action: e.GetAction()}
	for _, m := range e.GetMatch() {
		if m := normalField(e.GetTableId(), m); m != nil {
			n.Match = append(n.Match, m)
		}
	}
	sortFields(n.Match)
	if a := e.GetAction().GetAction(); a != nil {
		sorted := &p4v1.Action{ActionId: a.GetActionId()}
		for _, p := range a.GetParams() {
			sorted.Params = append(sorted.Params, &p4v1.Action_Param{ParamId: p.GetParamId(), Value: pipeline.Canonical(p.GetValue())})
		}
		sortParams(sorted.Params)
		n.Action = &p4v1.TableAction{Type: &p4v1.TableAction_Action{Action: sorted}}
	}
	return n
}

// normalField returns a field in its shortest form, nil if it matches anything.
func normalField(table uint32, m *p4v1.FieldMatch) *p4v1.FieldMatch {
	id := m.GetFieldId()
	switch v := m.GetFieldMatchType().(type) {
	case *p4v1.FieldMatch_Exact_:
		return &p4v1.FieldMatch{FieldId: id, FieldMatchType: &p4v1.FieldMatch_Exact_{
			Exact: &p4v1.FieldMatch_Exact{Value: pipeline.Canonical(v.Exact.GetValue())},
		}}
	case *p4v1.FieldMatch_Ternary_:
		value, mask := pipeline.Canonical(v.Ternary.GetValue()), pipeline.Canonical(v.Ternary.GetMask())
		if len(mask) == 1 && mask[0] == 0 && len(value) == 1 && value[0] == 0 {
			return nil
		}
		return ternary(id, value, mask)
	case *p4v1.FieldMatch_Range_:
		low, high := pipeline.Canonical(v.Range.GetLow()), pipeline.Canonical(v.Range.GetHigh())
		if t := pipeline.Index().Tables[table]; t != nil && t.Field(id) != nil {
			if len(low) == 1 && low[0] == 0 && string(high) == string(pipeline.Ones(t.Field(id).Width)) {
				return nil
			}
		}
		return &p4v1.FieldMatch{FieldId: id, FieldMatchType: &p4v1.FieldMatch_Range_{Range: &p4v1.FieldMatch_Range{Low: low, High: high}}}
	}
	return m
}

// rawName names an entry by its match.
func rawName(e *p4v1.TableEntry) string {
	key := &p4v1.TableEntry{TableId: e.GetTableId(), Priority: e.GetPriority(), Match: e.GetMatch()}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(key)
	if err != nil {
		return "unreadable"
	}
	return "raw=" + hex.EncodeToString(b)
}

// rawText shows an entry on one line. It does not use the protobuf library, whose text
// differs from build to build on purpose.
func rawText(e *p4v1.TableEntry) string {
	text := "foreign entry"
	for _, m := range e.GetMatch() {
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

func decodeRule(e *p4v1.TableEntry, f entryFields) *ruleBody {
	id := e.GetTableId()
	b := &ruleBody{
		table: id, vip: uint8(f.exact(1)), pool: uint8(f.param(1)), priority: e.GetPriority(),
		match: packets.Match{Protocol: -1, SrcPort: packets.PortRange{Hi: 65535}, DstPort: packets.PortRange{Hi: 65535}},
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

func decodeFlow(m *packets.Match, f entryFields, v6 bool) {
	m.AnyVNI = f.match[2] == nil
	m.VNI = uint32(pipeline.ToUint(f.match[2].GetTernary().GetValue()))
	for i, p := range []*netip.Prefix{&m.Src, &m.Dst} {
		if t := f.match[3+i].GetTernary(); t != nil {
			a := pipeline.ToAddr(t.GetValue(), v6)
			*p = netip.PrefixFrom(a, prefixLen(t.GetMask(), a.BitLen()))
		}
	}
	if t := f.match[5].GetTernary(); t != nil {
		m.Protocol = int16(uint8(pipeline.ToUint(t.GetValue())))
	}
	for i, r := range []*packets.PortRange{&m.SrcPort, &m.DstPort} {
		if x := f.match[6+i].GetRange(); x != nil {
			*r = packets.PortRange{Lo: uint16(pipeline.ToUint(x.GetLow())), Hi: uint16(pipeline.ToUint(x.GetHigh()))}
		}
	}
}

// entryFields has an entry's match fields and action parameters by id.
type entryFields struct {
	match  [8]*p4v1.FieldMatch
	params [8][]byte
}

func readFields(e *p4v1.TableEntry) entryFields {
	var f entryFields
	for _, m := range e.GetMatch() {
		if m.GetFieldId() < 8 {
			f.match[m.GetFieldId()] = m
		}
	}
	for _, p := range e.GetAction().GetAction().GetParams() {
		if p.GetParamId() < 8 {
			f.params[p.GetParamId()] = p.GetValue()
		}
	}
	return f
}

func (f *entryFields) exact(id int) uint64 { return pipeline.ToUint(f.match[id].GetExact().GetValue()) }
func (f *entryFields) param(id int) uint64 { return pipeline.ToUint(f.params[id]) }

func copyMAC(to *[6]byte, b []byte) {
	if len(b) <= 6 {
		copy(to[6-len(b):], b)
	}
}

func itoa(v uint16) string { return strconv.Itoa(int(v)) }

// prefixLen is the length of the prefix that a mask of a width in bits stands for.
func prefixLen(mask []byte, width int) int {
	if len(mask)*8 < width { // its first bits are zero
		return 0
	}
	ones := 0
	for _, b := range mask {
		n := bits.LeadingZeros8(^b)
		ones += n
		if n < 8 {
			break
		}
	}
	return ones
}

func sortFields(m []*p4v1.FieldMatch) {
	slices.SortFunc(m, func(a, b *p4v1.FieldMatch) int { return cmp.Compare(a.GetFieldId(), b.GetFieldId()) })
}

func sortParams(p []*p4v1.Action_Param) {
	slices.SortFunc(p, func(a, b *p4v1.Action_Param) int { return cmp.Compare(a.GetParamId(), b.GetParamId()) })
}
