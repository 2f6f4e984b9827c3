package git

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gray-release/gray/schema"
)

// need skips a test on a machine without a tool; CI has all of them.
func need(t testing.TB, tool string) string {
	t.Helper()
	p, err := exec.LookPath(tool)
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatalf("%s is not there, and CI must have it", tool)
	}
	if err != nil {
		t.Skipf("%s is not there", tool)
	}
	return p
}

// gitEnv keeps the settings of the user away from git.
var gitEnv = append(os.Environ(),
	"GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C",
	"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com",
)

// repo is a repository that the real git works on.
type repo struct {
	t   testing.TB
	dir string
}

func newRepo(t testing.TB, flags ...string) *repo {
	t.Helper()
	need(t, "git")
	r := &repo{t, filepath.Join(t.TempDir(), "repo")}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.git(append([]string{"init", "--quiet", "--initial-branch=main"}, flags...)...)
	r.git("config", "gc.auto", "0")
	return r
}

// try runs git and returns what it printed.
func (r *repo) try(args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Env = r.dir, gitEnv
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (r *repo) git(args ...string) string {
	r.t.Helper()
	out, err := r.try(args...)
	if err != nil {
		r.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// write writes a file of the work tree; a text that begins with "-> " is the
// target of a symbolic link.
func (r *repo) write(p, text string) {
	r.t.Helper()
	p = filepath.Join(r.dir, p)
	err := os.MkdirAll(filepath.Dir(p), 0o755)
	if target, ok := strings.CutPrefix(text, "-> "); ok && err == nil {
		_ = os.Remove(p)
		err = os.Symlink(target, p)
	} else if err == nil {
		err = os.WriteFile(p, []byte(text), 0o644)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// commit writes files, path and text by turns, commits all that differs, and
// returns the hash.
func (r *repo) commit(files ...string) string {
	r.t.Helper()
	for i := 0; i < len(files); i += 2 {
		r.write(files[i], files[i+1])
	}
	r.git("add", "--all")
	r.git("commit", "--quiet", "--allow-empty", "--message=change")
	return r.head()
}

func (r *repo) head() string { r.t.Helper(); return r.git("rev-parse", "HEAD") }

// follow makes a source for the repository's branch main, or as cfg says.
func follow(t testing.TB, url string, cfg Config) *Source {
	t.Helper()
	cfg.URL = url
	if cfg.Branch == "" {
		cfg.Branch = "main"
	}
	if cfg.MirrorDir == "" {
		cfg.MirrorDir = t.TempDir()
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func fetch(t testing.TB, s *Source) *schema.Snapshot {
	t.Helper()
	snap, err := s.Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// text is the files of a snapshot; a refused one has "error: " and why.
func text(snap *schema.Snapshot) map[string]string {
	files := map[string]string{}
	for f := range snap.Files.All() {
		files[f.Path] = string(f.Data)
		if f.Err != nil {
			files[f.Path] = "error: " + f.Err.Error()
		}
	}
	return files
}

// wantFiles compares a snapshot with files, path and text by turns.
func wantFiles(t testing.TB, snap *schema.Snapshot, files ...string) {
	t.Helper()
	want := map[string]string{}
	for i := 0; i < len(files); i += 2 {
		want[files[i]] = files[i+1]
	}
	if d := cmp.Diff(want, text(snap)); d != "" {
		t.Errorf("files differ (-want +got):\n%s", d)
	}
}

func wantRevision(t testing.TB, snap *schema.Snapshot, want string) {
	t.Helper()
	if snap.Revision != want {
		t.Errorf("revision %s, want %s", snap.Revision, want)
	}
}

// wantError fetches, and wants an error that holds all parts.
func wantError(t testing.TB, s *Source, parts ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	start := time.Now()
	snap, err := s.Fetch(ctx)
	if err == nil {
		t.Fatalf("no error, but %s", snap.Revision)
	}
	if took := time.Since(start); took > 45*time.Second {
		t.Errorf("it took %s", took)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q lacks %q", err, p)
		}
	}
	if strings.ContainsAny(err.Error(), "\n\r") {
		t.Errorf("error %q is more than a line", err)
	}
}

func read(t testing.TB, p string) []byte {
	t.Helper()
	b, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// secret writes a file that only its owner may read.
func secret(t testing.TB, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// wantClosed holds that no file of a repository is open, so that packs which Git
// removes go.
func wantClosed(t testing.TB, r *repo) {
	t.Helper()
	open, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range open {
		if p, err := os.Readlink(fd); err == nil && strings.HasPrefix(p, r.dir) {
			t.Errorf("%s is open", p)
		}
	}
}
