package bgp

import (
	"net/netip"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/reconciler"
)

// The ranks: what a resource refers to has a lower one.
const (
	rankTarget = iota
	rankNeighbor
	rankPath // deleted first, so that no session ends with a route announced
)

// The kinds beside reconciler.KindTarget. The name of a neighbor is its address,
// that of a path the VIP as a prefix.
const (
	kindNeighbor = "neighbor"
	kindPath     = "path"
)

// TargetOf is the name of the target for a switch's speaker.
func TargetOf(switchName string) string { return "bgp/" + switchName }

// Lower implements reconciler.Sink.
func (s *Sink) Lower(ir *policies.IR, n policies.Name) ([]*reconciler.Resource, error) {
	var all []*reconciler.Resource
	switch unit := ir.Get(n).(type) {
	case *policies.Switch:
		if unit.BGP != nil {
			all = lowerSwitch(unit)
		}
	case *packets.Gateway:
		for _, name := range unit.Switches {
			if sw := ir.Switch(name); sw != nil && sw.BGP != nil {
				all = append(all, lowerGateway(unit, sw)...)
			}
		}
	}
	return all, nil
}

// lowerSwitch is the speaker of a switch and its sessions.
func lowerSwitch(sw *policies.Switch) []*reconciler.Resource {
	target := TargetOf(sw.Name)
	all := []*reconciler.Resource{{
		Key:  reconciler.Key{Target: target, Kind: reconciler.KindTarget},
		Rank: rankTarget, Body: &targetBody{asn: sw.BGP.ASN, routerID: sw.BGP.RouterID}, Origin: sw.Origin,
	}}
	for _, n := range sw.BGP.Neighbors {
		all = append(all, &reconciler.Resource{
			Key: neighborKey(target, n.Address), Rank: rankNeighbor, Origin: sw.Origin,
			Body: &neighborBody{address: n.Address, local: sw.BGP.LocalAddress, asn: n.ASN, passwordFile: n.PasswordFile},
		})
	}
	return all
}

// lowerGateway is a path for every VIP of a gateway on one switch.
func lowerGateway(gw *packets.Gateway, sw *policies.Switch) []*reconciler.Resource {
	var all []*reconciler.Resource
	for _, vip := range gw.VIPs {
		b := &pathBody{prefix: netip.PrefixFrom(vip, vip.BitLen()), label: gw.Name}
		if gw.Alive() {
			b.nextHop, b.communities = sw.BGP.NextHopOf(vip), sw.BGP.Communities
		}
		all = append(all, &reconciler.Resource{
			Key: pathKey(TargetOf(sw.Name), b.prefix), Rank: rankPath, Body: b, Origin: gw.Origin,
			Refs: []reconciler.Key{entryOf(sw.Name, vip)},
		})
	}
	return all
}

func neighborKey(target string, a netip.Addr) reconciler.Key {
	return reconciler.Key{Target: target, Kind: kindNeighbor, Name: a.String()}
}

func pathKey(target string, p netip.Prefix) reconciler.Key {
	return reconciler.Key{Target: target, Kind: kindPath, Name: p.String()}
}

// entryOf is the key of a VIP's entry on the switch, as sinks/p4rt names it.
func entryOf(switchName string, vip netip.Addr) reconciler.Key {
	kind := "vip_v4"
	if vip.Is6() {
		kind = "vip_v6"
	}
	return reconciler.Key{Target: "p4rt/" + switchName, Kind: kind, Name: "dst=" + vip.String()}
}
