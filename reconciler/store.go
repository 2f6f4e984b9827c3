package reconciler

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"time"

	"github.com/gray-release/gray/policies"
)

// Store is what has to outlive the daemon: the numbers of policies.IDs, how to
// reach the switches, what the Envoys were last given.
type Store struct{ Backend }

// Backend is where the records of a Store lie.
type Backend interface {
	// Load calls f for every record of a bucket, sorted by key. The value is only
	// valid during the call.
	Load(bucket string, f func(key string, value []byte) error) error
	// Write puts and removes records of a bucket, all of them or none; a key in both
	// is put. What it wrote is safe when it returns nil. A key is not empty.
	Write(bucket string, put map[string][]byte, remove []string) error
	// Close lets go of the records.
	Close() error
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
