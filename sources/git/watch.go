package git

import (
	"os"
	"path/filepath"
	"strings"

	gogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// WatchPaths lists the folders in which a local repository changes when a commit
// is made; none for a remote.
func WatchPaths(url string) []string {
	local := strings.TrimPrefix(url, "file://")
	if info, err := os.Stat(local); err != nil || !info.IsDir() {
		return nil
	}
	repo, err := gogit.PlainOpenWithOptions(local, &gogit.PlainOpenOptions{EnableDotGitCommonDir: true})
	if err != nil {
		return nil
	}
	store, ok := repo.Storer.(*filesystem.Storage)
	if !ok {
		return nil
	}
	return []string{filepath.Join(store.Filesystem().Root(), "refs", "heads")}
}
