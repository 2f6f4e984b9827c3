package compose

import (
	"context"
	"fmt"
	"os"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/memo"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
)

// Target is the sink's only target.
const Target = "compose"

// kindFile is the kind of a node's file; the resource's name is the node's.
const kindFile = "File"

// maxMemo bounds how many results of compose-go are remembered.
const maxMemo = 4096

// Config is what a Sink works with.
type Config struct {
	Dir       string                               // the folder; empty: for Lower alone
	Bootstrap func(*policies.Node) ([]byte, error) // of a node's Envoy, as YAML
	Mounts    []string                             // folders of the host that the bootstrap reads from
}

// Sink implements reconciler.Sink for a folder of compose files.
type Sink struct {
	cfg    Config
	folder Folder

	// compose-go takes milliseconds, and many nodes run the same.
	services *memo.Memo[string, compiled] // by keyOf
	wholes   *memo.Memo[string, error]    // what runs together, as one file
}

// New returns a sink, and makes its folder if there is none.
func New(cfg Config) (*Sink, error) {
	if cfg.Dir != "" {
		if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
			return nil, fmt.Errorf("cannot make the folder for compose files: %w", err)
		}
	}
	return &Sink{
		cfg: cfg, folder: Folder{Dir: cfg.Dir, Suffix: ComposeSuffix},
		services: memo.New[string, compiled](maxMemo), wholes: memo.New[string, error](maxMemo),
	}, nil
}

// Lower implements reconciler.Sink. A Service has no resource, but all its versions
// are checked, also those that no node runs. Errors in documents are schema.Errors.
func (s *Sink) Lower(ir *policies.IR, n policies.Name) ([]*reconciler.Resource, error) {
	switch unit := ir.Get(n).(type) {
	case *requests.Service:
		return nil, s.check(unit)
	case *policies.Node:
		text, err := s.Render(ir, unit)
		if err != nil {
			return nil, err
		}
		return []*reconciler.Resource{resource(unit.Name, text, unit.Origin)}, nil
	}
	return nil, nil
}

func resource(node, text string, origin schema.Position) *reconciler.Resource {
	return &reconciler.Resource{
		Key: reconciler.Key{Target: Target, Kind: kindFile, Name: node}, Body: newBody(text), Origin: origin,
	}
}

// Observe implements reconciler.Sink: the files in the folder that are gray's.
func (s *Sink) Observe(ctx context.Context, _ string, _ *reconciler.Resource) (reconciler.State, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	texts, err := s.folder.Read()
	if err != nil {
		return nil, fmt.Errorf("cannot read the folder for compose files: %w", err)
	}
	state := reconciler.State{}
	for node, text := range texts {
		r := resource(node, text, schema.Position{})
		state[r.Key] = r
	}
	return state, nil
}

// Apply implements reconciler.Sink.
func (s *Sink) Apply(ctx context.Context, _ *reconciler.Resource, changes []reconciler.Change) error {
	var failed *reconciler.PartialError
	for _, c := range changes {
		err := ctx.Err()
		switch {
		case err != nil:
		case c.New == nil:
			err = s.folder.Remove(c.Old.Name)
		default:
			err = s.folder.Write(c.New.Name, c.New.Body.(*body).text)
		}
		failed = failed.Add(c.Key(), err)
	}
	return failed.Or()
}
