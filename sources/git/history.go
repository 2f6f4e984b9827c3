package git

import (
	"context"
	"errors"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/storer"
)

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
