package etcd

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gray-release/gray/etcdclient"
)

// gather is how long commits are collected, to be read together.
const gather = 50 * time.Millisecond

// tail is what a replica knows about the records that it follows.
type tail struct {
	reader
	bucket, keys string // keys is the prefix of the keys
	tell         func(map[string][]byte)
	pulse        time.Duration
	known        map[string][]byte // nil: nothing was read yet
	last         commit            // of known; zero: not read since the watch began
}

// Follow calls f with the records of a bucket whose keys begin with a prefix, as the
// leader has stored them: once at the start, and whenever they have changed, until ctx
// ends. The records, by key, are those of one commit, and f must not change them. Follow
// takes no lease and no part in the election. If etcd cannot be read or is empty, it
// does not call f, so that what was read last stays.
func (r *Replica) Follow(ctx context.Context, bucket, prefix string, f func(map[string][]byte)) {
	t := &tail{bucket: bucket, keys: prefix, tell: f, pulse: cmp.Or(r.cfg.Pulse, 2*time.Second)}
	p, said := etcdclient.Pause{}, ""
	for {
		err := t.follow(ctx, r.cfg, func() {
			if said != "" {
				r.cfg.Log.Info("the leader's records can be read again", "bucket", bucket)
			}
			p, said = etcdclient.Pause{}, ""
		})
		if ctx.Err() != nil {
			return
		}
		if said != err.Error() {
			said = err.Error()
			r.cfg.Log.Warn("cannot read the leader's records, what was read last stays, will try again", "bucket", bucket, "error", err)
		}
		p.Grow(r.cfg.Lease / 2)
		select {
		case <-time.After(p.Next/2 + rand.N(p.Next)): // not all replicas at once
		case <-ctx.Done():
			return
		}
	}
}

// follow reads the records again after each commit, until there is an error. It calls
// good after the first read.
func (t *tail) follow(ctx context.Context, cfg ReplicaConfig, good func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client, err := cfg.Dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	t.reader, t.last = reader{client, cfg.Prefix, context.Canceled}, commit{}
	if err := t.read(ctx); err != nil {
		return err
	}
	good()
	changed, over := make(chan struct{}, 1), make(chan error, 1)
	from := t.last.revision + 1
	var watching sync.WaitGroup
	watching.Go(func() { over <- t.watch(ctx, changed, from) })
	defer watching.Wait()
	defer cancel()
	pulse := time.NewTicker(t.pulse)
	defer pulse.Stop()
	for {
		select {
		case <-changed:
			time.Sleep(gather)
		case <-pulse.C: // a watch waits silently for an etcd that is away or new
		case err := <-over:
			return err
		}
		if err := t.read(ctx); err != nil {
			return err
		}
	}
}

// watch gives a hint for each commit from a revision on, and returns why it has ended.
func (t *tail) watch(ctx context.Context, changed chan<- struct{}, rev int64) error {
	// A member without a leader then fails instead of staying silent.
	for res := range t.client.Watch(clientv3.WithRequireLeader(ctx), t.at("committed"), clientv3.WithRev(rev)) {
		if err := res.Err(); err != nil {
			return etcdclient.Plain(err)
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	return errors.New("etcd ended the watch")
}

// read reads the records if there was a commit since the last time, and reports them if
// they have changed.
func (t *tail) read(ctx context.Context) error {
	c, err := t.committed(ctx)
	if err != nil {
		return err
	}
	// An etcd without a commit has lost its data, and no leader has written to it yet.
	if t.known != nil && (c.number == 0 || c.number == t.last.number && c.made == t.last.made) {
		t.last.revision = c.revision
		return nil
	}
	if _, err := t.layout(ctx); err != nil {
		return err
	}
	records, err := t.records(ctx, t.bucket, t.keys, c)
	if err != nil {
		return err
	}
	t.last = c
	if t.known == nil || !maps.EqualFunc(t.known, records, bytes.Equal) {
		t.known = records
		t.tell(records)
	}
	return nil
}
