package p4rt

import (
	"fmt"
	"net/netip"
	"slices"

	p4configv1 "github.com/p4lang/p4runtime/go/p4/config/v1"
	"google.golang.org/protobuf/encoding/prototext"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// The ranks: a resource refers to lower ranks only.
const (
	rankTarget = iota
	rankBackend
	rankPool
	rankVIP
	rankRule
)

// TargetOf is the name of a switch's target.
func TargetOf(switchName string) string { return "p4rt/" + switchName }

// Lower implements reconciler.Sink.
func (s *Sink) Lower(ir *policies.IR, n policies.Name) ([]*reconciler.Resource, error) {
	switch unit := ir.Get(n).(type) {
	case *policies.Switch:
		self, err := lowerSwitch(unit)
		if err != nil {
			return nil, err
		}
		return []*reconciler.Resource{self}, nil
	case *packets.Gateway:
		var all []*reconciler.Resource
		for _, sw := range unit.Switches {
			all = append(all, lowerGateway(ir, unit, sw)...)
		}
		return all, nil
	case *packets.Blend:
		var all []*reconciler.Resource
		gw := ir.Gateway(unit.Gateway)
		for _, sw := range gw.Switches {
			all = append(all, lowerBlend(ir, gw, unit, sw))
		}
		return all, nil
	case *packets.Cell:
		var all []*reconciler.Resource
		gw := ir.Gateway(unit.Gateway)
		for _, sw := range gw.Switches {
			for i := range unit.Rules {
				all = append(all, lowerRule(ir, gw, sw, &unit.Rules[i]))
			}
		}
		return all, nil
	}
	return nil, nil
}

func lowerSwitch(sw *policies.Switch) (*reconciler.Resource, error) {
	program, err := programOf(sw)
	if err != nil {
		return nil, err
	}
	b := &targetBody{
		address: sw.Address, deviceID: sw.DeviceID, role: sw.Role, push: sw.Push,
		insecure: sw.Insecure, program: program, cookie: program.Cookie,
	}
	if sw.TLS != nil {
		b.tls = *sw.TLS
	}
	return &reconciler.Resource{
		Key:  reconciler.Key{Target: TargetOf(sw.Name), Kind: reconciler.KindTarget},
		Rank: rankTarget, Body: b, Origin: sw.Origin,
	}, nil
}

// programOf is the pipeline that a switch is to run. If it is one of the repository and
// gray's entries do not fit it, the error is schema.Errors.
func programOf(sw *policies.Switch) (*pipeline.Program, error) {
	p := sw.Program
	switch {
	case p == nil && sw.Pipeline == schema.PipelineTNA:
		return pipeline.TNA(), nil
	case p == nil:
		return pipeline.V1Model(), nil
	}
	var errs schema.Errors
	wrong := func(err error) {
		errs = append(errs, &schema.Error{Position: p.Origin, Field: "spec.pipeline", Err: err})
	}
	info := new(p4configv1.P4Info)
	if err := prototext.Unmarshal(p.P4Info, info); err != nil {
		wrong(fmt.Errorf("%s in %s is not a P4Info of P4Runtime 1: %w; for Tofino, have p4c make it with --p4runtime-force-std-externs", schema.P4InfoFile, sw.Pipeline, err))
		return nil, errs
	}
	program := &pipeline.Program{
		Name: sw.Pipeline, P4Info: info, Index: pipeline.NewInfo(info), DeviceConfig: p.DeviceConfig, Loads: p.Loads, Cookie: p.Cookie,
	}
	for _, lack := range pipeline.Lacks(program.Index) {
		wrong(fmt.Errorf("the P4Info in %s does not fit gray: %s", sw.Pipeline, lack))
	}
	if len(errs) > 0 {
		return nil, errs.Sort()
	}
	return program, nil
}

// lowerGateway makes the backends, pools, hash profile and VIPs of a gateway on
// one switch.
func lowerGateway(ir *policies.IR, gw *packets.Gateway, sw string) []*reconciler.Resource {
	target := TargetOf(sw)
	vip := uint8(ir.ID(sw, policies.SpaceVIP, gw.Name))
	var all []*reconciler.Resource
	add := func(kind, name string, rank int, origin schema.Position, body reconciler.Body, refs ...reconciler.Key) reconciler.Key {
		k := reconciler.Key{Target: target, Kind: kind, Name: name}
		all = append(all, &reconciler.Resource{Key: k, Rank: rank, Refs: refs, Body: body, Origin: origin})
		return k
	}
	var mac [6]byte
	if s := ir.Switch(sw); s != nil {
		mac = s.MAC
	}
	var needs []reconciler.Key
	for i := range gw.Pools {
		p := &gw.Pools[i]
		body := newPool(ir, gw, sw, p.Version)
		ids := backendIDs(ir, gw, sw, p)
		var refs []reconciler.Key
		for j, b := range p.Backends {
			body.backends[ids[j]] = b.Name
			to := &backendBody{id: ids[j], dstMAC: b.MAC, srcMAC: mac, port: b.Ports[sw], label: body.label + "/" + b.Name}
			if gw.Forward == "ip" {
				to.address = b.Address
			}
			refs = append(refs, add("backend", backendKey(ids[j]), rankBackend, b.Origin, to))
		}
		for j, b := range p.Buckets {
			body.buckets[j] = uint32(ids[b]) + 1
		}
		needs = append(needs, add("pool", poolKey(body.pool), rankPool, p.Origin, body, refs...))
	}
	profile := &profileBody{profile: vip, masks: masksOf(gw.Hash), label: gw.Name}
	needs = append(needs, add("hash_profile", profile.name(), rankPool, gw.Origin, profile))
	pool := poolID(ir, sw, gw.Name, gw.DefaultPool)
	if blend := (reconciler.Key{Target: target, Kind: "pool", Name: poolKey(pool)}); !slices.Contains(needs, blend) {
		needs = append(needs, blend)
	}
	for _, a := range gw.VIPs {
		kind := "vip_v4"
		if a.Is6() {
			kind = "vip_v6"
		}
		body := &vipBody{address: a, vip: vip, pool: pool, profile: vip, label: gw.Name + "/" + gw.DefaultPool}
		add(kind, body.name(), rankVIP, gw.DefaultOrigin, body, needs...)
	}
	return all
}

// lowerBlend makes the pool of a blend on one switch.
func lowerBlend(ir *policies.IR, gw *packets.Gateway, b *packets.Blend, sw string) *reconciler.Resource {
	target := TargetOf(sw)
	body := newPool(ir, gw, sw, b.Name)
	ids := make([][]uint16, len(gw.Pools))
	var refs []reconciler.Key
	for i := range gw.Pools {
		p := &gw.Pools[i]
		if !slices.ContainsFunc(b.Shares, func(s packets.Share) bool { return s.Version == p.Version }) {
			continue
		}
		ids[i] = backendIDs(ir, gw, sw, p)
		for j, id := range ids[i] {
			body.backends[id] = p.Version + "/" + p.Backends[j].Name
			refs = append(refs, reconciler.Key{Target: target, Kind: "backend", Name: backendKey(id)})
		}
	}
	for i, s := range b.Buckets {
		body.buckets[i] = uint32(ids[s.Pool][s.Backend]) + 1
	}
	return &reconciler.Resource{
		Key:  reconciler.Key{Target: target, Kind: "pool", Name: poolKey(body.pool)},
		Rank: rankPool, Refs: refs, Body: body, Origin: b.Origin,
	}
}

// newPool makes a pool of a gateway with empty buckets.
func newPool(ir *policies.IR, gw *packets.Gateway, sw, name string) *poolBody {
	return &poolBody{
		pool: poolID(ir, sw, gw.Name, name), hasEntry: true, mask: uint16(gw.Hash.Buckets - 1),
		buckets: make([]uint32, gw.Hash.Buckets), label: gw.Name + "/" + name, backends: map[uint16]string{},
	}
}

// poolID is the ID of a version's pool or of a blend.
func poolID(ir *policies.IR, sw, gateway, pool string) uint8 {
	return uint8(ir.ID(sw, policies.SpacePool, gateway+"/"+pool))
}

// backendIDs lists the IDs of the servers of a version, in their order.
func backendIDs(ir *policies.IR, gw *packets.Gateway, sw string, p *packets.Pool) []uint16 {
	ids := make([]uint16, len(p.Backends))
	for i := range p.Backends {
		ids[i] = uint16(ir.ID(sw, policies.SpaceBackend, gw.Name+"/"+p.Version+"/"+p.Backends[i].Name))
	}
	return ids
}

func poolKey(pool uint8) string        { return fmt.Sprintf("pool=%d", pool) }
func backendKey(backend uint16) string { return fmt.Sprintf("backend=%d", backend) }

func masksOf(h packets.Hash) [6]uint32 {
	m := h.Masks()
	return [6]uint32{m.VNI, m.Src, m.Dst, uint32(m.Protocol), uint32(m.SrcPort), uint32(m.DstPort)}
}

// rankOf is the rank of a table's resources.
func rankOf(table uint32) int {
	switch table {
	case pipeline.TableBackend:
		return rankBackend
	case pipeline.TableHashProfile, pipeline.TablePool, pipeline.TableBucket:
		return rankPool
	case pipeline.TableVIPv4, pipeline.TableVIPv6:
		return rankVIP
	}
	return rankRule
}

// canonical returns a match as it is read back from a table of one address family.
func canonical(m packets.Match) packets.Match {
	if m.AnyVNI {
		m.VNI = 0
	}
	for _, p := range []*netip.Prefix{&m.Src, &m.Dst} {
		if p.Bits() <= 0 { // any address
			*p = netip.Prefix{}
		}
	}
	return m
}

func lowerRule(ir *policies.IR, gw *packets.Gateway, sw string, r *packets.Rule) *reconciler.Resource {
	body := &ruleBody{
		table: kindTables[r.TableName()], vip: uint8(ir.ID(sw, policies.SpaceVIP, gw.Name)),
		pool: poolID(ir, sw, gw.Name, r.Pool), priority: r.Priority, match: canonical(r.Match), label: gw.Name + "/" + r.Pool,
	}
	target := TargetOf(sw)
	return &reconciler.Resource{
		Key: reconciler.Key{Target: target, Kind: r.TableName(), Name: body.name()}, Rank: rankRule,
		Refs: []reconciler.Key{{Target: target, Kind: "pool", Name: poolKey(body.pool)}},
		Body: body, Origin: r.Origin,
	}
}
