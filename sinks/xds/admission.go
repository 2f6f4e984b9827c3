package xds

import (
	"sync"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The bounds of one node's streams. There are several where an Envoy is replaced
// by the next one, where a connection was lost without a word, and where programs
// on the node have gRPC's own client.
const (
	maxNodeStreams = 100
	nodeRate       = 5 // new ones a second, once maxNodeStreams were opened at once
)

// admission bounds what one node can have and open, so that one that connects
// again and again takes nothing from the others.
type admission struct {
	mu    sync.Mutex
	nodes map[string]*nodeStreams
	prune int // the size at which idle nodes are forgotten
}

type nodeStreams struct {
	open int
	rate *rate.Limiter
}

func newAdmission() *admission {
	return &admission{nodes: map[string]*nodeStreams{}, prune: maxStreams}
}

// enter counts a stream of a node, or refuses it.
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

// forget drops nodes that have not been here for a while, when there are many.
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
