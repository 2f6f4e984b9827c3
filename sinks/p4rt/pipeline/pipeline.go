// Package pipeline has the gray gateway's P4 program and what Go needs to know about it:
// the compiled P4Info and BMv2 configuration, the P4Runtime ids, an index of a P4Info,
// and the canonical byte strings of P4Runtime. Both the client in sinks/p4rt and the
// software gateway in softswitch use it.
//
// The program is for two architectures: gray_v1model.p4 for BMv2 and gray_tna.p4 for
// Tofino. They share headers.p4, parser.p4, tables.p4 and ids.p4, and so they have the
// same P4Info. `make p4` compiles them if p4c is installed. The output is committed,
// except Tofino's binary, which depends on the switch's SDE.
package pipeline

import (
	"bytes"
	_ "embed"
	"fmt"
	"hash/fnv"
	"strings"
	"sync"

	p4configv1 "github.com/p4lang/p4runtime/go/p4/config/v1"
	"google.golang.org/protobuf/encoding/prototext"
)

var (
	//go:embed gray_v1model.p4info.txtpb
	v1modelInfo []byte
	//go:embed gray_v1model.json
	v1modelConfig []byte
)

// Program is a pipeline that a switch can run. It is read-only.
type Program struct {
	Name         string
	P4Info       *p4configv1.P4Info
	Index        *Info  // of P4Info
	DeviceConfig []byte // the p4_device_config
	Loads        bool   // gray loads it; else there is no DeviceConfig, and somebody else loads it with another cookie
	Cookie       uint64 // a hash of P4Info and DeviceConfig; never 0
}

func newProgram(name string, info, config []byte) *Program {
	p := &Program{Name: name, P4Info: new(p4configv1.P4Info), DeviceConfig: config, Loads: config != nil}
	if err := prototext.Unmarshal(info, p.P4Info); err != nil {
		panic("pipeline: the embedded P4Info of " + name + " cannot be read: " + err.Error())
	}
	p.Index = NewInfo(p.P4Info)
	h := fnv.New64a()
	_, _ = h.Write(info)
	_, _ = h.Write(config)
	p.Cookie = h.Sum64()
	return p
}

// V1Model is gray's pipeline for BMv2.
var V1Model = sync.OnceValue(func() *Program { return newProgram("gray/v1model", v1modelInfo, v1modelConfig) })

// TNA is gray's pipeline for Tofino. Its device config depends on the switch's SDE, so
// gray has none. Its P4Info differs from V1Model's only in the architecture; make p4
// checks that.
var TNA = sync.OnceValue(func() *Program {
	info := bytes.Replace(v1modelInfo, []byte(`arch: "v1model"`), []byte(`arch: "tna"`), 1)
	return newProgram("gray/tna", info, nil)
})

// Index is the index of the P4Info of gray's pipeline for any architecture.
func Index() *Info { return V1Model().Index }

// TableSizes returns the sizes of the tables by name from a P4Info in protobuf's text
// format. It implements policies.ReadTableSizes.
func TableSizes(text []byte) (map[string]int, error) {
	if deep(text) {
		return nil, fmt.Errorf("it is nested more than %d levels deep", maxDepth)
	}
	info := new(p4configv1.P4Info)
	if err := (prototext.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, info); err != nil {
		_, reason, _ := strings.Cut(err.Error(), ":") // without the library's name
		return nil, fmt.Errorf("%s", strings.TrimLeft(reason, " \u00a0"))
	}
	sizes := map[string]int{}
	for _, t := range info.GetTables() {
		sizes[t.GetPreamble().GetName()] = int(max(t.GetSize(), 0))
	}
	return sizes, nil
}

// maxDepth is how deep a P4Info may be nested; those of p4c have less than ten levels.
// The parser skips unknown fields recursively, and would run out of stack.
const maxDepth = 100

// deep tells whether a text is nested deeper than maxDepth before the first string that
// does not end on its line.
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
					return false // the parser stops here
				}
			}
		}
	}
	return false
}

// The ids of the tables.
const (
	TableVIPv4       uint32 = 0x02000001
	TableVIPv6       uint32 = 0x02000002
	TableFlowV4      uint32 = 0x02000003
	TableFlowV6      uint32 = 0x02000004
	TableVMSrcV4     uint32 = 0x02000005
	TableVMDstV4     uint32 = 0x02000006
	TableVMSrcV6     uint32 = 0x02000007
	TableVMDstV6     uint32 = 0x02000008
	TableVPC         uint32 = 0x02000009
	TableHashProfile uint32 = 0x0200000a
	TableResolve     uint32 = 0x0200000b
	TablePool        uint32 = 0x0200000c
	TableBucket      uint32 = 0x0200000d
	TableBackend     uint32 = 0x0200000e
)

// The ids of the actions that entries may have. Each rule table has its own: on
// Tofino an action that counts belongs to one table.
const (
	ActionSetVIP        uint32 = 0x01000001
	ActionFlowPoolV4    uint32 = 0x01000002
	ActionSrcPoolV4     uint32 = 0x01000003
	ActionDstPoolV4     uint32 = 0x01000004
	ActionVPCPool       uint32 = 0x01000005
	ActionSetMasks      uint32 = 0x01000006
	ActionSetGeneration uint32 = 0x01000007
	ActionSetBackend    uint32 = 0x01000008
	ActionForwardMAC    uint32 = 0x01000009
	ActionForwardIPv4   uint32 = 0x0100000a
	ActionForwardIPv6   uint32 = 0x0100000b
	ActionFlowPoolV6    uint32 = 0x01000012
	ActionSrcPoolV6     uint32 = 0x01000013
	ActionDstPoolV6     uint32 = 0x01000014
)
