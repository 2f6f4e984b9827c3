package reconciler

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/gray-release/gray/policies"
)

// storeVersion is the layout of the file; a file of another one is refused.
const storeVersion = "1"

// Store is what has to outlive the daemon: the numbers of policies.IDs, how to
// reach the switches, what the Envoys were last given. It is a bbolt file that
// one process has open at a time.
type Store struct{ db *bbolt.DB }

// OpenStore opens the store that a --state value names ("file:/path"), and
// makes the file and its folder where they are missing.
func OpenStore(state string) (*Store, error) {
	path, ok := strings.CutPrefix(state, "file:")
	if !ok || path == "" {
		return nil, fmt.Errorf("--state %q: want file:/path/to/state.db", state)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("--state %s: cannot make its folder: %w; name a file that this user can write", state, err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("--state %s: another process has it open; stop that daemon or name another file", state)
	}
	if err != nil {
		return nil, fmt.Errorf("--state %s: %w; name a file that gray can write, or move this one away, which gives the numbers on the switches anew", state, err)
	}
	s := &Store{db: db}
	if err := s.checkVersion(); err != nil {
		return nil, errors.Join(fmt.Errorf("--state %s: %w", state, err), db.Close())
	}
	return s, nil
}

func (s *Store) checkVersion() error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte("meta"))
		if err != nil {
			return err
		}
		switch v := string(b.Get([]byte("version"))); v {
		case storeVersion:
			return nil
		case "":
			return b.Put([]byte("version"), []byte(storeVersion))
		default:
			return fmt.Errorf("the file has layout %q, this gray reads %q; use the gray that wrote it", v, storeVersion)
		}
	})
}

// Close releases the file.
func (s *Store) Close() error { return s.db.Close() }

// Load calls f for every record of a bucket, sorted by key. The value is only
// valid during the call.
func (s *Store) Load(bucket string, f func(key string, value []byte) error) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error { return f(string(k), v) })
	})
}

// Write puts and removes records of a bucket in one transaction, on disk when
// it returns.
func (s *Store) Write(bucket string, put map[string][]byte, remove []string) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(bucket))
		if err != nil {
			return err
		}
		for _, k := range remove {
			if err := b.Delete([]byte(k)); err != nil {
				return err
			}
		}
		for k, v := range put {
			if err := b.Put([]byte(k), v); err != nil {
				return err
			}
		}
		return nil
	})
}

// bucketSwitches is the bucket of the switches that gray wrote to, by name.
const bucketSwitches = "switches"

// switches are those that an earlier process wrote to and did not clean.
func (s *Store) switches() ([]*policies.Switch, error) {
	var all []*policies.Switch
	err := s.Load(bucketSwitches, func(_ string, v []byte) error {
		sw := new(policies.Switch)
		all = append(all, sw)
		return json.Unmarshal(v, sw)
	})
	return all, err
}

// NextEpoch gives this process a number that is higher than that of every
// process before it on this store, also where the clock went back. Election ids
// begin with it.
func (s *Store) NextEpoch(now time.Time) (uint64, error) {
	epoch := uint64(now.Unix())
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
