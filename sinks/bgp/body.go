package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/gray-release/gray/reconciler"
)

// targetBody is a speaker: who it is, and whom it speaks to.
type targetBody struct {
	asn       uint32
	routerID  netip.Addr
	local     netip.Addr // that sessions come from; zero: the route decides
	neighbors []neighbor // sorted by address
}

// neighbor is one session of a speaker.
type neighbor struct {
	address      netip.Addr
	asn          uint32
	passwordFile string // empty: no MD5
	stale        bool   // the file holds another password than the session has; only what is observed can be
}

func (n neighbor) String() string {
	s := fmt.Sprintf("%s AS %d", n.address, n.asn)
	if n.passwordFile != "" {
		s += " with the password in " + n.passwordFile
	}
	if n.stale {
		s += " as it was before"
	}
	return s
}

func (b *targetBody) Equal(o reconciler.Body) bool {
	x, ok := o.(*targetBody)
	return ok && b.asn == x.asn && b.routerID == x.routerID && b.local == x.local && slices.Equal(b.neighbors, x.neighbors)
}

func (b *targetBody) String() string {
	return b.self() + ", neighbors " + join(b.neighbors)
}

func (b *targetBody) self() string {
	s := fmt.Sprintf("AS %d, router id %s", b.asn, b.routerID)
	if b.local.IsValid() {
		s += ", from " + b.local.String()
	}
	return s
}

func join(neighbors []neighbor) string {
	var words []string
	for _, n := range neighbors {
		words = append(words, n.String())
	}
	return strings.Join(words, "; ")
}

// Delta names the sessions that end or begin; all of them do where the speaker
// itself becomes another.
func (b *targetBody) Delta(old reconciler.Body) string {
	o, ok := old.(*targetBody)
	if !ok || b.self() != o.self() {
		return old.String() + " -> " + b.String()
	}
	var words []string
	if gone := without(o.neighbors, b.neighbors); len(gone) > 0 {
		words = append(words, "no longer "+join(gone))
	}
	if fresh := without(b.neighbors, o.neighbors); len(fresh) > 0 {
		words = append(words, "now "+join(fresh))
	}
	return b.self() + ": " + strings.Join(words, ", ")
}

// without is the neighbors of a that b does not have.
func without(a, b []neighbor) []neighbor {
	return slices.DeleteFunc(slices.Clone(a), func(n neighbor) bool { return slices.Contains(b, n) })
}

// pathBody is a VIP's route. Without a next hop it is held back: the speaker
// knows it and announces nothing.
type pathBody struct {
	prefix      netip.Prefix
	nextHop     netip.Addr
	communities []uint32 // sorted; the AS number in the upper half
	label       string   // the gateway, for people; no part of Equal
}

func (b *pathBody) held() bool { return !b.nextHop.IsValid() }

func (b *pathBody) Equal(o reconciler.Body) bool {
	x, ok := o.(*pathBody)
	return ok && b.prefix == x.prefix && b.nextHop == x.nextHop && slices.Equal(b.communities, x.communities)
}

func (b *pathBody) String() string {
	s := "next hop " + b.nextHop.String()
	if b.held() {
		s = "held back, none of its servers is healthy"
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

func (b *pathBody) Delta(old reconciler.Body) string { return old.String() + " -> " + b.String() }
