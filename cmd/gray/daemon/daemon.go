// Package daemon runs gray as a daemon, alone or as one of several replicas. It wires
// the packages together; nothing is decided here.
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

// Config is the configuration of a daemon.
type Config struct {
	Source   Source
	State    State
	XDS      XDS
	Admin    string // where the admin API is served, host:port
	Secrets  string // the folder with the secrets that documents and flags name
	Etcd     Etcd   // where endpoints are registered
	Outward  Outward
	Limits   Limits
	Once     bool          // reconcile once, then end
	OnceFor  time.Duration // how long Once retries what fails
	Insecure bool          // allow plaintext beyond loopback
	Log      *slog.Logger
	Ready    func() // called once the servers listen; may be nil
	Version  string // of gray, for the log
}

// Source is where documents come from.
type Source struct {
	Kind string     // git or dir
	Git  git.Config // for dir, the URL is the folder
}

// State is the store that outlives the daemon.
type State struct {
	At      string        // file:PATH, or etcd:// or etcds:// for several replicas
	Etcd    Etcd          // how to log in to that etcd
	Replica string        // the name of this replica; empty: the host name
	Lease   time.Duration // how long a silent leader keeps the lead
}

// XDS says how to serve Envoys and the nodes that they run on.
type XDS struct {
	Listen     string // host:port
	TLS        xds.TLS
	Nodes      xds.Server // how the nodes reach the daemon
	ComposeDir string     // empty: no compose files
}

// Outward says what a leader may probe, and whom it tells about rollouts.
type Outward struct {
	Allow    []string // networks that http tests may reach
	Webhooks string   // a file below the secrets folder; empty: none
	Probes   probe.Options
	Events   func(reconciler.Event) // called for every transition of a rollout; may be nil
}

// Limits say how often to look for drift, and how much a commit may delete.
type Limits struct {
	Drift     time.Duration
	MaxDelete int    // per cent
	Confirm   string // the revision of a commit that may delete more
}

// ErrNotLive says that something is not live after --once. The details have been
// printed already.
var ErrNotLive = errors.New("not everything is live")

// OpenStore is a variable for tests that end the daemon in the middle of a Write.
var OpenStore = bolt.Open

// Run runs a daemon until ctx ends, or once.
func (c *Config) Run(ctx context.Context) (err error) {
	if c.Source.Git.URL == "" {
		return errors.New("the repository is missing; give --repo")
	}
	d := &daemon{c: c, hints: board.NewHints()}
	if d.replica, err = c.asReplica(); err != nil {
		return err
	}
	var store *reconciler.Store // of a daemon that runs alone
	if d.replica == nil {
		if store, err = OpenStore(c.State.At); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, store.Close()) }()
	}
	if d.envoys, err = xds.New(xds.Config{Store: store, Hints: d.hints, Log: c.Log, Alone: d.replica == nil && !c.Once}); err != nil {
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
	defer func() { cancel(); running.Wait() }() // before anything that they use is closed
	return c.wait(ctx, alone, errs)
}

// wait reports that the daemon is ready, and waits for its end.
func (c *Config) wait(ctx context.Context, alone *loop, errs <-chan error) error {
	c.Log.Info("gray daemon started", "version", c.Version, "repo", git.Redact(c.Source.Git.URL), "branch", c.Source.Git.Branch, "path", c.Source.Git.Path,
		"state", c.State.At, "xds", c.XDS.Listen, "admin", c.Admin)
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

// open opens the source. It watches a local repository, so that a commit is seen at
// once.
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
		c.Source.Git.MirrorDir = path + ".mirror" // no other daemon uses it, because none shares the state
	}
	stopWatch := func() error { return nil }
	if paths := git.WatchPaths(c.Source.Git.URL); len(paths) > 0 {
		w, err := dir.Watch(paths...)
		if err != nil {
			return nil, nil, err
		}
		c.Source.Git.Hints, stopWatch = w.Changed(), w.Close
	}
	if err := c.checkRepo(); err != nil {
		return nil, nil, errors.Join(err, stopWatch())
	}
	s, err := git.New(c.Source.Git)
	if err != nil {
		return nil, nil, errors.Join(err, stopWatch())
	}
	return s, func() error { return errors.Join(s.Close(), stopWatch()) }, nil
}

// checkRepo refuses a path at which there is nothing. What is wrong with a repository
// otherwise may change, and is tried again.
func (c *Config) checkRepo() error {
	path := strings.TrimPrefix(c.Source.Git.URL, "file://")
	if strings.Contains(path, ":") { // a URL, or host:path
		return nil
	}
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("--repo %s: there is nothing at that path; give that of a Git repository", path)
	}
	return nil
}

// reportOnce waits until everything is done or the limit is over, and prints what is
// not live.
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
		fmt.Fprintln(os.Stderr, "and", len(lines)-most, "more; see the log")
	}
	return ErrNotLive
}
