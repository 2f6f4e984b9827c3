package softswitch

import (
	p4configv1 "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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
