package pipeline

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	p4configv1 "github.com/p4lang/p4runtime/go/p4/config/v1"
)

// Info is an index of a P4Info.
type Info struct {
	Tables map[uint32]*Table // by id
}

// Table is a table of a P4Info.
type Table struct {
	ID      uint32
	Name    string
	Fields  []Field // in order of id
	Actions map[uint32]*Action
	Size    int64
	Const   bool   // its entries are part of the program
	Counter uint32 // id of its direct counter, 0 if it has none
	Ordered bool   // it has ternary, range or optional fields, so entries have a priority
	Default uint32 // id of its constant default action, 0 if it has none
}

// Field is a match field.
type Field struct {
	ID    uint32
	Name  string
	Width int // bits
	Kind  p4configv1.MatchField_MatchType
}

// Action is an action that a table refers to.
type Action struct {
	ID          uint32
	Name        string
	Params      []Param // in order of id
	DefaultOnly bool
}

// Param is an action's parameter.
type Param struct {
	ID    uint32
	Name  string
	Width int // bits
}

// NewInfo indexes a P4Info.
func NewInfo(p *p4configv1.P4Info) *Info {
	actions := map[uint32]*Action{}
	for _, a := range p.GetActions() {
		action := &Action{ID: a.GetPreamble().GetId(), Name: a.GetPreamble().GetName()}
		for _, q := range a.GetParams() {
			action.Params = append(action.Params, Param{q.GetId(), q.GetName(), int(q.GetBitwidth())})
		}
		actions[action.ID] = action
	}
	direct := map[uint32]uint32{}
	for _, c := range p.GetDirectCounters() {
		direct[c.GetDirectTableId()] = c.GetPreamble().GetId()
	}
	info := &Info{Tables: map[uint32]*Table{}}
	for _, t := range p.GetTables() {
		table := &Table{
			ID: t.GetPreamble().GetId(), Name: t.GetPreamble().GetName(), Size: t.GetSize(),
			Const: t.GetIsConstTable(), Actions: map[uint32]*Action{}, Counter: direct[t.GetPreamble().GetId()],
			Default: t.GetConstDefaultActionId(),
		}
		for _, f := range t.GetMatchFields() {
			table.Fields = append(table.Fields, Field{f.GetId(), f.GetName(), int(f.GetBitwidth()), f.GetMatchType()})
			switch f.GetMatchType() {
			case p4configv1.MatchField_TERNARY, p4configv1.MatchField_RANGE, p4configv1.MatchField_OPTIONAL:
				table.Ordered = true
			}
		}
		for _, r := range t.GetActionRefs() {
			if a := actions[r.GetId()]; a != nil {
				ref := *a
				ref.DefaultOnly = r.GetScope() == p4configv1.ActionRef_DEFAULT_ONLY
				table.Actions[r.GetId()] = &ref
			}
		}
		info.Tables[table.ID] = table
	}
	return info
}

// Field returns the match field with that id, or nil.
func (t *Table) Field(id uint32) *Field {
	for i := range t.Fields {
		if t.Fields[i].ID == id {
			return &t.Fields[i]
		}
	}
	return nil
}

// Param returns the parameter with that id, or nil.
func (a *Action) Param(id uint32) *Param {
	for i := range a.Params {
		if a.Params[i].ID == id {
			return &a.Params[i]
		}
	}
	return nil
}

// Canonical returns the shortest form of a byte string: without leading zero bytes, but
// at least one byte. It shares memory with b.
func Canonical(b []byte) []byte {
	for len(b) > 1 && b[0] == 0 {
		b = b[1:]
	}
	if len(b) == 0 {
		return []byte{0}
	}
	return b
}

// IsCanonical tells whether a byte string is in its shortest form.
func IsCanonical(b []byte) bool { return len(b) == 1 || len(b) > 1 && b[0] != 0 }

// Fits tells whether the value of a byte string fits into width bits.
func Fits(b []byte, width int) bool {
	b = Canonical(b)
	bits := len(b) * 8
	for mask := byte(0x80); mask != 0 && b[0]&mask == 0; mask >>= 1 {
		bits--
	}
	return bits <= width
}

// Ones returns the canonical byte string of the largest number of width bits.
func Ones(width int) []byte {
	b := make([]byte, (width+7)/8)
	for i := range b {
		b[i] = 0xff
	}
	if odd := width % 8; odd != 0 {
		b[0] = 1<<odd - 1
	}
	return b
}

// FromUint returns the canonical byte string of a number.
func FromUint(v uint64) []byte {
	b := []byte{byte(v >> 56), byte(v >> 48), byte(v >> 40), byte(v >> 32), byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}
	return Canonical(b)
}

// ToUint returns the number in a byte string, of longer ones that in the last 8 bytes.
func ToUint(b []byte) uint64 {
	var v uint64
	for _, x := range b {
		v = v<<8 | uint64(x)
	}
	return v
}

// FromAddr returns the canonical byte string of an address.
func FromAddr(a netip.Addr) []byte { return Canonical(a.AsSlice()) }

// ToAddr returns the address of a family in a byte string, and the zero Addr if the
// string is too long.
func ToAddr(b []byte, v6 bool) netip.Addr {
	size := 4
	if v6 {
		size = 16
	}
	if len(b) > size {
		return netip.Addr{}
	}
	full := make([]byte, size)
	copy(full[size-len(b):], b)
	a, _ := netip.AddrFromSlice(full)
	return a
}

// PrefixMask returns the canonical mask of a prefix of an address.
func PrefixMask(bits int, v6 bool) []byte {
	size := 4
	if v6 {
		size = 16
	}
	m := make([]byte, size)
	for i := range bits {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return Canonical(m)
}

// Lacks lists what a pipeline lacks that gray's entries need, one line each, ordered by
// table id: tables, fields and actions must be as in gray's own P4Info. Sizes may
// differ, and there may be other tables.
func Lacks(have *Info) []string {
	var all []string
	for _, id := range slices.Sorted(maps.Keys(Index().Tables)) {
		want := Index().Tables[id]
		t := have.Tables[id]
		if t == nil {
			all = append(all, fmt.Sprintf("it has no table %s with id %#x", want.Name, id))
			continue
		}
		all = append(all, lacksOf(t, want)...)
	}
	return all
}

// lacksOf lists what a table lacks.
func lacksOf(t, want *Table) []string {
	var all []string
	lack := func(format string, args ...any) {
		all = append(all, fmt.Sprintf("table %s ", want.Name)+fmt.Sprintf(format, args...))
	}
	if t.Name != want.Name {
		lack("is named %s", t.Name)
	}
	for _, f := range want.Fields {
		switch has := t.Field(f.ID); {
		case has == nil:
			lack("has no field %s", f)
		case *has != f:
			lack("has the field %s, want %s", *has, f)
		}
	}
	for _, f := range t.Fields {
		if want.Field(f.ID) == nil {
			lack("has an extra field %s", f)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(want.Actions)) {
		a := want.Actions[id]
		switch has := t.Actions[id]; {
		case has == nil:
			lack("has no action %s with id %#x", a.Name, id)
		case has.DefaultOnly != a.DefaultOnly:
			lack("has the action %s in another scope", a.Name)
		case !slices.Equal(has.Params, a.Params):
			lack("has the action %s with parameters %v, want %v", a.Name, has.Params, a.Params)
		}
	}
	switch {
	case t.Default != want.Default:
		lack("has the constant default action %#x, want %#x", t.Default, want.Default)
	case t.Const != want.Const:
		lack("differs in whether its entries are constant")
	case t.Size < 1:
		lack("has no size")
	}
	return all
}

// String returns "name:width:kind (id n)".
func (f Field) String() string { return fmt.Sprintf("%s:%d:%s (id %d)", f.Name, f.Width, f.Kind, f.ID) }

// Lacks says in one line what a switch with a P4Info lacks to run this program; empty:
// nothing. Its tables may be larger.
func (p *Program) Lacks(have *p4configv1.P4Info) string {
	info := NewInfo(have)
	if all := Lacks(info); len(all) > 0 {
		return all[0]
	}
	for _, id := range slices.Sorted(maps.Keys(Index().Tables)) {
		if t, want := info.Tables[id], p.Index.Tables[id]; t.Size < want.Size {
			return fmt.Sprintf("table %s has room for %d entries, want %d", t.Name, t.Size, want.Size)
		}
	}
	return ""
}
