package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"

	gogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sources"
)

// maxLinks bounds how many symbolic links are followed for one file.
const maxLinks = 8

// advance makes the files of a commit out of those of the last one.
func (s *Source) advance(ctx context.Context, repo *gogit.Repository, commit *object.Commit) error {
	w := &walker{ctx: ctx, repo: repo, prefix: s.cfg.Path, links: s.links}
	var err error
	if w.root, err = commit.Tree(); err != nil {
		return fmt.Errorf("cannot read the tree of %s: %w", commit.Hash, err)
	}
	tree, err := w.subTree(s.cfg.Path)
	if err != nil {
		return err
	}
	if err := w.diff("", s.tree, tree); err != nil {
		return fmt.Errorf("cannot read the files of %s: %w", commit.Hash, err)
	}
	// What a link points to can change without the link.
	for p := range w.links {
		if !slices.Contains(w.remove, p) {
			w.addLink(p)
		}
	}
	files := s.files.With(w.put, w.remove)
	if files.Len() > sources.MaxFiles {
		return fmt.Errorf("commit %s has more than %d files", commit.Hash, sources.MaxFiles)
	}
	s.files, s.tip, s.tree, s.links = files, commit.Hash, tree, w.links
	return nil
}

// ReadRevision reads the files of a revision of the repository at a path: a
// commit, branch, tag or anything that names one, such as HEAD~1.
func ReadRevision(ctx context.Context, repoPath, revision, subPath string) (*schema.Snapshot, error) {
	repo, err := openLocal(repoPath)
	if err != nil {
		return nil, err
	}
	hash, err := repo.ResolveRevision(plumbing.Revision(revision))
	if err != nil {
		return nil, fmt.Errorf("the repository %s has no revision %q", repoPath, revision)
	}
	commit, err := repo.CommitObject(*hash)
	if err != nil {
		return nil, fmt.Errorf("cannot read commit %s: %w", hash, err)
	}
	s := &Source{cfg: Config{Path: path.Clean("/" + filepath.ToSlash(subPath))[1:]}, links: map[string]bool{}}
	if err := s.advance(ctx, repo, commit); err != nil {
		return nil, err
	}
	return &schema.Snapshot{Revision: "sha1:" + commit.Hash.String(), Files: s.files}, nil
}

// FindRoot finds the work tree that a folder is in, and the folder's path in it.
func FindRoot(dir string) (root, sub string, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", "", err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return "", "", err
	}
	repo, err := gogit.PlainOpenWithOptions(abs, &gogit.PlainOpenOptions{DetectDotGit: true, EnableDotGitCommonDir: true})
	if err != nil {
		return "", "", fmt.Errorf("%s is in no Git repository", dir)
	}
	tree, err := repo.Worktree()
	if err != nil {
		return "", "", fmt.Errorf("the repository of %s has no work tree: %w", dir, err)
	}
	root = tree.Filesystem.Root()
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return "", "", err
	}
	sub, err = filepath.Rel(root, abs)
	return root, sub, err
}

// walker compares two trees.
type walker struct {
	ctx    context.Context
	repo   *gogit.Repository
	root   *object.Tree // of the whole commit, for links
	prefix string       // of the folder that is read
	links  map[string]bool
	put    []*schema.File
	remove []string
}

// subTree is the hash of the folder that is read.
func (w *walker) subTree(p string) (plumbing.Hash, error) {
	if p == "" {
		return w.root.Hash, nil
	}
	e, err := w.root.FindEntry(p)
	if err != nil || e.Mode != filemode.Dir {
		return plumbing.ZeroHash, fmt.Errorf("the commit has no folder %q", p)
	}
	return e.Hash, nil
}

// diff notes what differs between two trees; the zero hash is the empty one.
func (w *walker) diff(dir string, old, now plumbing.Hash) error {
	if old == now {
		return nil
	}
	if err := w.ctx.Err(); err != nil {
		return err
	}
	a, err := w.entries(old)
	if err != nil {
		return err
	}
	b, err := w.entries(now)
	if err != nil {
		return err
	}
	for name, e := range b {
		was := a[name]
		delete(a, name)
		if was == e {
			continue
		}
		if err := w.entry(path.Join(dir, name), was, e); err != nil {
			return err
		}
	}
	for name, was := range a {
		if err := w.entry(path.Join(dir, name), was, object.TreeEntry{}); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) entries(hash plumbing.Hash) (map[string]object.TreeEntry, error) {
	entries := map[string]object.TreeEntry{}
	if hash.IsZero() {
		return entries, nil
	}
	tree, err := object.GetTree(w.repo.Storer, hash)
	if err != nil {
		return nil, err
	}
	for _, e := range tree.Entries {
		entries[e.Name] = e
	}
	return entries, nil
}

// entry notes the change of one name: either side may be nothing, a folder, a
// file or a link.
func (w *walker) entry(p string, was, is object.TreeEntry) error {
	var oldTree, newTree plumbing.Hash
	if was.Mode == filemode.Dir {
		oldTree = was.Hash
	}
	if is.Mode == filemode.Dir {
		newTree = is.Hash
	}
	if !strings.HasPrefix(path.Base(p), ".") {
		if err := w.diff(p, oldTree, newTree); err != nil {
			return err
		}
	}
	if !sources.Wanted(p) {
		return nil
	}
	delete(w.links, p)
	switch is.Mode {
	case filemode.Regular, filemode.Executable, filemode.Deprecated:
		w.put = append(w.put, w.file(p, is.Hash))
	case filemode.Symlink:
		w.links[p] = true
	default:
		if was.Mode != 0 && was.Mode != filemode.Dir {
			w.remove = append(w.remove, p)
		}
	}
	return nil
}

// file reads a blob.
func (w *walker) file(p string, hash plumbing.Hash) *schema.File {
	f := &schema.File{Path: p, ID: hash.String()}
	blob, err := w.repo.BlobObject(hash)
	if err == nil {
		err = sources.Refuse(p, blob.Size)
	}
	if err == nil {
		f.Data, err = readBlob(blob)
	}
	if err != nil {
		f.Err, f.Data = err, nil
		f.ID += " error:" + err.Error()
	}
	return f
}

func readBlob(blob *object.Blob) ([]byte, error) {
	r, err := blob.Reader()
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, schema.MaxCSV+1))
	return data, errors.Join(err, r.Close())
}

// addLink reads what a link points to. Links are resolved in the tree of the
// commit, so nothing outside of it can be reached.
func (w *walker) addLink(p string) {
	f := &schema.File{Path: p}
	at := path.Join(w.prefix, p)
	for range maxLinks {
		e, err := w.root.FindEntry(at)
		switch {
		case err != nil:
			f.Err = errors.New("is a symbolic link to nothing in the repository")
		case e.Mode == filemode.Symlink:
			at, f.Err = w.follow(at, e.Hash)
		case e.Mode == filemode.Dir || e.Mode == filemode.Submodule:
			f.Err = errors.New("is a symbolic link to no regular file")
		default:
			f = w.file(p, e.Hash)
			w.put = append(w.put, f)
			return
		}
		if f.Err != nil {
			break
		}
	}
	if f.Err == nil {
		f.Err = errors.New("is a symbolic link that leads to too many others")
	}
	f.ID = "error:" + f.Err.Error()
	w.put = append(w.put, f)
}

// follow is where a link points to, as a path in the repository.
func (w *walker) follow(at string, hash plumbing.Hash) (string, error) {
	blob, err := w.repo.BlobObject(hash)
	if err != nil {
		return "", err
	}
	target, err := readBlob(blob)
	if err != nil {
		return "", err
	}
	to := path.Join(path.Dir(at), string(target))
	if path.IsAbs(string(target)) || to == ".." || strings.HasPrefix(to, "../") {
		return "", sources.ErrLeaves
	}
	return to, nil
}
