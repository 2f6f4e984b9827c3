package git

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
)

// grow makes commits on a branch that each change n.yaml, and returns the last.
// The first one of a branch has files documents more.
func (r *repo) grow(branch string, commits, files int) string {
	r.t.Helper()
	var in bytes.Buffer
	for i := range commits {
		fmt.Fprintf(&in, "commit refs/heads/%s\ncommitter a <a@example.com> %d +0000\ndata 1\nx\n", branch, 1700000000+i)
		if _, err := r.try("rev-parse", "--verify", "--quiet", "refs/heads/"+branch); i == 0 && err == nil {
			fmt.Fprintf(&in, "from refs/heads/%s^0\n", branch)
		}
		text := fmt.Sprintf("%s %d %d", branch, commits, i)
		fmt.Fprintf(&in, "M 100644 inline n.yaml\ndata %d\n%s\n", len(text), text)
		for f := 0; i == 0 && f < files; f++ {
			text := fmt.Sprintf("file %d, %x", f, f*7919)
			fmt.Fprintf(&in, "M 100644 inline d%d/f%d.yaml\ndata %d\n%s\n", f/1000, f, len(text), text)
		}
	}
	cmd := exec.Command("git", "fast-import", "--quiet")
	cmd.Dir, cmd.Env, cmd.Stdin = r.dir, gitEnv, &in
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("%v: %s", err, out)
	}
	return r.git("rev-parse", branch)
}

// meter counts what a server sends.
type meter struct {
	posts int
	bytes int
}

func (m *meter) wrap(w http.ResponseWriter, r *http.Request, next http.Handler) {
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, r)
	if r.Method == http.MethodPost {
		m.posts++
		m.bytes += rec.Body.Len()
	}
	maps.Copy(w.Header(), rec.Header())
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes())
}

// held counts the commits that a mirror holds.
func held(t *testing.T, m *mirror) int {
	t.Helper()
	iter, err := m.store.IterEncodedObjects(plumbing.CommitObject)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := iter.ForEach(func(plumbing.EncodedObject) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestMirror holds that a fetch brings what a commit changed, and some history.
func TestMirror(t *testing.T) {
	r := newRepo(t, "--bare")
	r.grow("main", 200, 2000)
	old := r.git("rev-parse", "main~150")
	g := serveHTTP(t, r)
	var m meter
	g.set(func() { g.wrap = m.wrap })
	s := follow(t, g.URL, Config{})
	step := func(what string, posts, atMost int) {
		t.Helper()
		m = meter{}
		if snap := fetch(t, s); snap.Files.Len() != 2001 {
			t.Errorf("%s: %d files", what, snap.Files.Len())
		}
		t.Logf("%s: %d requests, %d bytes, %d commits held", what, m.posts, m.bytes, held(t, s.mirror))
		if m.posts != posts || m.bytes > atMost {
			t.Errorf("%s: %d requests and %d bytes, want %d and at most %d", what, m.posts, m.bytes, posts, atMost)
		}
	}
	step("first", 1, 1<<20)
	whole := m.bytes
	if n := held(t, s.mirror); n != window {
		t.Errorf("%d commits of history, want %d", n, window)
	}
	step("nothing new", 0, 0)
	r.grow("main", 1, 0)
	step("one commit", 1, 1000)
	r.grow("main", window-1, 0)
	step("as many as the window has", 1, 30_000)
	// A merge of a branch that began before what is held.
	r.git("branch", "side", old)
	r.grow("side", 3, 0)
	tree := r.git("rev-parse", "main^{tree}")
	r.git("update-ref", "refs/heads/main", r.git("commit-tree", "-m", "merge", "-p", "main", "-p", "side", tree))
	step("merge", 1, 30_000)
	if n := held(t, s.mirror); n > 4*window {
		t.Errorf("%d commits are held", n)
	}
	// More than the window: it is made deeper.
	r.grow("main", 3*window, 0)
	step("deeper", 2, whole+100_000)
	for _, h := range s.mirror.shallow {
		commit, err := readCommit(s.mirror.store, h)
		if err != nil {
			t.Fatal(err)
		}
		if s.mirror.store.HasEncodedObject(commit.ParentHashes[0]) == nil {
			t.Errorf("%s has its parent, but counts as cut off", h)
		}
	}
	r.grow("main", 1, 0)
	step("one more", 1, 1000)

	// A rewrite is asked for once.
	last := r.git("rev-parse", "main")
	r.git("update-ref", "refs/heads/main", old)
	r.grow("main", 2, 0)
	m = meter{}
	wantError(t, s, "was rewritten", "is not a descendant of "+last)
	asked := m.posts
	wantError(t, s, "was rewritten")
	if asked == 0 || m.posts != asked {
		t.Errorf("%d requests, then %d", asked, m.posts-asked)
	}
	r.git("update-ref", "refs/heads/main", last)
	r.grow("main", 1, 0)
	step("after a rewrite", 1, 1000)
}

// TestMirrorIsMadeAnew throws the mirror away when it is full or broken.
func TestMirrorIsMadeAnew(t *testing.T) {
	r := newRepo(t)
	r.commit("a.yaml", "1", "b.yaml", "b", "l.yaml", "-> a.yaml", "d/c.yaml", "c")
	g := serveHTTP(t, r)
	s := follow(t, g.URL, Config{})
	first := fetch(t, s)
	r.commit("a.yaml", "2")
	fetch(t, s)
	if s.mirror.packs != 2 {
		t.Errorf("%d packs", s.mirror.packs)
	}
	s.mirror.packs = maxPacks
	r.git("rm", "-r", "--quiet", "d")
	r.commit("a.yaml", "3")
	snap := fetch(t, s)
	wantFiles(t, snap, "a.yaml", "3", "b.yaml", "b", "l.yaml", "3")
	if s.mirror.packs != 1 {
		t.Errorf("%d packs after it was made anew", s.mirror.packs)
	}
	if snap.Files.Get("b.yaml") != first.Files.Get("b.yaml") {
		t.Error("a file that stayed was read again")
	}
	objects := filepath.Join(s.mirror.dir, "objects")
	for i, damage := range []func() error{
		func() error { return os.RemoveAll(objects) },
		func() error { return os.RemoveAll(s.mirror.dir) },
		func() error {
			return filepath.WalkDir(objects, func(p string, e fs.DirEntry, err error) error {
				if err != nil || e.IsDir() {
					return err
				}
				return errors.Join(os.Chmod(p, 0o600), os.Truncate(p, 40))
			})
		},
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint("damage ", i)
		r.commit("a.yaml", text)
		wantFiles(t, fetch(t, s), "a.yaml", text, "b.yaml", "b", "l.yaml", text)
	}
}

// TestMirrorBounds refuses a remote that sends too much.
func TestMirrorBounds(t *testing.T) {
	r := newRepo(t)
	r.commit("a.yaml", "1")
	g := serveHTTP(t, r)
	s := follow(t, g.URL, Config{})
	fetch(t, s)
	defer func(a, b int64) { maxPack, maxObject = a, b }(maxPack, maxObject)
	large := strings.Repeat("0123456789abcdef", 1<<16)
	r.commit("a.yaml", "2", "large.bin", large)
	maxObject = 1 << 19
	wantError(t, s, "the remote has an object of 1048576 bytes, more than 524288")
	maxObject = 1 << 30
	maxPack = 1 << 9
	wantError(t, s, "the remote sends more than gray accepts")
	maxPack = 1 << 30
	wantFiles(t, fetch(t, s), "a.yaml", "2")
	// A delta is small, but not what it makes.
	maxObject = 1000
	for size, want := range map[uint64]string{1000: "", 1001: "an object of 1001 bytes"} {
		err := checkPack(bytes.NewReader(deltaPack(t, size)))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("a delta that makes %d bytes: %v", size, err)
		}
	}
	delta := head{}
	_, _ = delta.Write([]byte{0x80, 0x01, 0x80, 0x80, 0x80, 0x80, 0x10, 0, 0, 0})
	if got := delta.result(); got != 1<<32 {
		t.Errorf("a delta makes %d bytes", got)
	}
	for _, bad := range [][]byte{nil, {0x80}, bytes.Repeat([]byte{0xff}, 40)} {
		delta := head{}
		_, _ = delta.Write(bad)
		if got := delta.result(); got != 0 {
			t.Errorf("% x makes %d bytes", bad, got)
		}
	}
}

// deltaPack is a pack with a blob and a delta of it that says how much it makes.
func deltaPack(t *testing.T, size uint64) []byte {
	t.Helper()
	pack := bytes.NewBuffer([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x02"))
	add := func(kind byte, data []byte, offset ...byte) {
		pack.WriteByte(kind<<4 | byte(len(data)))
		pack.Write(offset)
		z := zlib.NewWriter(pack)
		if _, err := z.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	add(3, []byte("abc"))
	add(6, binary.AppendUvarint([]byte{3}, size), byte(pack.Len()-12))
	sum := sha1.Sum(pack.Bytes())
	return append(pack.Bytes(), sum[:]...)
}

// TestNoShallow has a server that sends all history or none.
func TestNoShallow(t *testing.T) {
	r := newRepo(t, "--bare")
	r.grow("main", 2*window, 3)
	g := serveHTTP(t, r)
	g.set(func() {
		g.wrap = func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, req)
			maps.Copy(w.Header(), rec.Header())
			_, _ = w.Write(bytes.ReplaceAll(rec.Body.Bytes(), []byte(" shallow "), []byte(" sha11ow ")))
		}
	})
	s := follow(t, g.URL, Config{})
	fetch(t, s)
	if n := held(t, s.mirror); n != 2*window {
		t.Errorf("%d commits", n)
	}
	last := r.grow("main", 2*window, 0)
	wantRevision(t, fetch(t, s), "main@sha1:"+last)
}

// TestMirrorFolder leaves nothing behind.
func TestMirrorFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	left := filepath.Join(dir, "gray-mirror-123")
	if err := os.MkdirAll(filepath.Join(left, "objects"), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{URL: "https://example.com/r", Branch: "main", MirrorDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("the mirror of an earlier daemon is still there")
	}
	if info, err := os.Stat(s.mirror.dir); err != nil || info.Mode().Perm() != 0o700 || filepath.Dir(s.mirror.dir) != dir {
		t.Errorf("%s: %v", s.mirror.dir, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if rest, err := os.ReadDir(dir); err != nil || len(rest) > 0 {
		t.Errorf("left %v, %v", rest, err)
	}
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	if s, err = New(Config{URL: "https://example.com/r", Branch: "main"}); err != nil {
		t.Fatal(err)
	}
	if filepath.Dir(s.mirror.dir) != tmp {
		t.Errorf("the mirror is in %s", s.mirror.dir)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	file := filepath.Join(tmp, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{URL: "https://example.com/r", Branch: "main", MirrorDir: file}); err == nil {
		t.Error("a file is not a folder")
	}
}
