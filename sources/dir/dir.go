package dir

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sources"
)

// racy is how old a file's time must be to be trusted: within it the file may
// have been written again without its time showing it.
const racy = 2 * time.Second

// Source implements reconciler.Source for a folder.
type Source struct {
	root    string
	watcher *Watcher
	files   schema.Files
	known   map[string]known
	scanned time.Time
}

// known is how a file looked when it was read.
type known struct {
	size  int64
	mtime time.Time
	file  *schema.File
}

// New returns a source that watches a folder.
func New(root string) (*Source, error) {
	w, err := Watch(root)
	if err != nil {
		return nil, err
	}
	return &Source{root: root, watcher: w, known: map[string]known{}}, nil
}

// Changed implements reconciler.Source.
func (s *Source) Changed() <-chan struct{} { return s.watcher.Changed() }

// Close stops watching.
func (s *Source) Close() error { return s.watcher.Close() }

// Read reads a folder once.
func Read(ctx context.Context, root string) (*schema.Snapshot, error) {
	return (&Source{root: root, known: map[string]known{}}).Fetch(ctx)
}

// Fetch implements reconciler.Source. Only files whose size or time changed
// since the last Fetch are read.
func (s *Source) Fetch(ctx context.Context) (*schema.Snapshot, error) {
	root, err := os.OpenRoot(s.root)
	if err != nil {
		return nil, fmt.Errorf("cannot read the folder %s: %w", s.root, err)
	}
	defer root.Close()
	started := time.Now()
	now := make(map[string]known, len(s.known))
	var put []*schema.File
	err = fs.WalkDir(root.FS(), ".", func(p string, entry fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist):
			return nil // gone while we looked
		case err != nil:
			return err
		case entry.IsDir() && p != "." && entry.Name()[0] == '.':
			return fs.SkipDir
		case entry.IsDir() || !sources.Wanted(p):
			return nil
		case len(now) >= sources.MaxFiles:
			return fmt.Errorf("the folder has more than %d files", sources.MaxFiles)
		}
		k, fresh := s.look(root, p, entry)
		if k.file == nil {
			return nil
		}
		now[p] = k
		if fresh {
			put = append(put, k.file)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the folder %s: %w", s.root, err)
	}
	var gone []string
	for p := range s.known {
		if _, there := now[p]; !there {
			gone = append(gone, p)
		}
	}
	s.files = s.files.With(put, gone)
	s.known, s.scanned = now, started
	return &schema.Snapshot{Revision: "dir@sha256:" + digest(s.files), Files: s.files}, nil
}

// look reads a file unless it looks as it did; false where it did.
func (s *Source) look(root *os.Root, p string, entry fs.DirEntry) (known, bool) {
	info, err := root.Stat(p)
	if errors.Is(err, fs.ErrNotExist) && entry.Type()&fs.ModeSymlink == 0 {
		return known{}, false
	}
	old, had := s.known[p]
	if err == nil && had && old.size == info.Size() && old.mtime.Equal(info.ModTime()) && s.scanned.Sub(old.mtime) > racy {
		return old, false
	}
	f := read(root, p, info, err)
	k := known{file: f}
	if err == nil {
		k.size, k.mtime = info.Size(), info.ModTime()
	}
	if had && old.file.ID == f.ID {
		k.file = old.file
		return k, false
	}
	return k, true
}

// read makes a File of a path, with the reason where it cannot be read.
func read(root *os.Root, p string, info fs.FileInfo, statErr error) *schema.File {
	f := &schema.File{Path: p}
	switch {
	case statErr != nil && errors.Is(statErr, fs.ErrNotExist):
		f.Err = errors.New("is a symbolic link to nothing")
	case statErr != nil:
		f.Err = sources.ErrLeaves
	case !info.Mode().IsRegular():
		f.Err = errors.New("is no regular file")
	default:
		f.Err = sources.Refuse(p, info.Size())
	}
	if f.Err == nil {
		f.Data, f.Err = readAll(root, p)
	}
	if f.Err == nil {
		f.Err = sources.Refuse(p, int64(len(f.Data)))
	}
	if f.Err != nil {
		f.Data = nil
		f.ID = "error:" + f.Err.Error()
		return f
	}
	sum := sha256.Sum256(f.Data)
	f.ID = hex.EncodeToString(sum[:])
	return f
}

func readAll(root *os.Root, p string) ([]byte, error) {
	file, err := root.Open(p)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, schema.MaxCSV+1))
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	return data, nil
}

// digest names the state of a folder.
func digest(files schema.Files) string {
	h := sha256.New()
	for f := range files.All() {
		fmt.Fprintf(h, "%q %q\n", f.Path, f.ID)
	}
	return hex.EncodeToString(h.Sum(nil))[:40]
}
