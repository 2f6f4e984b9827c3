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

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/bgp"
	"github.com/gray-release/gray/sinks/compose"
	"github.com/gray-release/gray/sinks/p4rt"
	"github.com/gray-release/gray/sinks/xds"
	"github.com/gray-release/gray/sources/dir"
	"github.com/gray-release/gray/sources/git"
	"github.com/gray-release/gray/sources/health"
)

// daemonConfig is what a daemon runs with; the demo fills it too.
type daemonConfig struct {
	git              git.Config
	source           string // git or dir
	state            string
	xdsListen, admin string
	xdsTLS           xds.TLS
	nodes            xds.Server // the daemon, as the nodes reach it
	composeDir       string     // empty: no compose files
	secrets          string
	etcd             etcdFlags
	drift            time.Duration
	maxDelete        int
	confirm          string
	once, insecure   bool
	onceFor          time.Duration
	log              io.Writer
	logFormat        string
	ready            func() // called when the servers listen; may be nil
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
	f.StringVar(&c.state, "state", "file:/var/lib/gray/state.db", "where to keep what outlives the daemon")
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
	f.DurationVar(&c.drift, "drift-interval", 30*time.Second, "how often to read live state again")
	f.IntVar(&c.maxDelete, "max-delete", 30, "per cent of a target's live resources that one plan may delete")
	f.StringVar(&c.confirm, "confirm-delete", "", "the revision whose plans may delete more than --max-delete")
	f.BoolVar(&c.once, "once", false, "reconcile once and end: 0 where all is live, else 1")
	f.DurationVar(&c.onceFor, "once-timeout", time.Minute, "how long --once goes on trying what fails")
	f.BoolVar(&c.insecure, "insecure", false, "serve plaintext beyond loopback")
	f.StringVar(&c.logFormat, "log-format", "text", "text or json")
	return cmd
}

// run runs a daemon until ctx ends, or once.
func (c *daemonConfig) run(ctx context.Context) (err error) {
	if c.git.URL == "" {
		return errors.New("no repository is named; give --repo")
	}
	store, err := reconciler.OpenStore(c.state)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	hints := reconciler.NewHints()
	envoys, err := xds.New(xds.Config{Store: store, Hints: hints, Log: c.logger()})
	if err != nil {
		return err
	}
	epoch, err := store.NextEpoch(time.Now())
	if err != nil {
		return err
	}
	switches := p4rt.New(p4rt.Config{SecretsDir: c.secrets, Epoch: epoch, Hints: hints})
	defer func() { err = errors.Join(err, switches.Close()) }()
	speakers := bgp.New(bgp.Config{SecretsDir: c.secrets, Log: c.logger()})
	defer func() { err = errors.Join(err, speakers.Close()) }()
	source, closeSource, err := c.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeSource()) }()
	discovery, lookUp, err := c.lookUp(store)
	if err != nil {
		return err
	}
	board := reconciler.NewHealth()
	sinks, always := []reconciler.Sink{envoys, switches, speakers}, map[string]reconciler.Sink{xds.Target: envoys}
	if c.composeDir != "" {
		files, err := c.composeFiles()
		if err != nil {
			return err
		}
		sinks, always[compose.Target] = append(sinks, files), files
	}
	r, err := reconciler.New(reconciler.Config{
		Source: source, Sinks: sinks, Always: always, Store: store, Hints: hints, Health: board, Discovery: discovery,
		Drift: c.drift, MaxDelete: c.maxDelete, Confirm: c.confirm, Log: c.logger(),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, 3)
	wait, err := c.serve(ctx, r, envoys, speakers, errs)
	if err != nil {
		return err
	}
	defer wait()
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() { errs <- r.Run(ctx) })
	running.Go(func() { health.Run(ctx, board) })
	running.Go(func() { lookUp(ctx) })
	defer func() { cancel(); running.Wait() }() // what they work with is closed after them
	return c.wait(ctx, r, errs)
}

// wait says that all runs, and waits until it is to end.
func (c *daemonConfig) wait(ctx context.Context, r *reconciler.Reconciler, errs <-chan error) error {
	if c.ready != nil {
		c.ready()
	}
	if c.once {
		return reportOnce(ctx, r, c.onceFor)
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
	c.git.MirrorDir = strings.TrimPrefix(c.state, "file:") + ".mirror" // of this daemon alone, as its state is
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
func (c *daemonConfig) serve(ctx context.Context, r *reconciler.Reconciler, envoys *xds.Sink, speakers *bgp.Sink, errs chan<- error) (func(), error) {
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
		Handler:           admin.Handler(r, func() any { return envoys.Proxies() }, func() any { return speakers.Neighbors() }),
		ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx },
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
