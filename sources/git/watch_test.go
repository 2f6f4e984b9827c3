package git

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gray-release/gray/sources/dir"
)

// watch makes a source that only a watcher wakes, as the daemon does.
func watch(t *testing.T, url string, cfg Config) *Source {
	t.Helper()
	paths := WatchPaths(url)
	if len(paths) == 0 {
		t.Fatalf("nothing to watch in %s", url)
	}
	w, err := dir.Watch(paths...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg.Hints = w.Changed()
	return follow(t, url, cfg)
}

// seen waits until hints lead a source to a commit, or to an error if it is
// empty.
func seen(t *testing.T, s *Source, commit string) {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		select {
		case <-s.Changed():
		case <-late:
			t.Fatal("no hint came")
		}
		snap, err := s.Fetch(t.Context())
		if commit == "" && err != nil || err == nil && snap.Revision == s.cfg.Branch+"@sha1:"+commit {
			return
		}
	}
}

// TestCommitIsSeenAtOnce changes a branch in the ways that Git has.
func TestCommitIsSeenAtOnce(t *testing.T) {
	r := newRepo(t)
	r.commit("a.yaml", "1")
	s := watch(t, r.dir, Config{FollowRewrites: true})
	fetch(t, s)
	for i, change := range []func(){
		func() { r.commit("a.yaml", "2") },
		func() { r.git("commit", "--quiet", "--amend", "--message=amended") },
		func() { r.git("reset", "--quiet", "--hard", "HEAD~1") },
		func() { r.commit("a.yaml", "3"); r.git("pack-refs", "--all"); r.commit("a.yaml", "4") },
		func() {
			r.git("checkout", "--quiet", "-b", "side")
			r.commit("a.yaml", "5")
			r.git("checkout", "--quiet", "main")
			r.git("merge", "--quiet", "side")
		},
		func() { r.git("update-ref", "refs/heads/main", "HEAD~1") },
		func() { r.git("gc", "--quiet", "--prune=now"); r.commit("a.yaml", "6") },
	} {
		change()
		seen(t, s, r.git("rev-parse", "main"))
		if t.Failed() {
			t.Fatalf("at change %d", i)
		}
	}
}

// TestPushIsSeenAtOnce pushes into a bare repository and into a linked work tree.
func TestPushIsSeenAtOnce(t *testing.T) {
	r := newRepo(t)
	r.commit("a.yaml", "1")
	bare := filepath.Join(t.TempDir(), "bare")
	r.git("clone", "--quiet", "--bare", ".", bare)
	s := watch(t, "file://"+bare, Config{})
	fetch(t, s)
	hash := r.commit("a.yaml", "2")
	r.git("push", "--quiet", bare, "main")
	seen(t, s, hash)
	(&repo{t, bare}).git("config", "receive.denyDeleteCurrent", "ignore")
	r.git("push", "--quiet", bare, ":main")
	seen(t, s, "")

	further := filepath.Join(t.TempDir(), "tree")
	r.git("worktree", "add", "--quiet", "-b", "side", further)
	side := watch(t, further, Config{Branch: "side"})
	fetch(t, side)
	seen(t, side, (&repo{t, further}).commit("a.yaml", "side"))
}

// TestLateBranch waits for a branch that is made later, in a folder that is not
// there yet, and for one that is only in packed-refs.
func TestLateBranch(t *testing.T) {
	r := newRepo(t)
	empty := watch(t, r.dir, Config{})
	wantError(t, empty, "no branch")
	seen(t, empty, r.commit("a.yaml", "1"))
	late := watch(t, r.dir, Config{Branch: "feature/one/two"})
	wantError(t, late, "no branch")
	r.git("branch", "feature/one/two")
	seen(t, late, r.head())

	r.git("pack-refs", "--all")
	if _, err := os.Stat(filepath.Join(r.dir, ".git", "refs", "heads", "feature")); err == nil {
		t.Fatal("the branch is not packed away")
	}
	packed := watch(t, r.dir, Config{Branch: "feature/one/two"})
	fetch(t, packed)
	r.git("checkout", "--quiet", "feature/one/two")
	hash := r.commit("a.yaml", "2")
	seen(t, packed, hash)
	seen(t, late, hash) // whose folder went away and came back
}

// TestPolling holds the times between the hints of a source by a clock that the
// test has.
func TestPolling(t *testing.T) {
	const interval = time.Minute
	synctest.Test(t, func(t *testing.T) {
		hints := make(chan struct{})
		s := follow(t, t.TempDir(), Config{Interval: interval, Hints: hints})
		last, different := time.Now(), map[time.Duration]bool{}
		for range 200 {
			<-s.Changed()
			gap := time.Since(last)
			last = last.Add(gap)
			different[gap] = true
			if gap < interval*9/10 || gap > interval*11/10+1 {
				t.Errorf("a hint after %s", gap)
			}
		}
		if len(different) < 150 {
			t.Errorf("only %d different times", len(different))
		}
		// A hint of others is passed on at once; those that nobody took are one.
		for range 3 {
			hints <- struct{}{}
		}
		synctest.Wait()
		<-s.Changed()
		if time.Since(last) > 0 {
			t.Errorf("passed on after %s", time.Since(last))
		}
		// A watcher that ends does not end the polling.
		close(hints)
		synctest.Wait()
		select {
		case <-s.Changed():
			t.Error("a hint of nothing")
		default:
		}
		<-s.Changed()
		if gap := time.Since(last); gap < interval*9/10 {
			t.Errorf("a hint after %s", gap)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := follow(t, t.TempDir(), Config{})
		select {
		case <-s.Changed():
			t.Error("a hint without an interval")
		case <-time.After(1000 * time.Hour):
		}
	})
}
