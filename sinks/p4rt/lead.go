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

// election is an election id. The zero one is none.
type election struct{ high, low uint64 }

func (e election) compare(o election) int {
	return cmp.Or(cmp.Compare(e.high, o.high), cmp.Compare(e.low, o.low))
}

// next is the smallest one that is larger.
func (e election) next() election {
	if e.low++; e.low == 0 {
		e.high++
	}
	return e
}

func (e election) proto() *p4v1.Uint128 { return &p4v1.Uint128{High: e.high, Low: e.low} }

// elect gives an election id that this sink has not had yet and that is larger
// than another. One of a later epoch is passed only by leave of Reelect: else an
// old leader, which does not know it yet, would push the new one aside.
func (s *Sink) elect(than election) (election, error) {
	own := election{s.epoch.Load(), s.elections.Add(1)}
	if own.compare(than) > 0 {
		return own, nil
	}
	if s.cfg.Reelect == nil {
		return than.next(), nil
	}
	epoch, err := s.cfg.Reelect(than.high)
	if err != nil {
		return election{}, fmt.Errorf("the switch has seen election id %d/%d, and that cannot be passed: %w", than.high, than.low, err)
	}
	s.epoch.Store(epoch)
	return election{epoch, s.elections.Add(1)}, nil
}

// supervise keeps the stream up: arbitrate, listen, and when it ends do it again
// with a higher election id.
func (d *device) supervise(ctx context.Context, s *Sink) {
	wait := s.limits.retry
	for ctx.Err() == nil {
		began := time.Now()
		err := d.listen(ctx, s)
		d.stand(s, false, fmt.Errorf("the stream to %s ended: %w", d.spec.address, reason(err)))
		if status.Code(err) == codes.InvalidArgument { // another has the id, and is not to be pushed aside
			d.held = election{}
		}
		if time.Since(began) > retryMost {
			wait = s.limits.retry
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait + rand.N(wait/5)): // spread, so that many daemons do not come back at once
		}
		wait = min(2*wait, retryMost)
	}
}

// listen opens a stream, arbitrates on it and follows its standing until it
// ends. Where somebody else is primary it waits; where nobody is, it asks again
// with an id above the highest that the switch has seen.
func (d *device) listen(ctx context.Context, s *Sink) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := d.client.StreamChannel(ctx)
	if err != nil {
		return err
	}
	id, err := s.elect(d.held)
	if err == nil {
		err = d.arbitrate(stream, id)
	}
	if err != nil {
		return err
	}
	for vacancies := 0; vacancies < maxVacancies; {
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
			vacancies = 0
			if a.GetElectionId() == nil || highest == d.id { // else it answers what was asked before
				d.held = d.id
				d.stand(s, true, nil)
			}
		case codes.AlreadyExists:
			vacancies = 0
			d.stand(s, false, fmt.Errorf("%w of %s, with election id %d/%d; stop it, or wait until it lets go",
				errBackup, d.target, highest.high, highest.low))
		default:
			vacancies++
			d.stand(s, false, fmt.Errorf("nobody is primary of %s yet", d.target))
			id, err := s.elect(highest)
			if err == nil {
				err = d.arbitrate(stream, id)
			}
			if err != nil {
				return err
			}
		}
	}
	return errors.New("the switch makes nobody its primary")
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

// stand records whether this is the primary, and wakes the loop if that is new.
func (d *device) stand(s *Sink, primary bool, standing error) {
	d.mu.Lock()
	news := d.primary != primary || primary
	d.primary, d.standing = primary, standing
	close(d.changed)
	d.changed = make(chan struct{})
	d.mu.Unlock()
	if news {
		s.cfg.Hints.Add(d.target)
	}
}

// lead waits until this is the primary and returns the election id to write
// with. It gives up at the end of ctx, or at once where another is primary.
func (d *device) lead(ctx context.Context) (*p4v1.Uint128, error) {
	for {
		d.mu.Lock()
		id, primary, standing, changed := d.id, d.primary, d.standing, d.changed
		d.mu.Unlock()
		switch {
		case primary:
			return id.proto(), nil
		case errors.Is(standing, errBackup):
			return nil, standing
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, standing
		}
	}
}
