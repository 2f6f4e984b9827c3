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
)

const (
	// holdTime and connectRetry are the timers of a session, in seconds.
	holdTime     = 90
	connectRetry = 5
	// deferral is how many seconds a speaker that restarts waits for what a
	// neighbor has to say before it speaks. It has no use for it.
	deferral = 1
	// hops is the TTL: neighbors may be some hops away, and those with the TTL
	// security mechanism (RFC 5082) accept no other than 255.
	hops = 255
	// maxReceived bounds what is kept of a neighbor's routes, by family. One that
	// sends more is shut.
	maxReceived = 100_000
	// maxPassword is the longest key of TCP MD5, in bytes.
	maxPassword = 80
)

// password is the MD5 key of a session. It prints as stars wherever it gets to.
type password string

// String implements fmt.Stringer.
func (password) String() string { return "***" }

// GoString implements fmt.GoStringer.
func (password) GoString() string { return "***" }

// readPassword reads the first line of a password file; no file is no password.
func readPassword(dir, file string) (password, error) {
	if file == "" {
		return "", nil
	}
	b, err := reconciler.ReadSecret(dir, file)
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

// session is a neighbor as it is set up.
type session struct {
	neighborBody
	Password password // exported, as fmt asks only such fields how they print
}

// changeNeighbors sets up sessions and ends them; those that are not named, or are
// set up like that already, stay up.
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

// begin sets up a session in the place of the one that there is. Where the password
// cannot be read, that one stays as it is.
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

// end ends a session for good.
func (sp *speaker) end(address netip.Addr, live map[netip.Addr]count) error {
	sp.board.leave(address)
	delete(sp.neighbors, address)
	if _, isLive := live[address]; !isLive {
		return nil
	}
	return sp.remove(address)
}

// add sets up a session, which begins at once if the speaker is open.
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

// remove ends a session; the neighbor is told and drops the routes.
func (sp *speaker) remove(address netip.Addr) error {
	return sp.server.DeletePeer(context.Background(), &api.DeletePeerRequest{Address: address.String()})
}

// openSessions begins the sessions that wait.
func (sp *speaker) openSessions() {
	if sp.open {
		return
	}
	sp.open = true
	sp.patience.Stop()
	for address, n := range sp.neighbors {
		if err := sp.add(n); err != nil {
			sp.cfg.Log.Error("a session cannot be opened", "target", sp.target, "neighbor", address, "error", err)
		}
	}
}

// renew makes a session that fell anew. GoBGP says that forwarding was preserved
// only in the first session of a neighbor; without that, one that lost the
// connection for a moment would drop its routes when it is back. It is done when
// GoBGP is about to connect again: it then has emptied the session's queue, which
// would leave a goroutine behind if it were not empty.
func (sp *speaker) renew(address netip.Addr) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	n, ok := sp.neighbors[address]
	if !ok || sp.server == nil || !sp.open {
		return
	}
	if err := errors.Join(sp.remove(address), sp.add(n)); err != nil {
		sp.cfg.Log.Error("a session cannot be opened again", "target", sp.target, "neighbor", address, "error", err)
	}
}

// stateName is the name of a state as BGP's standard has it, in lower case.
func stateName(s packet.FSMState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "BGP_FSM_"))
}
