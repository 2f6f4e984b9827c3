package git

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gray-release/gray/sources"
	"github.com/gray-release/gray/sources/dir"
)

// FuzzIncrementalEqualsFull makes a random history by git fast-import and holds
// that after each commit the files of a source that saw the earlier ones are
// those of a source that did not, those that git lists, and those that lie in a
// checkout.
func FuzzIncrementalEqualsFull(f *testing.F) {
	for seed := range uint64(6) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := newRepo(t, "--bare")
		rng := rand.New(rand.NewPCG(seed, 1))
		commits := importHistory(r, rng, 25)
		prefix := []string{"", "a", "b.yaml"}[rng.IntN(3)]
		// The folder that is read is there in every commit.
		s := follow(t, r.dir, Config{Path: prefix})
		whole := follow(t, r.dir, Config{})
		for i, c := range commits {
			if rng.IntN(3) == 0 && i < len(commits)-1 {
				continue // several commits at once
			}
			if rng.IntN(8) == 0 {
				r.git("repack", "-a", "-d", "--quiet")
			}
			r.git("update-ref", "refs/heads/main", c)
			checkCommit(t, r, fetch(t, whole).Files.Len(), whole, c)
			full, err := ReadRevision(t.Context(), r.dir, c, prefix)
			if err != nil && strings.Contains(err.Error(), "has no folder") {
				wantError(t, s, "has no folder")
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			snap := fetch(t, s)
			if d := cmp.Diff(text(full), text(snap)); d != "" {
				t.Fatalf("seed %d, commit %d, folder %q: (-full +incremental)\n%s", seed, i, prefix, d)
			}
			if changed := snap.Files.Changed(full.Files); len(changed) > 0 {
				t.Fatalf("seed %d, commit %d: other ids for %v", seed, i, changed)
			}
			bytes := int64(0)
			for f := range snap.Files.All() {
				bytes += int64(len(f.Data))
			}
			if s.good.bytes != bytes {
				t.Fatalf("seed %d, commit %d: counted %d bytes, there are %d", seed, i, s.good.bytes, bytes)
			}
		}
	})
}

// checkCommit compares the files of a source with what git and a checkout have.
func checkCommit(t *testing.T, r *repo, count int, s *Source, commit string) {
	t.Helper()
	checkout := filepath.Join(t.TempDir(), "checkout")
	tar := exec.Command("sh", "-c", "mkdir "+checkout+" && git archive "+commit+" | tar -x -C "+checkout)
	tar.Dir, tar.Env = r.dir, gitEnv
	if out, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lies, err := dir.Read(t.Context(), checkout)
	if err != nil {
		t.Fatal(err)
	}
	snap := fetch(t, s)
	got := text(snap)
	for line := range strings.SplitSeq(r.git("ls-tree", "-r", commit), "\n") { // a checkout by git archive has empty folders for submodules
		meta, p, _ := strings.Cut(line, "\t")
		if !strings.HasPrefix(meta, "160000") || strings.Contains("/"+p, "/.") {
			continue
		}
		if got[p+"/"] != module {
			t.Fatalf("commit %s: %s/ is %q", commit, p, got[p+"/"])
		}
		delete(got, p+"/")
		count--
	}
	for p := range got { // links to folders are in none of Git's lists
		if strings.HasSuffix(p, "/") {
			count--
		}
	}
	if d := cmp.Diff(text(lies), got); d != "" {
		t.Fatalf("commit %s: (-checkout +git)\n%s", commit, d)
	}
	listed := 0
	for line := range strings.SplitSeq(r.git("ls-tree", "-r", commit), "\n") {
		meta, p, _ := strings.Cut(line, "\t")
		mode, rest, _ := strings.Cut(meta, " ")
		kind, hash, _ := strings.Cut(rest, " ")
		if kind != "blob" || !sources.Wanted(p) {
			continue
		}
		listed++
		f := snap.Files.Get(p)
		if f == nil || mode != "120000" && (f.Err != nil || f.ID != hash) {
			t.Fatalf("commit %s: git has %q, the source %+v", commit, line, f)
		}
	}
	if listed != count {
		t.Fatalf("commit %s: git has %d files, the source %d", commit, listed, count)
	}
	if err := os.RemoveAll(checkout); err != nil {
		t.Fatal(err)
	}
}

// importHistory makes commits that each change a few of a few names, so that
// they often meet: files, programs, folders, links and submodules take each
// other's place.
func importHistory(r *repo, rng *rand.Rand, commits int) []string {
	r.t.Helper()
	names := []string{"a", "b.yaml", "b.yaml.csv", "b.yml", "c", ".d", "e.csv", "b.yaml-"}
	name := func() string {
		p := names[rng.IntN(len(names))]
		for range rng.IntN(3) {
			p += "/" + names[rng.IntN(len(names))]
		}
		return p
	}
	var in bytes.Buffer
	for i := range commits {
		fmt.Fprintf(&in, "commit refs/heads/history\nmark :%d\ncommitter a <a@example.com> %d +0000\ndata 1\nx\n", i+1, 1700000000+i)
		for range 1 + rng.IntN(4) {
			switch rng.IntN(10) {
			default:
				text := fmt.Sprint(rng.IntN(5))
				fmt.Fprintf(&in, "M %s inline %s\ndata %d\n%s\n", []string{"100644", "100755"}[rng.IntN(2)], name(), len(text), text)
			case 6:
				target := strings.Repeat("../", rng.IntN(3)) + name()
				fmt.Fprintf(&in, "M 120000 inline %s\ndata %d\n%s\n", name(), len(target), target)
			case 7:
				fmt.Fprintf(&in, "M 160000 0123456789012345678901234567890123456789 %s\n", name())
			case 8, 9:
				fmt.Fprintf(&in, "D %s\n", name())
			}
		}
		// A rename, of what is surely there.
		text := fmt.Sprint(rng.IntN(3))
		fmt.Fprintf(&in, "M 100644 inline tmp\ndata %d\n%s\nR tmp %s\n", len(text), text, name())
	}
	cmd := exec.Command("git", "fast-import", "--quiet", "--export-marks=marks")
	cmd.Dir, cmd.Env, cmd.Stdin = r.dir, gitEnv, &in
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("%v: %s", err, out)
	}
	hashes := make([]string, commits)
	for line := range strings.Lines(string(read(r.t, filepath.Join(r.dir, "marks")))) {
		var mark int
		var hash string
		if _, err := fmt.Sscanf(line, ":%d %s", &mark, &hash); err != nil {
			r.t.Fatal(err)
		}
		hashes[mark-1] = hash
	}
	return hashes
}
