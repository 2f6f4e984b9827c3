package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/server"

	"github.com/gray-release/gray/reconciler"
)

var errEnding = errors.New("the speaker is shutting down")

// restartTime is how long neighbors keep the routes of a speaker that is away. A new
// speaker waits as long for its first paths before it opens sessions: after that the
// neighbors have dropped the routes anyway.
const restartTime = 120 * time.Second

// ending says what neighbors do with the routes of a speaker that stops.
type ending bool

const (
	keepRoutes ending = true  // it comes back: connections end without a word
	dropRoutes ending = false // it does not: neighbors are told so
)

// speaker is the BGP speaker of one switch.
type speaker struct {
	target string
	cfg    Config
	board  *board

	mu        sync.Mutex // held during calls into GoBGP, never taken by what GoBGP calls with locks held
	server    *server.BgpServer
	unwatch   context.CancelFunc
	body      targetBody
	neighbors map[netip.Addr]session
	held      map[netip.Prefix]bool // VIPs that are not announced
	open      bool                  // the sessions are; before, they wait for the first paths
	patience  *time.Timer           // opens them when that takes too long
	ended     bool
}

// options guards two variables of GoBGP that all speakers of a process share. Each
// start writes them, always the same values, and everything that touches routes
// reads them.
var options sync.RWMutex

// reading locks options for a reader and returns the unlock function.
func reading() func() {
	options.RLock()
	return options.RUnlock
}

func newSpeaker(target string, cfg Config) *speaker {
	return &speaker{
		target: target, cfg: cfg, board: newBoard(target, cfg.Log),
		neighbors: map[netip.Addr]session{}, held: map[netip.Prefix]bool{},
	}
}

// start runs a speaker without neighbors.
func (sp *speaker) start(b *targetBody) error {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if err := sp.startLocked(b); err != nil {
		return fmt.Errorf("cannot start the speaker: %w", err)
	}
	return nil
}

func (sp *speaker) startLocked(b *targetBody) error {
	ctx, cancel := context.WithCancel(context.Background())
	log := slog.New(&listener{board: sp.board, log: sp.cfg.Log.With("target", sp.target).Handler()})
	srv := server.NewBgpServer(server.LoggerOption(log, nil))
	go srv.Serve()
	options.Lock()
	err := srv.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
		Asn: b.asn, RouterId: b.routerID.String(), ListenPort: -1,
	}})
	options.Unlock()
	if err == nil {
		err = learnNothing(ctx, srv)
	}
	if err == nil {
		err = srv.WatchEvent(ctx, server.WatchEventMessageCallbacks{OnPeerUpdate: sp.peerEvent}, server.WatchPeer())
	}
	if err != nil {
		cancel()
		srv.Stop()
		return err
	}
	sp.server, sp.unwatch = srv, cancel
	sp.body, sp.open = *b, false
	sp.patience = time.AfterFunc(sp.cfg.patience, func() {
		sp.mu.Lock()
		defer sp.mu.Unlock()
		if sp.server == srv {
			sp.openSessions()
		}
	})
	return nil
}

// learnNothing rejects routes of neighbors, so that they neither compete with the
// speaker's own nor are passed on.
func learnNothing(ctx context.Context, srv *server.BgpServer) error {
	own := &api.Policy{Name: "own", Statements: []*api.Statement{{
		Name:       "own",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	}}}
	if err := srv.AddPolicy(ctx, &api.AddPolicyRequest{Policy: own}); err != nil {
		return err
	}
	return srv.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
		Name: "global", Direction: api.PolicyDirection_POLICY_DIRECTION_IMPORT,
		Policies: []*api.Policy{own}, DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT,
	}})
}

// stop ends the speaker and all its sessions for good. It may be called twice.
func (sp *speaker) stop(how ending) error {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.ended = true
	return sp.stopLocked(how)
}

func (sp *speaker) stopLocked(how ending) error {
	srv := sp.server
	if srv == nil {
		return nil
	}
	sp.server = nil
	sp.patience.Stop()
	sp.unwatch()
	for address := range sp.neighbors {
		sp.board.leave(address)
	}
	// A connection that ends without a notification is a restart to a neighbor
	// with graceful restart; any other neighbor is told.
	err := srv.StopBgp(context.Background(), &api.StopBgpRequest{AllowGracefulRestart: how == keepRoutes})
	srv.Stop() // the rest of what NewBgpServer started
	return err
}

// become gives the speaker another AS number or router ID. It keeps its neighbors and
// paths, and all sessions restart.
func (sp *speaker) become(b *targetBody) error {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.ended {
		return errEnding
	}
	if sp.server != nil && sp.body == *b {
		return nil
	}
	var paths map[netip.Prefix]*pathBody
	open := sp.open
	if sp.server != nil { // it is nil where the last start failed
		var err error
		if paths, err = sp.paths(); err != nil {
			return err
		}
		if err := sp.stopLocked(dropRoutes); err != nil {
			return err
		}
	}
	if err := sp.startLocked(b); err != nil {
		return fmt.Errorf("cannot start the speaker: %w", err)
	}
	var errs []error
	for _, p := range paths {
		errs = append(errs, sp.announce(p))
	}
	for _, n := range sp.neighbors {
		errs = append(errs, sp.add(n))
	}
	if open {
		sp.openSessions()
	}
	return errors.Join(errs...)
}

// observe reads the speaker, its sessions and what it announces. A password file that
// cannot be read is an error of its neighbor, and no reason to end the session.
func (sp *speaker) observe() (reconciler.State, error) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	state := reconciler.State{}
	if sp.ended {
		return nil, errEnding
	}
	if sp.server == nil { // the last start failed
		return state, nil
	}
	live, err := sp.counts(false)
	if err != nil {
		return nil, err
	}
	paths, err := sp.paths()
	if err != nil {
		return nil, err
	}
	self := reconciler.Key{Target: sp.target, Kind: reconciler.KindTarget}
	body := sp.body
	state[self] = &reconciler.Resource{Key: self, Rank: rankTarget, Body: &body}
	var trouble *reconciler.PartialError
	for address, n := range sp.neighbors {
		if _, live := live[address]; sp.open && !live {
			continue
		}
		k, seen := neighborKey(sp.target, address), n.neighborBody
		pw, err := readPassword(sp.cfg.SecretsDir, n.passwordFile)
		trouble = trouble.Add(k, err)
		seen.stale = err == nil && pw != n.Password
		state[k] = &reconciler.Resource{Key: k, Rank: rankNeighbor, Body: &seen}
	}
	for p := range sp.held {
		if paths[p] == nil {
			paths[p] = &pathBody{prefix: p}
		}
	}
	for p, b := range paths {
		k := pathKey(sp.target, p)
		state[k] = &reconciler.Resource{
			Key: k, Rank: rankPath, Body: b,
			Refs: []reconciler.Key{entryOf(strings.TrimPrefix(sp.target, "bgp/"), p.Addr())},
		}
	}
	return state, trouble.Or()
}

// peerEvent is called by GoBGP, in a goroutine of its own, when a session changes its
// state.
func (sp *speaker) peerEvent(e *apiutil.WatchEventMessage_PeerEvent, _ time.Time) {
	if e.Type != apiutil.PEER_EVENT_STATE {
		return
	}
	s := e.Peer.State
	reason := downReason(s.DisconnectMessage)
	if s.AdminState == api.PeerState_ADMIN_STATE_PFX_CT {
		reason = fmt.Sprintf("the neighbor announces more than %d prefixes, and gray needs none; filter them there; the session stays shut until the daemon restarts", sp.cfg.limit)
	}
	if sp.board.move(s.NeighborAddress, stateName(s.SessionState), reason) {
		sp.renew(s.NeighborAddress)
	}
}
