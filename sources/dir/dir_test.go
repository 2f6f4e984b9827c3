package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gray-release/gray/schema"
)

// tree is a folder that a test changes.
type tree struct {
	t   testing.TB
	dir string
}

func newTree(t testing.TB) *tree {
	t.Helper()
	d := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(d, 0o755); err != nil {
		t.Fatal(err)
	}
	return &tree{t, d}
}

func (d *tree) ok(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *tree) path(p string) string { return filepath.Join(d.dir, p) }

// write writes files, path and text by turns; a text that begins with "-> " is
// the target of a symbolic link.
func (d *tree) write(files ...string) {
	d.t.Helper()
	for i := 0; i < len(files); i += 2 {
		p := d.path(files[i])
		d.ok(os.MkdirAll(filepath.Dir(p), 0o755))
		if target, ok := strings.CutPrefix(files[i+1], "-> "); ok {
			_ = os.Remove(p)
			d.ok(os.Symlink(target, p))
		} else {
			d.ok(os.WriteFile(p, []byte(files[i+1]), 0o644))
		}
	}
}

func (d *tree) move(from, to string) { d.t.Helper(); d.ok(os.Rename(d.path(from), d.path(to))) }
func (d *tree) remove(p string)      { d.t.Helper(); d.ok(os.RemoveAll(d.path(p))) }

// age makes a file look old enough to be trusted by its time.
func (d *tree) age(p string) {
	d.t.Helper()
	old := time.Unix(1_700_000_000, 0)
	d.ok(os.Chtimes(d.path(p), old, old))
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

func pairs(files ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(files); i += 2 {
		m[files[i]] = files[i+1]
	}
	return m
}

func wantFiles(t testing.TB, snap *schema.Snapshot, files ...string) {
	t.Helper()
	if d := cmp.Diff(pairs(files...), text(snap)); d != "" {
		t.Errorf("files differ (-want +got):\n%s", d)
	}
}

const (
	leaves   = "error: is a symbolic link that leaves the repository; put the file itself here"
	dangling = "error: is a symbolic link to nothing in the repository"
	noFile   = "error: is not a regular file"
)

func TestRead(t *testing.T) {
	d := newTree(t)
	d.ok(os.WriteFile(filepath.Join(d.dir, "..", "secret.yaml"), []byte("secret"), 0o600))
	d.write("a.yaml", "a", "sub/deep/b.yml", "b", "c.csv", "c", "no.txt", "no", ".git/config", "password", ".git/x.yaml", "no",
		".hidden.yaml", "no", "sub/.d/e.yaml", "no", "sub/.grayignore", "no", ".grayignore", "x", "f.yaml/g.yaml", "g", "f.yaml/h", "h",
		"same.yaml", "-> a.yaml", "up.yaml", "-> sub/../f.yaml/h", "chain.yaml", "-> same.yaml", "folder", "-> sub", "by.yaml", "-> folder/deep/b.yml",
		"out.yaml", "-> ../secret.yaml", "absolute.yaml", "-> "+d.path("a.yaml"), "config.yaml", "-> .git/config", "sub/config.yaml", "-> ../.GIT/config",
		"none.yaml", "-> none", "none2.yaml", "-> a.yaml/x", "loop.yaml", "-> loop.yaml", "dir.yaml", "-> sub", "null.yaml", "-> /dev/null",
		"outfolder", "-> ..", "through.yaml", "-> outfolder/secret.yaml",
		"pipe/p4info.txtpb", "p", "pipe/device_config.json", "-> ../sub/data", "sub/data", "j", "pipe/device_config.bin", "-> /etc/passwd",
	)
	snap, err := Read(t.Context(), d.dir)
	if err != nil {
		t.Fatal(err)
	}
	wantFiles(t, snap, "a.yaml", "a", "sub/deep/b.yml", "b", "c.csv", "c", ".grayignore", "x", "f.yaml/g.yaml", "g",
		"same.yaml", "a", "up.yaml", "h", "chain.yaml", "a", "by.yaml", "b",
		"out.yaml", leaves, "absolute.yaml", leaves, "config.yaml", leaves, "sub/config.yaml", leaves, "null.yaml", leaves, "through.yaml", leaves,
		"none.yaml", dangling, "none2.yaml", dangling, "loop.yaml", "error: is a symbolic link that leads to too many others", "dir.yaml", noFile,
		"pipe/p4info.txtpb", "p", "pipe/device_config.json", "j", "pipe/device_config.bin", leaves,
		"folder/", "error: is a symbolic link to a folder, which gray does not read; put its files here, or list it in .grayignore",
		"outfolder/", "error: is a symbolic link that leaves the repository; put its files here, or list it in .grayignore")
	if !strings.HasPrefix(snap.Revision, "dir@sha256:") || len(snap.Revision) != len("dir@sha256:")+40 {
		t.Errorf("revision %s", snap.Revision)
	}
	for _, p := range []string{d.path("none"), d.path("a.yaml")} {
		if _, err := Read(t.Context(), p); err == nil || !strings.Contains(err.Error(), "cannot read the folder "+p) {
			t.Errorf("%s: %v", p, err)
		}
		if _, err := New(p); err == nil || !strings.Contains(err.Error(), p) {
			t.Errorf("%s: %v", p, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ctx, d.dir); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestOddFiles has what must not be opened, or not be read: opening a pipe waits
// until somebody writes into it.
func TestOddFiles(t *testing.T) {
	d := newTree(t)
	d.write("a.yaml", "a", "large.yaml", strings.Repeat("x", schema.MaxYAML+1), "ok.yaml", strings.Repeat("x", schema.MaxYAML))
	d.ok(syscall.Mkfifo(d.path("pipe.yaml"), 0o644))
	d.write("topipe.yaml", "-> pipe.yaml")
	socket, err := net.Listen("unix", d.path("s.yaml"))
	d.ok(err)
	defer socket.Close()
	for _, p := range []string{"huge.csv", "device_config.bin", "p4info.txtpb"} {
		d.write(p, "")
		d.ok(os.Truncate(d.path(p), 64<<20))
	}
	done := make(chan *schema.Snapshot, 1)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	go func() {
		snap, err := Read(t.Context(), d.dir)
		if err != nil {
			t.Error(err)
		}
		done <- snap
	}()
	select {
	case snap := <-done:
		wantFiles(t, snap, "a.yaml", "a", "ok.yaml", strings.Repeat("x", schema.MaxYAML), "pipe.yaml", noFile, "topipe.yaml", noFile, "s.yaml", noFile,
			"large.yaml", "error: the file has 1048577 bytes, the most is 1048576; split it",
			"huge.csv", "error: the file has 67108864 bytes, the most is 16777216; split it",
			"device_config.bin", "error: the file has 67108864 bytes, the most is 16777216",
			"p4info.txtpb", "error: the file has 67108864 bytes, the most is 1048576")
	case <-time.After(20 * time.Second):
		t.Fatal("waits for a pipe")
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 32<<20 {
		t.Errorf("%d bytes were allocated", used)
	}
	// A pipe that came after it was looked at.
	root, err := os.OpenRoot(d.dir)
	d.ok(err)
	defer root.Close()
	go func() {
		_, err := (&walker{root: root}).read("pipe.yaml", "pipe.yaml")
		if err == nil || !strings.Contains(err.Error(), "is not a regular file") {
			t.Errorf("a pipe: %v", err)
		}
		done <- nil
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("waits for a pipe")
	}
}

// TestIncremental reads only what looks different, and misses nothing.
func TestIncremental(t *testing.T) {
	d := newTree(t)
	d.write("a.yaml", "a1", "b.yaml", "b1", "c.yaml", "c1", "l.yaml", "-> c.yaml")
	for _, p := range []string{"a.yaml", "b.yaml", "c.yaml"} {
		d.age(p)
	}
	s := &Source{root: d.dir}
	first := fetch(t, s)
	wantFiles(t, first, "a.yaml", "a1", "b.yaml", "b1", "c.yaml", "c1", "l.yaml", "c1")
	again := fetch(t, s)
	if again.Revision != first.Revision || again.Files.Get("a.yaml") != first.Files.Get("a.yaml") {
		t.Error("a folder that stayed is another one")
	}
	// Neither size nor time differ, and the time is old: it is taken as it was.
	d.write("a.yaml", "a2")
	d.age("a.yaml")
	if got := string(fetch(t, s).Files.Get("a.yaml").Data); got != "a1" {
		t.Errorf("read again: %q; the rest of this test would hold nothing", got)
	}
	d.write("a.yaml", "a3")
	wantFiles(t, fetch(t, s), "a.yaml", "a3", "b.yaml", "b1", "c.yaml", "c1", "l.yaml", "c1")
	// Neither size nor time differ, but the time is of just now.
	info, err := os.Stat(d.path("a.yaml"))
	d.ok(err)
	d.write("a.yaml", "a4")
	d.ok(os.Chtimes(d.path("a.yaml"), info.ModTime(), info.ModTime()))
	wantFiles(t, fetch(t, s), "a.yaml", "a4", "b.yaml", "b1", "c.yaml", "c1", "l.yaml", "c1")
	// Another file of the same size and time takes the place, also behind a link.
	d.move("c.yaml", "b.yaml")
	d.write("c2", "c2")
	d.age("c2")
	d.move("c2", "c.yaml")
	wantFiles(t, fetch(t, s), "a.yaml", "a4", "b.yaml", "c1", "c.yaml", "c2", "l.yaml", "c2")
	// A file becomes a folder, a link becomes a file, a file is gone.
	d.remove("a.yaml")
	d.remove("l.yaml")
	d.remove("b.yaml")
	d.write("a.yaml/x.yaml", "x", "l.yaml", "l")
	wantFiles(t, fetch(t, s), "a.yaml/x.yaml", "x", "c.yaml", "c2", "l.yaml", "l")
	// The folder goes away, and comes back.
	away := d.dir + "-away"
	d.ok(os.Rename(d.dir, away))
	if _, err := s.Fetch(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	d.ok(os.Rename(away, d.dir))
	wantFiles(t, fetch(t, s), "a.yaml/x.yaml", "x", "c.yaml", "c2", "l.yaml", "l")
	wantFiles(t, first, "a.yaml", "a1", "b.yaml", "b1", "c.yaml", "c1", "l.yaml", "c1")
}

// TestIncrementalEqualsFull changes a folder at random.
func TestIncrementalEqualsFull(t *testing.T) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 2))
		d := newTree(t)
		s := &Source{root: d.dir}
		names := []string{"a", "b.yaml", "c.csv", ".d", "e.yml"}
		name := func() string {
			p := names[rng.IntN(len(names))]
			for range rng.IntN(3) {
				p += "/" + names[rng.IntN(len(names))]
			}
			return p
		}
		for step := range 150 {
			p := d.path(name())
			switch rng.IntN(6) {
			case 0:
				_ = os.RemoveAll(p)
			case 1:
				_ = os.Rename(p, d.path(name()))
			case 2:
				_ = os.Symlink(strings.Repeat("../", rng.IntN(3))+name(), p)
			default:
				_ = os.MkdirAll(filepath.Dir(p), 0o755)
				_ = os.WriteFile(p, fmt.Append(nil, rng.IntN(5)), 0o644)
			}
			snap := fetch(t, s)
			full, err := Read(t.Context(), d.dir)
			d.ok(err)
			if diff := cmp.Diff(text(full), text(snap)); diff != "" || full.Revision != snap.Revision {
				t.Fatalf("seed %d, step %d: %s and %s (-full +incremental)\n%s", seed, step, full.Revision, snap.Revision, diff)
			}
		}
	}
}
