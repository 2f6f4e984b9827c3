package daemon

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/sinks/bgp"
	"github.com/gray-release/gray/sinks/compose"
	"github.com/gray-release/gray/sinks/p4rt"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
	"github.com/gray-release/gray/sinks/xds"
	"github.com/gray-release/gray/sources/git"
	"github.com/gray-release/gray/sources/health"
	"github.com/gray-release/gray/sources/probe"
	"github.com/gray-release/gray/stores/etcd"
)

// daemon is everything that lives as long as the process, whether it leads or follows.
type daemon struct {
	c         *Config
	replica   *etcd.Replica // nil: this is the only daemon, which leads
	hints     *board.Hints
	envoys    *xds.Sink
	source    reconciler.Source
	discovery *board.Discovery
	prober    *probe.Prober
	notifier  *admin.Notifier
	moved     moved
	front     front
}

// loop is a reconciler with its sinks. A follower has only the xDS sink. All loops of a
// daemon share that sink, so that Envoys are served while the role changes.
type loop struct {
	*reconciler.Reconciler
	follows  bool
	board    *board.Health
	probes   *board.Probes
	switches *p4rt.Sink
	speakers *bgp.Sink
}

// checkFiles checks at the start the flags that only a leader needs.
func (d *daemon) checkFiles() error {
	if err := d.openOutward(); err != nil || d.c.XDS.ComposeDir == "" {
		return err
	}
	_, err := d.c.composeFiles()
	return err
}

// config is the configuration that both roles share.
func (d *daemon) config() reconciler.Config {
	return reconciler.Config{
		TableSizes: pipeline.TableSizes,
		Source:     d.source, Sinks: []reconciler.Sink{d.envoys}, Always: map[string]reconciler.Sink{xds.Target: d.envoys},
		Hints: d.hints, Discovery: d.discovery,
		Drift: d.c.Limits.Drift, MaxDelete: d.c.Limits.MaxDelete, Confirm: d.c.Limits.Confirm, Log: d.c.Log,
	}
}

// follower makes the loop of a replica that does not lead. It needs no store, which
// holds the IDs on the switches.
func (d *daemon) follower() (*loop, error) {
	cfg := d.config()
	cfg.Follow = d.moved.board()
	r, err := reconciler.New(cfg)
	return &loop{Reconciler: r, follows: true}, err
}

// leader makes the loop with all sinks. For reelect, see p4rt.Config.
func (d *daemon) leader(store *reconciler.Store, reelect func(uint64) (uint64, error)) (*loop, error) {
	epoch, err := store.NextEpoch(time.Now(), 0)
	if err != nil {
		return nil, err
	}
	l := &loop{board: board.NewHealth(), probes: board.NewProbes()}
	l.switches = p4rt.New(p4rt.Config{SecretsDir: d.c.Secrets, Epoch: epoch, Reelect: reelect, Hints: d.hints})
	l.speakers = bgp.New(bgp.Config{SecretsDir: d.c.Secrets, Log: d.c.Log})
	cfg := d.config()
	cfg.Store, cfg.Health = store, l.board
	cfg.Probes, cfg.Events = l.probes, d.tell
	cfg.Sinks = append(cfg.Sinks, l.switches, l.speakers)
	if d.c.XDS.ComposeDir != "" {
		files, err := d.c.composeFiles()
		if err != nil {
			return nil, errors.Join(err, l.close())
		}
		cfg.Sinks, cfg.Always[compose.Target] = append(cfg.Sinks, files), files
	}
	if l.Reconciler, err = reconciler.New(cfg); err != nil {
		return nil, errors.Join(err, l.close())
	}
	if s, is := d.source.(*git.Source); is {
		s.After(l.Last())
	}
	return l, nil
}

// close ends the connections of a leader. Its BGP neighbors keep the routes, as in a
// restart, until the next leader announces them.
func (l *loop) close() error {
	if l.follows {
		return nil
	}
	return errors.Join(l.switches.Close(), l.speakers.Close())
}

// run runs a loop until ctx ends, and lets it answer the API.
func (d *daemon) run(ctx context.Context, l *loop) error {
	d.front.answer(ctx, d.api(l))
	var checks sync.WaitGroup
	defer checks.Wait()
	if l.board != nil {
		checks.Go(func() { health.Run(ctx, l.board) })
		checks.Go(func() { probe.Run(ctx, l.probes, d.prober, d.c.Log) })
	}
	return l.Run(ctx)
}

// replicate follows and leads until ctx ends.
func (d *daemon) replicate(ctx context.Context) error {
	var reading sync.WaitGroup
	defer reading.Wait()
	reading.Go(func() { d.moved.follow(ctx, d.replica, d.c.Log) })
	d.replica.Run(ctx, func(ctx context.Context) {
		l, err := d.follower()
		if err != nil {
			d.c.Log.Error("cannot follow", "error", err)
			return
		}
		_ = d.run(ctx, l) // it ends only with ctx
	}, func(lead *etcd.Lead) (err error) {
		store, err := lead.Store()
		if err != nil {
			return err
		}
		l, err := d.leader(store, func(above uint64) (uint64, error) { return store.NextEpoch(time.Now(), above) })
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, l.close()) }()
		if err := d.run(lead.Context(), l); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	return ctx.Err()
}

// api makes the API that a loop answers.
func (d *daemon) api(l *loop) http.Handler {
	api := admin.Handler(l.Reconciler, func() admin.Peers {
		p := admin.Peers{Proxies: d.envoys.Proxies(), Neighbors: []bgp.Neighbor{}, Webhooks: d.notifier.Status()}
		if l.speakers != nil {
			p.Neighbors = l.speakers.Neighbors()
		}
		if d.replica != nil {
			status := d.replica.Status()
			p.Replica = &status
		}
		return p
	})
	if !l.follows {
		return api
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		// It cannot change a rollout, and has no audit log.
		if req.Method == http.MethodPost || req.URL.Path == admin.AuditPath {
			http.Error(w, "this replica is a follower and cannot answer; ask the leader, which gray status names", http.StatusServiceUnavailable)
			return
		}
		api.ServeHTTP(w, req)
	})
}

// front serves the API of the loop that runs.
type front struct{ now atomic.Pointer[answer] }

type answer struct {
	ctx context.Context // ends with the loop
	api http.Handler
}

func (f *front) answer(ctx context.Context, api http.Handler) { f.now.Store(&answer{ctx, api}) }

// ServeHTTP implements http.Handler. A request that the loop does not answer before it
// ends gets an error, and has to be repeated.
func (f *front) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	a := f.now.Load()
	if a == nil || a.ctx.Err() != nil {
		http.Error(w, "the daemon is starting, ending or changing its role; try again", http.StatusServiceUnavailable)
		return
	}
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel()
	defer context.AfterFunc(a.ctx, cancel)()
	a.api.ServeHTTP(w, req.WithContext(ctx))
}
