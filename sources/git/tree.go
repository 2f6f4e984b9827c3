package git

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"

	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sources"
)

// Bounds of a tree. A small repository can have more files than any machine can read,
// if a few trees contain each other many times.
const (
	maxEntries = 2 * sources.MaxFiles
	maxPath    = 4096
	maxTarget  = 4096 // bytes of a symbolic link's target
)

// state is what was read of a commit.
type state struct {
	tip   plumbing.Hash
	tree  plumbing.Hash // of the folder Config.Path
	files schema.Files
	bytes int64           // the size of all files
	links map[string]bool // files that are symbolic links
}

// advance makes the state of a commit from that of an earlier one. An earlier state
// whose tree is the zero hash counts as empty; its files only save reading the same
// content again.
func advance(ctx context.Context, store storer.EncodedObjectStorer, prefix string, from state, tip plumbing.Hash) (state, error) {
	commit, err := readCommit(store, tip)
	if err != nil {
		return state{}, err
	}
	w := &walker{ctx: ctx, store: store, prefix: prefix, root: commit.TreeHash, known: from.files}
	if from.tree.IsZero() {
		from = state{}
	}
	w.links = maps.Clone(from.links)
	if w.links == nil {
		w.links = map[string]bool{}
	}
	tree, err := w.find(prefix)
	if err != nil {
		return state{}, fmt.Errorf("commit %s: %w", tip, err)
	}
	if tree.Mode != filemode.Dir {
		return state{}, fmt.Errorf("commit %s has no folder %q; give another --path", tip, prefix)
	}
	err = w.diff("", from.tree, tree.Hash)
	// The target of a link can change without the link.
	for _, p := range slices.Sorted(maps.Keys(w.links)) {
		if err == nil {
			err = w.link(p, from.files.Get(p))
		}
	}
	if err != nil {
		return state{}, fmt.Errorf("commit %s: %w", tip, err)
	}
	next := state{tip: tip, tree: tree.Hash, files: from.files.With(w.put, w.remove), bytes: from.bytes, links: w.links}
	for _, f := range w.put {
		next.bytes += size(f) - size(from.files.Get(f.Path))
	}
	for _, p := range w.remove {
		next.bytes -= size(from.files.Get(p))
	}
	if next.files.Len() > sources.MaxFiles {
		return state{}, fmt.Errorf("commit %s has %w", tip, sources.ErrTooMany)
	}
	if next.bytes > sources.MaxBytes {
		return state{}, fmt.Errorf("commit %s has %w", tip, sources.ErrTooLarge)
	}
	return next, nil
}

func size(f *schema.File) int64 {
	if f == nil {
		return 0
	}
	return int64(len(f.Data))
}

func readCommit(store storer.EncodedObjectStorer, hash plumbing.Hash) (*object.Commit, error) {
	commit, err := object.GetCommit(store, hash)
	if err == nil && commit.Hash != hash {
		err = errHash
	}
	if err != nil {
		return nil, unreadable("commit", hash, err)
	}
	return commit, nil
}

// unreadable is the error of an object that cannot be read.
func unreadable(what string, hash plumbing.Hash, err error) error {
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return stale{fmt.Errorf("%s: %w %s; is it a partial clone, or broken? see git fsck", what, errLacks, hash)}
	}
	return stale{fmt.Errorf("%s: object %s cannot be read: %w; see git fsck", what, hash, err)}
}

// walker compares two trees.
type walker struct {
	ctx     context.Context
	store   storer.EncodedObjectStorer
	prefix  string                         // the path of the folder Config.Path
	root    plumbing.Hash                  // the tree of the whole commit, for links
	passed  map[plumbing.Hash]*object.Tree // trees that links lead through
	known   schema.Files                   // the files that were read before
	links   map[string]bool
	put     []*schema.File
	remove  []string
	entries int
	bytes   int64
}

// diff collects the differences between two trees; the zero hash is the empty tree.
func (w *walker) diff(dir string, old, now plumbing.Hash) error {
	if old == now {
		return nil
	}
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if len(dir) > maxPath {
		return fmt.Errorf("%s...: the path is longer than %d bytes", dir[:100], maxPath)
	}
	a, err := w.list(dir, old)
	if err != nil {
		return err
	}
	b, err := w.list(dir, now)
	if err != nil {
		return err
	}
	// Both are sorted. A folder and a file of the same name sort differently, so that a
	// file that becomes a folder is a removed and an added entry.
	for len(a) > 0 || len(b) > 0 {
		if len(a) > 0 && len(b) > 0 && a[0] == b[0] {
			a, b = a[1:], b[1:]
			continue
		}
		var was, is object.TreeEntry
		order := compare(a, b)
		if order <= 0 {
			was, a = a[0], a[1:]
		}
		if order >= 0 {
			is, b = b[0], b[1:]
		}
		if err := w.entry(path.Join(dir, cmp.Or(was.Name, is.Name)), was, is); err != nil {
			return err
		}
	}
	return nil
}

// compare compares the first entries of two trees; the end of a tree sorts last.
func compare(a, b []object.TreeEntry) int {
	switch {
	case len(b) == 0:
		return -1
	case len(a) == 0:
		return 1
	}
	return strings.Compare(sortName(a[0]), sortName(b[0]))
}

// sortName is the name by which Git sorts an entry of a tree.
func sortName(e object.TreeEntry) string {
	if e.Mode == filemode.Dir {
		return e.Name + "/"
	}
	return e.Name
}

// list returns the entries of a tree in Git's order.
func (w *walker) list(dir string, hash plumbing.Hash) ([]object.TreeEntry, error) {
	if hash.IsZero() {
		return nil, nil
	}
	tree, err := w.tree("folder "+cmp.Or(dir, "."), hash)
	if err != nil {
		return nil, err
	}
	if w.entries += len(tree.Entries); w.entries > maxEntries {
		return nil, sources.ErrTooMany
	}
	for i, e := range tree.Entries {
		if e.Name == "." || e.Name == ".." || strings.Contains(e.Name, "/") {
			return nil, fmt.Errorf("folder %s: tree %s has an entry named %q; see git fsck", cmp.Or(dir, "."), hash, e.Name)
		}
		if i > 0 && compare(tree.Entries[i-1:], tree.Entries[i:]) >= 0 {
			return nil, fmt.Errorf("folder %s: tree %s is not sorted at %q; see git fsck", cmp.Or(dir, "."), hash, e.Name)
		}
	}
	return tree.Entries, nil
}

func (w *walker) tree(what string, hash plumbing.Hash) (*object.Tree, error) {
	tree, err := object.GetTree(w.store, hash)
	if err == nil && tree.Hash != hash {
		err = errHash
	}
	if err != nil {
		return nil, unreadable(what, hash, err)
	}
	return tree, nil
}

// What is wrong with an object.
var (
	errHash  = errors.New("its content has another hash")
	errLacks = errors.New("the repository lacks object")
)

func isFile(m filemode.FileMode) bool {
	return m == filemode.Regular || m == filemode.Executable || m == filemode.Deprecated
}

// entry collects the change of one name. Each side may be nothing, a folder, a file, a
// link or a submodule.
func (w *walker) entry(p string, was, is object.TreeEntry) error {
	var old, now plumbing.Hash
	if was.Mode == filemode.Dir {
		old = was.Hash
	}
	if is.Mode == filemode.Dir {
		now = is.Hash
	}
	if !strings.HasPrefix(path.Base(p), ".") {
		if err := w.diff(p, old, now); err != nil {
			return err
		}
		w.folder(p, was, is)
	}
	if !sources.Wanted(p) {
		return nil
	}
	if was.Mode == filemode.Symlink {
		delete(w.links, p)
	}
	switch {
	case isFile(is.Mode):
		f, err := w.file(p, is.Hash)
		if err != nil {
			return err
		}
		w.put = append(w.put, f)
	case is.Mode == filemode.Symlink:
		w.links[p] = true
	case isFile(was.Mode) || was.Mode == filemode.Symlink:
		w.remove = append(w.remove, p)
	}
	if len(w.put) > sources.MaxFiles {
		return sources.ErrTooMany
	}
	return nil
}

// folder collects the change of what may stand for a folder: a submodule, or a link that
// has not the name of a file that is read.
func (w *walker) folder(p string, was, is object.TreeEntry) {
	isLink := is.Mode == filemode.Symlink && !sources.Wanted(p)
	switch {
	case is.Mode == filemode.Submodule:
		w.put = append(w.put, sources.Unread(p, sources.ErrSubmodule))
	case was.Mode == filemode.Submodule || was.Mode == filemode.Symlink:
		w.remove = append(w.remove, p+"/")
	}
	if isLink {
		w.links[p] = true
	} else if was.Mode == filemode.Symlink {
		delete(w.links, p)
	}
}

// file makes a File from a blob, which it reads only if the blob is new and not too
// large.
func (w *walker) file(p string, hash plumbing.Hash) (*schema.File, error) {
	if old := w.known.Get(p); old != nil && old.ID == hash.String() {
		return old, nil
	}
	blob, err := w.store.EncodedObject(plumbing.BlobObject, hash)
	if err != nil {
		return nil, unreadable(p, hash, err)
	}
	if err := sources.Refuse(p, blob.Size()); err != nil {
		return &schema.File{Path: p, ID: hash.String() + " " + err.Error(), Err: err}, nil
	}
	if w.bytes += blob.Size(); w.bytes > sources.MaxBytes {
		return nil, sources.ErrTooLarge
	}
	data, err := readBlob(blob, hash)
	if err != nil {
		return nil, unreadable(p, hash, err)
	}
	if sources.IsPointer(data) {
		return &schema.File{Path: p, ID: hash.String() + " pointer", Err: sources.ErrLFS}, nil
	}
	return &schema.File{Path: p, ID: hash.String(), Data: data}, nil
}

// readBlob reads a blob and verifies its hash.
func readBlob(blob plumbing.EncodedObject, hash plumbing.Hash) ([]byte, error) {
	r, err := blob.Reader()
	if err != nil {
		return nil, err
	}
	data := bytes.NewBuffer(make([]byte, 0, blob.Size()+bytes.MinRead))
	_, err = data.ReadFrom(r)
	if err = errors.Join(err, r.Close()); err == nil && plumbing.ComputeHash(plumbing.BlobObject, data.Bytes()) != hash {
		err = errHash
	}
	return data.Bytes(), err
}

// find returns the entry at a path of the commit, without a mode if there is none.
func (w *walker) find(p string) (object.TreeEntry, error) {
	at := object.TreeEntry{Mode: filemode.Dir, Hash: w.root}
	for part := range strings.SplitSeq(p, "/") {
		if part == "" {
			continue
		}
		if at.Mode != filemode.Dir {
			return object.TreeEntry{}, nil
		}
		tree := w.passed[at.Hash]
		if tree == nil {
			var err error
			if tree, err = w.tree("folder of "+p, at.Hash); err != nil {
				return object.TreeEntry{}, err
			}
			if w.passed == nil {
				w.passed = map[plumbing.Hash]*object.Tree{}
			}
			w.passed[at.Hash] = tree
		}
		e, err := tree.FindEntry(part)
		if err != nil {
			return object.TreeEntry{}, nil
		}
		at = *e
	}
	return at, nil
}

// link reads the target of a link. Links are resolved in the tree of the commit, so
// that nothing outside it can be reached.
func (w *walker) link(p string, old *schema.File) error {
	if !sources.Wanted(p) {
		return w.linkedFolder(p)
	}
	f, err := w.follow(p)
	if err != nil {
		if errors.As(err, &stale{}) || errors.Is(err, sources.ErrTooLarge) {
			return err
		}
		f = &schema.File{Path: p, ID: "error:" + err.Error(), Err: err}
	}
	if old == nil || old.ID != f.ID {
		w.put = append(w.put, f)
	}
	return nil
}

// linkedFolder looks at a link that has not the name of a file that is read. Its target
// can become a folder without the link.
func (w *walker) linkedFolder(p string) error {
	wrong, err := sources.LinkedFolder(path.Join(w.prefix, p), w.readlink, func(at string) (bool, error) {
		e, err := w.find(at)
		return e.Mode == filemode.Dir || e.Mode == filemode.Submodule, err
	})
	switch {
	case err != nil:
		return err
	case wrong != nil:
		w.put = append(w.put, sources.Unread(p, wrong))
	default:
		w.remove = append(w.remove, p+"/")
	}
	return nil
}

func (w *walker) follow(p string) (*schema.File, error) {
	at, err := sources.Resolve(path.Join(w.prefix, p), w.readlink)
	if err != nil {
		return nil, err
	}
	e, err := w.find(at)
	switch {
	case err != nil:
		return nil, err
	case e.Mode == filemode.Empty:
		return nil, sources.ErrDangling
	case !isFile(e.Mode):
		return nil, sources.ErrNotRegular
	}
	return w.file(p, e.Hash)
}

// readlink implements sources.Readlink.
func (w *walker) readlink(p string) (string, bool, error) {
	e, err := w.find(p)
	if err != nil || e.Mode != filemode.Symlink {
		return "", false, err
	}
	blob, err := w.store.EncodedObject(plumbing.BlobObject, e.Hash)
	if err != nil {
		return "", false, unreadable(p, e.Hash, err)
	}
	if blob.Size() > maxTarget {
		return "", false, fmt.Errorf("is a symbolic link with a target of %d bytes", blob.Size())
	}
	target, err := readBlob(blob, e.Hash)
	if err != nil {
		return "", false, unreadable(p, e.Hash, err)
	}
	return string(target), true, nil
}
