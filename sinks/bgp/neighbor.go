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

// addNeighbor sets up a session, which begins at once if the speaker is open.
func (sp *speaker) addNeighbor(n neighbor) error {
	if !sp.open {
		sp.board.enter(n, stateWaiting)
		return nil
	}
	sp.board.enter(n, stateIdle)
	transport := &api.Transport{RemotePort: packet.BGP_PORT}
	if sp.body.local.IsValid() {
		transport.LocalAddress = sp.body.local.String()
	}
	err := sp.server.AddPeer(context.Background(), &api.AddPeerRequest{Peer: &api.Peer{
		Conf: &api.PeerConf{
			NeighborAddress: n.address.String(), PeerAsn: n.asn, AuthPassword: string(sp.passwords[n.address]),
		},
		Timers:       &api.Timers{Config: &api.TimersConfig{HoldTime: holdTime, KeepaliveInterval: holdTime / 3, ConnectRetry: connectRetry}},
		Transport:    transport,
		EbgpMultihop: &api.EbgpMultihop{Enabled: true, MultihopTtl: hops},
		AfiSafis:     []*api.AfiSafi{sp.family(api.Family_AFI_IP), sp.family(api.Family_AFI_IP6)},
		GracefulRestart: &api.GracefulRestart{
			Enabled: true, RestartTime: uint32(restartTime.Seconds()), DeferralTime: deferral,
			NotificationEnabled: true, LocalRestarting: true,
		},
	}})
	if err != nil {
		return fmt.Errorf("neighbor %s: %w", n.address, err)
	}
	return nil
}

func (sp *speaker) family(afi api.Family_Afi) *api.AfiSafi {
	f := &api.Family{Afi: afi, Safi: api.Family_SAFI_UNICAST}
	return &api.AfiSafi{
		Config:            &api.AfiSafiConfig{Family: f, Enabled: true},
		MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}},
		PrefixLimits:      &api.PrefixLimit{Family: f, MaxPrefixes: sp.cfg.limit},
	}
}

// removeNeighbor ends a session; the neighbor is told and drops the routes.
func (sp *speaker) removeNeighbor(address netip.Addr) error {
	delete(sp.passwords, address)
	if !sp.open {
		return nil
	}
	if err := sp.server.DeletePeer(context.Background(), &api.DeletePeerRequest{Address: address.String()}); err != nil {
		return fmt.Errorf("neighbor %s: %w", address, err)
	}
	return nil
}

// openSessions begins the sessions that wait.
func (sp *speaker) openSessions() {
	if sp.open {
		return
	}
	sp.open = true
	sp.patience.Stop()
	var errs []error
	for _, n := range sp.body.neighbors {
		errs = append(errs, sp.addNeighbor(n))
	}
	if err := errors.Join(errs...); err != nil {
		sp.cfg.Log.Error("sessions cannot be opened", "target", sp.target, "error", err)
	}
}

// renew makes a session that fell anew. GoBGP says that forwarding was preserved
// only in the first session of a neighbor; without that, one that lost the
// connection for a moment would drop its routes when it is back.
func (sp *speaker) renew(address netip.Addr) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.server == nil || !sp.open {
		return
	}
	for _, n := range sp.body.neighbors {
		if n.address != address {
			continue
		}
		pw := sp.passwords[address]
		err := sp.removeNeighbor(address)
		sp.passwords[address] = pw
		if err = errors.Join(err, sp.addNeighbor(n)); err != nil {
			sp.cfg.Log.Error("a session cannot be opened again", "target", sp.target, "error", err)
		}
	}
}

// stateName is the name of a state as BGP's standard has it, in lower case.
func stateName(s packet.FSMState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "BGP_FSM_"))
}
