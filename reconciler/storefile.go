package reconciler

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// storeVersion is the layout of the file; a file of another one is refused.
const storeVersion = "1"

// file is a Backend for one daemon: a bbolt file that one process has open at a time.
type file struct{ db *bbolt.DB }

// OpenStore opens the store that a --state value names ("file:/path"), and
// makes the file and its folder where they are missing.
func OpenStore(state string) (*Store, error) {
	path, ok := strings.CutPrefix(state, "file:")
	if !ok || path == "" {
		return nil, fmt.Errorf("--state %q: want file:/path/to/state.db, or etcd://host:2379 for several replicas", state)
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
	s := &file{db: db}
	if err := s.checkVersion(); err != nil {
		return nil, errors.Join(fmt.Errorf("--state %s: %w", state, err), db.Close())
	}
	return &Store{s}, nil
}

func (s *file) checkVersion() error {
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

// Close implements Backend.
func (s *file) Close() error { return s.db.Close() }

// Load implements Backend.
func (s *file) Load(bucket string, f func(key string, value []byte) error) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error { return f(string(k), v) })
	})
}

// Write implements Backend.
func (s *file) Write(bucket string, put map[string][]byte, remove []string) error {
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
