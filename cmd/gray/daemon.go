package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/xds"
	"github.com/gray-release/gray/sources/dir"
	"github.com/gray-release/gray/sources/git"
	"github.com/gray-release/gray/sources/probe"
	"github.com/gray-release/gray/stores/bolt"
)

// daemonConfig is what a daemon runs with; the demo fills it too.
type daemonConfig struct {
	git              git.Config
	source           string // git or dir
	state            string
	stateEtcd        etcdFlags
	replica          string        // this one's name
	lease            time.Duration // of a leader
	xdsListen, admin string
	xdsTLS           xds.TLS
	nodes            xds.Server // the daemon, as the nodes reach it
	composeDir       string     // empty: no compose files
	secrets          string
	probeAllow       []string // networks
	webhooks         string   // a file below secrets; empty: none
	etcd             etcdFlags
	drift            time.Duration
	maxDelete        int
	confirm          string
	once, insecure   bool
	onceFor          time.Duration
	log              io.Writer
	logFormat        string
	ready            func() // called when the servers listen; may be nil
	probes           probe.Options
	events           func(reconciler.Event) // told of every transition of a rollout; may be nil
}

func daemonCommand() *cobra.Command {
	var c daemonConfig
	cmd := &cobra.Command{
		Use: "daemon", Short: "Keep live state at what the repository says", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.log = cmd.ErrOrStderr()
			return c.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.git.URL, "repo", "", "the repository: a path, file://, https:// or ssh:// URL")
	f.StringVar(&c.source, "source", "git", "git, or dir for a plain folder")
	f.StringVar(&c.git.Branch, "branch", "main", "the branch to follow")
	f.StringVar(&c.git.Path, "path", ".", "the folder in the repository")
	f.DurationVar(&c.git.Interval, "interval", time.Minute, "how often to look at the repository")
	f.BoolVar(&c.git.FollowRewrites, "follow-rewrites", false, "follow a branch whose history was rewritten")
	f.StringVar(&c.git.Auth.Username, "git-username", "", "user name for https")
	f.StringVar(&c.git.Auth.PasswordFile, "git-password-file", "", "file with a password or token for https")
	f.StringVar(&c.git.Auth.CAFile, "git-ca", "", "file with further authorities for https")
	f.StringVar(&c.git.Auth.SSHKeyFile, "ssh-key", "", "file with the key for ssh")
	f.StringVar(&c.git.Auth.SSHPassphrase, "ssh-passphrase-file", "", "file with the passphrase of the key")
	f.StringVar(&c.git.Auth.KnownHosts, "known-hosts", "", "file with the host keys to trust")
	f.StringVar(&c.git.MirrorDir, "mirror-dir", "", "a folder of this daemon alone to mirror a remote repository in; default: beside the --state file, else a temporary one")
	f.StringVar(&c.state, "state", "file:/var/lib/gray/state.db", "where to keep what outlives the daemon: file:PATH, or etcd://HOST:2379[,HOST:2379][/PREFIX] for several replicas (etcds:// by TLS)")
	c.stateEtcd.name = "state"
	c.stateEtcd.addAccess(f, "the etcd of --state")
	f.StringVar(&c.replica, "replica", "", "this replica's name, with an etcd --state; default: the host's name")
	f.DurationVar(&c.lease, "lease", 10*time.Second, "with an etcd --state, after how long another replica leads where the leader is silent")
	f.StringVar(&c.xdsListen, "xds-listen", defaultXDS, "where to serve Envoys")
	f.StringVar(&c.xdsTLS.Cert, "xds-cert", "", "file below --secrets-dir with the certificate of xDS; Envoys then need one with their Node's name")
	f.StringVar(&c.xdsTLS.Key, "xds-key", "", "file below --secrets-dir with the key of --xds-cert")
	f.StringVar(&c.xdsTLS.CA, "xds-ca", "", "file below --secrets-dir with the authorities of the Envoys' certificates")
	f.StringVar(&c.nodes.Address, "xds-address", "", "where the nodes reach what is served, for --compose-dir; default: --xds-listen")
	f.StringVar(&c.composeDir, "compose-dir", "", "a folder to keep a docker-compose file a node in")
	nodeTLSFlags(cmd, &c.nodes)
	f.StringVar(&c.admin, "admin-listen", "127.0.0.1:18001", "where to serve the admin API")
	f.StringVar(&c.secrets, "secrets-dir", "/etc/gray", "where files that documents name must lie")
	c.etcd.add(f)
	c.addOutward(f)
	f.DurationVar(&c.drift, "drift-interval", 30*time.Second, "how often to read live state again")
	f.IntVar(&c.maxDelete, "max-delete", 30, "per cent of a target's live resources that one plan may delete")
	f.StringVar(&c.confirm, "confirm-delete", "", "the revision whose plans may delete more than --max-delete")
	f.BoolVar(&c.once, "once", false, "reconcile once and end: 0 where all is live, else 1")
	f.DurationVar(&c.onceFor, "once-timeout", time.Minute, "how long --once goes on trying what fails")
	f.BoolVar(&c.insecure, "insecure", false, "serve and speak plaintext beyond loopback")
	f.StringVar(&c.logFormat, "log-format", "text", "text or json")
	return cmd
}

// openStore is a variable for tests that end the daemon in the middle of a Write.
var openStore = bolt.Open

// run runs a daemon until ctx ends, or once.
func (c *daemonConfig) run(ctx context.Context) (err error) {
	if c.git.URL == "" {
		return errors.New("no repository is named; give --repo")
	}
	d := &daemon{c: c, hints: reconciler.NewHints()}
	if d.replica, err = c.asReplica(); err != nil {
		return err
	}
	var store *reconciler.Store // what one daemon alone keeps
	if d.replica == nil {
		if store, err = openStore(c.state); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, store.Close()) }()
	}
	if d.envoys, err = xds.New(xds.Config{Store: store, Hints: d.hints, Log: c.logger()}); err != nil {
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
func (c *daemonConfig) wait(ctx context.Context, alone *loop, errs <-chan error) error {
	if c.ready != nil {
		c.ready()
	}
	if c.once {
		return reportOnce(ctx, alone.Reconciler, c.onceFor)
	}
	if err := <-errs; !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (c *daemonConfig) logger() *slog.Logger {
	if c.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(c.log, nil))
	}
	return slog.New(slog.NewTextHandler(c.log, nil))
}

// open opens the source; a local repository is watched, so that a commit is seen
// at once.
func (c *daemonConfig) open() (reconciler.Source, func() error, error) {
	if c.source == "dir" {
		s, err := dir.New(c.git.URL)
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	}
	if c.source != "git" {
		return nil, nil, fmt.Errorf("--source %s is not known; want git or dir", c.source)
	}
	c.git.Insecure = c.insecure
	if path, ok := strings.CutPrefix(c.state, "file:"); ok && c.git.MirrorDir == "" {
		c.git.MirrorDir = path + ".mirror" // of this daemon alone, as its state is
	}
	stopWatch := func() error { return nil }
	if paths := git.WatchPaths(c.git.URL); len(paths) > 0 {
		w, err := dir.Watch(paths...)
		if err != nil {
			return nil, nil, err
		}
		c.git.Hints, stopWatch = w.Changed(), w.Close
	}
	s, err := git.New(c.git)
	if err != nil {
		return nil, nil, errors.Join(err, stopWatch())
	}
	return s, func() error { return errors.Join(s.Close(), stopWatch()) }, nil
}

// serve starts the xDS and the admin server. The function that it returns waits
// for both to end after ctx has.
func (c *daemonConfig) serve(ctx context.Context, api http.Handler, envoys *xds.Sink, errs chan<- error) (func(), error) {
	xdsListener, options, err := c.listenXDS()
	if err != nil {
		return nil, err
	}
	adminListener, err := listenPlain(c.admin, false)
	if err != nil {
		return nil, errors.Join(err, xdsListener.Close())
	}
	server := grpc.NewServer(options...)
	envoys.Register(server)
	web := &http.Server{
		Handler: api, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx },
	}
	done := make(chan struct{}, 2)
	go func() {
		if err := serve(ctx, server, xdsListener); err != nil {
			errs <- err
		}
		done <- struct{}{}
	}()
	go func() {
		stop := context.AfterFunc(ctx, func() { _ = web.Close() })
		defer stop()
		if err := web.Serve(adminListener); !errors.Is(err, http.ErrServerClosed) {
			errs <- err
		}
		done <- struct{}{}
	}()
	return func() { <-done; <-done }, nil
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
	lines := append(slices.Clone(s.Errors), said(s.Conditions))
	for _, t := range s.Targets {
		if t.Conditions[0].Status != "True" {
			lines = append(lines, t.Name+": "+said(t.Conditions))
		}
	}
	for _, d := range s.Documents {
		if d.Conditions[0].Status != "True" {
			lines = append(lines, d.Kind+"/"+d.Name+": "+said(d.Conditions))
		}
	}
	const most = 50
	for _, line := range lines[:min(most, len(lines))] {
		fmt.Fprintln(os.Stderr, line)
	}
	if len(lines) > most {
		fmt.Fprintln(os.Stderr, "and", len(lines)-most, "more, see the log")
	}
	return errNo
}
