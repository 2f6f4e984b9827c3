package board

import (
	"errors"
	"time"

	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/schema"
)

// Moved is what the store knows of policies beside their documents.
type Moved struct {
	Rollouts map[string]*rollout.State
	Held     map[string]*schema.Document // what suspended policies go on to mean
	Commit   Commit                      // of the leader
}

// Commit is what the store knows of commits: so that a restart is no way past
// the guard, and that a daemon that follows does as the one that leads.
type Commit struct {
	Revision string         `json:"revision"`          // in force
	Refused  string         `json:"refused,omitempty"` // refused since
	Live     map[string]int `json:"live,omitempty"`    // how many resources Revision asks for, by target
}

// Follow is the board on which a daemon that does not lead finds what the one that
// does has moved.
type Follow struct {
	*Board[string] // nothing is wanted
	since          time.Time
	known          Moved  // without maps: nothing was Set yet
	asked          string // the commit that the leader's word is waited for
	askedAt        time.Time
}

// FollowWait is how long a daemon that follows waits for what has moved before it
// follows the documents alone, where these have rollouts. Envoys keep what they have
// in the meantime.
const FollowWait = 30 * time.Second

// decideWait is how long a daemon that follows waits for the leader to decide about a
// commit. Where nobody leads, or etcd is away, Envoys get the commit after that.
const decideWait = 5 * time.Second

// ErrUnknown is why a first commit waits.
var ErrUnknown = errors.New("it waits until it is known what the leader has moved; see that etcd answers")

// ErrUndecided is why a commit waits that the leader has not decided about.
var ErrUndecided = errors.New("it waits until the daemon that leads has decided about it")

// ErrLeaderRefuses is why a commit is refused that the leader refuses.
var ErrLeaderRefuses = errors.New("the daemon that leads refuses it; see its gray status")

// NewFollow returns an empty board: nothing has moved.
func NewFollow() *Follow { return &Follow{Board: newBoard[string](), since: time.Now()} }

// Set replaces what has moved. It is not changed any more.
func (f *Follow) Set(m Moved) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known = m; m.Rollouts == nil {
		f.known.Rollouts = map[string]*rollout.State{}
	}
	f.news()
}

// Woken gets a value when something was Set; never of a nil board.
func (f *Follow) Woken() <-chan struct{} {
	if f == nil {
		return nil
	}
	return f.Board.Woken()
}

// Waits is how long a first commit with rollouts is to wait for what has moved; 0: no
// longer, never of a nil board.
func (f *Follow) Waits(now time.Time) time.Duration {
	if f == nil {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known.Rollouts != nil {
		return 0
	}
	return max(FollowWait-now.Sub(f.since), 0)
}

// Decided tells what the leader has made of a commit: whether it refuses it, or else
// how long to wait for its word; 0: no longer. What it refuses no daemon has in force,
// as the planes would part.
func (f *Follow) Decided(revision string, now time.Time) (refused bool, wait time.Duration) {
	if f == nil {
		return false, 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked != revision {
		f.asked, f.askedAt = revision, now
	}
	switch rec := f.known.Commit; {
	case f.known.Rollouts == nil, rec.Revision == revision, rec.Revision == "":
		return false, 0
	case rec.Refused == revision:
		return true, 0
	}
	return false, max(decideWait-now.Sub(f.askedAt), 0)
}

// Moved is what has moved.
func (f *Follow) Moved() Moved {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.known
}
