package pipeline

import (
	"fmt"
	"maps"
	"slices"

	p4configv1 "github.com/p4lang/p4runtime/go/p4/config/v1"
)

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
