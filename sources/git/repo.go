package git

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/go-git/go-billy/v5"
	"github.com/go-git/go-billy/v5/osfs"
	gogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/filesystem/dotgit"

	"github.com/gray-release/gray/schema"
)

// cacheSize bounds the objects of a repository in memory, in bytes.
const cacheSize = 16 * cache.MiByte

// openStore opens the objects and references in a Git directory. Large objects are read
// only when they are needed; packs stay open until the store is closed.
func openStore(dir billy.Filesystem) *filesystem.Storage {
	return filesystem.NewStorageWithOptions(dir, cache.NewObjectLRU(cacheSize), filesystem.Options{
		KeepDescriptors: true, LargeObjectThreshold: schema.MaxYAML,
		AlternatesFS: osfs.New("/"), // a clone may share the objects of another
	})
}

// openLocal opens a repository, bare or with a work tree, or a linked work tree.
func openLocal(p string) (*filesystem.Storage, error) {
	own, common, err := gitDirs(p)
	if err != nil {
		return nil, fmt.Errorf("cannot open the repository %s: %w", p, err)
	}
	store := openStore(dotgit.NewRepositoryFilesystem(osfs.New(own), osfs.New(common)))
	if _, err := gogit.Open(readable{store}, nil); err != nil {
		return nil, fmt.Errorf("cannot open the repository %s: %w", p, err)
	}
	return store, nil
}

// gitDirs finds the Git directory of a repository, and the common one with its objects
// and branches: a linked work tree has a directory of its own and shares the common one
// of the main work tree.
func gitDirs(p string) (own, common string, err error) {
	if p, err = filepath.Abs(p); err != nil {
		return "", "", err
	}
	own = filepath.Join(p, ".git")
	info, err := os.Stat(own)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		own = p // bare
	case err != nil:
		return "", "", err
	case !info.IsDir():
		if own, err = readPath(own, p, "gitdir:"); err != nil {
			return "", "", err
		}
	}
	if _, err := os.Stat(filepath.Join(own, "HEAD")); err != nil {
		return "", "", gogit.ErrRepositoryNotExists
	}
	common, err = readPath(filepath.Join(own, "commondir"), own, "")
	if errors.Is(err, fs.ErrNotExist) {
		return own, own, nil
	}
	return own, common, err
}

// readPath reads a path from a file; it may be relative to dir.
func readPath(file, dir, prefix string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	p := strings.TrimSpace(strings.TrimPrefix(string(b), prefix))
	if !filepath.IsAbs(p) {
		p = filepath.Join(dir, p)
	}
	return p, nil
}

// readable opens repositories that go-git refuses because of an extension of the format,
// if that does not matter to a reader; an example is a sparse checkout.
type readable struct{ *filesystem.Storage }

// Config implements storage.Storer.
func (r readable) Config() (*config.Config, error) {
	cfg, err := r.Storage.Config()
	if err != nil {
		return nil, err
	}
	if v := cfg.Raw.Section("core").Option("repositoryformatversion"); v != "" && v != "0" && v != "1" {
		return nil, fmt.Errorf("its format has version %s, which gray cannot read", v)
	}
	for _, o := range cfg.Raw.Section("extensions").Options {
		name, value := strings.ToLower(o.Key), strings.ToLower(o.Value)
		switch {
		case name == "objectformat" && value == "sha1", name == "refstorage" && value == "files":
		case name == "noop", name == "noop-v1", name == "preciousobjects", name == "partialclone",
			name == "worktreeconfig", name == "relativeworktrees":
		default:
			return nil, fmt.Errorf("its format has the extension %s %s, which gray cannot read", name, value)
		}
	}
	cfg.Raw.RemoveSection("extensions")
	return cfg, nil
}

// branchTip is the newest commit of a branch of a local repository.
func branchTip(store storer.ReferenceStorer, branch string) (plumbing.Hash, error) {
	ref, err := storer.ResolveReference(store, plumbing.NewBranchReferenceName(branch))
	if errors.Is(err, plumbing.ErrReferenceNotFound) {
		return plumbing.ZeroHash, stale{noBranch(branch)} // or the repository was replaced
	}
	if err != nil {
		return plumbing.ZeroHash, stale{fmt.Errorf("cannot read branch %s: %w", branch, err)}
	}
	return ref.Hash(), nil
}

func noBranch(branch string) error {
	return fmt.Errorf("the repository has no branch %q with a commit; make one, or give another --branch", branch)
}

// WatchPaths lists the folders of a local repository that change with each commit; none
// for a remote.
func WatchPaths(url string) []string {
	local, _, err := locate(url, true)
	if err != nil || local == "" {
		return nil
	}
	_, common, err := gitDirs(local)
	if err != nil {
		return nil
	}
	return []string{filepath.Join(common, "refs", "heads")}
}

// ReadRevision reads the files of a revision of the repository at a path: a commit, a
// branch, a tag or an expression such as HEAD~1.
func ReadRevision(ctx context.Context, repoPath, revision, subPath string) (*schema.Snapshot, error) {
	store, err := openLocal(repoPath)
	if err != nil {
		return nil, err
	}
	defer func() { _ = store.Close() }()
	repo, err := gogit.Open(readable{store}, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot open the repository %s: %w", repoPath, err)
	}
	hash, err := repo.ResolveRevision(plumbing.Revision(revision))
	if err != nil {
		return nil, fmt.Errorf("the repository %s has no revision %q", repoPath, revision)
	}
	s, err := advance(ctx, store, folder(subPath), state{}, *hash)
	if err != nil {
		return nil, err
	}
	return &schema.Snapshot{Revision: "sha1:" + hash.String(), Files: s.files}, nil
}

// folder is a path in a repository, empty for its root.
func folder(p string) string { return path.Clean("/" + filepath.ToSlash(p))[1:] }

// FindRoot finds the work tree that contains a folder, and the folder's path in it.
func FindRoot(dir string) (root, sub string, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", "", err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return "", "", err
	}
	for root = abs; ; root = filepath.Dir(root) {
		if _, err := os.Lstat(filepath.Join(root, ".git")); err == nil {
			sub, err = filepath.Rel(root, abs)
			return root, sub, err
		}
		if root == filepath.Dir(root) {
			return "", "", fmt.Errorf("%s is not in the work tree of a Git repository", dir)
		}
	}
}

// follows reports whether a commit is an old one or its descendant. If not, cut says
// that some history is missing, as in a shallow clone, so that it may still be one. The
// newest commits are read first, because a branch mostly grows by a few.
func follows(ctx context.Context, store storer.EncodedObjectStorer, tip, old plumbing.Hash) (ok, cut bool, err error) {
	if old.IsZero() || tip == old {
		return true, false, nil
	}
	seen := map[plumbing.Hash]bool{tip: true}
	for next := []plumbing.Hash{tip}; len(next) > 0; next = next[1:] {
		if err := ctx.Err(); err != nil {
			return false, false, err
		}
		commit, err := readCommit(store, next[0])
		if errors.Is(err, errLacks) && next[0] != tip {
			cut = true
			continue
		}
		if err != nil {
			return false, false, err
		}
		for _, p := range commit.ParentHashes {
			if p == old {
				return true, false, nil
			}
			if !seen[p] {
				seen[p] = true
				next = append(next, p)
			}
		}
	}
	return false, cut, nil
}
