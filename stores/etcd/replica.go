package etcd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/gray-release/gray/etcdclient"
	"github.com/gray-release/gray/reconciler"
)

// ReplicaConfig is who a replica is, and where the replicas meet.
type ReplicaConfig struct {
	etcdclient.Config
	Prefix string        // of all keys, without a slash at its end
	Name   string        // for people; the replicas are told apart by their leases
	Lease  time.Duration // how long a leader that is silent still leads; whole seconds, 2 or more
}

// Standing is how a replica stands.
type Status struct {
	Name   string     `json:"name"`
	Role   string     `json:"role"`             // leader or follower
	Leader string     `json:"leader,omitempty"` // the name of who leads; empty where nobody does, or nobody knows
	Since  *time.Time `json:"since,omitempty"`  // by the leader's clock
	Error  string     `json:"error,omitempty"`  // why nobody knows, or why this replica cannot lead; one line
}

// The roles of a Status.
const (
	RoleLeader   = "leader"
	RoleFollower = "follower"
)

// Replica is one of several daemons that share a store and elect a leader.
type Replica struct {
	cfg ReplicaConfig

	mu     sync.Mutex
	status Status
	unseen string // why it is not known who leads
	unable string // why this one cannot lead
}

// NewReplica returns a replica that follows.
func NewReplica(cfg ReplicaConfig) *Replica {
	return &Replica{cfg: cfg, status: Status{Name: cfg.Name, Role: RoleFollower}}
}

// Standing is how the replica stands; it never waits.
func (r *Replica) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.status
	s.Error = cmp.Or(r.unseen, r.unable)
	return s
}

// Run follows, and leads whenever the replica is elected, until ctx ends. Each of
// the two functions is to return soon after its context has ended, and runs alone:
// that of a leader ends with the lease. A leader that returns an error is tried again
// after a while, perhaps in another replica.
func (r *Replica) Run(ctx context.Context, follow func(context.Context), lead func(*Lead) error) {
	// The client outlives ctx for a moment, to give up the lease.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var p etcdclient.Pause
	for ctx.Err() == nil {
		following, stop := context.WithCancel(ctx)
		var role sync.WaitGroup
		role.Go(func() { follow(following) })
		l := r.elected(ctx, life, p.Next)
		stop()
		role.Wait()
		if l == nil {
			return
		}
		began := time.Now()
		err := lead(l)
		switch {
		case ctx.Err() == nil && l.ctx.Err() != nil:
			r.cfg.Log.Error("lead lost, this replica follows", "replica", r.cfg.Name, "error", context.Cause(l.ctx))
			err = nil
		case err != nil:
			r.cfg.Log.Error("cannot lead, will try again", "replica", r.cfg.Name, "error", err)
		}
		l.resign(life)
		if p.Grow(); err == nil || time.Since(began) > etcdclient.LongPause {
			p = etcdclient.Pause{}
		}
		r.note(func() {
			r.status.Role, r.status.Leader, r.status.Since, r.unable = RoleFollower, "", nil, ""
			if err != nil {
				r.unable = "this replica could not lead: " + firstLine(err)
			}
		})
	}
}

func (r *Replica) note(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// elected campaigns, after a pause, until this replica is elected; nil says that ctx
// has ended. In the meantime it looks who leads.
func (r *Replica) elected(ctx, life context.Context, after time.Duration) *Lead {
	p, last := etcdclient.Pause{}, ""
	for wait := after; ; wait = p.Next {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
		l, err := r.campaign(ctx, life)
		if err == nil {
			r.cfg.Log.Info("elected, this replica leads", "replica", r.cfg.Name, "revision", l.revision)
			return l
		}
		if ctx.Err() != nil {
			return nil
		}
		if p.Grow(); p.Next > r.cfg.Lease/2 {
			p.Next = r.cfg.Lease / 2
		}
		r.note(func() {
			r.unseen = "etcd cannot be asked who leads: " + err.Error()
			r.status.Leader, r.status.Since = "", nil
		})
		if err.Error() != last {
			last = err.Error()
			r.cfg.Log.Error("no part in the election, will try again", "replica", r.cfg.Name, "error", err)
		}
	}
}

// campaign takes part in one election, with a client and a lease of its own, until
// it is won or the lease is lost.
func (r *Replica) campaign(ctx, life context.Context) (*Lead, error) {
	l := &Lead{cfg: r.cfg, prefix: r.cfg.Prefix}
	own, end := context.WithCancel(life)
	l.end = end
	defer context.AfterFunc(ctx, func() { time.AfterFunc(etcdclient.AnswerWait, end) })()
	var err error
	if l.client, err = r.cfg.Dial(own); err != nil {
		end()
		return nil, err
	}
	err = l.win(ctx, r)
	if err == nil {
		return l, nil
	}
	l.resign(life)
	if ctx.Err() == nil && errors.Is(err, context.Canceled) {
		err = errors.New("etcd was silent for so long that the lease ran out")
	}
	return nil, etcdclient.Plain(err)
}

// win takes a lease, waits until the election is won, and has the lead's context
// follow the lease.
func (l *Lead) win(ctx context.Context, r *Replica) error {
	asking, cancel := context.WithTimeout(ctx, etcdclient.AnswerWait)
	granted, err := l.client.Grant(asking, int64(l.cfg.Lease/time.Second))
	cancel()
	if err != nil {
		return err
	}
	l.lease, l.ttl = granted.ID, time.Duration(granted.TTL)*time.Second
	l.session, err = concurrency.NewSession(l.client, concurrency.WithLease(granted.ID), concurrency.WithContext(ctx))
	if err != nil {
		return err
	}
	watching, stop := context.WithCancel(l.session.Ctx())
	var watch sync.WaitGroup
	watch.Go(func() { r.watch(watching, l) })
	e := concurrency.NewElection(l.session, l.prefix+"/leader")
	err = e.Campaign(l.session.Ctx(), l.value(nil))
	stop()
	watch.Wait()
	if err != nil {
		return err
	}
	l.key, l.revision = e.Key(), e.Rev()
	until, err := l.prove(ctx, time.Now().Add(etcdclient.AnswerWait))
	if err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(time.Second)
	asking, cancel = context.WithDeadline(ctx, until)
	defer cancel()
	if err := e.Proclaim(asking, l.value(&now)); err != nil {
		return err
	}
	r.note(func() { // the leader's word about itself needs no look into etcd
		r.status.Role, r.status.Leader, r.status.Since = RoleLeader, r.cfg.Name, &now
		r.unseen, r.unable = "", ""
	})
	l.ctx, l.lost = context.WithCancelCause(ctx)
	l.held.Go(func() { l.hold(until) })
	return nil
}

// value is what stands under a candidate's key.
func (l *Lead) value(since *time.Time) string {
	b, _ := json.Marshal(Status{Name: l.cfg.Name, Role: RoleLeader, Since: since})
	return string(b)
}

// watch looks again and again who leads, for the status of a follower.
func (r *Replica) watch(ctx context.Context, l *Lead) {
	for since := (time.Time{}); ; {
		asking, cancel := context.WithTimeout(ctx, etcdclient.AnswerWait)
		res, err := l.client.Get(asking, l.prefix+"/leader/", clientv3.WithFirstCreate()...)
		cancel()
		if ctx.Err() != nil {
			return
		}
		var leads Status
		if err == nil {
			since = time.Time{}
			if len(res.Kvs) > 0 {
				_ = json.Unmarshal(res.Kvs[0].Value, &leads) // of another's hand: nobody we know
			}
		} else if since.IsZero() {
			since = time.Now()
		}
		r.note(func() {
			if r.unseen = ""; err != nil {
				r.unseen = fmt.Sprintf("etcd cannot be asked who leads since %s: %v", since.UTC().Format(time.RFC3339), etcdclient.Plain(err))
			}
			r.status.Leader, r.status.Since = leads.Name, leads.Since
		})
		select {
		case <-time.After(min(r.cfg.Lease/4, 2*time.Second)):
		case <-ctx.Done():
			return
		}
	}
}

// Lead is a won election.
type Lead struct {
	cfg     ReplicaConfig
	prefix  string
	client  *clientv3.Client
	end     context.CancelFunc // of the client
	session *concurrency.Session
	lease   clientv3.LeaseID
	ttl     time.Duration // as etcd grants it

	key      string // the leader's key in etcd
	revision int64  // at which it was made
	ctx      context.Context
	lost     context.CancelCauseFunc
	held     sync.WaitGroup
}

// Context ends as soon as the lease may have run out, by this process's clock, or
// is known to be gone. etcd never gives it to another before.
func (l *Lead) Context() context.Context { return l.ctx }

// Store opens the replicas' store for the leader. Its writes are refused as soon as
// another one leads, whether this one knows it yet or not.
func (l *Lead) Store() (*reconciler.Store, error) {
	s := &store{reader: reader{l.client, l.prefix, ErrNotLeader}, lead: l}
	if err := s.settle(l.ctx); err != nil {
		return nil, err
	}
	return &reconciler.Store{Backend: s}, nil
}

// fence holds in etcd as long as this is the leader.
func (l *Lead) fence() clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(l.key), "=", l.revision)
}

// Why a lead ends.
var (
	errSilent = errors.New("etcd has not confirmed the lease in time, so that another replica may lead")
	errGone   = errors.New("the lease has run out, or the leader's key was taken away")
)

// hold ends the lead when the lease is not proved to last. Session alone would not
// do: it takes an answer that waited for this process, which was stopped, for a new
// one.
func (l *Lead) hold(until time.Time) {
	for l.ctx.Err() == nil {
		timer := time.NewTimer(min(l.ttl/10, time.Until(until)))
		select {
		case <-timer.C:
		case <-l.session.Done():
			l.lost(errSilent)
		case <-l.ctx.Done():
		}
		timer.Stop()
		if !time.Now().Before(until) {
			l.lost(errSilent)
			return
		}
		switch proved, err := l.prove(l.ctx, until); {
		case err == nil:
			until = proved
		case errors.Is(err, errGone):
			l.lost(errGone)
		}
	}
}

// prove asks etcd how long the lease lasts at least, counted from before the
// question. It waits for an answer for a while, and not longer than until a time.
func (l *Lead) prove(ctx context.Context, until time.Time) (time.Time, error) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	ctx, cancelSoon := context.WithTimeout(ctx, max(l.ttl/5, 300*time.Millisecond))
	defer cancelSoon()
	asked := time.Now()
	res, err := l.client.TimeToLive(ctx, l.lease, clientv3.WithAttachedKeys())
	if err != nil {
		return asked, err
	}
	if res.TTL <= 0 || !slices.ContainsFunc(res.Keys, func(k []byte) bool { return string(k) == l.key }) {
		return asked, errGone
	}
	// An etcd whose leader is new does not count yet, and says something huge.
	return asked.Add(min(time.Duration(min(res.TTL, math.MaxInt32))*time.Second, l.ttl)), nil
}

// resign lets the next one lead at once where etcd can be told, and after the lease
// where it cannot.
func (l *Lead) resign(life context.Context) {
	if l.lost != nil {
		l.lost(nil)
		l.held.Wait()
	}
	if l.session != nil {
		l.session.Orphan()
	}
	if l.lease != clientv3.NoLease {
		ctx, cancel := context.WithTimeout(life, time.Second)
		_, _ = l.client.Revoke(ctx, l.lease)
		cancel()
	}
	_ = l.client.Close()
	l.end()
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
