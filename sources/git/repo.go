package git

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/go-git/go-billy/v5"
	"github.com/go-git/go-billy/v5/osfs"
	gogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/gray-release/gray/schema"
)

// cacheSize bounds the objects that a repository holds in memory.
const cacheSize = 16 * cache.MiByte

// openStore gives the objects and references in a Git directory. Large objects
// are not read into memory before they are asked for; packs stay open until the
// store is closed.
func openStore(dir billy.Filesystem) *filesystem.Storage {
	return filesystem.NewStorageWithOptions(dir, cache.NewObjectLRU(cacheSize), filesystem.Options{
		KeepDescriptors: true, LargeObjectThreshold: schema.MaxYAML,
		AlternatesFS: osfs.New("/"), // a clone may share the objects of another
	})
}

// openLocal opens a repository, bare or with a work tree, or a further work tree
// of one.
func openLocal(p string) (*filesystem.Storage, error) {
	repo, err := gogit.PlainOpenWithOptions(p, &gogit.PlainOpenOptions{EnableDotGitCommonDir: true})
	if err != nil {
		return nil, fmt.Errorf("cannot open the repository %s: %w", p, err)
	}
	store, ok := repo.Storer.(*filesystem.Storage)
	if !ok {
		return nil, fmt.Errorf("cannot open the repository %s: it is not on disk", p)
	}
	return openStore(store.Filesystem()), nil
}

// branchTip is the newest commit of a branch of a local repository.
func branchTip(store storer.ReferenceStorer, branch string) (plumbing.Hash, error) {
	ref, err := storer.ResolveReference(store, plumbing.NewBranchReferenceName(branch))
	if errors.Is(err, plumbing.ErrReferenceNotFound) {
		return plumbing.ZeroHash, stale{noBranch(branch)} // or the repository is another one now
	}
	if err != nil {
		return plumbing.ZeroHash, stale{fmt.Errorf("cannot read branch %s: %w", branch, err)}
	}
	return ref.Hash(), nil
}

func noBranch(branch string) error {
	return fmt.Errorf("the repository has no branch %q with a commit; make one, or give another --branch", branch)
}

// WatchPaths lists the folders in which a local repository changes when a commit
// is made; none for a remote.
func WatchPaths(url string) []string {
	local, _, err := locate(url, true)
	if err != nil || local == "" {
		return nil
	}
	store, err := openLocal(local)
	if err != nil {
		return nil
	}
	root := store.Filesystem().Root()
	// A further work tree has a Git directory of its own, but the branches are
	// in the one that all have in common.
	if common, err := os.ReadFile(filepath.Join(root, "commondir")); err == nil {
		if p := strings.TrimSpace(string(common)); filepath.IsAbs(p) {
			root = p
		} else {
			root = filepath.Join(root, p)
		}
	}
	return []string{filepath.Join(root, "refs", "heads")}
}

// ReadRevision reads the files of a revision of the repository at a path: a
// commit, branch, tag or anything that names one, such as HEAD~1.
func ReadRevision(ctx context.Context, repoPath, revision, subPath string) (*schema.Snapshot, error) {
	store, err := openLocal(repoPath)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	repo, err := gogit.Open(store, nil)
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
