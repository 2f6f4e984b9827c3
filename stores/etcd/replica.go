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
	"github.com/gray-release/gray/reconciler/board"
)

// ReplicaConfig names a replica and the etcd that the replicas share.
type ReplicaConfig struct {
	etcdclient.Config
	Prefix string        // of all keys, without a trailing slash
	Name   string        // for people; leases tell the replicas apart
	Lease  time.Duration // how long a silent leader keeps the lead; whole seconds, 2 or more
}

// Status is the state of a replica.
type Status struct {
	Name   string     `json:"name"`
	Role   string     `json:"role"`             // leader or follower
	Leader string     `json:"leader,omitempty"` // the name of the leader; empty if there is none, or none is known
	Since  *time.Time `json:"since,omitempty"`  // by the leader's clock
	Error  string     `json:"error,omitempty"`  // why no leader is known, or why this replica cannot lead; one line
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
	unseen string // why the leader is unknown
	unable string // why this replica cannot lead
}

// NewReplica returns a replica that follows.
func NewReplica(cfg ReplicaConfig) *Replica {
	return &Replica{cfg: cfg, status: Status{Name: cfg.Name, Role: RoleFollower}}
}

// Status returns the state of the replica. It never waits.
func (r *Replica) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.status
	s.Error = cmp.Or(r.unseen, r.unable)
	return s
}

// Run follows, and leads whenever the replica is elected, until ctx ends. The two
// functions never run at the same time, and each has to return soon after its context
// has ended; that of a leader ends with the lease. After an error of lead the election
// is repeated after a while, and another replica may win it.
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
			r.cfg.Log.Error("lost the lead, this replica follows", "replica", r.cfg.Name, "error", context.Cause(l.ctx))
			err = nil
		case err != nil:
			r.cfg.Log.Error("cannot lead, will try again", "replica", r.cfg.Name, "error", err)
		}
		l.resign(life)
		if p.Grow(etcdclient.LongPause); err == nil || time.Since(began) > etcdclient.LongPause {
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

// elected campaigns, after a pause, until this replica is elected. It returns nil if ctx
// has ended. Meanwhile it watches who leads.
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
		p.Grow(r.cfg.Lease / 2)
		r.note(func() {
			r.unseen = "etcd cannot be asked who leads: " + err.Error()
			r.status.Leader, r.status.Since = "", nil
		})
		if err.Error() != last {
			last = err.Error()
			r.cfg.Log.Error("cannot take part in the election, will try again", "replica", r.cfg.Name, "error", err)
		}
	}
}

// campaign takes part in one election, with its own client and lease, until it has won
// or the lease is lost.
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

// win takes a lease, waits until it has won the election, and lets the lead's context
// end with the lease.
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
	r.note(func() { // a leader knows its status without etcd
		r.status.Role, r.status.Leader, r.status.Since = RoleLeader, r.cfg.Name, &now
		r.unseen, r.unable = "", ""
	})
	l.ctx, l.lost = context.WithCancelCause(ctx)
	l.held.Go(func() { l.hold(until) })
	return nil
}

// value is the value of a candidate's key.
func (l *Lead) value(since *time.Time) string {
	b, _ := json.Marshal(Status{Name: l.cfg.Name, Role: RoleLeader, Since: since})
	return string(b)
}

// watch reads again and again who leads, for the status of a follower.
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
				_ = json.Unmarshal(res.Kvs[0].Value, &leads) // unreadable: the leader is unknown
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

// Context ends as soon as the lease may have expired by this process's clock, or is
// known to be gone. etcd elects no other leader before.
func (l *Lead) Context() context.Context { return l.ctx }

// Store opens the replicas' store for the leader. It refuses writes as soon as another
// replica leads, even if this one does not know that yet.
func (l *Lead) Store() (*reconciler.Store, error) {
	s := &store{reader: reader{l.client, l.prefix, ErrNotLeader}, lead: l}
	if err := s.settle(l.ctx); err != nil {
		return nil, err
	}
	return &reconciler.Store{Records: board.Records{Load: s.Load, Write: s.Write}, Close: func() error { return nil }}, nil
}

// fence is a condition that is true in etcd as long as this is the leader.
func (l *Lead) fence() clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(l.key), "=", l.revision)
}

// Why a lead ends.
var (
	errSilent = errors.New("etcd has not confirmed the lease in time, another replica may lead")
	errGone   = errors.New("the lease has expired, or the leader's key was deleted")
)

// hold ends the lead when nothing proves that the lease lasts. The session alone is not
// enough: after this process was stopped, it would take an old answer for a new one.
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

// prove asks etcd how long the lease lasts, and returns the time up to which that is
// certain. It waits a while for an answer, and at most until a deadline.
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
	// An etcd with a new leader may answer with a huge TTL.
	return asked.Add(min(time.Duration(min(res.TTL, math.MaxInt32))*time.Second, l.ttl)), nil
}

// resign gives up the lead: at once if etcd can be reached, else when the lease expires.
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
