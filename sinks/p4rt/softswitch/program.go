package softswitch

import (
	"bytes"
	"encoding/binary"
	"strings"
	"sync/atomic"

	p4configv1 "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// program is a pipeline with its tables, and their entries as packets see them.
type program struct {
	config *p4v1.ForwardingPipelineConfig
	tables map[uint32]*table
	plane  *plane
}

func newProgram(config *p4v1.ForwardingPipelineConfig) *program {
	p := &program{config: config, tables: map[uint32]*table{}, plane: newPlane(isGray(config.GetP4Info()))}
	for id, t := range pipeline.NewInfo(config.GetP4Info()).Tables {
		p.tables[id] = &table{info: t, entries: map[string]*entry{}}
	}
	return p
}

// isGray tells whether the packet path can run a P4Info: it must be gray's, with tables
// of any size and no others.
func isGray(p *p4configv1.P4Info) bool {
	return len(p.GetTables()) == len(pipeline.Index().Tables) && len(pipeline.Lacks(pipeline.NewInfo(p))) == 0
}

// table returns the table with an id.
func (p *program) table(id uint32) (*table, error) {
	t := p.tables[id]
	if t == nil {
		return nil, status.Errorf(codes.InvalidArgument, "there is no table %#x", id)
	}
	return t, nil
}

// update makes one update.
func (p *program) update(u *p4v1.Update) error {
	switch u.GetType() {
	case p4v1.Update_INSERT, p4v1.Update_MODIFY, p4v1.Update_DELETE:
	default:
		return status.Errorf(codes.InvalidArgument, "the update has no type")
	}
	switch v := u.GetEntity().GetEntity().(type) {
	case *p4v1.Entity_TableEntry:
		return p.updateEntry(u.GetType(), v.TableEntry)
	case *p4v1.Entity_DirectCounterEntry:
		return p.updateCounter(u.GetType(), v.DirectCounterEntry)
	case nil:
		return status.Errorf(codes.InvalidArgument, "the update has no entity")
	}
	return status.Errorf(codes.Unimplemented, "only table entries and direct counters can be written")
}

// updateEntry makes one update of a table entry. It keeps e.
func (p *program) updateEntry(kind p4v1.Update_Type, e *p4v1.TableEntry) error {
	t, err := p.table(e.GetTableId())
	if err != nil {
		return err
	}
	if err := checkWritable(t.info, kind, e); err != nil {
		return err
	}
	key, err := checkKey(t.info, e)
	if err == nil && kind != p4v1.Update_DELETE {
		err = checkContent(t.info, kind, e)
	}
	if err != nil {
		return err
	}
	have := t.entries[string(key)]
	switch {
	case kind == p4v1.Update_INSERT && have != nil:
		return status.Errorf(codes.AlreadyExists, "the entry is already in table %s", t.info.Name)
	case kind == p4v1.Update_INSERT && int64(len(t.entries)) >= t.info.Size:
		return status.Errorf(codes.ResourceExhausted, "table %s is full with %d entries", t.info.Name, t.info.Size)
	case kind != p4v1.Update_INSERT && have == nil:
		return status.Errorf(codes.NotFound, "there is no such entry in table %s", t.info.Name)
	}
	switch {
	case kind == p4v1.Update_DELETE:
		delete(t.entries, string(key))
		p.plane.replace(have, nil)
		return nil
	case kind == p4v1.Update_INSERT:
		have = &entry{}
		t.entries[string(key)] = have
	case e.GetAction() == nil: // the old action stays
		e.Action = have.proto.GetAction()
	}
	have.set(e.GetCounterData())
	e.CounterData = nil // it is kept in have
	p.plane.replace(have, e)
	return nil
}

// updateCounter sets the counter of an entry.
func (p *program) updateCounter(kind p4v1.Update_Type, c *p4v1.DirectCounterEntry) error {
	if kind != p4v1.Update_MODIFY {
		return status.Errorf(codes.InvalidArgument, "a direct counter can only be modified; it is inserted and deleted with its entry")
	}
	t, err := p.table(c.GetTableEntry().GetTableId())
	if err != nil {
		return err
	}
	if t.info.Counter == 0 {
		return status.Errorf(codes.InvalidArgument, "table %s has no direct counter", t.info.Name)
	}
	key, err := checkKey(t.info, c.GetTableEntry())
	if err != nil {
		return err
	}
	e := t.entries[string(key)]
	if e == nil {
		return status.Errorf(codes.NotFound, "there is no such entry in table %s", t.info.Name)
	}
	e.set(c.GetData())
	return nil
}

// read appends the entities that one entity of a request asks for.
func (p *program) read(found []*p4v1.Entity, e *p4v1.Entity) ([]*p4v1.Entity, error) {
	var filter *p4v1.TableEntry
	counters := false
	switch v := e.GetEntity().(type) {
	case *p4v1.Entity_TableEntry:
		filter = v.TableEntry
	case *p4v1.Entity_DirectCounterEntry:
		filter, counters = v.DirectCounterEntry.GetTableEntry(), true
	case nil:
		return found, status.Errorf(codes.InvalidArgument, "the request has no entity")
	default:
		return found, status.Errorf(codes.Unimplemented, "only table entries and direct counters can be read")
	}
	if filter.GetTableId() != 0 {
		t, err := p.table(filter.GetTableId())
		if err != nil {
			return found, err
		}
		return t.read(found, filter, counters)
	}
	if len(filter.GetMatch()) > 0 || filter.GetPriority() != 0 || filter.GetAction() != nil || filter.GetIsDefaultAction() ||
		filter.GetControllerMetadata() != 0 || len(filter.GetMetadata()) > 0 {
		return found, status.Errorf(codes.InvalidArgument, "a request for all tables takes no filter")
	}
	for _, t := range p.tables {
		if counters && t.info.Counter == 0 {
			continue
		}
		var err error
		if found, err = t.read(found, filter, counters); err != nil {
			return found, err
		}
	}
	return found, nil
}

// table has the entries of one table by key.
type table struct {
	info    *pipeline.Table
	entries map[string]*entry
}

// entry is one table entry. The protobuf is immutable: a modification replaces the
// pointer to it.
type entry struct {
	proto   *p4v1.TableEntry
	packets atomic.Uint64
	bytes   atomic.Uint64
}

func (e *entry) count(size int) {
	e.packets.Add(1)
	e.bytes.Add(uint64(size))
}

// set sets the counter; nil is ignored.
func (e *entry) set(c *p4v1.CounterData) {
	if c != nil {
		e.packets.Store(uint64(c.GetPacketCount()))
		e.bytes.Store(uint64(c.GetByteCount()))
	}
}

// read appends the entries of a table that a filter asks for. Constant entries are part
// of the P4 program and not in the P4Info.
func (t *table) read(found []*p4v1.Entity, filter *p4v1.TableEntry, counters bool) ([]*p4v1.Entity, error) {
	switch {
	case counters && t.info.Counter == 0:
		return found, status.Errorf(codes.InvalidArgument, "table %s has no direct counter", t.info.Name)
	case filter.GetIsDefaultAction() && (len(filter.GetMatch()) > 0 || filter.GetPriority() != 0):
		return found, status.Errorf(codes.InvalidArgument, "the default entry of table %s has no match and no priority", t.info.Name)
	case filter.GetIsDefaultAction() && !counters:
		return append(found, t.defaultEntry()), nil
	case filter.GetIsDefaultAction():
		return found, nil
	case len(filter.GetMatch()) == 0:
		for _, e := range t.entries {
			if passes(e.proto, filter) {
				found = append(found, t.entity(e, filter, counters))
			}
		}
		return found, nil
	}
	before := len(found)
	match, err := checkMatch(t.info, filter.GetMatch())
	if err != nil {
		return found, err
	}
	if t.info.Ordered && filter.GetPriority() == 0 { // any priority
		for key, e := range t.entries {
			if strings.HasPrefix(key, string(match)) && len(key) == len(match)+4 && passes(e.proto, filter) {
				found = append(found, t.entity(e, filter, counters))
			}
		}
	} else if e := t.entries[string(withPriority(match, filter))]; e != nil && passes(e.proto, filter) {
		found = append(found, t.entity(e, filter, counters))
	}
	if counters && len(found) == before {
		return found, status.Errorf(codes.NotFound, "there is no such entry in table %s", t.info.Name)
	}
	return found, nil
}

// passes checks an entry against all of a filter but its match.
func passes(e, filter *p4v1.TableEntry) bool {
	action := filter.GetAction().GetAction().GetActionId()
	return (filter.GetPriority() == 0 || filter.GetPriority() == e.GetPriority()) &&
		(action == 0 || action == e.GetAction().GetAction().GetActionId()) &&
		(filter.GetControllerMetadata() == 0 || filter.GetControllerMetadata() == e.GetControllerMetadata()) &&
		(len(filter.GetMetadata()) == 0 || bytes.Equal(filter.GetMetadata(), e.GetMetadata()))
}

// entity returns an entry in the form that a request asks for.
func (t *table) entity(e *entry, filter *p4v1.TableEntry, counters bool) *p4v1.Entity {
	data := &p4v1.CounterData{PacketCount: int64(e.packets.Load()), ByteCount: int64(e.bytes.Load())}
	if counters {
		c := &p4v1.DirectCounterEntry{TableEntry: e.proto, Data: data}
		return &p4v1.Entity{Entity: &p4v1.Entity_DirectCounterEntry{DirectCounterEntry: c}}
	}
	p := e.proto
	if filter.GetCounterData() != nil && t.info.Counter != 0 {
		p = proto.CloneOf(p)
		p.CounterData = data
	}
	return &p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: p}}
}

// defaultEntry is the entry for packets that no other entry matches.
func (t *table) defaultEntry() *p4v1.Entity {
	e := &p4v1.TableEntry{TableId: t.info.ID, IsDefaultAction: true}
	if t.info.Default != 0 {
		a := &p4v1.Action{ActionId: t.info.Default}
		e.Action = &p4v1.TableAction{Type: &p4v1.TableAction_Action{Action: a}}
	}
	return &p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: e}}
}

// withPriority makes an entry's key from its encoded match and its priority.
func withPriority(match []byte, e *p4v1.TableEntry) []byte {
	return binary.BigEndian.AppendUint32(match, uint32(e.GetPriority()))
}
