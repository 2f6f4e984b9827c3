package softswitch

import (
	"encoding/binary"
	"sync/atomic"

	p4configv1 "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// table is the entries of one table by their key.
type table struct {
	info    *pipeline.Table
	entries map[string]*entry
}

// entry is one table entry. The protobuf is immutable: a modification replaces
// the entry's pointer to it.
type entry struct {
	proto   *p4v1.TableEntry
	packets atomic.Uint64
	bytes   atomic.Uint64
}

func (e *entry) count(size int) {
	e.packets.Add(1)
	e.bytes.Add(uint64(size))
}

// checkEntry holds an entry against the P4Info and returns its key. The codes
// are those of the P4Runtime specification.
func checkEntry(t *pipeline.Table, e *p4v1.TableEntry, withAction bool) (string, error) {
	if e.GetMeterConfig() != nil || e.GetTimeSinceLastHit() != nil || e.GetIdleTimeoutNs() != 0 {
		return "", status.Errorf(codes.InvalidArgument, "table %s has no meters and no idle timeout", t.Name)
	}
	key, err := checkMatch(t, e.GetMatch())
	if err != nil {
		return "", err
	}
	switch {
	case t.Ordered && e.GetPriority() <= 0:
		return "", status.Errorf(codes.InvalidArgument, "table %s needs a priority above 0", t.Name)
	case !t.Ordered && e.GetPriority() != 0:
		return "", status.Errorf(codes.InvalidArgument, "table %s has exact fields only and takes no priority", t.Name)
	}
	if withAction {
		if err := checkAction(t, e.GetAction()); err != nil {
			return "", err
		}
	}
	return string(binary.BigEndian.AppendUint32(key, uint32(e.GetPriority()))), nil
}

// checkMatch checks the match fields and encodes them as a key: equal matches
// give equal keys in whatever order the fields come.
func checkMatch(t *pipeline.Table, match []*p4v1.FieldMatch) ([]byte, error) {
	given := make(map[uint32]*p4v1.FieldMatch, len(match))
	for _, m := range match {
		if t.Field(m.GetFieldId()) == nil {
			return nil, status.Errorf(codes.InvalidArgument, "table %s has no match field %d", t.Name, m.GetFieldId())
		}
		if given[m.GetFieldId()] != nil {
			return nil, status.Errorf(codes.InvalidArgument, "match field %d stands twice", m.GetFieldId())
		}
		given[m.GetFieldId()] = m
	}
	var key []byte
	for _, f := range t.Fields {
		m := given[f.ID]
		if m == nil {
			if f.Kind == p4configv1.MatchField_EXACT {
				return nil, status.Errorf(codes.InvalidArgument, "table %s wants exact field %s", t.Name, f.Name)
			}
			key = append(key, 0xff)
			continue
		}
		parts, err := checkField(f, m)
		if err != nil {
			return nil, err
		}
		for _, p := range parts {
			key = append(append(key, byte(len(p))), p...)
		}
	}
	return key, nil
}

// checkField checks one field of a match and returns the byte strings in it.
func checkField(f pipeline.Field, m *p4v1.FieldMatch) ([][]byte, error) {
	switch v := m.GetFieldMatchType().(type) {
	case *p4v1.FieldMatch_Exact_:
		if f.Kind == p4configv1.MatchField_EXACT {
			return values(f, v.Exact.GetValue())
		}
	case *p4v1.FieldMatch_Ternary_:
		if f.Kind == p4configv1.MatchField_TERNARY {
			return checkTernary(f, v.Ternary)
		}
	case *p4v1.FieldMatch_Range_:
		if f.Kind == p4configv1.MatchField_RANGE {
			return checkRange(f, v.Range)
		}
	}
	return nil, status.Errorf(codes.InvalidArgument, "match field %s wants %s", f.Name, f.Kind)
}

func checkTernary(f pipeline.Field, v *p4v1.FieldMatch_Ternary) ([][]byte, error) {
	parts, err := values(f, v.GetValue(), v.GetMask())
	if err != nil {
		return nil, err
	}
	value, mask := parts[0], parts[1]
	if len(mask) == 1 && mask[0] == 0 {
		return nil, status.Errorf(codes.InvalidArgument, "match field %s has an all-zero mask; leave a don't-care field out", f.Name)
	}
	if len(value) > len(mask) {
		return nil, status.Errorf(codes.InvalidArgument, "match field %s has value bits outside its mask", f.Name)
	}
	tail := mask[len(mask)-len(value):]
	for i := range value {
		if value[i]&^tail[i] != 0 {
			return nil, status.Errorf(codes.InvalidArgument, "match field %s has value bits outside its mask", f.Name)
		}
	}
	return parts, nil
}

func checkRange(f pipeline.Field, v *p4v1.FieldMatch_Range) ([][]byte, error) {
	parts, err := values(f, v.GetLow(), v.GetHigh())
	if err != nil {
		return nil, err
	}
	low, high := pipeline.ToUint(parts[0]), pipeline.ToUint(parts[1])
	switch {
	case low > high:
		return nil, status.Errorf(codes.InvalidArgument, "match field %s has an empty range", f.Name)
	case low == 0 && high == 1<<f.Width-1:
		return nil, status.Errorf(codes.InvalidArgument, "match field %s has the whole range; leave a don't-care field out", f.Name)
	}
	return parts, nil
}

// values checks byte strings: canonical, and no wider than the field.
func values(f pipeline.Field, all ...[]byte) ([][]byte, error) {
	for _, b := range all {
		if err := checkBytes(b, f.Width, "match field "+f.Name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func checkBytes(b []byte, width int, what string) error {
	switch {
	case len(b) == 0:
		return status.Errorf(codes.InvalidArgument, "%s has an empty value", what)
	case !pipeline.IsCanonical(b):
		return status.Errorf(codes.InvalidArgument, "%s has the value %x, which is not in its shortest form", what, b)
	case !pipeline.Fits(b, width):
		return status.Errorf(codes.OutOfRange, "%s has the value %x, which is wider than %d bits", what, b, width)
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
	given := map[uint32][]byte{}
	for _, p := range ta.GetAction().GetParams() {
		if _, twice := given[p.GetParamId()]; twice {
			return status.Errorf(codes.InvalidArgument, "parameter %d of action %s stands twice", p.GetParamId(), a.Name)
		}
		given[p.GetParamId()] = p.GetValue()
	}
	for _, p := range a.Params {
		value, ok := given[p.ID]
		if !ok {
			return status.Errorf(codes.InvalidArgument, "action %s wants parameter %s", a.Name, p.Name)
		}
		if err := checkBytes(value, p.Width, "parameter "+p.Name); err != nil {
			return err
		}
		delete(given, p.ID)
	}
	for id := range given {
		return status.Errorf(codes.InvalidArgument, "action %s has no parameter %d", a.Name, id)
	}
	return nil
}

// update carries out one update. The caller holds the lock.
func (s *Switch) update(u *p4v1.Update) error {
	e := u.GetEntity().GetTableEntry()
	if e == nil {
		return status.Errorf(codes.Unimplemented, "only table entries can be written")
	}
	t := s.tables[e.GetTableId()]
	switch {
	case t == nil:
		return status.Errorf(codes.NotFound, "there is no table %#x", e.GetTableId())
	case t.info.Const:
		return status.Errorf(codes.PermissionDenied, "the entries of table %s are constant", t.info.Name)
	case e.GetIsDefaultAction():
		return status.Errorf(codes.PermissionDenied, "the default action of table %s is constant", t.info.Name)
	}
	key, err := checkEntry(t.info, e, u.GetType() != p4v1.Update_DELETE)
	if err != nil {
		return err
	}
	have := t.entries[key]
	switch u.GetType() {
	case p4v1.Update_INSERT:
		if have != nil {
			return status.Errorf(codes.AlreadyExists, "the entry is in table %s already", t.info.Name)
		}
		if int64(len(t.entries)) >= t.info.Size {
			return status.Errorf(codes.ResourceExhausted, "table %s is full with %d entries", t.info.Name, t.info.Size)
		}
		have = &entry{}
		t.entries[key] = have
	case p4v1.Update_MODIFY, p4v1.Update_DELETE:
		if have == nil {
			return status.Errorf(codes.NotFound, "there is no such entry in table %s", t.info.Name)
		}
	default:
		return status.Errorf(codes.InvalidArgument, "the update has no type")
	}
	s.stats.writes.Add(1)
	if u.GetType() == p4v1.Update_DELETE {
		delete(t.entries, key)
		s.plane.remove(have)
		return nil
	}
	if have.proto != nil {
		s.plane.remove(have)
	}
	have.proto = proto.CloneOf(e)
	have.proto.CounterData = nil
	s.plane.insert(have)
	return nil
}
