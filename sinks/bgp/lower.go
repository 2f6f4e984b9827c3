package bgp

import (
	"fmt"
	"net/netip"
	"slices"

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

// targetBody is the speaker itself.
type targetBody struct {
	asn      uint32
	routerID netip.Addr
}

func (b *targetBody) Equal(o reconciler.Body) bool {
	x, ok := o.(*targetBody)
	return ok && *b == *x
}

func (b *targetBody) String() string { return fmt.Sprintf("AS %d, router id %s", b.asn, b.routerID) }

func (b *targetBody) Delta(old reconciler.Body) string {
	return fmt.Sprintf("%s -> %s; this restarts its sessions", old, b)
}

// neighborBody is one session of a speaker.
type neighborBody struct {
	address      netip.Addr
	local        netip.Addr // source of the session; zero: the route decides
	asn          uint32
	passwordFile string // empty: no MD5
	stale        bool   // the session uses another password than the file holds; set by observe alone
}

func (b *neighborBody) Equal(o reconciler.Body) bool {
	x, ok := o.(*neighborBody)
	return ok && *b == *x
}

func (b *neighborBody) String() string {
	s := fmt.Sprintf("AS %d", b.asn)
	if b.local.IsValid() {
		s += " from " + b.local.String()
	}
	if b.passwordFile != "" {
		s += ", password in " + b.passwordFile
	}
	if b.stale {
		s += ", which has changed since"
	}
	return s
}

func (b *neighborBody) Delta(old reconciler.Body) string { return reconciler.FromTo(old, b) }

// pathBody is a VIP's path. Without a next hop the speaker keeps it and does not
// announce it.
type pathBody struct {
	prefix      netip.Prefix
	nextHop     netip.Addr
	communities []uint32 // sorted; the AS number in the upper half
	label       string   // the Gateway, for people to read; not compared
}

func (b *pathBody) held() bool { return !b.nextHop.IsValid() }

func (b *pathBody) Equal(o reconciler.Body) bool {
	x, ok := o.(*pathBody)
	return ok && b.prefix == x.prefix && b.nextHop == x.nextHop && slices.Equal(b.communities, x.communities)
}

func (b *pathBody) String() string {
	s := "next hop " + b.nextHop.String()
	if b.held() {
		s = "not announced, none of its servers is healthy"
	}
	for i, c := range b.communities {
		if i == 0 {
			s += ", communities"
		}
		s += fmt.Sprintf(" %d:%d", c>>16, c&0xffff)
	}
	if b.label != "" {
		s = b.label + ": " + s
	}
	return s
}

func (b *pathBody) Delta(old reconciler.Body) string { return reconciler.FromTo(old, b) }
