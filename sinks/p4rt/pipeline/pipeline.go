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
	Index        *Info  // over P4Info
	DeviceConfig []byte // what the target wants as p4_device_config
	Loads        bool   // there is a DeviceConfig; else somebody else loads it, under a cookie of theirs
	Cookie       uint64 // differs when P4Info or DeviceConfig does; never 0
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

// TNA is gray's pipeline for Tofino. What its compiler makes for the switch
// depends on the switch's SDE, so gray has no device config of it. Its P4Info is
// the other's but for the architecture, which make p4 checks.
var TNA = sync.OnceValue(func() *Program {
	info := bytes.Replace(v1modelInfo, []byte(`arch: "v1model"`), []byte(`arch: "tna"`), 1)
	return newProgram("gray/tna", info, nil)
})

// Index is the index over the P4Info of gray's pipeline, which is the same on every face
// but for the architecture's name.
func Index() *Info { return V1Model().Index }
