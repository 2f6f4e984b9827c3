package softswitch

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// plane has the entries of the gray pipeline in the form in which packets look them up.
// With any other pipeline it is empty and drops everything.
type plane struct {
	gray bool

	mu       sync.RWMutex // guards what follows; held for one update, or for one packet
	vips     map[netip.Addr]vipData
	flows    [2][]flowData // by IPv6; highest priority first
	vms      [2]map[vmKey]poolData
	vpcs     map[vpcKey]poolData
	profiles map[uint8]masks
	pools    map[uint8]generation
	buckets  map[bucketKey]*[1 << 16]uint32 // backend + 1, 0 is none
	backends map[uint16]backendData
}

type (
	vipData struct{ vip, pool, profile uint8 }
	vpcKey  struct {
		vip uint8
		vni uint32
	}
	vmKey struct {
		vpcKey
		dst  bool
		addr netip.Addr
	}
	poolData struct {
		pool  uint8
		entry *entry
	}
	masks struct {
		vni, src, dst    uint32
		protocol         uint8
		srcPort, dstPort uint16
	}
	generation struct {
		number uint8
		mask   uint16
	}
	bucketKey   struct{ pool, generation uint8 }
	backendData struct {
		dstMAC, srcMAC [6]byte
		port           uint32
		address        netip.Addr // the new outer destination; zero: the old one stays
		entry          *entry
	}
)

// flowData is a flow rule. A field that the entry omits has a zero mask or the whole
// range.
type flowData struct {
	poolData
	priority         int32
	vip              uint8
	vni, vniMask     uint32
	src, dst         [16]byte
	srcMask, dstMask [16]byte
	protocol, pMask  uint8
	srcPort, dstPort [2]uint16
}

func newPlane(gray bool) *plane {
	return &plane{
		gray: gray, vips: map[netip.Addr]vipData{}, vms: [2]map[vmKey]poolData{{}, {}},
		vpcs: map[vpcKey]poolData{}, profiles: map[uint8]masks{}, pools: map[uint8]generation{},
		buckets: map[bucketKey]*[1 << 16]uint32{}, backends: map[uint16]backendData{},
	}
}

// fields returns an entry's exact values and its action's parameters by id.
func fields(e *p4v1.TableEntry) (match, params [8][]byte) {
	for _, m := range e.GetMatch() {
		if x := m.GetExact(); x != nil && m.GetFieldId() < 8 {
			match[m.GetFieldId()] = x.GetValue()
		}
	}
	for _, p := range e.GetAction().GetAction().GetParams() {
		if p.GetParamId() < 8 {
			params[p.GetParamId()] = p.GetValue()
		}
	}
	return match, params
}

func mac(b []byte) (m [6]byte) {
	copy(m[6-len(b):], b)
	return m
}

func number[T uint8 | uint16 | uint32](b []byte) T { return T(pipeline.ToUint(b)) }

// replace gives an entry another protobuf, or removes it if that is nil. To packets
// this is atomic.
func (p *plane) replace(e *entry, with *p4v1.TableEntry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gray && e.proto != nil {
		p.remove(e)
	}
	e.proto = with
	if p.gray && with != nil {
		p.insert(e)
	}
}

// insert adds an entry. The caller holds the lock.
func (p *plane) insert(e *entry) {
	m, a := fields(e.proto)
	switch id := e.proto.GetTableId(); id {
	case pipeline.TableVIPv4, pipeline.TableVIPv6:
		p.vips[pipeline.ToAddr(m[1], id == pipeline.TableVIPv6)] = vipData{number[uint8](a[1]), number[uint8](a[2]), number[uint8](a[3])}
	case pipeline.TableFlowV4, pipeline.TableFlowV6:
		f := flowOf(e)
		family := &p.flows[familyOf(id)]
		i, _ := slices.BinarySearchFunc(*family, f, func(a, b flowData) int { return cmp.Compare(b.priority, a.priority) })
		*family = slices.Insert(*family, i, f)
	case pipeline.TableVMSrcV4, pipeline.TableVMDstV4, pipeline.TableVMSrcV6, pipeline.TableVMDstV6:
		p.vms[familyOf(id)][vmOf(id, m)] = poolData{number[uint8](a[1]), e}
	case pipeline.TableVPC:
		p.vpcs[vpcKey{number[uint8](m[1]), number[uint32](m[2])}] = poolData{number[uint8](a[1]), e}
	case pipeline.TableHashProfile:
		p.profiles[number[uint8](m[1])] = masks{
			number[uint32](a[1]), number[uint32](a[2]), number[uint32](a[3]),
			number[uint8](a[4]), number[uint16](a[5]), number[uint16](a[6]),
		}
	case pipeline.TablePool:
		p.pools[number[uint8](m[1])] = generation{number[uint8](a[1]), number[uint16](a[2])}
	case pipeline.TableBucket:
		k := bucketKey{number[uint8](m[1]), number[uint8](m[2])}
		if p.buckets[k] == nil {
			p.buckets[k] = new([1 << 16]uint32)
		}
		p.buckets[k][number[uint16](m[3])] = number[uint32](a[1]) + 1
	case pipeline.TableBackend:
		b := backendData{dstMAC: mac(a[1]), srcMAC: mac(a[2]), port: number[uint32](a[3]), entry: e}
		switch e.proto.GetAction().GetAction().GetActionId() {
		case pipeline.ActionForwardIPv4:
			b.address = pipeline.ToAddr(a[4], false)
		case pipeline.ActionForwardIPv6:
			b.address = pipeline.ToAddr(a[4], true)
		}
		p.backends[number[uint16](m[1])] = b
	}
}

// remove removes an entry. The caller holds the lock.
func (p *plane) remove(e *entry) {
	m, _ := fields(e.proto)
	switch id := e.proto.GetTableId(); id {
	case pipeline.TableVIPv4, pipeline.TableVIPv6:
		delete(p.vips, pipeline.ToAddr(m[1], id == pipeline.TableVIPv6))
	case pipeline.TableFlowV4, pipeline.TableFlowV6:
		family := &p.flows[familyOf(id)]
		*family = slices.DeleteFunc(*family, func(f flowData) bool { return f.entry == e })
	case pipeline.TableVMSrcV4, pipeline.TableVMDstV4, pipeline.TableVMSrcV6, pipeline.TableVMDstV6:
		delete(p.vms[familyOf(id)], vmOf(id, m))
	case pipeline.TableVPC:
		delete(p.vpcs, vpcKey{number[uint8](m[1]), number[uint32](m[2])})
	case pipeline.TableHashProfile:
		delete(p.profiles, number[uint8](m[1]))
	case pipeline.TablePool:
		delete(p.pools, number[uint8](m[1]))
	case pipeline.TableBucket:
		if b := p.buckets[bucketKey{number[uint8](m[1]), number[uint8](m[2])}]; b != nil {
			b[number[uint16](m[3])] = 0
		}
	case pipeline.TableBackend:
		delete(p.backends, number[uint16](m[1]))
	}
}

func familyOf(table uint32) int {
	switch table {
	case pipeline.TableFlowV6, pipeline.TableVMSrcV6, pipeline.TableVMDstV6:
		return 1
	}
	return 0
}

func vmOf(table uint32, m [8][]byte) vmKey {
	return vmKey{
		vpcKey: vpcKey{number[uint8](m[1]), number[uint32](m[2])},
		dst:    table == pipeline.TableVMDstV4 || table == pipeline.TableVMDstV6,
		addr:   pipeline.ToAddr(m[3], familyOf(table) == 1),
	}
}

func flowOf(e *entry) flowData {
	id := e.proto.GetTableId()
	f := flowData{
		poolData: poolData{entry: e}, priority: e.proto.GetPriority(),
		srcPort: [2]uint16{0, 65535}, dstPort: [2]uint16{0, 65535},
	}
	_, params := fields(e.proto)
	f.pool = number[uint8](params[1])
	size := 4 + 12*familyOf(id)
	full := func(b []byte) (x [16]byte) {
		copy(x[size-len(b):], b)
		return x
	}
	for _, m := range e.proto.GetMatch() {
		t, r := m.GetTernary(), m.GetRange()
		switch m.GetFieldId() {
		case 1:
			f.vip = number[uint8](m.GetExact().GetValue())
		case 2:
			f.vni, f.vniMask = number[uint32](t.GetValue()), number[uint32](t.GetMask())
		case 3:
			f.src, f.srcMask = full(t.GetValue()), full(t.GetMask())
		case 4:
			f.dst, f.dstMask = full(t.GetValue()), full(t.GetMask())
		case 5:
			f.protocol, f.pMask = number[uint8](t.GetValue()), number[uint8](t.GetMask())
		case 6:
			f.srcPort = [2]uint16{number[uint16](r.GetLow()), number[uint16](r.GetHigh())}
		case 7:
			f.dstPort = [2]uint16{number[uint16](r.GetLow()), number[uint16](r.GetHigh())}
		}
	}
	return f
}

// matches tells whether a flow rule matches a packet.
func (f *flowData) matches(vip uint8, l *lookup) bool {
	return f.vip == vip && l.vni&f.vniMask == f.vni && l.protocol&f.pMask == f.protocol &&
		f.srcPort[0] <= l.srcPort && l.srcPort <= f.srcPort[1] &&
		f.dstPort[0] <= l.dstPort && l.dstPort <= f.dstPort[1] &&
		masked(&l.src, &f.srcMask, &f.src) && masked(&l.dst, &f.dstMask, &f.dst)
}

func masked(value, mask, want *[16]byte) bool {
	for i := range value {
		if value[i]&mask[i] != want[i] {
			return false
		}
	}
	return true
}
