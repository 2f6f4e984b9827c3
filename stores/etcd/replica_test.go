package etcd_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gray-release/gray/stores/etcd"
	"github.com/gray-release/gray/tools/etcdtest"
)

// stands waits until a replica's standing is as wanted.
func (r *replica) until(what string, holds func(etcd.Status) bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !holds(r.Status()); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("waited in vain until %s: %+v", what, r.Status())
		}
	}
}

// TestOneLeads has a second replica follow, know who leads and since when, and take
// over at once where the leader stops.
func TestOneLeads(t *testing.T) {
	t.Parallel()
	server := etcdtest.New(t)
	server.Start()
	one := newReplica(t, server, "one")
	first := one.leads()
	two := newReplica(t, server, "two")
	two.until("the follower knows the leader", func(s etcd.Status) bool {
		return s.Role == etcd.RoleFollower && s.Leader == "one" && s.Since != nil && s.Since.Equal(*one.Status().Since) && s.Error == ""
	})
	if s := one.Status(); s.Role != etcd.RoleLeader || s.Leader != "one" {
		t.Errorf("the leader stands as %+v", s)
	}
	select {
	case <-first.Context().Done():
		t.Fatal("the lead has ended")
	case <-two.led:
		t.Fatal("two lead")
	default:
	}
	began := time.Now()
	one.stop()
	<-one.done
	two.leads()
	if waited := time.Since(began); waited > lease*2/3 {
		t.Errorf("a leader that stops is followed after %s, by its lease", waited)
	}
	if first.Context().Err() == nil {
		t.Error("the lead of a replica that has stopped goes on")
	}
}

// TestLeadEndsWithTheKey ends the lead whose key somebody took away.
func TestLeadEndsWithTheKey(t *testing.T) {
	t.Parallel()
	server := etcdtest.New(t)
	server.Start()
	one := newReplica(t, server, "one")
	one.leads()
	if _, err := server.Client().Delete(t.Context(), below(t, server, "/gray/test/leader/")[0]); err != nil {
		t.Fatal(err)
	}
	wait(t, one.lost, "ends")
	one.leads() // it stands again
}

// TestLeadEndsWithoutEtcd holds that a leader ends by itself when etcd is away or
// frozen, within its lease and not before half of it, and that somebody leads when
// etcd is back, also one that has lost its data.
func TestLeadEndsWithoutEtcd(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]func(*etcdtest.Server) (back func()){
		"killed": func(s *etcdtest.Server) func() { s.Kill(); return s.Start },
		"frozen": func(s *etcdtest.Server) func() { s.Freeze(); return s.Thaw },
		"wiped":  func(s *etcdtest.Server) func() { s.Kill(); s.Wipe(); return s.Start },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := etcdtest.New(t)
			server.Start()
			one := newReplica(t, server, "one")
			one.leads()
			two := newReplica(t, server, "two")
			two.until("the follower knows the leader", func(s etcd.Status) bool { return s.Leader == "one" })
			began := time.Now()
			back := away(server)
			wait(t, one.lost, "ends")
			if lasted := time.Since(began); lasted < lease/2 || lasted > lease+time.Second {
				t.Errorf("without etcd the lead lasted %s, with a lease of %s", lasted, lease)
			}
			for _, r := range []*replica{one, two} {
				r.until("nobody is known to lead", func(s etcd.Status) bool {
					return s.Role == etcd.RoleFollower && s.Leader == "" && s.Error != ""
				})
			}
			back()
			var leader *replica
			select {
			case <-one.led:
				leader = one
			case <-two.led:
				leader = two
			case <-time.After(patience):
				t.Fatalf("nobody leads with etcd back: %+v, %+v", one.Status(), two.Status())
			}
			for _, r := range []*replica{one, two} {
				r.until("the leader is known", func(s etcd.Status) bool {
					return s.Leader == leader.Status().Name && s.Error == ""
				})
			}
		})
	}
}

// TestALeaderThatCannotIsFollowed has the other replica take over from one that
// cannot do a leader's work.
func TestALeaderThatCannotIsFollowed(t *testing.T) {
	t.Parallel()
	server := etcdtest.New(t)
	server.Start()
	one := newReplica(t, server, "one")
	one.leads()
	two := newReplica(t, server, "two")
	two.until("the follower knows the leader", func(s etcd.Status) bool { return s.Leader == "one" })
	one.end <- errors.New("the disk is on fire")
	two.leads()
	one.until("it says why", func(s etcd.Status) bool {
		return s.Leader == "two" && s.Error == "this replica could not lead: the disk is on fire"
	})
}

// wire is a way to etcd that can be cut: connections stay, and nothing passes.
type wire struct {
	address string
	cut     chan struct{}
	passed  atomic.Int64 // bytes, both ways
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{address: l.Addr().String(), cut: make(chan struct{})}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			t.Cleanup(func() { _, _ = in.Close(), out.Close() })
			go w.pass(in, out)
			go w.pass(out, in)
		}
	}()
	return w
}

func (w *wire) pass(from, to net.Conn) {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		select {
		case <-w.cut:
			return
		default:
		}
		if err == nil {
			w.passed.Add(int64(n))
			_, err = to.Write(b[:n])
		}
		if err != nil {
			_, _ = from.Close(), to.Close()
			return
		}
	}
}

// TestNeverTwoLead cuts the leader off: by the clock that both have here, its lead has
// ended before the other is elected.
func TestNeverTwoLead(t *testing.T) {
	t.Parallel()
	server := etcdtest.New(t)
	server.Start()
	w := newWire(t, strings.TrimPrefix(server.URL, "http://"))
	one := newReplica(t, server, "one", "http://"+w.address)
	lead := one.leads()
	two := newReplica(t, server, "two")
	two.until("the follower knows the leader", func(s etcd.Status) bool { return s.Leader == "one" })
	ended := make(chan time.Time, 1)
	context.AfterFunc(lead.Context(), func() { ended <- time.Now() })
	close(w.cut)
	two.leads()
	elected := time.Now()
	select {
	case at := <-ended:
		t.Logf("the lead ended %s before the next one began", elected.Sub(at))
	default:
		t.Error("two replicas lead at one time")
	}
	if _, err := lead.Store(); !errors.Is(err, etcd.ErrNotLeader) {
		t.Errorf("who was cut off opens the store: %v", err)
	}
	one.until("it says why", func(s etcd.Status) bool { return s.Role == etcd.RoleFollower && s.Leader == "" && s.Error != "" })
}
