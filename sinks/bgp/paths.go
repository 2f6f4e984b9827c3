package bgp

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/gray-release/gray/reconciler"
)

var families = []packet.Family{packet.RF_IPv4_UC, packet.RF_IPv6_UC}

// sendTimeout bounds the wait until a change is sent to the neighbors.
const sendTimeout = 2 * time.Second

// changePaths announces and withdraws, and returns when that is sent: a withdrawal is
// on the wire before the switch loses the VIP. The first changes after a start open
// the sessions.
func (sp *speaker) changePaths(ctx context.Context, changes []reconciler.Change) error {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.server == nil {
		return errEnding
	}
	live, err := sp.paths()
	if err != nil {
		return err
	}
	before, err := sp.counts(true)
	if err != nil {
		return err
	}
	var failed *reconciler.PartialError
	touched := map[packet.Family]bool{}
	for _, c := range changes {
		failed = failed.Add(c.Key(), sp.changePath(c, live, touched))
	}
	if sp.open {
		sp.sent(ctx, before, touched)
	}
	sp.openSessions()
	return failed.Or()
}

// changePath announces or withdraws one path, and marks its family as touched where
// that is news to the neighbors.
func (sp *speaker) changePath(c reconciler.Change, live map[netip.Prefix]*pathBody, touched map[packet.Family]bool) error {
	if c.New == nil {
		prefix := c.Old.Body.(*pathBody).prefix
		delete(sp.held, prefix)
		return sp.withdraw(live[prefix], touched)
	}
	b := c.New.Body.(*pathBody)
	if b.held() {
		sp.held[b.prefix] = true
		return sp.withdraw(live[b.prefix], touched)
	}
	delete(sp.held, b.prefix)
	if was := live[b.prefix]; was != nil && b.Equal(was) {
		return nil
	}
	touched[familyOf(b.prefix)] = true
	return sp.announce(b)
}

// announce adds or replaces a path.
func (sp *speaker) announce(b *pathBody) error {
	p, err := wirePath(b)
	if err != nil {
		return err
	}
	defer reading()()
	_, err = sp.server.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{p}})
	return err
}

// withdraw removes a live path; nil: there is none.
func (sp *speaker) withdraw(b *pathBody, touched map[packet.Family]bool) error {
	if b == nil {
		return nil
	}
	p, err := wirePath(b)
	if err != nil {
		return err
	}
	touched[p.Family] = true
	defer reading()()
	return sp.server.DeletePath(apiutil.DeletePathRequest{Paths: []*apiutil.Path{p}})
}

func familyOf(p netip.Prefix) packet.Family {
	if p.Addr().Is4() {
		return packet.RF_IPv4_UC
	}
	return packet.RF_IPv6_UC
}

// wirePath is a path with its BGP attributes; MP_REACH_NLRI carries IPv6.
func wirePath(b *pathBody) (*apiutil.Path, error) {
	nlri, err := packet.NewIPAddrPrefix(b.prefix)
	if err != nil {
		return nil, err
	}
	p := &apiutil.Path{Family: familyOf(b.prefix), Nlri: nlri, Age: time.Now().Unix()}
	p.Attrs = append(p.Attrs, packet.NewPathAttributeOrigin(0)) // IGP
	var hop packet.PathAttributeInterface
	if p.Family == packet.RF_IPv4_UC {
		hop, err = packet.NewPathAttributeNextHop(b.nextHop)
	} else {
		hop, err = packet.NewPathAttributeMpReachNLRI(p.Family, []packet.PathNLRI{{NLRI: nlri}}, b.nextHop)
	}
	if err != nil {
		return nil, err
	}
	p.Attrs = append(p.Attrs, hop)
	if len(b.communities) > 0 {
		p.Attrs = append(p.Attrs, packet.NewPathAttributeCommunities(b.communities))
	}
	return p, nil
}

// paths reads what the speaker announces, by prefix.
func (sp *speaker) paths() (map[netip.Prefix]*pathBody, error) {
	defer reading()()
	all := map[netip.Prefix]*pathBody{}
	for _, f := range families {
		req := apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_GLOBAL, Family: f}
		err := sp.server.ListPath(req, func(nlri packet.NLRI, paths []*apiutil.Path) {
			prefix, err := netip.ParsePrefix(nlri.String())
			if err != nil || len(paths) == 0 {
				return
			}
			b := &pathBody{prefix: prefix}
			for _, a := range paths[0].Attrs {
				switch a := a.(type) {
				case *packet.PathAttributeNextHop:
					b.nextHop = a.Value
				case *packet.PathAttributeMpReachNLRI:
					b.nextHop = a.Nexthop
				case *packet.PathAttributeCommunities:
					b.communities = slices.Sorted(slices.Values(a.Value))
				}
			}
			all[prefix] = b
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// count tells whether something was sent to a neighbor.
type count struct {
	up         time.Time // when it was established; zero: it is not
	updates    uint64    // UPDATE messages that were sent
	advertised map[packet.Family]uint64
}

// counts reads the live sessions by neighbor, and on request what is advertised.
func (sp *speaker) counts(advertised bool) (map[netip.Addr]count, error) {
	defer reading()()
	all := map[netip.Addr]count{}
	err := sp.server.ListPeer(context.Background(), &api.ListPeerRequest{EnableAdvertised: advertised}, func(p *api.Peer) {
		address, err := netip.ParseAddr(p.GetConf().GetNeighborAddress())
		if err != nil {
			return
		}
		s := count{updates: p.GetState().GetMessages().GetSent().GetUpdate(), advertised: map[packet.Family]uint64{}}
		if p.GetState().GetSessionState() == api.PeerState_SESSION_STATE_ESTABLISHED {
			s.up = p.GetTimers().GetState().GetUptime().AsTime()
		}
		for _, f := range p.GetAfiSafis() {
			s.advertised[apiutil.ToFamily(f.GetState().GetFamily())] = f.GetState().GetAdvertised()
		}
		all[address] = s
	})
	return all, err
}

// sent waits until every session that was up has sent an UPDATE since, where it has
// one to send: GoBGP queues them. A session that went down has nothing to send, and
// the wait for one that is stuck ends after sendTimeout.
func (sp *speaker) sent(ctx context.Context, before map[netip.Addr]count, touched map[packet.Family]bool) {
	after, err := sp.counts(true)
	if err != nil {
		return
	}
	waits := map[netip.Addr]count{}
	for address, was := range before {
		for f := range touched {
			if !was.up.IsZero() && (was.advertised[f] > 0 || after[address].advertised[f] > 0) {
				waits[address] = was
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		now, err := sp.counts(false)
		if err != nil {
			return
		}
		for address, was := range waits {
			if is := now[address]; !is.up.Equal(was.up) || is.updates > was.updates {
				delete(waits, address)
			}
		}
		if len(waits) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			sp.cfg.Log.Warn("neighbors have not taken an update in time", "target", sp.target, "neighbors", len(waits))
			return
		}
	}
}
