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
	"path/filepath"
	"syscall"
	"time"

	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sources"
)

// racy is how old a file's time must be to be trusted: a younger file may have been
// written again without a new time.
const racy = 2 * time.Second

// Source implements reconciler.Source for a folder.
type Source struct {
	root    string
	watcher *Watcher
	files   schema.Files
	known   map[string]known
	scanned time.Time
}

// known is a file and its metadata when it was read.
type known struct {
	info fs.FileInfo
	file *schema.File
}

// New returns a source that watches a folder.
func New(root string) (*Source, error) {
	w, err := Watch(root)
	if err != nil {
		return nil, err
	}
	return &Source{root: root, watcher: w}, nil
}

// Changed implements reconciler.Source.
func (s *Source) Changed() <-chan struct{} { return s.watcher.Changed() }

// Close stops watching.
func (s *Source) Close() error { return s.watcher.Close() }

// Read reads a folder once.
func Read(ctx context.Context, root string) (*schema.Snapshot, error) {
	return (&Source{root: root}).Fetch(ctx)
}

// Fetch implements reconciler.Source. It reads only files whose metadata differs from
// the last Fetch. A file that cannot be read has its own error; a folder that cannot be
// read is an error of the whole snapshot.
func (s *Source) Fetch(ctx context.Context) (*schema.Snapshot, error) {
	root, err := os.OpenRoot(s.root)
	if err != nil {
		return nil, fmt.Errorf("cannot read the folder %s: %w", s.root, err)
	}
	defer root.Close()
	started := time.Now()
	w := &walker{ctx: ctx, root: root, last: s, now: make(map[string]known, len(s.known))}
	if err := fs.WalkDir(root.FS(), ".", w.visit); err != nil {
		return nil, fmt.Errorf("cannot read the folder %s: %w", s.root, err)
	}
	var gone []string
	for p := range s.known {
		if _, there := w.now[p]; !there {
			gone = append(gone, p)
		}
	}
	s.files = s.files.With(w.put, gone)
	s.known, s.scanned = w.now, started
	return &schema.Snapshot{Revision: "dir@sha256:" + digest(s.files), Files: s.files}, nil
}

// walker visits every file of a folder once.
type walker struct {
	ctx   context.Context
	root  *os.Root
	last  *Source
	now   map[string]known
	put   []*schema.File // files that differ from the last Fetch
	bytes int64
}

func (w *walker) visit(p string, entry fs.DirEntry, err error) error {
	switch {
	case w.ctx.Err() != nil:
		return w.ctx.Err()
	case errors.Is(err, fs.ErrNotExist) && p != ".":
		return nil // removed in the meantime
	case err != nil:
		return err
	case entry.IsDir() && p != "." && entry.Name()[0] == '.':
		return fs.SkipDir
	case entry.IsDir() || !sources.Wanted(p):
		return nil
	case len(w.now) >= sources.MaxFiles:
		return sources.ErrTooMany
	}
	k, err := w.look(p, entry)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		k.file = &schema.File{Path: p, ID: "error:" + err.Error(), Err: err}
	}
	if w.bytes += int64(len(k.file.Data)); w.bytes > sources.MaxBytes {
		return sources.ErrTooLarge
	}
	w.now[p] = k
	if old := w.last.known[p].file; old == nil || old.ID != k.file.ID {
		w.put = append(w.put, k.file)
	}
	return nil
}

// look reads a file unless it is unchanged. The error is fs.ErrNotExist if the file was
// removed in the meantime; any other error says why it is not read.
func (w *walker) look(p string, entry fs.DirEntry) (known, error) {
	at := p
	if entry.Type()&fs.ModeSymlink != 0 {
		var err error
		if at, err = sources.Resolve(p, w.readlink); err != nil {
			return known{}, err
		}
	}
	info, err := w.root.Lstat(filepath.FromSlash(at))
	switch {
	case at != p && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)):
		return known{}, sources.ErrDangling
	case err != nil:
		return known{}, unreadable(err)
	case !info.Mode().IsRegular():
		return known{}, sources.ErrNotRegular
	}
	if old, had := w.last.known[p]; had && old.file.Err == nil && w.last.unchanged(old.info, info) {
		return old, nil
	}
	return w.read(p, at)
}

// unchanged reports whether a file is unchanged. A file that replaced another may have
// the same size and time, but is not the same file.
func (s *Source) unchanged(old, now fs.FileInfo) bool {
	return old.Size() == now.Size() && old.ModTime().Equal(now.ModTime()) && os.SameFile(old, now) &&
		s.scanned.Sub(old.ModTime()) > racy
}

func (w *walker) readlink(p string) (string, bool, error) {
	info, err := w.root.Lstat(filepath.FromSlash(p))
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return "", false, nil // a missing file is noticed at the end
	}
	target, err := w.root.Readlink(filepath.FromSlash(p))
	if err != nil {
		return "", false, unreadable(err)
	}
	return filepath.ToSlash(target), true, nil
}

// read reads the file at a path that has no links.
func (w *walker) read(p, at string) (known, error) {
	// Only regular files are opened. If the file has become a pipe in the meantime,
	// O_NONBLOCK keeps us from waiting for a writer.
	file, err := w.root.OpenFile(filepath.FromSlash(at), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return known{}, unreadable(err)
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return known{}, unreadable(err)
	case !info.Mode().IsRegular():
		return known{}, sources.ErrNotRegular
	}
	if err := sources.Refuse(p, info.Size()); err != nil {
		return known{}, err
	}
	data, err := io.ReadAll(io.LimitReader(file, sources.MaxFile+1))
	if err != nil {
		return known{}, unreadable(err)
	}
	if err := sources.Refuse(p, int64(len(data))); err != nil {
		return known{}, err // it grew
	}
	sum := sha256.Sum256(data)
	return known{info: info, file: &schema.File{Path: p, ID: hex.EncodeToString(sum[:]), Data: data}}, nil
}

// unreadable says why a file cannot be read, without its path, which is shown anyway.
func unreadable(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return fmt.Errorf("cannot be read: %w", err)
}

// digest names the state of a folder.
func digest(files schema.Files) string {
	h := sha256.New()
	for f := range files.All() {
		fmt.Fprintf(h, "%q %q\n", f.Path, f.ID)
	}
	return hex.EncodeToString(h.Sum(nil))[:40]
}
