package pipeline

import (
	_ "embed"
	"hash/fnv"
	"sync"

	p4configv1 "github.com/p4lang/p4runtime/go/p4/config/v1"
	"google.golang.org/protobuf/encoding/prototext"
)

//go:embed gray_v1model.p4info.txtpb
var p4infoText []byte

//go:embed gray_v1model.json
var deviceConfig []byte

// P4Info is the pipeline's P4Info, parsed once. It is read-only.
var P4Info = sync.OnceValue(func() *p4configv1.P4Info {
	info := new(p4configv1.P4Info)
	if err := prototext.Unmarshal(p4infoText, info); err != nil {
		panic("pipeline: the embedded P4Info cannot be read: " + err.Error())
	}
	return info
})

// Index is the index over P4Info.
var Index = sync.OnceValue(func() *Info { return NewInfo(P4Info()) })

// DeviceConfig is what a BMv2 target wants as p4_device_config. It is read-only.
func DeviceConfig() []byte { return deviceConfig }

// Cookie names the pipeline: it differs when the P4Info or the device
// configuration does.
var Cookie = sync.OnceValue(func() uint64 {
	h := fnv.New64a()
	_, _ = h.Write(p4infoText)
	_, _ = h.Write(deviceConfig)
	return h.Sum64()
})
