package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// A change is told when nothing more happened for quiet, so that a file that is
// being saved or a tree that is being copied is not read half done; but never
// later than patience. Every beat it is looked at whether a folder went away or
// came back, which nobody else would tell.
const (
	quiet    = 50 * time.Millisecond
	patience = time.Second
	beat     = time.Second
)

// poll is how often a change is assumed where the system allows no more watches.
// It is a variable for the tests.
var poll = 10 * time.Second

// Watcher tells when something below some folders changes.
type Watcher struct {
	notify  *fsnotify.Watcher
	roots   map[string]fs.FileInfo // how the folder looked when it was watched; nil: it is not there
	changed chan struct{}
	done    chan struct{}
}

// Watch watches folders and all folders below them, also those that come later,
// apart from dot-folders. A folder that goes away is watched again when it is
// back.
func Watch(roots ...string) (*Watcher, error) {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("cannot watch folders: %w", err)
	}
	w := &Watcher{notify: n, roots: map[string]fs.FileInfo{}, changed: make(chan struct{}, 1), done: make(chan struct{})}
	for _, r := range roots {
		r = filepath.Clean(r)
		info, err := os.Stat(r)
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is no folder", r)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("cannot watch: %w", err), n.Close())
		}
		w.roots[r] = info
	}
	if err := w.watch(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	go w.run()
	return w, nil
}

// seen looks at the folders and tells whether one went away, came, or is another.
func (w *Watcher) seen() bool {
	other := false
	for r, old := range w.roots {
		now, err := os.Stat(r)
		if err != nil {
			now = nil
		}
		if (old == nil) != (now == nil) || old != nil && !os.SameFile(old, now) {
			other = true
		}
		w.roots[r] = now
	}
	return other
}

// watch makes what is watched what is there. All of it is looked at anew: after
// a rename fsnotify knows a folder by its old name or not at all, so its events
// do not tell which folders are new.
func (w *Watcher) watch() error {
	var found []string
	there := map[string]bool{}
	for r, info := range w.roots {
		if info == nil {
			continue
		}
		top := r + string(filepath.Separator) // so that a link is followed
		_ = filepath.WalkDir(top, func(p string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil || !entry.IsDir():
				return nil // gone, or unreadable, which Fetch tells
			case strings.HasPrefix(entry.Name(), ".") && p != top:
				return fs.SkipDir
			}
			p = filepath.Clean(p)
			found = append(found, p)
			there[p] = true
			return nil
		})
	}
	for _, p := range w.notify.WatchList() {
		if !there[p] {
			_ = w.notify.Remove(p) // it may be gone by itself
		}
	}
	for _, p := range found {
		err := w.notify.Add(p)
		switch {
		case errors.Is(err, syscall.ENOSPC):
			return fmt.Errorf("cannot watch %s: the system allows no more watches; raise fs.inotify.max_user_watches", p)
		case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission):
			return fmt.Errorf("cannot watch %s: %w", p, err)
		}
	}
	return nil
}

func (w *Watcher) run() {
	defer close(w.done)
	tell(w.notify.Events, w.notify.Errors, w.seen, w.watch, w.changed)
}

// tell tells of events, until they end. It looks every beat whether a folder is
// another one, and watches anew before it tells, so that what happens between
// the two is not missed.
func tell(events <-chan fsnotify.Event, lost <-chan error, other func() bool, watch func() error, changed chan<- struct{}) {
	pulse := time.NewTicker(beat)
	defer pulse.Stop()
	var settle, latest, again <-chan time.Time // nil: not waited for
	for {
		select {
		case _, open := <-events:
			if !open {
				return
			}
			settle = time.After(quiet)
			if latest == nil {
				latest = time.After(patience)
			}
			continue
		case _, open := <-lost: // too many events at once: anything may have changed
			if !open {
				return
			}
		case <-pulse.C:
			if !other() {
				continue
			}
		case <-settle:
		case <-latest:
		case <-again:
		}
		settle, latest, again = nil, nil, nil
		other()
		if watch() != nil {
			again = time.After(poll)
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

// Changed gets a value after a change; changes in between are one.
func (w *Watcher) Changed() <-chan struct{} { return w.changed }

// Close stops watching.
func (w *Watcher) Close() error {
	err := w.notify.Close()
	<-w.done
	return err
}
