package git

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/google/go-cmp/cmp"

	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sources"
)

// TestPlaces reads one commit by every way to name a local repository.
func TestPlaces(t *testing.T) {
	r := newRepo(t)
	hash := r.commit("a.yaml", "a", "sub/b.csv", "b", "readme.md", "no", ".hidden/c.yaml", "no", "sub/.d.yaml", "no", ".grayignore", "x")
	r.git("branch", "feature/one/two")
	odd := filepath.Join(t.TempDir(), "a b:c%d")
	r.git("clone", "--quiet", "--bare", ".", odd)
	further := filepath.Join(t.TempDir(), "tree")
	r.git("worktree", "add", "--quiet", further, "feature/one/two")
	shared := filepath.Join(t.TempDir(), "shared")
	r.git("clone", "--quiet", "--shared", ".", shared)
	t.Chdir(filepath.Dir(r.dir))
	for name, cfg := range map[string]Config{
		"path":          {URL: r.dir},
		"relative path": {URL: "repo"},
		"relative dot":  {URL: "./repo/"},
		"git folder":    {URL: r.dir + "/.git"},
		"file url":      {URL: "file://" + r.dir},
		"localhost":     {URL: "file://localhost" + r.dir},
		"escaped url":   {URL: "file://" + strings.NewReplacer(" ", "%20", "%", "%25").Replace(odd)},
		"bare":          {URL: odd},
		"work tree":     {URL: further},
		"shared clone":  {URL: shared},
		"slashes":       {URL: r.dir, Branch: "feature/one/two"},
	} {
		t.Run(name, func(t *testing.T) {
			snap := fetch(t, follow(t, cfg.URL, cfg))
			wantFiles(t, snap, "a.yaml", "a", "sub/b.csv", "b", ".grayignore", "x")
			branch := cfg.Branch
			if branch == "" {
				branch = "main"
			}
			wantRevision(t, snap, branch+"@sha1:"+hash)
			watch := WatchPaths(cfg.URL)
			if len(watch) != 1 {
				t.Fatalf("watch %v", watch)
			}
			if info, err := os.Stat(watch[0]); err != nil || !info.IsDir() {
				t.Errorf("watch %v: %v", watch, err)
			}
		})
	}
}

func TestRefusedPlaces(t *testing.T) {
	for url, want := range map[string]string{
		"http://example.com/r":              "is plaintext; use https",
		"http://u:secret@example.com/r":     "http://example.com/r is plaintext",
		"git://example.com/r":               "the protocol git is not supported",
		"ext::sh":                           "ssh needs a key", // host "ext" by ssh, as Git would not: no command is run
		"ssh://example.com/r":               "ssh needs a key",
		"git@example.com:r":                 "ssh needs a key",
		"file://elsewhere/r":                "is not a path on this machine",
		"https://u:se%zzcret@example.com/r": `"https://example.com/r" is not a Git URL`,
		"https://u:se/cret@example.com/r":   `"https://example.com/r" is not a Git URL`,
	} {
		t.Run(url, func(t *testing.T) {
			_, err := New(Config{URL: url, Branch: "main"})
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "cret") {
				t.Errorf("error %v, want %q", err, want)
			}
			if paths := WatchPaths(url); paths != nil {
				t.Errorf("a remote has nothing to watch, but %v", paths)
			}
		})
	}
	if _, err := New(Config{URL: "."}); err == nil || !strings.Contains(err.Error(), "give --branch") {
		t.Errorf("no branch: %v", err)
	}
	for _, url := range []string{"http://127.0.0.1/r", "http://[::1]:80/r", "http://localhost/r"} {
		follow(t, url, Config{})
	}
	follow(t, "http://example.com/r", Config{Insecure: true})
}

func TestMissing(t *testing.T) {
	wantError(t, follow(t, filepath.Join(t.TempDir(), "none"), Config{}), "cannot open the repository")
	wantError(t, follow(t, t.TempDir(), Config{}), "cannot open the repository")
	r := newRepo(t)
	s := follow(t, r.dir, Config{})
	wantError(t, s, `no branch "main" with a commit`)
	wantError(t, follow(t, r.dir, Config{Branch: "../../config"}), `cannot read branch`)
	wantError(t, follow(t, newRepo(t, "--object-format=sha256").dir, Config{}), "objectformat")
	// What git makes for a sparse checkout is read as any other.
	sparse := newRepo(t)
	sparse.commit("a/b.yaml", "b", "c/d.yaml", "d")
	sparse.git("sparse-checkout", "set", "a")
	wantFiles(t, fetch(t, follow(t, sparse.dir, Config{})), "a/b.yaml", "b", "c/d.yaml", "d")
	sparse.git("config", "core.repositoryformatversion", "1")
	wantFiles(t, fetch(t, follow(t, sparse.dir, Config{})), "a/b.yaml", "b", "c/d.yaml", "d")
	sparse.git("config", "core.repositoryformatversion", "2")
	wantError(t, follow(t, sparse.dir, Config{}), "its format has version 2, which gray cannot read")
	r.commit("a.yaml", "a")
	wantFiles(t, fetch(t, s), "a.yaml", "a")
	wantError(t, follow(t, r.dir, Config{Branch: "other"}), `no branch "other" with a commit`)
	wantError(t, follow(t, r.dir, Config{Path: "none"}), `has no folder "none"`)
	wantError(t, follow(t, r.dir, Config{Path: "a.yaml"}), `has no folder "a.yaml"`)
	wantError(t, follow(t, r.dir, Config{Path: "a.yaml/b"}), `has no folder "a.yaml/b"`)
}

func TestSubPath(t *testing.T) {
	r := newRepo(t)
	r.commit("a.yaml", "a", "env/prod/b.yaml", "b", "env/test/c.yaml", "c", "env/prod/d/e.yaml", "e")
	for _, p := range []string{"env/prod", "env/prod/", "/env/prod", "./env//test/../prod"} {
		wantFiles(t, fetch(t, follow(t, r.dir, Config{Path: p})), "b.yaml", "b", "d/e.yaml", "e")
	}
	s := follow(t, r.dir, Config{Path: "env/prod"})
	first := fetch(t, s)
	// A commit beside the folder is a new revision with the same files.
	hash := r.commit("a.yaml", "A")
	snap := fetch(t, s)
	wantRevision(t, snap, "main@sha1:"+hash)
	if changed := snap.Files.Changed(first.Files); len(changed) > 0 {
		t.Errorf("changed %v", changed)
	}
	// Without its folder a commit is refused, rather than read as empty.
	r.git("rm", "-r", "--quiet", "env/prod")
	r.commit()
	wantError(t, s, `has no folder "env/prod"`)
	r.commit("env/prod/f.yaml", "f")
	wantFiles(t, fetch(t, s), "f.yaml", "f")
}

// TestKinds has what a tree may hold apart from plain files.
func TestKinds(t *testing.T) {
	r := newRepo(t)
	other := newRepo(t)
	other.commit("inner.yaml", "inner")
	r.commit("a.yaml", "a", "b.yaml", "b")
	s := follow(t, r.dir, Config{})
	first := fetch(t, s)
	// A file that becomes a program has the same content.
	if err := os.Chmod(filepath.Join(r.dir, "a.yaml"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.commit()
	snap := fetch(t, s)
	if changed := snap.Files.Changed(first.Files); len(changed) > 0 {
		t.Errorf("changed %v", changed)
	}
	// A submodule is not read, whatever its name, and not passed over.
	r.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", other.dir, "module")
	r.git("rm", "--quiet", "b.yaml")
	r.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", other.dir, "b.yaml")
	r.commit()
	wantFiles(t, fetch(t, s), "module/", module, "b.yaml/", module, "a.yaml", "a")
	// File to folder and back, in one commit each.
	r.git("rm", "--quiet", "a.yaml")
	r.commit("a.yaml/c.yaml", "c", "a.yaml.csv", "between the two in Git's order")
	wantFiles(t, fetch(t, s), "module/", module, "b.yaml/", module, "a.yaml/c.yaml", "c", "a.yaml.csv", "between the two in Git's order")
	r.git("rm", "-r", "--quiet", "a.yaml")
	r.commit("a.yaml", "again")
	wantFiles(t, fetch(t, s), "module/", module, "b.yaml/", module, "a.yaml", "again", "a.yaml.csv", "between the two in Git's order")
}

func TestBounds(t *testing.T) {
	r := newRepo(t)
	yaml, csv := strings.Repeat("x", schema.MaxYAML), strings.Repeat("y", schema.MaxCSV)
	r.commit("ok.yaml", yaml, "ok.csv", yaml+yaml, "large.yaml", yaml+"x", "large.csv", csv+"y", "no.bin", csv+"no")
	want := []string{
		"ok.yaml", yaml, "ok.csv", yaml + yaml,
		"large.yaml", "error: the file has 1048577 bytes, the most is 1048576; split it",
		"large.csv", "error: the file has 16777217 bytes, the most is 16777216; split it",
	}
	s := follow(t, r.dir, Config{})
	wantFiles(t, fetch(t, s), want...)
	r.git("gc", "--quiet")
	wantFiles(t, fetch(t, follow(t, r.dir, Config{})), want...)
	// What is refused is not read, wherever Git keeps it.
	huge := filepath.Join(r.dir, "huge.csv")
	if err := errors.Join(os.WriteFile(huge, nil, 0o644), os.Truncate(huge, 64<<20)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r.commit("large.yaml", "small")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if got := fetch(t, s).Files.Get("huge.csv"); got.Err == nil || got.Data != nil {
			t.Errorf("%d bytes, error %v", len(got.Data), got.Err)
		}
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 8<<20 {
			t.Errorf("%d bytes were allocated", used)
		}
		r.git("rm", "--quiet", "--cached", "huge.csv")
		r.git("commit", "--quiet", "--message=x")
		fetch(t, s)
		r.git("repack", "-a", "-d", "--quiet")
	}
	r.commit("large.yaml", "small")
	if got := fetch(t, s).Files.Get("large.yaml"); got.Err != nil || string(got.Data) != "small" {
		t.Errorf("got %q %v", got.Data, got.Err)
	}
}

// TestSnapshotBounds has as much as a snapshot may hold, and then one more.
func TestSnapshotBounds(t *testing.T) {
	r := newRepo(t)
	r.commit("a.yaml", "a")
	s := follow(t, r.dir, Config{})
	fetch(t, s)
	s.good.bytes = sources.MaxBytes
	r.commit("b.yaml", "b")
	wantError(t, s, "files with more than 1073741824 bytes together")
	r.git("rm", "--quiet", "a.yaml")
	r.commit()
	wantFiles(t, fetch(t, s), "b.yaml", "b")

	store, err := openLocal(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	hash := plumbing.NewHash(r.git("rev-parse", "HEAD:b.yaml"))
	w := &walker{ctx: t.Context(), store: store, bytes: sources.MaxBytes}
	if _, err := w.file("b.yaml", hash); !errors.Is(err, sources.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	w = &walker{ctx: t.Context(), store: store, put: make([]*schema.File, sources.MaxFiles)}
	if err := w.entry("b.yaml", object.TreeEntry{}, object.TreeEntry{Mode: filemode.Regular, Hash: hash}); !errors.Is(err, sources.ErrTooMany) {
		t.Errorf("got %v", err)
	}
}

// TestPacked has branches and objects packed, between fetches and during them.
func TestPacked(t *testing.T) {
	r := newRepo(t)
	r.commit("a.yaml", "a")
	r.git("branch", "feature/x")
	s, x := follow(t, r.dir, Config{}), follow(t, r.dir, Config{Branch: "feature/x"})
	fetch(t, s)
	r.git("pack-refs", "--all")
	wantFiles(t, fetch(t, s), "a.yaml", "a")
	wantFiles(t, fetch(t, x), "a.yaml", "a")
	r.commit("a.yaml", "b")
	wantFiles(t, fetch(t, s), "a.yaml", "b")
	// The objects of a commit come in a pack, those of the last one are in
	// another, and the kept store knows neither.
	r.commit("a.yaml", "c")
	r.git("gc", "--quiet", "--prune=now")
	wantFiles(t, fetch(t, s), "a.yaml", "c")
	if r.git("count-objects") != "0 objects, 0 kilobytes" {
		t.Error("not packed")
	}
	r.commit("a.yaml", "d", "b.yaml", "b")
	r.git("repack", "-a", "-d", "--quiet")
	wantFiles(t, fetch(t, s), "a.yaml", "d", "b.yaml", "b")
	wantClosed(t, r)
	r.git("branch", "--move", "elsewhere")
	wantError(t, s, "no branch")
	wantClosed(t, r)
}

// TestWhileGitWorks fetches while another process commits and collects garbage.
func TestWhileGitWorks(t *testing.T) {
	r := newRepo(t)
	for i := range 50 {
		r.write(filepath.Join("d", string(rune('a'+i%5)), string(rune('A'+i))+".yaml"), strings.Repeat("x", i))
	}
	r.commit("n.yaml", "start")
	s := follow(t, r.dir, Config{})
	const rounds = 5
	var work sync.WaitGroup
	t.Cleanup(work.Wait)
	done := make(chan struct{})
	work.Go(func() {
		defer close(done)
		for i := range rounds {
			r.write("n.yaml", strings.Repeat("n", i+1))
			if out, err := r.try("commit", "--quiet", "--all", "--message=n"); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			if out, err := r.try("repack", "-a", "-d", "-f", "--quiet"); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			if out, err := r.try("gc", "--quiet", "--prune=now"); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
	})
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if snap := fetch(t, s); snap.Files.Len() != 51 {
			t.Errorf("%d files", snap.Files.Len())
		}
		// A fresh source has no last good commit to fall back on.
		if snap := fetch(t, follow(t, r.dir, Config{})); snap.Files.Len() != 51 {
			t.Errorf("%d files", snap.Files.Len())
		}
	}
	if got := string(fetch(t, s).Files.Get("n.yaml").Data); got != strings.Repeat("n", rounds) {
		t.Errorf("got %q", got)
	}
}

func TestReadRevision(t *testing.T) {
	r := newRepo(t)
	one := r.commit("sub/a.yaml", "1")
	r.git("tag", "--annotate", "--message=v1", "v1")
	two := r.commit("sub/a.yaml", "2")
	r.git("branch", "feature/x")
	further := filepath.Join(t.TempDir(), "tree")
	r.git("worktree", "add", "--quiet", "--detach", further)
	for rev, want := range map[string]string{
		one: one, one[:12]: one, "HEAD~1": one, "HEAD^": one, "v1": one, "refs/tags/v1": one,
		"HEAD": two, "main": two, "feature/x": two, "refs/heads/main": two,
	} {
		for _, dir := range []string{r.dir, further} {
			snap, err := ReadRevision(t.Context(), dir, rev, "sub")
			if err != nil {
				t.Errorf("%s: %v", rev, err)
				continue
			}
			wantRevision(t, snap, "sha1:"+want)
			wantFiles(t, snap, "a.yaml", map[string]string{one: "1", two: "2"}[want])
		}
	}
	if _, err := ReadRevision(t.Context(), r.dir, "none", ""); err == nil || !strings.Contains(err.Error(), `no revision "none"`) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ReadRevision(ctx, r.dir, "HEAD", ""); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestFindRoot(t *testing.T) {
	r := newRepo(t)
	r.commit("a/b/c.yaml", "c")
	further := filepath.Join(t.TempDir(), "tree")
	r.git("worktree", "add", "--quiet", "--detach", further)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(r.dir, "a"), link); err != nil {
		t.Fatal(err)
	}
	type answer struct{ Root, Sub string }
	for dir, want := range map[string]answer{
		r.dir: {r.dir, "."}, filepath.Join(r.dir, "a", "b"): {r.dir, "a/b"},
		filepath.Join(further, "a"): {further, "a"}, filepath.Join(link, "b"): {r.dir, "a/b"},
	} {
		root, sub, err := FindRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, answer{root, sub}); d != "" {
			t.Errorf("%s: %s", dir, d)
		}
	}
	if _, _, err := FindRoot(t.TempDir()); err == nil || !strings.Contains(err.Error(), "is not in the work tree of a Git repository") {
		t.Errorf("got %v", err)
	}
}
