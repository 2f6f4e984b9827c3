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

// The watcher gives a hint when nothing has changed for quiet, so that a file is not
// read while it is being saved, nor a tree while it is being copied; but at the latest
// after patience. At every beat it checks whether a folder was removed or came back,
// for which there are no events.
const (
	quiet    = 50 * time.Millisecond
	patience = time.Second
	beat     = time.Second
)

// poll is how often a hint is given if the system allows no more watches. It is a
// variable for the tests.
var poll = 10 * time.Second

// Watcher gives a hint when something below some folders changes.
type Watcher struct {
	notify  *fsnotify.Watcher
	roots   map[string]fs.FileInfo // the folders that are watched; nil: it does not exist
	changed chan struct{}
	done    chan struct{}
}

// Watch watches folders and all folders below them, also later ones, except
// dot-folders. A folder that is removed is watched again when it comes back.
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
			err = fmt.Errorf("%s is not a folder", r)
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

// seen looks at the folders and reports whether one was removed, created or replaced.
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

// watch watches exactly the folders that exist now. It walks all of them: after a
// rename fsnotify knows a folder by its old name or not at all, so that its events do
// not show which folders are new.
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
				return nil // removed, or unreadable, which Fetch reports
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
			_ = w.notify.Remove(p) // fails if the folder was removed
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

// tell gives hints of events until they end. At every beat it checks whether a folder
// was replaced. It watches again before it gives a hint, so that nothing that happens in
// between is missed.
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
		case _, open := <-lost: // too many events at once, anything may have changed
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

// Changed receives a hint after a change. Several changes may give one hint.
func (w *Watcher) Changed() <-chan struct{} { return w.changed }

// Close stops watching.
func (w *Watcher) Close() error {
	err := w.notify.Close()
	<-w.done
	return err
}
