package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gray-release/gray/etcdclient"
	"github.com/gray-release/gray/reconciler/board"
)

const (
	pageSize = 500                   // records of one answer
	gather   = 50 * time.Millisecond // changes within it are reported together
)

// errTooMany is the error of a target with too many records.
var errTooMany = fmt.Errorf("there are more than %d records below it, what was found last stays; name a target with fewer", maxRecords)

// target is what is known of a target.
type target struct {
	board.Wanted
	base    board.Found // what was found while etcd had its history
	known   bool        // base is set
	lost    bool        // etcd no longer has the history of base
	era     int         // in which it was read
	records map[string]entry
}

// watch follows a target, from one watch to the next.
func (s *source) watch(ctx context.Context, w board.Wanted) {
	t := &target{Wanted: w}
	t.base, t.known = s.board.Known(w.Target)
	p := etcdclient.Pause{}
	said := ""
	for {
		now, last := s.now()
		own, cancel := context.WithCancel(now.ctx)
		stop := context.AfterFunc(ctx, cancel)
		err := s.follow(own, t, now.number, last, func() { p, said = etcdclient.Pause{}, "" })
		stop()
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case now.ctx.Err() != nil:
			continue // read it again at once
		}
		if said != err.Error() {
			said = err.Error()
			s.cfg.Log.Warn("cannot follow a target in etcd, will try again", "target", w.Target, "error", err)
		}
		s.board.Fail(w, board.Trouble{Reason: "NotRead", Message: said})
		p.Grow(etcdclient.LongPause)
		select {
		case <-time.After(p.Next/2 + rand.N(p.Next)): // not all targets at once
		case <-now.ctx.Done():
		case <-ctx.Done():
			return
		}
	}
}

// follow reads a target and reports changes until etcd ends the watch, which it does
// if it has compacted what the watch missed. It calls good after the first read.
func (s *source) follow(ctx context.Context, t *target, number int, last history, good func()) error {
	seen, err := s.read(ctx, t)
	if err != nil {
		return err
	}
	if t.known && (t.era != 0 && t.era != number || !last.leadsTo(seen) || !(history{t.base.Cluster, t.base.Revision}).leadsTo(seen)) {
		t.lost = true
	}
	t.era = number
	s.tell(ctx, t, seen)
	good()
	// A member without a leader then fails instead of staying silent.
	updates := s.client.Watch(clientv3.WithRequireLeader(ctx), t.Target+"/", clientv3.WithPrefix(), clientv3.WithRev(seen.revision+1), clientv3.WithFragment())
	for res := range updates {
		if err := t.take(res); err != nil {
			return err
		}
		seen.revision = max(seen.revision, res.Header.GetRevision())
		for more := time.After(gather); more != nil; {
			select {
			case res, open := <-updates:
				if !open {
					more = nil
					break
				}
				if err := t.take(res); err != nil {
					return err
				}
				seen.revision = max(seen.revision, res.Header.GetRevision())
			case <-more:
				more = nil
			}
		}
		s.tell(ctx, t, seen)
	}
	return errors.New("etcd ended the watch")
}

// read reads all records of a target at one revision.
func (s *source) read(ctx context.Context, t *target) (history, error) {
	select {
	case s.reads <- struct{}{}:
		defer func() { <-s.reads }()
	case <-ctx.Done():
		return history{}, ctx.Err()
	}
	records := map[string]entry{}
	var seen history
	key, end := t.Target+"/", clientv3.GetPrefixRangeEnd(t.Target+"/")
	for more := true; more; {
		asking, cancel := context.WithTimeout(ctx, etcdclient.AnswerWait)
		res, err := s.client.Get(asking, key, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(seen.revision))
		cancel()
		if err != nil {
			return history{}, etcdclient.Plain(err)
		}
		if seen.revision == 0 {
			seen = history{res.Header.GetClusterId(), res.Header.GetRevision()}
		}
		for _, kv := range res.Kvs {
			put(records, kv.Key, kv.Value)
			key = string(kv.Key) + "\x00"
		}
		if len(records) > maxRecords {
			return history{}, errTooMany
		}
		more = res.More && len(res.Kvs) > 0
	}
	t.records = records
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == (history{}) { // etcd may lose its data before the first pulse
		s.last = seen
	}
	return seen, nil
}

// take applies changes to the records.
func (t *target) take(res clientv3.WatchResponse) error {
	if err := res.Err(); err != nil {
		return etcdclient.Plain(err)
	}
	for _, e := range res.Events {
		if e.Type == clientv3.EventTypeDelete {
			delete(t.records, keyOf(e.Kv.Key))
		} else {
			put(t.records, e.Kv.Key, e.Kv.Value)
		}
	}
	if len(t.records) > maxRecords {
		return errTooMany
	}
	return nil
}

// tell reports the endpoints to the board.
func (s *source) tell(ctx context.Context, t *target, seen history) {
	if ctx.Err() != nil { // its era may be over
		return
	}
	f := t.found(seen)
	if err := s.board.Report(t.Wanted, f); err != nil {
		s.cfg.Log.Error("endpoints will not outlive the daemon", "target", t.Target, "error", err)
	}
}

// found returns the endpoints to use, and what is wrong with the records.
func (t *target) found(seen history) board.Found {
	now := endpointsOf(t.records)
	t.lost = t.lost && 2*len(now) < len(t.base.Endpoints)
	f := board.Found{Endpoints: now, Cluster: seen.cluster, Revision: seen.revision}
	switch left := leftOut(t.records); {
	case t.lost:
		f.Endpoints, f.Passing = sorted(append(slices.Clone(now), t.base.Endpoints...)), true
		f.Trouble = board.Trouble{Reason: "EtcdLostData", Message: fmt.Sprintf(
			"etcd has lost its data or is another one: the %d endpoints that were known before stay until half as many are registered; now there are %d", len(t.base.Endpoints), len(now))}
	case left != "":
		f.Trouble = board.Trouble{Reason: "RecordsLeftOut", Message: left}
	case len(now) == 0:
		f.Trouble = board.Trouble{Reason: "NoEndpoints", Message: "nothing is registered there"}
	}
	if !t.lost {
		t.base, t.known = f, true
	}
	return f
}
