package policies

import (
	"fmt"
	"hash/fnv"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/gray-release/gray/schema"
)

// Program is the pipeline of a switch where that comes from a folder of the
// repository. Its bytes are read-only.
type Program struct {
	P4Info       []byte // as the file has it
	DeviceConfig []byte `json:"-"` // too large to be kept with the switch
	Loads        bool   // there is a device config, so gray can load it
	Cookie       uint64 // names the content of both, never 0
	Origin       schema.Position
}

// program reads the pipeline of a switch from its folder; nil where that is one
// of gray's own, or wrong.
func (c *Compiler) program(s *docState, spec *schema.SwitchSpec) (*Program, map[string]int) {
	if spec.Pipeline == schema.PipelineV1Model || spec.Pipeline == schema.PipelineTNA {
		return nil, nil
	}
	files := c.set.Pipeline(spec.Pipeline)
	if files.P4Info == nil || files.P4Info.Err != nil || files.DeviceConfig != nil && files.DeviceConfig.Err != nil {
		return nil, nil // the set has said so
	}
	sizes, err := tableSizes(files.P4Info.Data)
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

// tableSizes reads the sizes of the tables by their names from a P4Info, as far
// as TableSizes knows them. All else in it is for the sink to judge.
func tableSizes(text []byte) (map[string]int, error) {
	if deep(text) {
		return nil, fmt.Errorf("it is nested more than %d levels deep", maxDepth)
	}
	d := p4infoPart()
	info := dynamicpb.NewMessage(d)
	if err := (prototext.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, info); err != nil {
		_, reason, _ := strings.Cut(err.Error(), ":") // the library's name stands before it
		return nil, fmt.Errorf("%s", strings.TrimLeft(reason, " \u00a0"))
	}
	sizes := map[string]int{}
	tables := info.Get(d.Fields().ByName("tables")).List()
	for i := range tables.Len() {
		t := tables.Get(i).Message()
		fields := t.Descriptor().Fields()
		preamble := t.Get(fields.ByName("preamble")).Message()
		name := preamble.Get(preamble.Descriptor().Fields().ByName("name")).String()
		if _, known := TableSizes[name]; known {
			sizes[name] = int(max(t.Get(fields.ByName("size")).Int(), 0))
		}
	}
	return sizes, nil
}

// maxDepth is how deep a P4Info may be nested; p4c's are less than ten. What is
// discarded unread goes as deep into the stack as the text does.
const maxDepth = 100

// deep tells whether a text goes deeper than maxDepth, before the first string
// that does not end in its line.
func deep(text []byte) bool {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '{', '<', '[':
			if depth++; depth > maxDepth {
				return true
			}
		case '}', '>', ']':
			depth--
		case '#':
			for i < len(text) && text[i] != '\n' {
				i++
			}
		case '"', '\'':
			for i++; i < len(text) && text[i] != c; i++ {
				if text[i] == '\\' {
					i++
				} else if text[i] == '\n' {
					return false // the parser goes no further
				}
			}
		}
	}
	return false
}

// p4infoPart describes the part of a P4Info (p4/config/v1/p4info.proto) that the
// sizes of its tables stand in.
var p4infoPart = sync.OnceValue(func() protoreflect.MessageDescriptor {
	const part = `name: "p4info-part.proto" syntax: "proto3"
		message_type { name: "P4Info" field { name: "tables" number: 2 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".Table" } }
		message_type { name: "Table"
			field { name: "preamble" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".Preamble" }
			field { name: "size" number: 8 label: LABEL_OPTIONAL type: TYPE_INT64 } }
		message_type { name: "Preamble" field { name: "name" number: 2 label: LABEL_OPTIONAL type: TYPE_STRING } }`
	described := new(descriptorpb.FileDescriptorProto)
	err := prototext.Unmarshal([]byte(part), described)
	if err != nil {
		panic("policies: the description of a P4Info cannot be read: " + err.Error())
	}
	file, err := protodesc.NewFile(described, nil)
	if err != nil {
		panic("policies: the description of a P4Info is wrong: " + err.Error())
	}
	return file.Messages().ByName("P4Info")
})
