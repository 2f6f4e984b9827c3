// Package daemon runs gray as a daemon: alone, or as one of several replicas. It
// wires the packages together; nothing is decided here.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/sinks/xds"
	"github.com/gray-release/gray/sources/dir"
	"github.com/gray-release/gray/sources/git"
	"github.com/gray-release/gray/sources/probe"
	"github.com/gray-release/gray/stores/bolt"
)

// Config is what a daemon runs with.
type Config struct {
	Source   Source
	State    State
	XDS      XDS
	Admin    string // where the admin API is served, host:port
	Secrets  string // the folder that files which documents and flags name lie below
	Etcd     Etcd   // in which endpoints are registered
	Outward  Outward
	Limits   Limits
	Once     bool          // it ends when all is live
	OnceFor  time.Duration // how long Once goes on trying what fails
	Insecure bool          // it serves and speaks plaintext beyond loopback
	Log      *slog.Logger
	Ready    func() // called when the servers listen; may be nil
}

// Source is where documents come from.
type Source struct {
	Kind string     // git or dir
	Git  git.Config // of dir, the folder is its URL
}

// State is where the daemon keeps what outlives it.
type State struct {
	At      string        // file:PATH, or etcd:// or etcds:// for several replicas
	Etcd    Etcd          // who the daemon is to that etcd
	Replica string        // this one's name; empty: the host's
	Lease   time.Duration // of a leader
}

// XDS is how Envoys are served, and the nodes that they run on.
type XDS struct {
	Listen     string // host:port
	TLS        xds.TLS
	Nodes      xds.Server // the daemon, as the nodes reach it
	ComposeDir string     // empty: no compose files
}

// Outward is what a leader sends out beside what is live.
type Outward struct {
	Allow    []string // networks that http probes may go to
	Webhooks string   // a file below the secrets folder; empty: none
	Probes   probe.Options
	Events   func(reconciler.Event) // told of every transition of a rollout; may be nil
}

// Limits are how often live state is read, and what a plan may do to it.
type Limits struct {
	Drift     time.Duration
	MaxDelete int    // per cent
	Confirm   string // the revision whose plans may delete more
}

// ErrNotLive says that once was not enough, which has been printed already.
var ErrNotLive = errors.New("not all is live")

// OpenStore is a variable for tests that end the daemon in the middle of a Write.
var OpenStore = bolt.Open

// Run runs a daemon until ctx ends, or once.
func (c *Config) Run(ctx context.Context) (err error) {
	if c.Source.Git.URL == "" {
		return errors.New("no repository is named; give --repo")
	}
	d := &daemon{c: c, hints: board.NewHints()}
	if d.replica, err = c.asReplica(); err != nil {
		return err
	}
	var store *reconciler.Store // what one daemon alone keeps
	if d.replica == nil {
		if store, err = OpenStore(c.State.At); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, store.Close()) }()
	}
	if d.envoys, err = xds.New(xds.Config{Store: store, Hints: d.hints, Log: c.Log}); err != nil {
		return err
	}
	source, closeSource, err := c.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeSource()) }()
	d.source = source
	var lookUp func(context.Context)
	if d.discovery, lookUp, err = c.lookUp(store); err != nil {
		return err
	}
	if err := d.checkFiles(); err != nil {
		return err
	}
	var alone *loop
	if d.replica == nil {
		if alone, err = d.leader(store, nil); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, alone.close()) }()
		d.front.answer(ctx, d.api(alone))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, 3)
	wait, err := c.serve(ctx, &d.front, d.envoys, errs)
	if err != nil {
		return err
	}
	defer wait()
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() {
		if d.replica != nil {
			errs <- d.replicate(ctx)
			return
		}
		errs <- d.run(ctx, alone)
	})
	running.Go(func() { lookUp(ctx) })
	running.Go(func() { d.notifier.Run(ctx) })
	defer func() { cancel(); running.Wait() }() // what they work with is closed after them
	return c.wait(ctx, alone, errs)
}

// wait says that all runs, and waits until it is to end.
func (c *Config) wait(ctx context.Context, alone *loop, errs <-chan error) error {
	if c.Ready != nil {
		c.Ready()
	}
	if c.Once {
		return reportOnce(ctx, alone.Reconciler, c.OnceFor)
	}
	if err := <-errs; !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// open opens the source; a local repository is watched, so that a commit is seen
// at once.
func (c *Config) open() (reconciler.Source, func() error, error) {
	if c.Source.Kind == "dir" {
		s, err := dir.New(c.Source.Git.URL)
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	}
	if c.Source.Kind != "git" {
		return nil, nil, fmt.Errorf("--source %s is not known; want git or dir", c.Source.Kind)
	}
	c.Source.Git.Insecure = c.Insecure
	if path, ok := strings.CutPrefix(c.State.At, "file:"); ok && c.Source.Git.MirrorDir == "" {
		c.Source.Git.MirrorDir = path + ".mirror" // of this daemon alone, as its state is
	}
	stopWatch := func() error { return nil }
	if paths := git.WatchPaths(c.Source.Git.URL); len(paths) > 0 {
		w, err := dir.Watch(paths...)
		if err != nil {
			return nil, nil, err
		}
		c.Source.Git.Hints, stopWatch = w.Changed(), w.Close
	}
	s, err := git.New(c.Source.Git)
	if err != nil {
		return nil, nil, errors.Join(err, stopWatch())
	}
	return s, func() error { return errors.Join(s.Close(), stopWatch()) }, nil
}

// reportOnce waits until all is done, or for so long, and tells how it went.
func reportOnce(ctx context.Context, r *reconciler.Reconciler, limit time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := r.WaitSettled(limited); err != nil && ctx.Err() != nil {
		return err
	}
	s, err := r.Status(ctx)
	if err != nil || s.Conditions[0].Status == "True" {
		return err
	}
	lines := append(slices.Clone(s.Errors), s.Conditions[0].String())
	for _, t := range s.Targets {
		if t.Conditions[0].Status != "True" {
			lines = append(lines, t.Name+": "+t.Conditions[0].String())
		}
	}
	for _, d := range s.Documents {
		if d.Conditions[0].Status != "True" {
			lines = append(lines, d.Kind+"/"+d.Name+": "+d.Conditions[0].String())
		}
	}
	const most = 50
	for _, line := range lines[:min(most, len(lines))] {
		fmt.Fprintln(os.Stderr, line)
	}
	if len(lines) > most {
		fmt.Fprintln(os.Stderr, "and", len(lines)-most, "more, see the log")
	}
	return ErrNotLive
}
