package git

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestRewrites runs against a local repository and against a remote.
func TestRewrites(t *testing.T) {
	for _, where := range []string{"local", "remote"} {
		t.Run(where, func(t *testing.T) {
			r := newRepo(t)
			url := r.dir
			if where == "remote" {
				url = serveHTTP(t, r).URL
			}
			first := r.commit("a.yaml", "1")
			old := r.commit("a.yaml", "2")
			s, bold := follow(t, url, Config{}), follow(t, url, Config{FollowRewrites: true})
			wantRevision(t, fetch(t, s), "main@sha1:"+old)
			fetch(t, bold)
			// Back to an older commit.
			r.git("reset", "--quiet", "--hard", first)
			wantError(t, s, "branch main was rewritten: "+first+" is not a descendant of "+old, "--follow-rewrites")
			wantFiles(t, fetch(t, bold), "a.yaml", "1")
			// Another commit on the older one.
			rewritten := r.commit("a.yaml", "3", "b.yaml", "b")
			wantError(t, s, "branch main was rewritten: "+rewritten)
			wantError(t, s, "branch main was rewritten: "+rewritten)
			wantFiles(t, fetch(t, bold), "a.yaml", "3", "b.yaml", "b")
			// A history that has nothing in common.
			r.git("checkout", "--quiet", "--orphan", "fresh")
			fresh := r.commit("c.yaml", "c")
			r.git("branch", "--force", "main", fresh)
			wantError(t, s, "branch main was rewritten: "+fresh)
			wantFiles(t, fetch(t, bold), "a.yaml", "3", "b.yaml", "b", "c.yaml", "c")
			r.git("checkout", "--quiet", "main")
			// Undone by going back, and by a commit on top.
			r.git("reset", "--quiet", "--hard", old)
			wantFiles(t, fetch(t, s), "a.yaml", "2")
			r.git("reset", "--quiet", "--hard", fresh)
			wantError(t, s, "was rewritten")
			r.git("reset", "--quiet", "--hard", old)
			forward := r.commit("a.yaml", "4")
			wantFiles(t, fetch(t, s), "a.yaml", "4")
			r.git("reset", "--quiet", "--hard", fresh)
			wantError(t, s, fresh+" is not a descendant of "+forward)
			r.git("reset", "--quiet", "--hard", forward)
			// A merge that has the last commit as its second parent goes forward.
			r.git("checkout", "--quiet", "-b", "side", first)
			r.commit("side.yaml", "side")
			r.git("merge", "--quiet", "--message=merge", "--strategy=ours", "main")
			r.git("branch", "--force", "main", "side")
			wantFiles(t, fetch(t, s), "a.yaml", "1", "side.yaml", "side")
			// The branch goes away and comes back.
			r.git("branch", "--delete", "--force", "main")
			wantError(t, s, `no branch "main" with a commit`)
			r.git("branch", "main")
			wantFiles(t, fetch(t, s), "a.yaml", "1", "side.yaml", "side")
		})
	}
}

// TestRewritesBesideARestart has the branch rewritten while no process looks: the next one
// refuses that as the one before would have, unless it may follow rewrites.
func TestRewritesBesideARestart(t *testing.T) {
	for _, where := range []string{"local", "remote"} {
		t.Run(where, func(t *testing.T) {
			r := newRepo(t)
			url := r.dir
			if where == "remote" {
				url = serveHTTP(t, r).URL
			}
			first := r.commit("a.yaml", "1")
			old := r.commit("a.yaml", "2")
			after := func(revision string, cfg Config) *Source {
				s := follow(t, url, cfg)
				s.After(revision)
				return s
			}
			was := "main@sha1:" + old
			wantFiles(t, fetch(t, after(was, Config{})), "a.yaml", "2")
			r.commit("a.yaml", "3")
			s := after(was, Config{})
			wantFiles(t, fetch(t, s), "a.yaml", "3")
			r.git("reset", "--quiet", "--hard", first)
			rewritten := r.commit("b.yaml", "b")
			wantError(t, after(was, Config{}), "branch main was rewritten: "+rewritten+" is not a descendant of "+old)
			s.After("main@sha1:" + rewritten) // it knows better
			wantError(t, s, "branch main was rewritten: "+rewritten)
			wantFiles(t, fetch(t, after(was, Config{FollowRewrites: true})), "a.yaml", "1", "b.yaml", "b")
			for _, none := range []string{"", "main", "dir@sha256:" + old, "other@sha1:" + old, "main@sha1:x"} {
				wantFiles(t, fetch(t, after(none, Config{})), "a.yaml", "1", "b.yaml", "b")
			}
		})
	}
}

// TestLongHistory has a history with more ways through it than can be gone, and
// one that must be looked through once only.
func TestLongHistory(t *testing.T) {
	r := newRepo(t, "--bare")
	var in bytes.Buffer
	mark := 1
	add := func(lines string) {
		mark++
		fmt.Fprintf(&in, "commit refs/heads/main\nmark :%d\ncommitter a <a@example.com> 1700000000 +0000\ndata 1\nx\n%s", mark, lines)
	}
	add("M 100644 inline a.yaml\ndata 1\na\n")
	for range 50 {
		from := mark
		add(fmt.Sprintf("from :%d\n", from))
		add(fmt.Sprintf("from :%d\nM 100644 inline b.yaml\ndata 1\nb\n", from))
		add(fmt.Sprintf("from :%d\nmerge :%d\n", mark-1, mark))
	}
	cmd := exec.Command("git", "fast-import", "--quiet", "--export-marks=marks")
	cmd.Dir, cmd.Env, cmd.Stdin = r.dir, gitEnv, &in
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	first, last := r.git("rev-list", "--max-parents=0", "main"), r.git("rev-parse", "main")
	tree := r.git("rev-parse", "main^{tree}")
	r.git("update-ref", "refs/heads/main", first)
	s := follow(t, r.dir, Config{})
	fetch(t, s)
	r.git("update-ref", "refs/heads/main", last) // as far as can be
	fetch(t, s)
	other := r.git("commit-tree", "-m", "other", "-p", last+"^1", tree)
	r.git("update-ref", "refs/heads/main", other)
	wantError(t, s, "was rewritten")
	// It is not looked through again: the rest of it may go.
	for _, p := range []string{"pack", "idx"} {
		packs, err := filepath.Glob(filepath.Join(r.dir, "objects", "pack", "*."+p))
		if err != nil || len(packs) != 1 {
			t.Fatal(packs, err)
		}
		if err := os.Remove(packs[0]); err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, s, "was rewritten")
}

// TestOldCommitGone follows a rewrite after which the old commit is deleted, so
// that there is no tree to compare with.
func TestOldCommitGone(t *testing.T) {
	r := newRepo(t)
	r.commit("a.yaml", "a", "b.yaml", "b", "d/c.yaml", "-> ../a.yaml")
	s := follow(t, r.dir, Config{FollowRewrites: true})
	first := fetch(t, s)
	r.git("checkout", "--quiet", "--orphan", "fresh")
	r.git("rm", "--quiet", "--cached", "b.yaml")
	r.write("a.yaml", "A")
	r.git("add", "a.yaml", "d")
	r.git("commit", "--quiet", "--message=x")
	r.git("branch", "--force", "main")
	r.git("reflog", "expire", "--expire=now", "--all")
	r.git("gc", "--quiet", "--prune=now")
	snap := fetch(t, s)
	wantFiles(t, snap, "a.yaml", "A", "d/c.yaml", "A")
	r.commit("d/e.yaml", "e")
	r.git("branch", "--force", "main")
	wantFiles(t, fetch(t, s), "a.yaml", "A", "d/c.yaml", "A", "d/e.yaml", "e", "b.yaml", "b")
	if first.Files.Len() != 3 {
		t.Error("an earlier snapshot changed")
	}
}

// TestReplaced has the whole repository replaced, and away for a while.
func TestReplaced(t *testing.T) {
	r := newRepo(t)
	hash := r.commit("a.yaml", "a")
	away := r.dir + "-away"
	s := follow(t, r.dir, Config{})
	fetch(t, s)
	if err := os.Rename(r.dir, away); err != nil {
		t.Fatal(err)
	}
	wantError(t, s, "cannot open the repository")
	if err := os.Rename(away, r.dir); err != nil {
		t.Fatal(err)
	}
	wantRevision(t, fetch(t, s), "main@sha1:"+hash)
	if err := os.Rename(r.dir, away); err != nil {
		t.Fatal(err)
	}
	again := &repo{t, r.dir}
	(&repo{t, filepath.Dir(r.dir)}).git("clone", "--quiet", away, r.dir)
	again.commit("a.yaml", "b")
	wantFiles(t, fetch(t, s), "a.yaml", "b")
}

// TestShallow reads clones that lack some history or some files.
func TestShallow(t *testing.T) {
	r := newRepo(t)
	r.git("config", "uploadpack.allowFilter", "true")
	r.commit("a.yaml", "1")
	r.commit("a.yaml", "2")
	dir := t.TempDir()
	clone := func(name string, flags ...string) *repo {
		p := filepath.Join(dir, name)
		r.git(append(append([]string{"clone", "--quiet"}, flags...), "file://"+r.dir, p)...)
		return &repo{t, p}
	}
	shallow := clone("shallow", "--depth=1")
	s := follow(t, shallow.dir, Config{})
	wantFiles(t, fetch(t, s), "a.yaml", "2")
	shallow.commit("a.yaml", "3")
	wantFiles(t, fetch(t, s), "a.yaml", "3")
	last := shallow.head()
	shallow.git("reset", "--quiet", "--hard", "HEAD~1")
	wantError(t, s, "does not reach back to "+last, "--follow-rewrites")
	shallow.git("reset", "--quiet", "--hard", last)
	wantFiles(t, fetch(t, s), "a.yaml", "3")

	partial := clone("partial", "--filter=blob:none", "--no-checkout")
	wantError(t, follow(t, partial.dir, Config{}), "a.yaml: the repository lacks object", "is it a partial clone")
}

// TestBroken has objects that cannot be read: the last good commit stays, also
// when the same object is read again, and it goes on once it is repaired.
func TestBroken(t *testing.T) {
	type breakage func(t *testing.T, object, other string)
	write := func(t *testing.T, object string, data []byte) {
		t.Helper()
		if err := errors.Join(os.Chmod(object, 0o644), os.WriteFile(object, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for name, damage := range map[string]breakage{
		"empty": func(t *testing.T, object, _ string) { write(t, object, nil) },
		"gone": func(t *testing.T, object, _ string) {
			if err := os.Remove(object); err != nil {
				t.Fatal(err)
			}
		},
		"cut":     func(t *testing.T, object, _ string) { write(t, object, read(t, object)[:len(read(t, object))/2]) },
		"flip":    func(t *testing.T, object, _ string) { b := read(t, object); b[len(b)/2] ^= 8; write(t, object, b) },
		"swapped": func(t *testing.T, object, other string) { write(t, object, read(t, other)) },
	} {
		for what, spec := range map[string]string{"file": "HEAD:d/a.yaml", "folder": "HEAD:d", "root": "HEAD^{tree}", "commit": "HEAD", "link": "HEAD:d/l.yaml"} {
			t.Run(name+" "+what, func(t *testing.T) {
				r := newRepo(t)
				r.commit("d/a.yaml", "a", "d/b.yaml", "-> a.yaml", "d/l.yaml", "-> a.yaml")
				s := follow(t, r.dir, Config{})
				fetch(t, s)
				loose := func(hash string) string { return filepath.Join(r.dir, ".git", "objects", hash[:2], hash[2:]) }
				other := loose(r.git("rev-parse", spec))
				r.git("rm", "--quiet", "d/b.yaml", "d/l.yaml")
				r.commit("d/a.yaml", strings.Repeat("b", 100), "d/l.yaml", "-> ../d/a.yaml")
				hash := r.git("rev-parse", spec)
				object := loose(hash)
				whole := read(t, object)
				damage(t, object, other)
				wantError(t, s, "cannot fetch "+r.dir, hash)
				wantError(t, s, "cannot fetch "+r.dir, hash)
				wantError(t, follow(t, r.dir, Config{}), hash)
				_ = os.Remove(object)
				if err := os.WriteFile(object, whole, 0o444); err != nil {
					t.Fatal(err)
				}
				wantFiles(t, fetch(t, s), "d/a.yaml", strings.Repeat("b", 100), "d/l.yaml", strings.Repeat("b", 100))
			})
		}
	}
}

// TestFailedCommitChangesNothing has a commit that cannot be read take a link
// away, and the next one bring it back.
func TestFailedCommitChangesNothing(t *testing.T) {
	r := newRepo(t)
	r.commit("l.yaml", "-> target", "target", "1", "z.yaml", "1")
	s := follow(t, r.dir, Config{})
	fetch(t, s)
	r.git("rm", "--quiet", "l.yaml")
	r.commit("z.yaml", "2")
	hash := r.git("rev-parse", "HEAD:z.yaml")
	if err := os.Remove(filepath.Join(r.dir, ".git", "objects", hash[:2], hash[2:])); err != nil {
		t.Fatal(err)
	}
	wantError(t, s, "z.yaml")
	r.commit("l.yaml", "-> target", "z.yaml", "3")
	wantFiles(t, fetch(t, s), "l.yaml", "1", "z.yaml", "3")
	r.commit("target", "2")
	wantFiles(t, fetch(t, s), "l.yaml", "2", "z.yaml", "3")
}

// TestBrokenPack flips each of some bytes of a pack.
func TestBrokenPack(t *testing.T) {
	r := newRepo(t)
	r.commit("a.yaml", "first")
	s := follow(t, r.dir, Config{})
	fetch(t, s)
	r.commit("a.yaml", strings.Repeat("some text that is packed\n", 20))
	r.git("gc", "--quiet", "--prune=now")
	packs, err := fs.Glob(os.DirFS(r.dir), ".git/objects/pack/*.pack")
	if err != nil || len(packs) != 1 {
		t.Fatal(packs, err)
	}
	pack := filepath.Join(r.dir, packs[0])
	whole := read(t, pack)
	if err := os.Chmod(pack, 0o644); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for at := 12; at < len(whole)-20; at += 7 {
		bad := bytes.Clone(whole)
		bad[at] ^= 0x10
		if err := os.WriteFile(pack, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		snap, err := follow(t, r.dir, Config{}).Fetch(t.Context())
		if err != nil {
			failed++
			continue
		}
		// The byte was not of what is read.
		wantFiles(t, snap, "a.yaml", strings.Repeat("some text that is packed\n", 20))
	}
	if failed == 0 {
		t.Error("no broken pack was noticed")
	}
	if err := os.WriteFile(pack, whole, 0o644); err != nil {
		t.Fatal(err)
	}
	fetch(t, s)
}

// TestOddTrees has trees that git would not write.
func TestOddTrees(t *testing.T) {
	r := newRepo(t)
	r.commit("a.txt", "a")
	blob := r.git("rev-parse", "HEAD:a.txt")
	entry := func(mode, name string) string {
		raw, err := hex.DecodeString(blob)
		if err != nil {
			t.Fatal(err)
		}
		return mode + " " + name + "\x00" + string(raw)
	}
	for name, c := range map[string]struct{ tree, want string }{
		"not sorted": {entry("100644", "b.yaml") + entry("100644", "a.yaml"), "is not sorted"},
		"twice":      {entry("100644", "a.yaml") + entry("100644", "a.yaml"), "is not sorted"},
		"parent":     {entry("100644", ".."), "entry named"},
		"slash":      {entry("100644", "../../a.yaml"), "entry named"},
		"cut":        {entry("100644", "a.yaml")[:20], "cannot be read"},
		"blob":       {entry("40000", "dir"), "folder dir"},
	} {
		t.Run(name, func(t *testing.T) {
			p := filepath.Join(t.TempDir(), "tree")
			if err := os.WriteFile(p, []byte(c.tree), 0o644); err != nil {
				t.Fatal(err)
			}
			tree := r.git("hash-object", "--literally", "-t", "tree", "-w", p)
			r.git("update-ref", "refs/heads/odd", r.git("commit-tree", "-m", "odd", tree))
			wantError(t, follow(t, r.dir, Config{Branch: "odd"}), c.want)
		})
	}
	// Five trees that each hold the next one a thousand times: 10^15 files.
	kind, object := "100644 blob", blob
	for range 5 {
		var list strings.Builder
		for i := range 1000 {
			fmt.Fprintf(&list, "%s %s\tx%03d\n", kind, object, i)
		}
		p := filepath.Join(t.TempDir(), "list")
		if err := os.WriteFile(p, []byte(list.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		kind, object = "040000 tree", r.git("-c", "alias.mk=!git mktree <"+p, "mk")
	}
	r.git("update-ref", "refs/heads/bomb", r.git("commit-tree", "-m", "bomb", object))
	wantError(t, follow(t, r.dir, Config{Branch: "bomb"}), "more than 500000 files")
}
