package xds

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/gray-release/gray/sinks/xds/lower"
)

// wireType is a type of xDS resources, in the order in which they are sent.
type wireType int

const (
	typeCluster wireType = iota
	typeEndpoints
	typeListener
	typeRoutes
	typeVirtualHost
	wireTypes
)

// Clients with a SotW stream get other listeners and routes, which have their own
// tables.
const (
	apiListener = wireTypes + iota
	apiRoutes
	allTables
)

const typePrefix = "type.googleapis.com/"

var typeNames = [wireTypes]string{
	"envoy.config.cluster.v3.Cluster",
	"envoy.config.endpoint.v3.ClusterLoadAssignment",
	"envoy.config.listener.v3.Listener",
	"envoy.config.route.v3.RouteConfiguration",
	"envoy.config.route.v3.VirtualHost",
}

// typeOf finds the type of a type URL, wireTypes if it is not served.
func typeOf(url string) wireType {
	t := wireType(0)
	for t < wireTypes && typePrefix+typeNames[t] != url {
		t++
	}
	return t
}

// routing tells whether resources of the type route requests; the others are what is
// routed to.
func (t wireType) routing() bool { return t >= typeListener }

// maxRemoved is how many removed names a table remembers at the most. An Envoy that
// is further behind has to open a new stream, and is compared with everything.
const maxRemoved = 4096

// packed is a resource as it is sent; it is never changed.
type packed struct {
	version string // a hash of the content
	body    *anypb.Any
}

// entry is a name in a table.
type entry struct {
	name       string
	packed     *packed // nil: removed
	revision   uint64  // of its last change
	prev, next *entry  // by revision
}

// table is the resources of one type, linked in the order of their last change: what
// changed after a revision is found from the end, at the cost of its number.
type table struct {
	entries   map[string]*entry
	head      *entry
	tail      *entry
	removed   int    // entries that are removed
	forgotten uint64 // removals up to this revision may be forgotten
}

// wire is what is served.
type wire struct {
	revision uint64 // grows with every commit that changes something
	tables   [allTables]table
}

// put serves a resource, or removes it where packed is nil.
type put struct {
	t      wireType
	name   string
	packed *packed
}

func newWire() *wire {
	w := &wire{}
	for t := range w.tables {
		w.tables[t].entries = map[string]*entry{}
	}
	return w
}

// get returns a resource; nil: not served.
func (w *wire) get(t wireType, name string) *packed {
	if e := w.tables[t].entries[name]; e != nil {
		return e.packed
	}
	return nil
}

// commit makes changes under one new revision, so that a stream sees all of them or
// none. Without a change the revision stays.
func (w *wire) commit(puts []put) {
	next := w.revision + 1
	for _, p := range puts {
		if w.tables[p.t].put(p.name, p.packed, next) {
			w.revision = next
		}
	}
}

func (t *table) put(name string, p *packed, revision uint64) bool {
	e := t.entries[name]
	switch {
	case e == nil && p == nil:
		return false
	case e == nil:
		e = &entry{name: name}
		t.entries[name] = e
	case e.packed == nil && p == nil || e.packed != nil && p != nil && e.packed.version == p.version:
		return false
	default:
		t.unlink(e)
		if e.packed == nil {
			t.removed--
		}
	}
	e.packed, e.revision = p, revision
	e.prev, e.next = t.tail, nil
	if t.tail != nil {
		t.tail.next = e
	} else {
		t.head = e
	}
	t.tail = e
	if p == nil {
		if t.removed++; t.removed > maxRemoved {
			t.forget()
		}
	}
	return true
}

func (t *table) unlink(e *entry) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		t.head = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		t.tail = e.prev
	}
}

// forget drops the older half of the removed entries.
func (t *table) forget() {
	for e := t.head; e != nil && t.removed > maxRemoved/2; e = e.next {
		if e.packed == nil {
			t.unlink(e)
			delete(t.entries, e.name)
			t.removed--
			t.forgotten = e.revision
		}
	}
}

// since calls f for every entry that changed after a revision, the newest first.
func (t *table) since(revision uint64, f func(*entry)) {
	for e := t.tail; e != nil && e.revision > revision; e = e.prev {
		f(e)
	}
}

// pack makes a resource ready to be sent, and refuses one that Envoy would refuse.
func pack(m proto.Message) (*packed, error) {
	if err := validate(m.ProtoReflect()); err != nil {
		return nil, fmt.Errorf("it is not valid for Envoy: %w", err)
	}
	body := lower.Any(m)
	sum := sha256.Sum256(body.GetValue())
	return &packed{version: hex.EncodeToString(sum[:8]), body: body}, nil
}

// validate checks a message and what is packed in it.
func validate(m protoreflect.Message) error {
	if v, ok := m.Interface().(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			return err
		}
	}
	return validatePacked(m)
}

// validatePacked checks the messages that are packed in a message; the generated
// ValidateAll does not look into them.
func validatePacked(m protoreflect.Message) error {
	if a, ok := m.Interface().(*anypb.Any); ok {
		inner, err := a.UnmarshalNew()
		if err != nil {
			return err
		}
		return validate(inner.ProtoReflect())
	}
	var err error
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				err = validatePacked(v.Message())
				return err == nil
			})
		case f.IsList() && f.Message() != nil:
			for i := 0; i < v.List().Len() && err == nil; i++ {
				err = validatePacked(v.List().Get(i).Message())
			}
		case !f.IsMap() && !f.IsList() && f.Message() != nil:
			err = validatePacked(v.Message())
		}
		return err == nil
	})
	return err
}
