package reconciler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler/board"
)

// BucketRollouts is the bucket of the rollouts, by policy, and of the audit log, by
// number: one Write holds a transition and its record.
const (
	BucketRollouts = "rollouts"
	PrefixState    = "state/" // ReadMoved reads the records
	PrefixAudit    = "audit/" // each an AuditRecord as JSON
)

// The bounds of the audit log.
const (
	mostRecords  = 10_000 // older ones go
	mostEvidence = 50     // lines of a record
	maxEvidence  = 500    // bytes of a line
)

// Event is a transition of a rollout, or without a policy something that is wrong or
// right again, to be told.
type Event struct {
	Time   time.Time
	Policy string
	rollout.Event
	Batches  int    // how many a Network has
	Revision string // the commit
	Result   any    // what the test that led to it measured; nil where none did
}

// AuditRecord is one entry of the audit log: what became of a rollout, why, and
// where a person said so, who.
type AuditRecord struct {
	Number     uint64          `json:"number"` // from 1, without gaps
	Time       time.Time       `json:"time"`
	Policy     string          `json:"policy"`
	Run        int             `json:"run"`
	Generation uint64          `json:"generation"` // as it is after this
	Revision   string          `json:"revision"`
	Verb       string          `json:"verb,omitempty"` // what a person said
	Who        string          `json:"who,omitempty"`
	Why        string          `json:"why,omitempty"`
	Events     []rollout.Event `json:"events"`
	Evidence   []string        `json:"evidence,omitempty"` // of the tests that led to it
}

// Errors of Do.
var (
	ErrNoRollout = errors.New("no policy of that name has a rollout; see gray status")
	ErrNotNow    = errors.New("not now")
)

// Do takes in what a person says about the rollout of a policy, and returns what
// became of it. It is stored before it is acted on. The error is ErrNoRollout, or
// wraps ErrNotNow where the verb does not apply.
func (r *Reconciler) Do(ctx context.Context, policy string, v rollout.Verb) (events []rollout.Event, err error) {
	loopErr := r.inLoop(ctx, func() {
		ro := r.rollouts[policy]
		switch {
		case ro == nil || ro.spec == nil:
			err = ErrNoRollout
			return
		case !r.admitted:
			err = fmt.Errorf("%w: no commit is in force yet; see gray status", ErrNotNow)
			return
		case r.cfg.Follow != nil:
			err = fmt.Errorf("%w: this daemon follows; ask the one that leads", ErrNotNow)
			return
		}
		now := time.Now().UTC().Round(0)
		var next *rollout.State
		if next, events, err = ro.state.Do(ro.spec, v, now); err != nil {
			err = fmt.Errorf("%w: %w", ErrNotNow, err)
			return
		}
		err = r.move(ro, next, AuditRecord{Verb: v.Verb, Who: v.Who, Why: v.Why, Events: events}, nil, now)
		if ro.due = true; err == nil {
			ro.retry.soon()
		}
	})
	if loopErr != nil {
		return nil, loopErr
	}
	return events, err
}

// storeRollout stores the next state of a rollout with its record in the audit log,
// and tells of it; a nil next removes it. What is stored already is not written again.
func (r *Reconciler) storeRollout(ro *tracked, next *rollout.State, rec AuditRecord, ended []board.Ended, d *delta, now time.Time) error {
	policy := ro.state.Policy
	put, remove := map[string][]byte{}, []string(nil)
	var state []byte
	rec.Run, rec.Generation = ro.state.Run, ro.state.Generation
	if next == nil {
		remove = append(remove, PrefixState+policy)
	} else {
		var err error
		if state, err = json.Marshal(next); err != nil {
			return err
		}
		rec.Run, rec.Generation = next.Run, next.Generation
		if bytes.Equal(state, ro.stored) && len(rec.Events) == 0 {
			return nil
		}
		put[PrefixState+policy] = state
	}
	rec.Number, rec.Time, rec.Policy, rec.Revision = r.audited+1, now, policy, r.revision
	rec.Evidence = evidenceOf(ended)
	if len(rec.Events) > 0 || rec.Verb != "" {
		b, err := json.Marshal(rec)
		if err != nil {
			return err
		}
		put[recordKey(rec.Number)] = b
		if rec.Number > mostRecords {
			remove = append(remove, recordKey(rec.Number-mostRecords))
		}
	}
	last := r.last
	if d != nil {
		last.Live = r.liveWith(d)
		b, err := json.Marshal(last)
		if err != nil {
			return err
		}
		put[keyCommit] = b
	}
	if r.cfg.Store != nil {
		if err := r.cfg.Store.Write(BucketRollouts, put, remove); err != nil {
			return fmt.Errorf("cannot write the --state file: %w; make room or set its rights, it is tried again", err)
		}
	}
	r.last = last
	if ro.stored = state; put[recordKey(rec.Number)] != nil {
		r.audited = rec.Number
	}
	r.tell(ro, rec, ended)
	return nil
}

func recordKey(n uint64) string { return fmt.Sprintf("%s%016x", PrefixAudit, n) }

// evidenceOf is what tests found, for people.
func evidenceOf(ended []board.Ended) []string {
	var lines []string
	for _, e := range ended {
		for _, l := range e.Verdict.Evidence {
			if len(lines) < mostEvidence {
				lines = append(lines, strings.ToValidUTF8(l[:min(len(l), maxEvidence)], ""))
			}
		}
	}
	return lines
}

// tell logs the events of a record and hands them on.
func (r *Reconciler) tell(ro *tracked, rec AuditRecord, ended []board.Ended) {
	batches := 0
	if ro.last != nil {
		batches = len(ro.last.Rollout.Batches)
	}
	for _, e := range rec.Events {
		log := r.cfg.Log.Info
		if e.Warning {
			log = r.cfg.Log.Warn
		}
		log("rollout", "policy", rec.Policy, "event", e.Reason, "network", e.Network, "batch", e.Batch, "revision", rec.Revision, "message", e.Message)
		if r.cfg.Events == nil {
			continue
		}
		out := Event{Time: rec.Time, Policy: rec.Policy, Event: e, Batches: batches, Revision: rec.Revision}
		for _, t := range ended {
			if t.Network == e.Network || e.Network == "" && !t.Verdict.Passed && !t.Baseline {
				out.Result = t.Result
			}
		}
		r.cfg.Events(out)
	}
}

// rollouts are the records of ReadMoved, and the number of the last record of the
// audit log.
func (s *Store) rollouts() (stored map[string][]byte, audited uint64, err error) {
	stored = map[string][]byte{}
	err = s.Load(BucketRollouts, func(key string, v []byte) error {
		if strings.HasPrefix(key, PrefixState) {
			stored[key] = bytes.Clone(v)
		}
		if number, is := strings.CutPrefix(key, PrefixAudit); is {
			n, err := strconv.ParseUint(number, 16, 64)
			if err != nil {
				return fmt.Errorf("the record %q has no number", key)
			}
			audited = max(audited, n)
		}
		return nil
	})
	return stored, audited, err
}

// Audit is the newest records of the audit log, oldest first, of a policy or with
// an empty name of all. It does not ask the loop.
func (r *Reconciler) Audit(policy string, most int) ([]AuditRecord, error) {
	records := []AuditRecord{}
	if r.cfg.Store == nil {
		return records, nil
	}
	err := r.cfg.Store.Load(BucketRollouts, func(key string, v []byte) error {
		if !strings.HasPrefix(key, PrefixAudit) {
			return nil
		}
		var rec AuditRecord
		if err := json.Unmarshal(v, &rec); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		if policy == "" || rec.Policy == policy {
			records = append(records, rec)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("the audit log in the --state file cannot be read: %w", err)
	}
	return records[max(0, len(records)-most):], nil
}
