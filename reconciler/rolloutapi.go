package reconciler

import (
	"context"
	"errors"
	"time"

	"github.com/gray-release/gray/policies"
)

// Event is a transition of a rollout, to be told.
type Event struct {
	Time   time.Time
	Policy string
	policies.Event
	Batches  int    // how many a Network has
	Revision string // the commit
	Result   any    // what the test that led to it measured; nil where none did
}

// AuditRecord is one entry of the audit log: what became of a rollout, why, and
// where a person said so, who.
type AuditRecord struct {
	Number     uint64           `json:"number"` // from 1, without gaps
	Time       time.Time        `json:"time"`
	Policy     string           `json:"policy"`
	Run        int              `json:"run"`
	Generation uint64           `json:"generation"` // as it is after this
	Revision   string           `json:"revision"`
	Verb       string           `json:"verb,omitempty"` // what a person said
	Who        string           `json:"who,omitempty"`
	Why        string           `json:"why,omitempty"`
	Events     []policies.Event `json:"events"`
	Evidence   []string         `json:"evidence,omitempty"` // of the tests that led to it
}

// Errors of Do.
var (
	ErrNoRollout = errors.New("no policy of that name has a rollout; see gray status")
	ErrNotNow    = errors.New("not now")
)

// Do takes in what a person says about the rollout of a policy, and returns what
// became of it. It is stored before it is acted on. The error is ErrNoRollout, or
// wraps ErrNotNow where the verb does not apply.
func (r *Reconciler) Do(ctx context.Context, policy string, v policies.Verb) ([]policies.Event, error) {
	return nil, ErrNoRollout
}

// Audit is the newest records of the audit log, oldest first, of a policy or with
// an empty name of all. It does not ask the loop.
func (r *Reconciler) Audit(policy string, most int) ([]AuditRecord, error) { return nil, nil }
