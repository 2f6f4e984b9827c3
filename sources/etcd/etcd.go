package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"

	"github.com/gray-release/gray/etcdclient"
	"github.com/gray-release/gray/reconciler/board"
)

// source follows the targets that a board wants.
type source struct {
	cfg    etcdclient.Config
	board  *board.Discovery
	client *clientv3.Client
	reads  chan struct{} // bounds how many targets are read at the same time

	mu   sync.Mutex
	last history // of the whole etcd, as it was last seen
	era  era
}

// history is the cluster and the revision of an etcd.
type history struct {
	cluster  uint64
	revision int64
}

// leadsTo reports whether n can come after h: the same cluster, and no lower revision.
// Anything can come after the zero history.
func (h history) leadsTo(n history) bool {
	return h == (history{}) || h.cluster == n.cluster && h.revision <= n.revision
}

// era is a period in which etcd has kept its history.
type era struct {
	number int
	ctx    context.Context
	end    context.CancelFunc
}

// Run looks up what the board wants until ctx ends.
func Run(ctx context.Context, b *board.Discovery, cfg etcdclient.Config) {
	if cfg.Pulse == 0 {
		cfg.Pulse = 2 * time.Second
	}
	s := &source{cfg: cfg, board: b, reads: make(chan struct{}, 16)}
	if !s.connect(ctx) {
		return
	}
	defer func() { _ = s.client.Close() }()
	var all sync.WaitGroup
	defer all.Wait()
	s.begin(ctx)
	all.Go(func() { s.pulse(ctx) })
	b.Tend(ctx, s.watch)
}

// connect makes the client as soon as something is wanted, and retries until it
// succeeds: with a user, it logs in. It returns false if ctx has ended.
func (s *source) connect(ctx context.Context) bool {
	p := etcdclient.Pause{}
	for since := time.Now(); ; {
		wait := time.Hour
		if len(s.board.Wanted()) > 0 {
			err := errors.New("the daemon runs without --etcd; start it with etcd's URLs")
			if len(s.cfg.Members) > 0 {
				s.client, err = s.cfg.Dial(ctx)
			}
			if err == nil {
				return true
			}
			s.away(err, since)
			if p.Grow(etcdclient.LongPause); len(s.cfg.Members) > 0 {
				wait = p.Next
			}
		}
		select {
		case <-s.board.Renewed():
		case <-time.After(wait):
		case <-ctx.Done():
			return false
		}
	}
}

// begin begins an era.
func (s *source) begin(ctx context.Context) {
	s.era.number++
	s.era.ctx, s.era.end = context.WithCancel(ctx)
}

// now returns the current era, and etcd's history as it was last seen.
func (s *source) now() (era, history) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.era, s.last
}

// pulse checks again and again that etcd answers and has its history. A watch would
// wait silently for an etcd that is away, or for a new one to reach the revision of the
// old one.
func (s *source) pulse(ctx context.Context) {
	var since time.Time
	for {
		err := s.beat(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if since.IsZero() {
				since = time.Now()
			}
			s.away(err, since)
		default:
			since = time.Time{}
			if s.board.Away(board.Trouble{}) {
				s.cfg.Log.Info("etcd is back")
			}
		}
		select {
		case <-time.After(s.cfg.Pulse):
		case <-ctx.Done():
			return
		}
	}
}

// beat checks once.
func (s *source) beat(ctx context.Context) error {
	wanted := s.board.Wanted()
	if len(wanted) == 0 {
		return nil
	}
	asking, cancel := context.WithTimeout(ctx, etcdclient.AnswerWait)
	defer cancel()
	// A linearizable read, which a member that is cut off from the others does not
	// answer, of a key that the user may read.
	res, err := s.client.Get(asking, wanted[0].Target+"/", clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithLimit(1))
	if coded, ok := errors.AsType[interface {
		error
		Code() codes.Code
	}](err); ok && coded.Code() == codes.PermissionDenied {
		return nil // etcd answers; the watch of that target reports the missing permission
	}
	if err != nil {
		return etcdclient.Plain(err)
	}
	now := history{res.Header.GetClusterId(), res.Header.GetRevision()}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.last.leadsTo(now) {
		s.cfg.Log.Error("etcd has lost its data or is another one", "cluster", fmt.Sprintf("%x", now.cluster), "revision", now.revision,
			"cluster before", fmt.Sprintf("%x", s.last.cluster), "revision before", s.last.revision)
		s.era.end()
		s.begin(ctx)
	}
	s.last = now
	return nil
}

// away reports that etcd cannot be asked.
func (s *source) away(err error, since time.Time) {
	t := board.Trouble{
		Reason:  "EtcdAway",
		Message: fmt.Sprintf("etcd has not answered since %s, what was found last stays: %v", since.UTC().Format(time.RFC3339), err),
	}
	if s.board.Away(t) {
		s.cfg.Log.Error("etcd does not answer, what was found last stays", "error", err)
	}
}
