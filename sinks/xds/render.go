package xds

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/xds/lower"
)

// YAML is the messages of Native, each as a YAML document with its type.
func YAML(resources []*reconciler.Resource) (string, error) {
	messages, err := Native(resources)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, m := range messages {
		typed, err := anypb.New(m)
		if err != nil {
			return "", err
		}
		json, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(typed)
		if err != nil {
			return "", err
		}
		text, err := yaml.JSONToYAML(json)
		if err != nil {
			return "", err
		}
		b.WriteString("---\n")
		b.Write(text)
	}
	for _, r := range resources {
		if e, ok := r.Body.(*lower.Endpoints); ok && e.Unknown {
			fmt.Fprintf(&b, "# The endpoints of %s are those that etcd has under %s/; only the daemon knows them.\n", r.Name, e.Etcd)
		}
	}
	return b.String(), nil
}

// Native is the messages that Envoys get for resources: by type, in the order in
// which they are sent, and by name. A *PartialError has the resources that cannot be
// served.
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
	for t := range s.wire.tables[:wireTypes] {
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
