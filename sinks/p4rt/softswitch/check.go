package softswitch

import (
	"bytes"
	"cmp"

	p4configv1 "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// The checks that the P4Runtime specification asks for, with its codes. For a value of
// a field or parameter that is empty or too wide it names two codes; OUT_OF_RANGE is
// that of its section on byte strings.

// checkWritable refuses entries that cannot be written whatever their content is.
func checkWritable(t *pipeline.Table, kind p4v1.Update_Type, e *p4v1.TableEntry) error {
	switch {
	case e.GetIsConst():
		return status.Errorf(codes.InvalidArgument, "only the switch may set is_const")
	case e.GetIsDefaultAction() && kind != p4v1.Update_MODIFY:
		return status.Errorf(codes.InvalidArgument, "the default entry of table %s can only be modified", t.Name)
	case e.GetIsDefaultAction() && (len(e.GetMatch()) > 0 || e.GetPriority() != 0):
		return status.Errorf(codes.InvalidArgument, "the default entry of table %s has no match and no priority", t.Name)
	case e.GetIsDefaultAction():
		return status.Errorf(codes.PermissionDenied, "the default action of table %s is constant", t.Name)
	case t.Const:
		return status.Errorf(codes.PermissionDenied, "the entries of table %s are constant", t.Name)
	case len(t.Fields) == 0:
		return status.Errorf(codes.InvalidArgument, "table %s has no key, so it can have no entries", t.Name)
	}
	return nil
}

// checkKey checks match and priority against the P4Info and returns the key that they
// make.
func checkKey(t *pipeline.Table, e *p4v1.TableEntry) ([]byte, error) {
	match, err := checkMatch(t, e.GetMatch())
	switch {
	case err != nil:
		return nil, err
	case t.Ordered && e.GetPriority() <= 0:
		return nil, status.Errorf(codes.InvalidArgument, "table %s needs a priority above 0", t.Name)
	case !t.Ordered && e.GetPriority() != 0:
		return nil, status.Errorf(codes.InvalidArgument, "table %s has only exact fields and takes no priority", t.Name)
	}
	return withPriority(match, e), nil
}

// checkContent checks the rest of an entry against the P4Info. A MODIFY may leave out
// the action.
func checkContent(t *pipeline.Table, kind p4v1.Update_Type, e *p4v1.TableEntry) error {
	switch {
	case e.GetMeterConfig() != nil || e.GetMeterCounterData() != nil:
		return status.Errorf(codes.InvalidArgument, "table %s has no meter", t.Name)
	case e.GetTimeSinceLastHit() != nil || e.GetIdleTimeoutNs() != 0:
		return status.Errorf(codes.InvalidArgument, "table %s has no idle timeout", t.Name)
	case e.GetCounterData() != nil && t.Counter == 0:
		return status.Errorf(codes.InvalidArgument, "table %s has no direct counter", t.Name)
	case e.GetAction() == nil && kind == p4v1.Update_MODIFY:
		return nil
	}
	return checkAction(t, e.GetAction())
}

// checkMatch checks the match fields and encodes them as the first part of a key. The
// order of the fields does not matter.
func checkMatch(t *pipeline.Table, match []*p4v1.FieldMatch) ([]byte, error) {
	for i, m := range match {
		if t.Field(m.GetFieldId()) == nil {
			return nil, status.Errorf(codes.InvalidArgument, "table %s has no match field %d", t.Name, m.GetFieldId())
		}
		for _, other := range match[:i] {
			if other.GetFieldId() == m.GetFieldId() {
				return nil, status.Errorf(codes.InvalidArgument, "match field %d is given twice", m.GetFieldId())
			}
		}
	}
	key := make([]byte, 0, 64)
	for i := range t.Fields {
		f := &t.Fields[i]
		var m *p4v1.FieldMatch
		for _, x := range match {
			if x.GetFieldId() == f.ID {
				m = x
			}
		}
		if m == nil {
			if f.Kind == p4configv1.MatchField_EXACT {
				return nil, status.Errorf(codes.InvalidArgument, "table %s needs exact field %s", t.Name, f.Name)
			}
			key = append(key, 0xff)
			continue
		}
		a, b, err := checkField(f, m)
		if err != nil {
			return nil, err
		}
		key = append(append(key, byte(len(a))), a...)
		if f.Kind != p4configv1.MatchField_EXACT {
			key = append(append(key, byte(len(b))), b...)
		}
	}
	return key, nil
}

// checkField checks one field of a match and returns its byte strings: the value, or
// value and mask, or both ends of a range.
func checkField(f *pipeline.Field, m *p4v1.FieldMatch) (a, b []byte, err error) {
	switch v := m.GetFieldMatchType().(type) {
	case *p4v1.FieldMatch_Exact_:
		if f.Kind == p4configv1.MatchField_EXACT {
			return v.Exact.GetValue(), nil, checkBytes(v.Exact.GetValue(), f.Width, "match field", f.Name)
		}
	case *p4v1.FieldMatch_Ternary_:
		if f.Kind == p4configv1.MatchField_TERNARY {
			return v.Ternary.GetValue(), v.Ternary.GetMask(), checkTernary(f, v.Ternary.GetValue(), v.Ternary.GetMask())
		}
	case *p4v1.FieldMatch_Range_:
		if f.Kind == p4configv1.MatchField_RANGE {
			return v.Range.GetLow(), v.Range.GetHigh(), checkRange(f, v.Range.GetLow(), v.Range.GetHigh())
		}
	}
	return nil, nil, status.Errorf(codes.InvalidArgument, "match field %s wants %s", f.Name, f.Kind)
}

func checkTernary(f *pipeline.Field, value, mask []byte) error {
	if err := cmp.Or(checkBytes(value, f.Width, "match field", f.Name), checkBytes(mask, f.Width, "match field", f.Name)); err != nil {
		return err
	}
	if len(mask) == 1 && mask[0] == 0 {
		return status.Errorf(codes.InvalidArgument, "match field %s has an all-zero mask; leave out a don't-care field", f.Name)
	}
	outside := len(value) > len(mask)
	for i := range value {
		outside = outside || value[i]&^mask[len(mask)-len(value)+i] != 0
	}
	if outside {
		return status.Errorf(codes.InvalidArgument, "match field %s has value bits outside its mask", f.Name)
	}
	return nil
}

func checkRange(f *pipeline.Field, low, high []byte) error {
	if err := cmp.Or(checkBytes(low, f.Width, "match field", f.Name), checkBytes(high, f.Width, "match field", f.Name)); err != nil {
		return err
	}
	switch {
	case cmp.Or(cmp.Compare(len(low), len(high)), bytes.Compare(low, high)) > 0:
		return status.Errorf(codes.InvalidArgument, "match field %s has an empty range", f.Name)
	case len(low) == 1 && low[0] == 0 && bytes.Equal(high, pipeline.Ones(f.Width)):
		return status.Errorf(codes.InvalidArgument, "match field %s has the whole range; leave out a don't-care field", f.Name)
	}
	return nil
}

// checkBytes checks the value of a field or parameter.
func checkBytes(b []byte, width int, what, name string) error {
	switch {
	case len(b) == 0:
		return status.Errorf(codes.OutOfRange, "%s %s has an empty value", what, name)
	case !pipeline.Fits(b, width):
		return status.Errorf(codes.OutOfRange, "%s %s has the value %x, which is wider than %d bits", what, name, b, width)
	case !pipeline.IsCanonical(b):
		return status.Errorf(codes.InvalidArgument, "%s %s has the value %x, which is not in its shortest form", what, name, b)
	}
	return nil
}

func checkAction(t *pipeline.Table, ta *p4v1.TableAction) error {
	if ta.GetAction() == nil {
		return status.Errorf(codes.InvalidArgument, "an entry of table %s needs a single action", t.Name)
	}
	a := t.Actions[ta.GetAction().GetActionId()]
	if a == nil {
		return status.Errorf(codes.InvalidArgument, "table %s has no action %#x", t.Name, ta.GetAction().GetActionId())
	}
	if a.DefaultOnly {
		return status.Errorf(codes.PermissionDenied, "action %s is for the default entry of table %s only", a.Name, t.Name)
	}
	given := ta.GetAction().GetParams()
	for i, p := range given {
		if a.Param(p.GetParamId()) == nil {
			return status.Errorf(codes.InvalidArgument, "action %s has no parameter %d", a.Name, p.GetParamId())
		}
		for _, other := range given[:i] {
			if other.GetParamId() == p.GetParamId() {
				return status.Errorf(codes.InvalidArgument, "parameter %d of action %s is given twice", p.GetParamId(), a.Name)
			}
		}
	}
	for i := range a.Params {
		p := &a.Params[i]
		var value []byte
		missing := true
		for _, x := range given {
			if x.GetParamId() == p.ID {
				value, missing = x.GetValue(), false
			}
		}
		if missing {
			return status.Errorf(codes.InvalidArgument, "action %s needs parameter %s", a.Name, p.Name)
		}
		if err := checkBytes(value, p.Width, "parameter", p.Name); err != nil {
			return err
		}
	}
	return nil
}
