package dir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"
)

func open(t *testing.T, root string) *Source {
	t.Helper()
	s, err := New(root)
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

// until waits until hints lead to what is wanted.
func until(t *testing.T, s *Source, what string, holds func() bool) {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		select {
		case <-s.Changed():
		case <-late:
			t.Fatalf("%s: no hint came", what)
		}
		if holds() {
			return
		}
	}
}

// untilFiles waits until the files are those, path and text by turns.
func untilFiles(t *testing.T, s *Source, what string, files ...string) {
	t.Helper()
	until(t, s, what, func() bool {
		snap, err := s.Fetch(t.Context())
		return err == nil && cmp.Equal(pairs(files...), text(snap))
	})
}

// TestChangesAreSeen changes a watched folder by one thing after the other; each
// must bring a hint of its own.
func TestChangesAreSeen(t *testing.T) {
	d := newTree(t)
	outside := &tree{t, t.TempDir()}
	d.write("a.yaml", "1")
	s := open(t, d.dir)
	wantFiles(t, fetch(t, s), "a.yaml", "1")
	for _, c := range []struct {
		what   string
		change func()
		files  []string
	}{
		{"changed", func() { d.write("a.yaml", "2") }, []string{"a.yaml", "2"}},
		{"new", func() { d.write("b.yaml", "b") }, []string{"a.yaml", "2", "b.yaml", "b"}},
		{"removed", func() { d.remove("b.yaml") }, []string{"a.yaml", "2"}},
		{"saved by a rename", func() { d.write("a.yaml~", "3"); d.move("a.yaml~", "a.yaml") }, []string{"a.yaml", "3"}},
		{"saved with a backup", func() { d.move("a.yaml", "a.yaml~"); d.write("a.yaml", "4"); d.remove("a.yaml~") }, []string{"a.yaml", "4"}},
		{"new folders", func() { d.write("x/y/z/c.yaml", "c") }, []string{"a.yaml", "4", "x/y/z/c.yaml", "c"}},
		{"in a new folder", func() { d.write("x/y/z/c.yaml", "d") }, []string{"a.yaml", "4", "x/y/z/c.yaml", "d"}},
		{"folder renamed", func() { d.move("x", "w") }, []string{"a.yaml", "4", "w/y/z/c.yaml", "d"}},
		{"in a renamed folder", func() { d.write("w/e.yaml", "e") }, []string{"a.yaml", "4", "w/y/z/c.yaml", "d", "w/e.yaml", "e"}},
		{"below a renamed folder", func() { d.write("w/y/z/c.yaml", "f") }, []string{"a.yaml", "4", "w/y/z/c.yaml", "f", "w/e.yaml", "e"}},
		{"new folder below a renamed one", func() { d.write("w/y/v/g.yaml", "g") }, []string{"a.yaml", "4", "w/y/z/c.yaml", "f", "w/e.yaml", "e", "w/y/v/g.yaml", "g"}},
		{"in that folder", func() { d.write("w/y/v/g.yaml", "h") }, []string{"a.yaml", "4", "w/y/z/c.yaml", "f", "w/e.yaml", "e", "w/y/v/g.yaml", "h"}},
		{"folder moved out", func() { d.ok(os.Rename(d.path("w"), outside.path("w"))) }, []string{"a.yaml", "4"}},
		{"folder in its place", func() { d.write("w/y/i.yaml", "i") }, []string{"a.yaml", "4", "w/y/i.yaml", "i"}},
		{"in the one in its place", func() { d.write("w/y/i.yaml", "j") }, []string{"a.yaml", "4", "w/y/i.yaml", "j"}},
		{"folder replaced", func() { d.remove("w"); d.write("w/y/i.yaml", "k") }, []string{"a.yaml", "4", "w/y/i.yaml", "k"}},
		{"in the new one", func() { d.write("w/y/i.yaml", "l") }, []string{"a.yaml", "4", "w/y/i.yaml", "l"}},
		{"folder moved in", func() { d.remove("w"); d.ok(os.Rename(outside.path("w"), d.path("in"))) }, []string{"a.yaml", "4", "in/y/z/c.yaml", "f", "in/e.yaml", "e", "in/y/v/g.yaml", "h"}},
		{"in what was moved in", func() { d.remove("in/e.yaml"); d.remove("in/y/v") }, []string{"a.yaml", "4", "in/y/z/c.yaml", "f"}},
		{"link", func() { d.write("l.yaml", "-> in/y/z/c.yaml") }, []string{"a.yaml", "4", "in/y/z/c.yaml", "f", "l.yaml", "f"}},
		{"target of a link", func() { d.write("in/y/z/c.yaml", "m") }, []string{"a.yaml", "4", "in/y/z/c.yaml", "m", "l.yaml", "m"}},
		{"all gone", func() { d.remove("in"); d.remove("l.yaml"); d.remove("a.yaml") }, nil},
	} {
		c.change()
		untilFiles(t, s, c.what, c.files...)
		var folders []string
		d.ok(filepath.WalkDir(d.dir, func(p string, e os.DirEntry, err error) error {
			if e.IsDir() {
				folders = append(folders, p)
			}
			return err
		}))
		// The last change may have come in several parts, and be told for the
		// first of them already.
		for late := time.Now().Add(20 * time.Second); ; runtime.Gosched() {
			watched := slices.Sorted(slices.Values(s.watcher.notify.WatchList()))
			if slices.Equal(folders, watched) {
				break
			}
			if time.Now().After(late) {
				t.Fatalf("%s: watches %v, there are %v", c.what, watched, folders)
			}
		}
	}
}

// teller runs tell in a bubble of synctest.
type teller struct {
	t           *testing.T
	events      chan fsnotify.Event
	lost        chan error
	changed     chan struct{}
	other, full atomic.Bool // what is seen of the folders
	watched     atomic.Int32
	start       time.Time
}

// watch is the function that tell watches with.
func (l *teller) watch() error {
	if l.watched.Add(1); l.full.Load() {
		return errors.New("no more watches")
	}
	return nil
}

// want waits until a change is told.
func (l *teller) want(what string, least, most time.Duration) {
	l.t.Helper()
	select {
	case <-l.changed:
	case <-time.After(time.Hour):
		l.t.Errorf("%s: not told", what)
	}
	if took := time.Since(l.start); took < least || took > most {
		l.t.Errorf("%s: told after %s, want %s to %s", what, took, least, most)
	}
	if n := l.watched.Swap(0); n != 1 {
		l.t.Errorf("%s: watched %d times", what, n)
	}
	l.start = time.Now()
}

// TestTiming holds when a change is told, by a clock that the test has.
func TestTiming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &teller{t: t, events: make(chan fsnotify.Event), lost: make(chan error), changed: make(chan struct{}, 1), start: time.Now()}
		done := make(chan struct{})
		go func() {
			defer close(done)
			tell(l.events, l.lost, l.other.Load, l.watch, l.changed)
		}()
		l.events <- fsnotify.Event{}
		l.want("one event", quiet, quiet)
		// A file that is written in parts is told of when it is whole.
		for range 5 {
			l.events <- fsnotify.Event{}
			time.Sleep(quiet / 2)
		}
		l.want("several", 3*quiet, 3*quiet)
		l.lost <- fsnotify.ErrEventOverflow
		l.want("lost events", 0, 0)
		l.other.Store(true)
		l.want("another folder", 1, beat)
		l.other.Store(false)
		l.full.Store(true)
		l.events <- fsnotify.Event{}
		l.want("no more watches", quiet, quiet)
		l.want("no more watches", poll, poll)
		l.full.Store(false)
		l.want("watches again", poll, poll)
		select {
		case <-l.changed:
			t.Error("told of nothing")
		case <-time.After(time.Hour):
		}
		// Events without a pause do not keep it back.
		l.start = time.Now()
		go func() {
			defer close(l.events)
			for range 4 * patience / quiet {
				l.events <- fsnotify.Event{}
				time.Sleep(quiet / 2)
			}
		}()
		l.want("no pause", patience, patience)
		l.want("no pause", patience, patience+quiet)
		<-done
	})
}

// TestMountedConfig updates a folder as a mounted config map is updated: files
// are links into a folder that a link is moved to.
func TestMountedConfig(t *testing.T) {
	d := newTree(t)
	d.write("..1/a.yaml", "1", "..data", "-> ..1", "a.yaml", "-> ..data/a.yaml")
	s := open(t, d.dir)
	wantFiles(t, fetch(t, s), "a.yaml", "1")
	d.write("..2/a.yaml", "2", "..tmp", "-> ..2")
	d.move("..tmp", "..data")
	untilFiles(t, s, "update", "a.yaml", "2")
}

// TestFolderGoesAndComes takes the whole folder away; the last state stays until
// it is back, and then it is watched again.
func TestFolderGoesAndComes(t *testing.T) {
	for name, c := range map[string]struct{ away, back func(d *tree) }{
		"moved":   {func(d *tree) { d.move(".", "../away") }, func(d *tree) { d.ok(os.Rename(d.path("../away"), d.dir)) }},
		"removed": {func(d *tree) { d.remove(".") }, func(d *tree) { d.write("sub/a.yaml", "1") }},
		"parent moved": {
			func(d *tree) { d.ok(os.Rename(filepath.Dir(d.dir), filepath.Dir(d.dir)+"-away")) },
			func(d *tree) { d.ok(os.Rename(filepath.Dir(d.dir)+"-away", filepath.Dir(d.dir))) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newTree(t)
			d.write("sub/a.yaml", "1")
			s := open(t, d.dir)
			first := fetch(t, s)
			c.away(d)
			until(t, s, "away", func() bool { _, err := s.Fetch(t.Context()); return err != nil })
			c.back(d)
			untilFiles(t, s, "back", "sub/a.yaml", "1")
			if snap := fetch(t, s); snap.Revision != first.Revision {
				t.Errorf("revision %s, then %s", first.Revision, snap.Revision)
			}
			d.write("sub/a.yaml", "2")
			untilFiles(t, s, "changed", "sub/a.yaml", "2")
		})
	}
}

// TestFolderIsReplaced puts another folder in the place of the watched one.
func TestFolderIsReplaced(t *testing.T) {
	d := newTree(t)
	d.write("one/a.yaml", "1", "two/a.yaml", "2", "current", "-> one")
	s := open(t, d.path("current"))
	wantFiles(t, fetch(t, s), "a.yaml", "1")
	d.write("one/a.yaml", "1a")
	untilFiles(t, s, "below a link", "a.yaml", "1a")
	d.write("next", "-> two")
	d.move("next", "current")
	untilFiles(t, s, "link moved", "a.yaml", "2")
	d.write("two/a.yaml", "2a")
	untilFiles(t, s, "below the moved link", "a.yaml", "2a")

	plain := open(t, d.path("two"))
	fetch(t, plain)
	d.move("two", "old")
	d.move("one", "two")
	untilFiles(t, plain, "replaced", "a.yaml", "1a")
	d.write("two/a.yaml", "3")
	untilFiles(t, plain, "in the new one", "a.yaml", "3")
}

// TestBusyFolder fetches while files come and go: no fetch fails, and the last
// state is seen.
func TestBusyFolder(t *testing.T) {
	d := newTree(t)
	d.write("keep.yaml", "keep")
	s := open(t, d.dir)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 300 {
			p := fmt.Sprintf("f%d/x%d.yaml", i%7, i%13)
			d.write(p, fmt.Sprint(i))
			if i%3 == 0 {
				d.move(p, p+".yaml")
			}
			if i%11 == 0 {
				d.remove(fmt.Sprintf("f%d", i%7))
			}
		}
		for i := range 7 {
			d.remove(fmt.Sprintf("f%d", i))
		}
		d.write("end.yaml", "end")
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		fetch(t, s)
	}
	untilFiles(t, s, "the end", "keep.yaml", "keep", "end.yaml", "end")
}

// TestDotFolders brings no hint for what is not read.
func TestDotFolders(t *testing.T) {
	d := newTree(t)
	d.write(".git/x", "1", "a.yaml", "1")
	s := open(t, d.dir)
	fetch(t, s)
	d.write(".git/x", "2", ".git/sub/y", "3")
	d.write("a.yaml", "2")
	untilFiles(t, s, "a file", "a.yaml", "2")
	for _, p := range s.watcher.notify.WatchList() {
		if p != d.dir {
			t.Errorf("%s is watched", p)
		}
	}
}
