package softswitch

import (
	"bytes"
	"encoding/binary"
	"strings"
	"sync/atomic"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

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
