package bgp

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/gray-release/gray/reconciler"
)

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
