package xds

import (
	"maps"
	"slices"
	"sync"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The bounds of one node's streams. A node has several while one Envoy replaces
// another, after a lost connection, and when programs on it use gRPC's own client.
const (
	maxNodeStreams = 100
	nodeRate       = 5 // new ones a second, once maxNodeStreams were opened at once
)

// admission is the open streams. It bounds them, in all and for each node, so that
// a node that reconnects all the time takes nothing from the others.
type admission struct {
	mu      sync.Mutex
	streams map[*stream]bool
	nodes   map[string]*nodeStreams
	prune   int // the size of nodes at which idle ones are forgotten
}

type nodeStreams struct {
	open int
	rate *rate.Limiter
}

func newAdmission() *admission {
	return &admission{streams: map[*stream]bool{}, nodes: map[string]*nodeStreams{}, prune: maxStreams}
}

// open adds a stream, or refuses it. Its node is not known yet.
func (a *admission) open(st *stream) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.streams) >= maxStreams {
		return status.Errorf(codes.ResourceExhausted, "%d envoys are connected, which is the most", maxStreams)
	}
	a.streams[st] = true
	return nil
}

func (a *admission) close(st *stream) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.streams, st)
}

// all lists the streams.
func (a *admission) all() []*stream {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Keys(a.streams))
}

// enter counts a stream for its node, or refuses it.
func (a *admission) enter(node string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.nodes[node]
	if n == nil {
		a.forget()
		n = &nodeStreams{rate: rate.NewLimiter(nodeRate, maxNodeStreams)}
		a.nodes[node] = n
	}
	if n.open >= maxNodeStreams {
		return status.Errorf(codes.ResourceExhausted, "node %s has %d streams, which is the most", node, n.open)
	}
	if !n.rate.Allow() {
		return status.Errorf(codes.ResourceExhausted, "node %s opens streams too often; %d at once, and then %d a second are the most", node, maxNodeStreams, nodeRate)
	}
	n.open++
	return nil
}

func (a *admission) leave(node string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.nodes[node].open--
}

// forget drops idle nodes when there are many nodes.
func (a *admission) forget() {
	if len(a.nodes) < a.prune {
		return
	}
	for node, n := range a.nodes {
		if n.open == 0 && n.rate.Tokens() >= maxNodeStreams {
			delete(a.nodes, node)
		}
	}
	a.prune = max(maxStreams, 2*len(a.nodes))
}
