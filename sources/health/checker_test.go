package health_test

import (
	"context"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/sources/health"
)

const patience = 10 * time.Second

var how = packets.HealthCheck{Interval: 10 * time.Millisecond, Timeout: 10 * time.Millisecond, Rise: 2, Fall: 3}

// run runs a checker until the test ends.
func run(t *testing.T) *board.Health {
	t.Helper()
	board := board.NewHealth()
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { health.Run(ctx, board) })
	t.Cleanup(func() { cancel(); done.Wait() })
	return board
}

// until waits until exactly these servers of gateway gw are down.
func until(t *testing.T, board *board.Health, want ...string) {
	t.Helper()
	timeout := time.After(patience)
	for !slices.Equal(board.Down()["gw"], want) {
		select {
		case <-board.Woken():
		case <-timeout:
			t.Fatalf("%v are down, want %v", board.Down(), want)
		}
	}
}

func server(t *testing.T, h http.Handler) netip.AddrPort {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

func TestHTTP(t *testing.T) {
	var status atomic.Int32
	var paths sync.Map
	status.Store(http.StatusOK)
	at := server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paths.Store(r.URL.Path, true)
		w.WriteHeader(int(status.Load()))
	}))
	how := how
	how.HTTP, how.Timeout = packets.HTTPCheck{Port: at.Port(), Path: "/healthz"}, time.Second
	board := run(t)
	board.Want([]policies.Check{{Of: "gw", Server: "v1/a", Address: at.Addr(), How: how}})
	status.Store(http.StatusServiceUnavailable)
	until(t, board, "v1/a")
	if why := board.Why("gw", "v1/a"); why == nil || why.Error() != "answered with status 503" {
		t.Errorf("the reason is %v", why)
	}
	status.Store(http.StatusFound) // a redirection is an answer, and is not followed
	until(t, board)
	seen := map[any]bool{}
	paths.Range(func(k, _ any) bool { seen[k] = true; return true })
	if !maps.Equal(seen, map[any]bool{"/healthz": true}) {
		t.Errorf("the server was asked for %v", seen)
	}
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	how := how
	how.TCP, how.Timeout = at.Port(), time.Second
	board := run(t)
	board.Want([]policies.Check{
		{Of: "gw", Server: "v1/a", Address: at.Addr(), How: how},
		{Of: "gw", Server: "v1/b", Address: netip.MustParseAddr("127.0.0.2"), How: how},
	})
	until(t, board, "v1/b")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, board, "v1/a", "v1/b")
	if l, err = net.Listen("tcp", at.String()); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	until(t, board, "v1/b")
	// Who is no longer checked is not down, and nobody says so later.
	board.Want([]policies.Check{{Of: "gw", Server: "v1/a", Address: at.Addr(), How: how}})
	if down := board.Down()["gw"]; len(down) != 0 {
		t.Errorf("%v are down, and none of them is checked", down)
	}
}

// TestTimeout has a server that accepts and never answers.
func TestTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := netip.MustParseAddrPort(l.Addr().String())
	how := how
	how.HTTP = packets.HTTPCheck{Port: at.Port(), Path: "/"}
	board := run(t)
	board.Want([]policies.Check{{Of: "gw", Server: "v1/a", Address: at.Addr(), How: how}})
	until(t, board, "v1/a")
	if why := board.Why("gw", "v1/a"); why == nil || !strings.Contains(why.Error(), "no answer within 10ms") {
		t.Errorf("the reason is %v", why)
	}
}

// TestICMP pings loopback; a server that cannot be pinged is in the laboratory of
// cmd/gray.
func TestICMP(t *testing.T) {
	if os.Getuid() != 0 && os.Getenv("CI") != "true" {
		t.Skip("this test needs root for echo requests")
	}
	how := how
	how.ICMP, how.Timeout = true, time.Second
	asked := make(chan struct{}, 1)
	at := server(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		select {
		case asked <- struct{}{}:
		default:
		}
	}))
	http := how
	http.ICMP, http.HTTP = false, packets.HTTPCheck{Port: at.Port(), Path: "/"}
	board := run(t)
	board.Want([]policies.Check{
		{Of: "gw", Server: "v1/a", Address: netip.MustParseAddr("127.0.0.1"), How: how},
		{Of: "gw", Server: "v1/b", Address: at.Addr(), How: http},
	})
	for range 20 { // by then a failing ping would have been reported
		<-asked
	}
	if why := board.Why("gw", "v1/a"); why != nil {
		t.Errorf("loopback cannot be pinged: %v", why)
	}
}
