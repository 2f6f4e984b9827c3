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
	reads  chan struct{} // bounds how many targets are read at one time

	mu   sync.Mutex
	last history // of etcd as a whole, as it was last seen
	era  era
}

// history is how far an etcd has come.
type history struct {
	cluster  uint64
	revision int64
}

// leadsTo tells whether a later look may see n: it is the same etcd, and no younger
// one. Nothing is known against what follows the zero history.
func (h history) leadsTo(n history) bool {
	return h == (history{}) || h.cluster == n.cluster && h.revision <= n.revision
}

// era is a time in which etcd has kept its history.
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

// connect makes the client, as soon as something is wanted. That asks etcd where
// there is a user, and is tried again until it is there. False: ctx has ended.
func (s *source) connect(ctx context.Context) bool {
	p := etcdclient.Pause{}
	for since := time.Now(); ; {
		wait := time.Hour
		if len(s.board.Wanted()) > 0 {
			err := errors.New("the daemon was started without --etcd; give it etcd's URLs")
			if len(s.cfg.Members) > 0 {
				s.client, err = s.cfg.Dial(ctx)
			}
			if err == nil {
				return true
			}
			s.away(err, since)
			if p.Grow(); len(s.cfg.Members) > 0 {
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

// now is the era that lasts, and etcd's history as far as it was seen.
func (s *source) now() (era, history) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.era, s.last
}

// pulse asks again and again whether etcd is there and has its history: a watch
// waits without a word for an etcd that is away, and for one that was set up anew
// until that has come as far as the old one.
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

// beat asks once.
func (s *source) beat(ctx context.Context) error {
	wanted := s.board.Wanted()
	if len(wanted) == 0 {
		return nil
	}
	asking, cancel := context.WithTimeout(ctx, etcdclient.AnswerWait)
	defer cancel()
	// Linearizable: a member that was cut off does not answer for the others. The key
	// is one that the user may read.
	res, err := s.client.Get(asking, wanted[0].Target+"/", clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithLimit(1))
	if coded, ok := errors.AsType[interface {
		error
		Code() codes.Code
	}](err); ok && coded.Code() == codes.PermissionDenied {
		return nil // it is there; the watch of that target says what it lacks
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

// away says that etcd cannot be asked.
func (s *source) away(err error, since time.Time) {
	t := board.Trouble{
		Reason:  "EtcdAway",
		Message: fmt.Sprintf("etcd cannot be asked since %s, what was found last stays: %v", since.UTC().Format(time.RFC3339), err),
	}
	if s.board.Away(t) {
		s.cfg.Log.Error("etcd cannot be asked, what was found last stays", "error", err)
	}
}
