package softswitch

import (
	"fmt"
	"sync"
	"testing"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// TestPrimaries has controllers of one role connect, raise and lower their election ids,
// and leave. The primary is the one with the highest id ever seen, or nobody.
func TestPrimaries(t *testing.T) {
	r := newRig(t)
	a, b, c := r.stream(), r.stream(), r.stream()
	a.arbitrate("", id(10))
	a.wants("OK 0/10")
	b.arbitrate("", id(5))
	b.wants("AlreadyExists 0/10")
	c.arbitrate("", nil)
	c.wants("AlreadyExists 0/10")

	// A newcomer with a higher id takes over, and all are told.
	d := r.stream()
	d.arbitrate("", id(20))
	d.wants("OK 0/20")
	for _, s := range []*stream{a, b, c} {
		s.wants("AlreadyExists 0/20")
	}
	// The high half counts first.
	a.arbitrate("", &p4v1.Uint128{High: 1})
	a.wants("OK 1/0")
	for _, s := range []*stream{b, c, d} {
		s.wants("AlreadyExists 1/0")
	}
	// A primary that raises its own id stays primary.
	a.arbitrate("", &p4v1.Uint128{High: 1, Low: 1})
	a.wants("OK 1/1")
	for _, s := range []*stream{b, c, d} {
		s.wants("AlreadyExists 1/1")
	}
	// One that lowers it steps down, and nobody follows.
	a.arbitrate("", id(30))
	for _, s := range []*stream{a, b, c, d} {
		s.wants("NotFound 1/1")
	}
	r.denied(id(30))
	r.denied(&p4v1.Uint128{High: 1, Low: 1})
	// A backup that changes its id within the backups is told, the others are not.
	b.arbitrate("", id(6))
	b.wants("NotFound 1/1")
	d.quiet("", id(20), "NotFound 1/1")
	// The id that was highest makes a primary again.
	b.arbitrate("", &p4v1.Uint128{High: 1, Low: 1})
	b.wants("OK 1/1")
	for _, s := range []*stream{a, c, d} {
		s.wants("AlreadyExists 1/1")
	}
	// The primary's stream closes: all others are told, and it writes no more.
	b.close()
	for _, s := range []*stream{a, c, d} {
		s.wants("NotFound 1/1")
	}
	r.denied(&p4v1.Uint128{High: 1, Low: 1})
	// A backup's stream closes: nobody is told.
	d.close()
	a.quiet("", id(30), "NotFound 1/1")
	// Back with the same id.
	e := r.stream()
	e.arbitrate("", &p4v1.Uint128{High: 1, Low: 1})
	e.wants("OK 1/1")
	a.wants("AlreadyExists 1/1")
}

// denied checks that a Write with an election id is refused.
func (r *rig) denied(election *p4v1.Uint128) {
	r.Helper()
	_, err := r.client.Write(r.Context(), &p4v1.WriteRequest{DeviceId: device, ElectionId: election})
	wantCode(r, "write by nobody", err, codes.PermissionDenied)
}

// TestElectionIDs distinguishes a zero id from none, and refuses one that is in use.
func TestElectionIDs(t *testing.T) {
	r := newRig(t)
	none := r.stream()
	none.arbitrate("", nil)
	none.wants("NotFound")
	zero := r.stream()
	zero.arbitrate("", &p4v1.Uint128{})
	zero.wants("OK 0/0")
	none.wants("AlreadyExists 0/0")
	_, err := r.client.Write(t.Context(), &p4v1.WriteRequest{DeviceId: device, ElectionId: &p4v1.Uint128{}})
	wantCode(t, "write by the primary with id 0", err, codes.FailedPrecondition)
	_, err = r.client.Write(t.Context(), &p4v1.WriteRequest{DeviceId: device})
	wantCode(t, "write without id", err, codes.PermissionDenied)

	second := r.stream()
	second.arbitrate("", &p4v1.Uint128{})
	second.wants("end InvalidArgument")
	third := r.stream()
	third.arbitrate("", id(3))
	third.wants("OK 0/3")
	zero.wants("AlreadyExists 0/3")
	none.wants("AlreadyExists 0/3")
	zero.arbitrate("", id(3)) // in use, so its stream ends and it is a backup no more
	zero.wants("end InvalidArgument")
	third.quiet("", id(3), "OK 0/3")
	// The same id in another role is another matter.
	other := r.stream()
	other.arbitrate("other", id(3))
	other.wants("OK 0/3 role other")
	// Several may have none.
	fourth := r.stream()
	fourth.arbitrate("", nil)
	fourth.wants("AlreadyExists 0/3")
}

// TestRoles checks that roles are independent.
func TestRoles(t *testing.T) {
	r := ready(t)
	x, y := r.stream(), r.stream()
	x.arbitrate("x", id(7))
	x.wants("OK 0/7 role x")
	y.arbitrate("x", id(8))
	y.wants("OK 0/8 role x")
	x.wants("AlreadyExists 0/8 role x")
	r.mustWrite(insert(vpc(1, 1, 1))) // the primary without a role is not touched
	y.close()
	x.wants("NotFound 0/8 role x")
	x.arbitrate("x", id(9))
	x.wants("OK 0/9 role x")
}

// TestStreamEnds sends arbitration requests that end the stream.
func TestStreamEnds(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		name          string
		first, second *p4v1.MasterArbitrationUpdate
		want          string
	}{
		{"unknown device", &p4v1.MasterArbitrationUpdate{DeviceId: 8, ElectionId: id(1)}, nil, "end NotFound"},
		{"no device", &p4v1.MasterArbitrationUpdate{ElectionId: id(1)}, nil, "end NotFound"},
		{"role with a config", &p4v1.MasterArbitrationUpdate{DeviceId: device, Role: &p4v1.Role{Name: "x", Config: &anypb.Any{}}}, nil, "end InvalidArgument"},
		{"another device", &p4v1.MasterArbitrationUpdate{DeviceId: device, ElectionId: id(1)}, &p4v1.MasterArbitrationUpdate{DeviceId: 8, ElectionId: id(1)}, "end FailedPrecondition"},
		{"another role", &p4v1.MasterArbitrationUpdate{DeviceId: device, ElectionId: id(1)}, &p4v1.MasterArbitrationUpdate{DeviceId: device, ElectionId: id(1), Role: &p4v1.Role{Name: "x"}}, "end FailedPrecondition"},
	} {
		s := r.stream()
		s.send(c.first)
		if c.second != nil {
			s.wants("OK 0/1")
			s.send(c.second)
		}
		if got := s.next(); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	// Those that were live have left: the id is free again.
	s := r.stream()
	s.arbitrate("", id(1))
	s.wants("OK 0/1")
	// Other messages change nothing, and half a close ends the stream in good order.
	if err := s.s.Send(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Packet{Packet: &p4v1.PacketOut{}}}); err != nil {
		t.Fatal(err)
	}
	s.quiet("", id(1), "OK 0/1")
	if err := s.s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	s.wants("end OK")
	r.denied(id(1))
}

// TestTooMany checks the limits of streams, even of those that never arbitrate, and of
// roles.
func TestTooMany(t *testing.T) {
	r := newRig(t)
	first := r.stream()
	first.arbitrate("", id(1))
	first.wants("OK 0/1")
	for n := range maxRoles - 1 {
		s := r.stream()
		s.arbitrate(fmt.Sprint("role ", n), id(1))
		s.wants(fmt.Sprint("OK 0/1 role role ", n))
		s.close()
		s.wants("end Canceled")
	}
	s := r.stream()
	s.arbitrate("one too many", id(1))
	s.wants("end ResourceExhausted")

	r = newRig(t)
	var silent []*stream
	for range maxControllers {
		silent = append(silent, r.stream())
	}
	silent[0].arbitrate("", id(1))
	silent[0].wants("OK 0/1")
	for _, s := range silent[1:] { // all are open
		s.arbitrate("", nil)
		s.wants("AlreadyExists 0/1")
	}
	r.stream().wants("end ResourceExhausted")
	silent[1].close()
	for { // until the server has seen it
		again := r.stream()
		again.arbitrate("", nil)
		if got := again.next(); got == "AlreadyExists 0/1" {
			break
		} else if got != "end ResourceExhausted" {
			t.Fatalf("a stream after another has closed: %q", got)
		}
	}
}

// TestTakeover has primaries take over from each other under a load of writes:
// no write of the last one comes after the next one was told.
func TestTakeover(t *testing.T) {
	r := ready(t)
	var writers sync.WaitGroup
	const rounds = 20
	for n := range uint64(rounds) {
		s := r.stream()
		s.arbitrate("", id(n+2))
		s.wants(fmt.Sprintf("OK 0/%d", n+2))
		// Whatever the former one had in flight is done, so that what this one reads
		// stays until it writes itself.
		before, err := r.read(asked(&p4v1.TableEntry{TableId: pipeline.TableVPC}))
		if err != nil {
			t.Fatal(err)
		}
		after, err := r.read(asked(&p4v1.TableEntry{TableId: pipeline.TableVPC}))
		if err != nil || len(before) != len(after) {
			t.Fatalf("%d entries, then %d, error %v: a former primary still writes", len(before), len(after), err)
		}
		for i := range uint64(20) {
			writers.Go(func() {
				_, _ = r.client.Write(t.Context(), &p4v1.WriteRequest{
					DeviceId: device, ElectionId: id(n + 2), Updates: []*p4v1.Update{insert(vpc(1+n, 1+i, 1))},
				})
			})
		}
	}
	writers.Wait()
}
