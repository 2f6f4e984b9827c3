package dir

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
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
	root    string // the folder, or one around it that links may lead to
	prefix  string // the folder in root, slash-separated; empty where it is root
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

// Read reads a folder once. In the work tree of a Git repository, links may lead to all
// of the repository, as they may for a daemon that reads its commits.
func Read(ctx context.Context, folder string) (*schema.Snapshot, error) {
	s := &Source{root: folder}
	if abs, err := filepath.Abs(folder); err == nil {
		abs, err = filepath.EvalSymlinks(abs)
		if info, serr := os.Stat(abs); err == nil && serr == nil && info.IsDir() {
			s.root, s.prefix = workTree(abs)
		}
	}
	return s.Fetch(ctx)
}

// workTree is the work tree around a folder, and the folder in it; the folder itself
// where there is none.
func workTree(folder string) (root, prefix string) {
	for root = folder; ; root = filepath.Dir(root) {
		if isRepository(os.Lstat(filepath.Join(root, ".git"))) {
			if rel, err := filepath.Rel(root, folder); err == nil {
				return root, strings.TrimPrefix(filepath.ToSlash(rel), ".")
			}
		}
		if root == filepath.Dir(root) {
			return folder, ""
		}
	}
}

// isRepository tells whether the .git of a folder was found.
func isRepository(_ fs.FileInfo, err error) bool { return err == nil }

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
	if err := fs.WalkDir(root.FS(), cmp.Or(s.prefix, "."), w.visit); err != nil {
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

func (w *walker) visit(at string, entry fs.DirEntry, err error) error {
	p := at
	if w.last.prefix != "" {
		p = cmp.Or(strings.TrimPrefix(strings.TrimPrefix(at, w.last.prefix), "/"), ".")
	}
	switch {
	case w.ctx.Err() != nil:
		return w.ctx.Err()
	case errors.Is(err, fs.ErrNotExist) && p != ".":
		return nil // removed in the meantime
	case err != nil:
		return err
	case p != "." && entry.Name()[0] == '.' && !sources.Wanted(p):
		if entry.IsDir() {
			return fs.SkipDir
		}
		return nil
	case len(w.now) >= sources.MaxFiles:
		return sources.ErrTooMany
	case !sources.Wanted(p) || entry.IsDir():
		return w.folder(p, at, entry)
	}
	k, err := w.look(p, at, entry)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		k.file = &schema.File{Path: p, ID: "error:" + err.Error(), Err: err}
	}
	if w.bytes += int64(len(k.file.Data)); w.bytes > sources.MaxBytes {
		return sources.ErrTooLarge
	}
	w.note(k)
	return nil
}

// note takes down a file, or what there is in place of a folder.
func (w *walker) note(k known) {
	p := k.file.Path
	w.now[p] = k
	if old := w.last.known[p].file; old == nil || old.ID != k.file.ID {
		w.put = append(w.put, k.file)
	}
}

// folder looks at a folder, or at what has not the name of a file that is read.
func (w *walker) folder(p, at string, entry fs.DirEntry) error {
	if entry.IsDir() {
		if p != "." && isRepository(w.root.Lstat(filepath.FromSlash(path.Join(at, ".git")))) {
			w.note(known{file: sources.Unread(p, sources.ErrSubmodule)})
			return fs.SkipDir
		}
		return nil
	}
	if entry.Type()&fs.ModeSymlink == 0 {
		return nil
	}
	wrong, err := sources.LinkedFolder(at, w.readlink, func(to string) (bool, error) {
		info, err := w.root.Lstat(filepath.FromSlash(cmp.Or(to, ".")))
		return err == nil && info.IsDir(), nil
	})
	if err == nil && wrong != nil {
		w.note(known{file: sources.Unread(p, wrong)})
	}
	return nil
}

// look reads a file unless it is unchanged. The error is fs.ErrNotExist if the file was
// removed in the meantime; any other error says why it is not read.
func (w *walker) look(p, at string, entry fs.DirEntry) (known, error) {
	isLink := false
	if entry.Type()&fs.ModeSymlink != 0 {
		var err error
		if at, err = sources.Resolve(at, w.readlink); err != nil {
			return known{}, err
		}
		isLink = true
	}
	info, err := w.root.Lstat(filepath.FromSlash(at))
	switch {
	case isLink && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)):
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
	if sources.IsPointer(data) {
		return known{}, sources.ErrLFS
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
