package git

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// BenchmarkFetch measures a Fetch that brings one changed file among many, in
// folders of 1,000 and in one flat folder. The tree of the folder that a file is
// in must be decoded, so the flat one costs what it holds.
func BenchmarkFetch(b *testing.B) {
	for _, c := range []struct {
		name            string
		files, inFolder int
	}{
		{"1000", 1000, 1000},
		{"100000", 100_000, 1000},
		{"100000flat", 100_000, 100_000},
	} {
		r := benchRepo(b, c.files, c.inFolder)
		commits := []string{r.git("rev-parse", "main"), r.git("rev-parse", "main~1")}
		b.Run(c.name, func(b *testing.B) {
			s := follow(b, r.dir, Config{FollowRewrites: true})
			if n := fetch(b, s).Files.Len(); n != c.files {
				b.Fatalf("%d files", n)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				setMain(b, r, commits[(i+1)%2])
				fetch(b, s)
			}
		})
	}
}

// TestCostFollowsChange holds that of the benchmark which does not depend on the
// machine.
func TestCostFollowsChange(t *testing.T) {
	var allocs [2]float64
	for i, files := range []int{500, 10_000} {
		r := benchRepo(t, files, 500)
		commits := []string{r.git("rev-parse", "main"), r.git("rev-parse", "main~1")}
		s := follow(t, r.dir, Config{FollowRewrites: true})
		fetch(t, s)
		n := 0
		allocs[i] = testing.AllocsPerRun(20, func() {
			n++
			setMain(t, r, commits[n%2])
			fetch(t, s)
		})
	}
	t.Logf("%.0f allocations with 500 files, %.0f with 10,000", allocs[0], allocs[1])
	if allocs[1] > 2*allocs[0] {
		t.Errorf("%.0f allocations with 500 files, %.0f with 10,000", allocs[0], allocs[1])
	}
}

// setMain moves the branch, faster than git does.
func setMain(t testing.TB, r *repo, commit string) {
	if err := os.WriteFile(filepath.Join(r.dir, "refs", "heads", "main"), []byte(commit+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkFetchAll measures the first Fetch.
func BenchmarkFetchAll(b *testing.B) {
	for _, files := range []int{1000, 100_000} {
		r := benchRepo(b, files, 1000)
		b.Run(fmt.Sprint(files), func(b *testing.B) {
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if n := fetch(b, follow(b, r.dir, Config{})).Files.Len(); n != files {
					b.Fatalf("%d files", n)
				}
			}
		})
	}
}

// benchRepo is a repository with two commits, of which the newer one changes one
// of the documents of the older one.
func benchRepo(b testing.TB, files, inFolder int) *repo {
	b.Helper()
	r := newRepo(b, "--bare")
	var in bytes.Buffer
	for c := range 2 {
		fmt.Fprintf(&in, "commit refs/heads/main\ncommitter a <a@example.com> %d +0000\ndata 1\nx\n", 1700000000+c)
		for f := range files {
			if c == 1 && f != files/2 {
				continue
			}
			text := fmt.Sprintf("apiVersion: gray.dev/v1alpha1\nkind: GrayPolicy\nmetadata: {name: p-%d}\nspec:\n  targets: [{kind: Service, name: vpc-api}]\n  version: v%d\n  match: [{account: %d}]\n", f, c, 50000000+f)
			fmt.Fprintf(&in, "M 100644 inline d%d/policy-%d.yaml\ndata %d\n%s\n", f/inFolder, f, len(text), text)
		}
	}
	cmd := exec.Command("git", "fast-import", "--quiet")
	cmd.Dir, cmd.Env, cmd.Stdin = r.dir, gitEnv, &in
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return r
}
