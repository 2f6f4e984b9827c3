package pipeline

import (
	"bytes"
	_ "embed"
	"hash/fnv"
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
