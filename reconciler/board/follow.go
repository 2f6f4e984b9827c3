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

// Says is what the leader says about a commit: that it has adopted it, or with an error
// why it is not to be in force here: ErrLeaderRefuses, as the planes would part, or for
// want of its word, which is to be asked for again after a while. Without either, this
// daemon decides; so does the nil board. A first commit whose meaning needs what has
// moved waits for that.
func (f *Follow) Says(revision string, needsMoved bool, now time.Time) (adopted bool, again time.Duration, err error) {
	if f == nil {
		return false, 0, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked != revision {
		f.asked, f.askedAt = revision, now
	}
	rec := f.known.Commit
	switch {
	case f.known.Rollouts == nil && needsMoved:
		again, err = FollowWait-now.Sub(f.since), ErrUnknown
	case rec.Revision == revision:
		return true, 0, nil
	case rec.Refused == revision:
		return false, 0, ErrLeaderRefuses
	case rec.Revision != "":
		again, err = decideWait-now.Sub(f.askedAt), ErrUndecided
	}
	if again <= 0 {
		return false, 0, nil
	}
	return false, again, err
}

// Moved is what has moved.
func (f *Follow) Moved() Moved {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.known
}
