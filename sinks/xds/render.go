package xds

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/reconciler"
)

// Native gives what Envoys are sent for resources of this sink: the messages by
// type, in the order in which they are sent, and by name. A *PartialError names
// the resources that cannot be served.
func Native(resources []*reconciler.Resource) ([]proto.Message, error) {
	s, err := New(Config{})
	if err != nil {
		return nil, err
	}
	changes := make([]reconciler.Change, len(resources))
	for i, r := range resources {
		changes[i] = reconciler.Change{New: r}
	}
	slices.SortFunc(changes, reconciler.Change.Compare)
	st := s.packer.stage(changes)
	s.wire.commit(st.puts)
	var all []proto.Message
	for t := range s.wire.tables {
		entries := slices.SortedFunc(maps.Values(s.wire.tables[t].entries), func(a, b *entry) int {
			return strings.Compare(a.name, b.name)
		})
		for _, e := range entries {
			m, err := e.packed.body.UnmarshalNew()
			if err != nil {
				return nil, err
			}
			all = append(all, m)
		}
	}
	return all, st.failed.Or()
}
