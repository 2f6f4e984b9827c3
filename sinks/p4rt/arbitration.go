package p4rt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// election is an election id; zero: none.
type election struct{ high, low uint64 }

func (e election) compare(o election) int {
	return cmp.Or(cmp.Compare(e.high, o.high), cmp.Compare(e.low, o.low))
}

// next returns the next larger id.
func (e election) next() election {
	if e.low++; e.low == 0 {
		e.high++
	}
	return e
}

func (e election) proto() *p4v1.Uint128 { return &p4v1.Uint128{High: e.high, Low: e.low} }

// nextElection returns an election id that this sink has not used yet and that is
// larger than another. Only Reelect allows it to pass an id of a later epoch: an old
// leader that does not know of the new one yet must not take over from it.
func (s *Sink) nextElection(than election) (election, error) {
	own := election{s.epoch.Load(), s.elections.Add(1)}
	if own.compare(than) > 0 {
		return own, nil
	}
	if s.cfg.Reelect == nil {
		return than.next(), nil
	}
	epoch, err := s.cfg.Reelect(than.high)
	if err != nil {
		return election{}, fmt.Errorf("the switch has seen election id %d/%d, and gray cannot use a larger one: %w", than.high, than.low, err)
	}
	s.epoch.Store(epoch)
	return election{epoch, s.elections.Add(1)}, nil
}

// supervise keeps the stream open. When it ends, it opens another one, with a higher
// election id.
func (d *device) supervise(ctx context.Context, s *Sink) {
	wait := s.limits.retry
	for ctx.Err() == nil {
		began := time.Now()
		err := d.listen(ctx, s)
		d.setPrimary(s, fmt.Errorf("the stream to %s ended: %w", d.spec.address, reason(err)))
		if status.Code(err) == codes.InvalidArgument { // another controller uses the id; do not outbid it
			d.won = election{}
		}
		if time.Since(began) > retryMost {
			wait = s.limits.retry
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait + rand.N(wait/5)): // jitter, so that many daemons do not reconnect at once
		}
		wait = min(2*wait, retryMost)
	}
}

// listen opens a stream, arbitrates, and handles the answers until the stream ends.
// While another controller is primary it waits. When nobody is, it asks again with an
// id above the highest that the switch has seen.
func (d *device) listen(ctx context.Context, s *Sink) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := d.client.StreamChannel(ctx)
	if err != nil {
		return err
	}
	id, err := s.nextElection(d.won)
	if err == nil {
		err = d.arbitrate(stream, id)
	}
	if err != nil {
		return err
	}
	for noPrimary := 0; noPrimary < maxNoPrimary; {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		a := m.GetArbitration()
		if a == nil {
			continue
		}
		highest := election{a.GetElectionId().GetHigh(), a.GetElectionId().GetLow()}
		switch codes.Code(a.GetStatus().GetCode()) {
		case codes.OK:
			noPrimary = 0
			if a.GetElectionId() == nil || highest == d.id { // else it answers an earlier request
				d.won = d.id
				d.setPrimary(s, nil)
			}
		case codes.AlreadyExists:
			noPrimary = 0
			d.setPrimary(s, fmt.Errorf("%w of %s, with election id %d/%d; stop it, or wait until it disconnects",
				errBackup, d.target, highest.high, highest.low))
		default:
			noPrimary++
			d.setPrimary(s, fmt.Errorf("no controller is primary of %s yet", d.target))
			id, err := s.nextElection(highest)
			if err == nil {
				err = d.arbitrate(stream, id)
			}
			if err != nil {
				return err
			}
		}
	}
	return errors.New("the switch makes no controller primary")
}

// arbitrate asks to be primary.
func (d *device) arbitrate(stream p4v1.P4Runtime_StreamChannelClient, id election) error {
	d.mu.Lock()
	d.id = id
	d.mu.Unlock()
	a := &p4v1.MasterArbitrationUpdate{DeviceId: d.spec.deviceID, ElectionId: id.proto()}
	if d.spec.role != "" {
		a.Role = &p4v1.Role{Name: d.spec.role}
	}
	return stream.Send(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Arbitration{Arbitration: a}})
}

// setPrimary records that this controller is primary, or why it is not, and wakes the
// loop if that is news.
func (d *device) setPrimary(s *Sink, notPrimary error) {
	d.mu.Lock()
	news := d.notPrimary == nil || notPrimary == nil
	d.notPrimary = notPrimary
	close(d.changed)
	d.changed = make(chan struct{})
	d.mu.Unlock()
	if news {
		s.cfg.Hints.Add(d.target)
	}
}

// waitPrimary waits until this controller is primary and returns the election id to
// write with. It gives up when ctx ends, or at once if another controller is primary.
func (d *device) waitPrimary(ctx context.Context) (*p4v1.Uint128, error) {
	for {
		d.mu.Lock()
		id, notPrimary, changed := d.id, d.notPrimary, d.changed
		d.mu.Unlock()
		switch {
		case notPrimary == nil:
			return id.proto(), nil
		case errors.Is(notPrimary, errBackup):
			return nil, notPrimary
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, notPrimary
		}
	}
}
