package dir

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/fsnotify/fsnotify"
)

// Watcher tells when something below some folders changes.
type Watcher struct {
	notify  *fsnotify.Watcher
	changed chan struct{}
	done    chan struct{}
}

// Watch watches folders and all folders below them, also those that come later,
// apart from dot-folders.
func Watch(roots ...string) (*Watcher, error) {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("cannot watch folders: %w", err)
	}
	w := &Watcher{notify: n, changed: make(chan struct{}, 1), done: make(chan struct{})}
	for _, r := range roots {
		if err := w.add(r); err != nil {
			return nil, fmt.Errorf("cannot watch %s: %w", r, err)
		}
	}
	go w.run()
	return w, nil
}

// add watches a folder and what is below it.
func (w *Watcher) add(root string) error {
	return filepath.WalkDir(root, func(p string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil && p == root:
			return err
		case err != nil || !entry.IsDir():
			return nil
		case p != root && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir
		}
		return w.notify.Add(p)
	})
}

func (w *Watcher) run() {
	defer close(w.done)
	for {
		select {
		case e, ok := <-w.notify.Events:
			if !ok {
				return
			}
			if info, err := os.Lstat(e.Name); e.Op.Has(fsnotify.Create) && err == nil && info.IsDir() {
				_ = w.add(e.Name) // one that is gone again needs no watch
			}
		case _, ok := <-w.notify.Errors: // too many events at once: something changed
			if !ok {
				return
			}
		}
		select {
		case w.changed <- struct{}{}:
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
