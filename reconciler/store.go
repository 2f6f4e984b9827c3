package reconciler

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/schema"
)

// Store is what has to outlive the daemon: the numbers of policies.IDs, how to
// reach the switches, what the Envoys were last given.
type Store struct {
	board.Records
	Close func() error // lets go of the records
}

// Buckets of a Store.
const (
	bucketIDs      = "ids"      // the records of policies.IDs
	bucketSwitches = "switches" // the switches that gray wrote to, by name; see leaving for those of devices that are left
)

// switches are those that an earlier process wrote to and did not clean, and their
// records.
func (s *Store) switches() (all map[string]*policies.Switch, records map[string][]byte, err error) {
	all, records = map[string]*policies.Switch{}, map[string][]byte{}
	err = s.Load(bucketSwitches, func(key string, v []byte) error {
		all[key], records[key] = new(policies.Switch), bytes.Clone(v)
		return json.Unmarshal(v, all[key])
	})
	return all, records, err
}

// NextEpoch gives a number that is higher than above and than every one that was
// given before on this store, also where the clock went back; where the store is a
// new one, the clock has it be higher than those of the old one. Election ids begin
// with it.
func (s *Store) NextEpoch(now time.Time, above uint64) (uint64, error) {
	epoch := max(uint64(now.Unix()), above+1)
	err := s.Load("epoch", func(_ string, v []byte) error {
		if len(v) == 8 {
			epoch = max(epoch, binary.BigEndian.Uint64(v)+1)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return epoch, s.Write("epoch", map[string][]byte{"last": binary.BigEndian.AppendUint64(nil, epoch)}, nil)
}

// A policy that is suspended without a rollout means what it meant before. That is
// progress too: documents alone do not say it, so that it is stored.

// prefixHeld is before the name of such a policy; behind it lies a schema.Excerpt.
const prefixHeld = PrefixState + "held/"

// ReadMoved reads the records of BucketRollouts whose key begins with PrefixState.
func ReadMoved(records map[string][]byte) (board.Moved, error) {
	m := board.Moved{Rollouts: map[string]*rollout.State{}, Held: map[string]*schema.Document{}}
	for key, stored := range records {
		var err error
		if key == keyCommit {
			err = json.Unmarshal(stored, &m.Commit)
		} else if policy, held := strings.CutPrefix(key, prefixHeld); held {
			var e schema.Excerpt
			if err = json.Unmarshal(stored, &e); err == nil {
				m.Held[policy], err = e.Document()
			}
		} else {
			policy = strings.TrimPrefix(key, PrefixState)
			m.Rollouts[policy], err = rollout.Read(stored)
		}
		if err != nil {
			return m, fmt.Errorf("the record %s: %w", key, err)
		}
	}
	return m, nil
}

// suspend says in facts what policies that the newest documents suspend without a
// rollout go on to mean: what they meant before.
func (m *meaning) suspend(facts policies.Facts) policies.Facts {
	for n := range m.docs {
		if n.Kind != schema.KindPolicy {
			continue
		}
		was := facts.Suspended[n.Name]
		if was == nil {
			was = m.spoken[n.Name]
		}
		if !policies.IsSuspended(m.set.Get(n)) {
			was = nil
		}
		if facts.Suspended[n.Name] != was {
			facts = facts.WithSuspended(n.Name, was)
		}
	}
	return facts
}

// speak notes which document a policy means from now on.
func (m *meaning) speak(policy string) {
	doc := m.set.Get(schema.Name{Kind: schema.KindPolicy, Name: policy})
	if doc == nil {
		delete(m.spoken, policy)
	} else if !policies.IsSuspended(doc) {
		m.spoken[policy] = doc
	}
}

// saveHeld keeps what suspended policies go on to mean, before a delta has them do so.
func (r *Reconciler) saveHeld(d *delta) error {
	put, remove := map[string][]byte{}, []string(nil)
	for _, n := range d.docs {
		if n.Kind != schema.KindPolicy {
			continue
		}
		held := d.facts.Suspended[n.Name]
		switch is := policies.IsSuspended(r.meaning.set.Get(n)); {
		case is && held != nil && !r.held[n.Name]:
			b, err := json.Marshal(held.Excerpt())
			if err != nil {
				return err
			}
			put[prefixHeld+n.Name] = b
		case !is && r.held[n.Name]:
			remove = append(remove, prefixHeld+n.Name)
		}
	}
	if len(put)+len(remove) == 0 {
		return nil
	}
	if err := r.cfg.Store.Write(BucketRollouts, put, remove); err != nil {
		return err
	}
	for key := range put {
		r.held[strings.TrimPrefix(key, prefixHeld)] = true
	}
	for _, key := range remove {
		delete(r.held, strings.TrimPrefix(key, prefixHeld))
	}
	return nil
}
