// Package bolt is the store of a daemon that runs alone: a bbolt file, which only one
// process can open at a time.
package bolt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/reconciler/board"
)

// layout is the version of the file's layout. A file with another one is refused.
const layout = "1"

// file holds the records.
type file struct{ db *bbolt.DB }

// Open opens the store for a --state of the form "file:/path", and creates the file and
// its folder if they are missing.
func Open(state string) (*reconciler.Store, error) {
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
		return nil, fmt.Errorf("--state %s: %w; name a file that gray can write, or move this one away, which gives everything on the switches new IDs", state, err)
	}
	s := &file{db: db}
	if err := s.checkVersion(); err != nil {
		return nil, errors.Join(fmt.Errorf("--state %s: %w", state, err), db.Close())
	}
	return &reconciler.Store{Records: board.Records{Load: s.load, Write: s.write}, Close: db.Close}, nil
}

func (s *file) checkVersion() error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte("meta"))
		if err != nil {
			return err
		}
		switch v := string(b.Get([]byte("version"))); v {
		case layout:
			return nil
		case "":
			return b.Put([]byte("version"), []byte(layout))
		default:
			return fmt.Errorf("the file has layout %q, this gray reads %q; use the gray that wrote it", v, layout)
		}
	})
}

// load is the Load of board.Records.
func (s *file) load(bucket string, f func(key string, value []byte) error) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error { return f(string(k), v) })
	})
}

// write is the Write of board.Records.
func (s *file) write(bucket string, put map[string][]byte, remove []string) error {
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
