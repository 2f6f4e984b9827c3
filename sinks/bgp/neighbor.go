package bgp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/osrg/gobgp/v4/api"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/secrets"
)

const (
	// holdTime and connectRetry are the timers of a session, in seconds.
	holdTime     = 90
	connectRetry = 5
	// deferral is how many seconds a restarting speaker waits for its neighbors'
	// routes before it announces its own. It has no use for them.
	deferral = 1
	// hops is the TTL: neighbors may be some hops away, and those with the TTL
	// security mechanism (RFC 5082) accept nothing but 255.
	hops = 255
	// maxReceived is how many routes a neighbor may send, by family. The session of
	// one that sends more is shut down.
	maxReceived = 100_000
	// maxPassword is the longest key of TCP MD5, in bytes.
	maxPassword = 80
)

// password is the MD5 key of a session. It always prints as stars.
type password string

// String implements fmt.Stringer.
func (password) String() string { return "***" }

// GoString implements fmt.GoStringer.
func (password) GoString() string { return "***" }

// readPassword returns the one line of a password file, "" where file is empty.
func readPassword(dir, file string) (password, error) {
	if file == "" {
		return "", nil
	}
	b, err := secrets.Read(dir, file)
	if err != nil {
		return "", err
	}
	line, rest, _ := bytes.Cut(b, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	switch {
	case len(bytes.TrimSpace(rest)) > 0:
		return "", fmt.Errorf("%s holds more than one line; want the password alone", file)
	case len(line) == 0:
		return "", fmt.Errorf("%s is empty; want the password", file)
	case len(line) > maxPassword:
		return "", fmt.Errorf("%s holds a password of %d bytes; TCP MD5 takes up to %d", file, len(line), maxPassword)
	}
	return password(line), nil
}

// session is a neighbor that is set up.
type session struct {
	neighborBody
	Password password // exported, as fmt calls String on no other field
}

// changeNeighbors sets up and ends sessions. Those that no change names, or that are
// set up as wanted already, stay up.
func (sp *speaker) changeNeighbors(changes []reconciler.Change) error {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.server == nil {
		return errEnding
	}
	live, err := sp.counts(false)
	if err != nil {
		return err
	}
	var failed *reconciler.PartialError
	for _, c := range changes {
		if c.New == nil {
			err = sp.end(c.Old.Body.(*neighborBody).address, live)
		} else {
			err = sp.begin(c.New.Body.(*neighborBody), live)
		}
		failed = failed.Add(c.Key(), err)
	}
	return failed.Or()
}

// begin sets up a session, in place of an old one where there is one. That stays as
// it is where the password cannot be read.
func (sp *speaker) begin(b *neighborBody, live map[netip.Addr]count) error {
	pw, err := readPassword(sp.cfg.SecretsDir, b.passwordFile)
	if err != nil {
		return err
	}
	n := session{*b, pw}
	if _, isLive := live[b.address]; isLive && sp.neighbors[b.address] == n {
		return nil
	}
	return errors.Join(sp.end(b.address, live), sp.add(n))
}

// end ends a session, where there is one, for good.
func (sp *speaker) end(address netip.Addr, live map[netip.Addr]count) error {
	sp.board.leave(address)
	delete(sp.neighbors, address)
	if _, isLive := live[address]; !isLive {
		return nil
	}
	return sp.remove(address)
}

// add sets up a session. It starts at once if the speaker is open.
func (sp *speaker) add(n session) error {
	sp.neighbors[n.address] = n
	if !sp.open {
		sp.board.enter(n.neighborBody, stateWaiting)
		return nil
	}
	sp.board.enter(n.neighborBody, stateIdle)
	transport := &api.Transport{RemotePort: packet.BGP_PORT}
	if n.local.IsValid() {
		transport.LocalAddress = n.local.String()
	}
	return sp.server.AddPeer(context.Background(), &api.AddPeerRequest{Peer: &api.Peer{
		Conf:         &api.PeerConf{NeighborAddress: n.address.String(), PeerAsn: n.asn, AuthPassword: string(n.Password)},
		Timers:       &api.Timers{Config: &api.TimersConfig{HoldTime: holdTime, KeepaliveInterval: holdTime / 3, ConnectRetry: connectRetry}},
		Transport:    transport,
		EbgpMultihop: &api.EbgpMultihop{Enabled: true, MultihopTtl: hops},
		AfiSafis:     []*api.AfiSafi{sp.family(api.Family_AFI_IP), sp.family(api.Family_AFI_IP6)},
		GracefulRestart: &api.GracefulRestart{
			Enabled: true, RestartTime: uint32(restartTime.Seconds()), DeferralTime: deferral,
			NotificationEnabled: true, LocalRestarting: true,
		},
	}})
}

func (sp *speaker) family(afi api.Family_Afi) *api.AfiSafi {
	f := &api.Family{Afi: afi, Safi: api.Family_SAFI_UNICAST}
	return &api.AfiSafi{
		Config:            &api.AfiSafiConfig{Family: f, Enabled: true},
		MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}},
		PrefixLimits:      &api.PrefixLimit{Family: f, MaxPrefixes: sp.cfg.limit},
	}
}

// remove ends a session: the neighbor is told so and drops the routes.
func (sp *speaker) remove(address netip.Addr) error {
	return sp.server.DeletePeer(context.Background(), &api.DeletePeerRequest{Address: address.String()})
}

// openSessions starts the sessions that wait.
func (sp *speaker) openSessions() {
	if sp.open {
		return
	}
	sp.open = true
	sp.patience.Stop()
	for address, n := range sp.neighbors {
		if err := sp.add(n); err != nil {
			sp.cfg.Log.Error("cannot open a session", "target", sp.target, "neighbor", address, "error", err)
		}
	}
}

// renew sets up a session again that went down. GoBGP says that forwarding was
// preserved only in a neighbor's first session; without that, a neighbor that lost
// the connection for a moment would drop the routes when it is back. It is done when
// GoBGP is about to connect again, as the session's queue is empty then: a queue that
// is not would leave a goroutine behind.
func (sp *speaker) renew(address netip.Addr) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	n, ok := sp.neighbors[address]
	if !ok || sp.server == nil || !sp.open {
		return
	}
	if err := errors.Join(sp.remove(address), sp.add(n)); err != nil {
		sp.cfg.Log.Error("cannot reopen a session", "target", sp.target, "neighbor", address, "error", err)
	}
}

// stateName is the name of a state in the BGP standard, in lower case.
func stateName(s packet.FSMState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "BGP_FSM_"))
}
