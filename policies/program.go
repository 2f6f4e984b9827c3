package policies

import (
	"hash/fnv"

	"github.com/gray-release/gray/schema"
)

// Program is a pipeline from a folder of the repository. Its bytes are read-only.
type Program struct {
	P4Info       []byte // as the file has it
	DeviceConfig []byte `json:"-"` // too large to be stored with the switch
	Loads        bool   // there is a device config for gray to load
	Cookie       uint64 // a hash of both, never 0
	Origin       schema.Position
}

// program reads the pipeline of a switch from its folder and returns it with the sizes
// of its tables. It returns nil for a pipeline of gray's own or one with errors.
func (c *Compiler) program(s *docState, spec *schema.SwitchSpec) (*Program, map[string]int) {
	if spec.Pipeline == schema.PipelineV1Model || spec.Pipeline == schema.PipelineTNA {
		return nil, nil
	}
	files := c.set.Pipeline(spec.Pipeline)
	if files.P4Info == nil || files.P4Info.Err != nil || files.DeviceConfig != nil && files.DeviceConfig.Err != nil {
		return nil, nil // the set reports it
	}
	if c.sizes == nil {
		c.errorf(s, "spec.pipeline", "a pipeline of the repository cannot be read here; name v1model or tna")
		return nil, nil
	}
	sizes, err := c.sizes(files.P4Info.Data)
	if err != nil {
		c.errorf(s, "spec.pipeline", "%s is no P4Info in protobuf's text format: %w", files.P4Info.Path, err)
		return nil, nil
	}
	p := &Program{P4Info: files.P4Info.Data, Origin: s.doc.At("spec.pipeline")}
	h := fnv.New64a()
	_, _ = h.Write(p.P4Info)
	if files.DeviceConfig != nil {
		p.DeviceConfig, p.Loads = files.DeviceConfig.Data, true
		_, _ = h.Write(p.DeviceConfig)
	}
	p.Cookie = max(h.Sum64(), 1)
	return p, sizes
}
