package etcd_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"

	"github.com/gray-release/gray/etcdclient"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/sources/etcd"
	"github.com/gray-release/gray/stores/bolt"
	"github.com/gray-release/gray/tools/etcdtest"
	"github.com/gray-release/gray/tools/testnet"
)

const patience = 30 * time.Second

func TestMain(m *testing.M) {
	etcdtest.Main()
	testnet.Main(m)
}

// finder is a source that follows targets of an etcd, without a daemon.
type finder struct {
	t      *testing.T
	board  *board.Discovery
	server *etcdtest.Server
	stop   func()
}

func newBoard(t *testing.T, store *reconciler.Store, targets ...string) *board.Discovery {
	t.Helper()
	var records *board.Records
	if store != nil {
		records = &store.Records
	}
	board, err := board.NewDiscovery(records)
	if err != nil {
		t.Fatal(err)
	}
	if err := board.Want(targets); err != nil {
		t.Fatal(err)
	}
	return board
}

// find runs a source.
func find(t *testing.T, server *etcdtest.Server, board *board.Discovery, change ...func(*etcdclient.Config)) *finder {
	t.Helper()
	cfg := etcdclient.Config{Members: []string{server.URL}, Pulse: 50 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&cfg)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { etcd.Run(ctx, board, cfg) })
	f := &finder{t: t, board: board, server: server, stop: func() { cancel(); done.Wait() }}
	t.Cleanup(f.stop)
	return f
}

// until waits for the endpoints of a target, "ip:port ip:port", and for what is
// wrong with it; empty: nothing is.
func (f *finder) until(target, want, trouble string) {
	f.t.Helper()
	timeout := time.After(patience)
	for {
		known, ok := f.board.Known(target)
		var words []string
		for _, e := range known.Endpoints {
			words = append(words, fmt.Sprintf("%s:%d", e.Address, e.Port))
		}
		got, wrong := strings.Join(words, " "), f.board.Trouble(target)
		if !ok {
			got = "unknown"
		}
		if got == want && (trouble == "" && wrong == board.Trouble{} || trouble != "" && strings.Contains(wrong.Reason+": "+wrong.Message, trouble)) {
			return
		}
		select {
		case <-f.board.Woken():
		case <-timeout:
			f.t.Fatalf("%s is %q with %+v, want %q with %q", target, got, wrong, want, trouble)
		}
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// register registers an endpoint as services do.
func register(t *testing.T, c *clientv3.Client, target, key, address string) {
	t.Helper()
	m, err := endpoints.NewManager(c, target)
	ok(t, err)
	ok(t, m.AddEndpoint(t.Context(), target+"/"+key, endpoints.Endpoint{Addr: address, Metadata: map[string]any{"zone": "a"}}))
}

func remove(t *testing.T, c *clientv3.Client, target, key string) {
	t.Helper()
	m, err := endpoints.NewManager(c, target)
	ok(t, err)
	ok(t, m.DeleteEndpoint(t.Context(), target+"/"+key))
}

func TestBothFormatsAndWhatIsNone(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(testing.TB) *etcdtest.Server{"embedded": etcdtest.New, "debian": etcdtest.NewDebian} {
		t.Run(name, func(t *testing.T) { testFormats(t, make(t)) })
	}
}

func testFormats(t *testing.T, server *etcdtest.Server) {
	server.Start()
	c := server.Client()
	const a = "/services/api/v1"
	put := func(key, value string) {
		t.Helper()
		_, err := c.Put(t.Context(), key, value)
		ok(t, err)
	}
	register(t, c, a, "one", "10.0.0.1:8080")
	put(a+"/10.0.0.2:8080", `{"Op":0,"Addr":"10.0.0.2:8080","Metadata":null}`) // gRPC up to 1.29
	put("/services/api/v10/x", `{"Op":0,"Addr":"10.0.0.10:1"}`)                // of somebody else
	board := newBoard(t, nil, "/empty", a)
	f := find(t, server, board)
	f.until(a, "10.0.0.1:8080 10.0.0.2:8080", "")
	f.until("/empty", "", "NoEndpoints: nothing is registered there")

	register(t, c, a, "six", "[2001:db8::1]:80")
	register(t, c, a, "deep/er", "[::ffff:10.0.0.3]:80")
	register(t, c, a, "twice", "10.0.0.1:8080")
	f.until(a, "10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:80 2001:db8::1:80", "")
	bad := map[string]string{
		"{": "is not JSON", `{"Addr":"host:80"}`: `has the address "host:80", want IP:port`, `{"Addr":"10.0.0.9"}`: "want IP:port",
		`{"Addr":"10.0.0.9:0"}`: "want IP:port", `{}`: `has the address "", want IP:port`, `{"Op":1,"Addr":"10.0.0.9:1"}`: "has Op 1, want 0",
		`{"Addr":"0.0.0.0:1"}`: "which cannot be a server's", `{"Addr":"169.254.169.254:80"}`: "which cannot be a server's", `{"Addr":"[fe80::1%eth0]:80"}`: "want IP:port",
		`{"Addr":"` + strings.Repeat("1", 5000) + `"}`: "more than 4096", `["10.0.0.9:1"]`: "is not JSON", `{"Addr":"` + strings.Repeat("x", 100) + `"}`: "xxx...",
	}
	for value, why := range bad {
		put(a+"/six", value) // what was good is no longer
		f.until(a, "10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:80", `RecordsLeftOut: 1 of 5 records are left out: "/services/api/v1/six" `)
		f.until(a, "10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:80", why)
	}
	for i := range 4 {
		put(fmt.Sprintf("%s/z%d", a, i), "x")
	}
	f.until(a, "10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:80", "; and 2 more")
	_, err := c.Delete(t.Context(), a+"/", clientv3.WithPrefix())
	ok(t, err)
	f.until(a, "", "NoEndpoints") // it is what the services say, as etcd has its history
	f.stop()

	// Found anew, with what is none from the start.
	put(a+"/x", "x")
	register(t, c, a, "one", "10.0.0.1:8080")
	find(t, server, newBoard(t, nil, a)).until(a, "10.0.0.1:8080", "1 of 2 records")
}

// TestEtcdIsAway has etcd away at the start and later: what was found stays, also
// over a restart, and what changes meanwhile is seen when it is back, even where
// etcd has forgotten how it came about.
func TestEtcdIsAway(t *testing.T) {
	t.Parallel()
	server := etcdtest.New(t)
	store, err := bolt.Open("file:" + filepath.Join(t.TempDir(), "state.db"))
	ok(t, err)
	defer store.Close()
	board := newBoard(t, store, "/a", "/b")
	f := find(t, server, board)
	f.until("/a", "unknown", "EtcdAway: etcd has not answered since 20")
	f.until("/b", "unknown", ": connection refused")
	server.Start()
	c := server.Client()
	f.until("/a", "", "NoEndpoints")
	register(t, c, "/a", "1", "10.0.0.1:1")
	register(t, c, "/b", "1", "10.0.0.1:2")
	f.until("/a", "10.0.0.1:1", "")
	f.until("/b", "10.0.0.1:2", "")

	server.Kill()
	f.until("/a", "10.0.0.1:1", "EtcdAway")
	f.stop()
	board = newBoard(t, store, "/a", "/b")
	f = find(t, server, board)
	f.until("/a", "10.0.0.1:1", "EtcdAway")
	f.until("/b", "10.0.0.1:2", "EtcdAway")

	// While the source does not look, a target is emptied and etcd forgets how.
	server.Start()
	f.until("/a", "10.0.0.1:1", "")
	f.stop()
	remove(t, c, "/a", "1")
	register(t, c, "/b", "2", "10.0.0.2:2")
	res, err := c.Put(t.Context(), "/elsewhere", "")
	ok(t, err)
	_, err = c.Compact(t.Context(), res.Header.Revision, clientv3.WithCompactPhysical())
	ok(t, err)
	f = find(t, server, newBoard(t, store, "/a", "/b"))
	f.until("/a", "", "NoEndpoints")
	f.until("/b", "10.0.0.1:2 10.0.0.2:2", "")
}

// TestCompactionEndsAWatch has a watch that was cut off for so long that etcd has
// compacted what it missed.
func TestCompactionEndsAWatch(t *testing.T) {
	t.Parallel()
	server := etcdtest.New(t)
	server.Start()
	c := server.Client()
	register(t, c, "/a", "1", "10.0.0.1:1")
	f := find(t, server, newBoard(t, nil, "/a"))
	f.until("/a", "10.0.0.1:1", "")
	server.Kill()
	f.until("/a", "10.0.0.1:1", "EtcdAway")
	// It is changed at another address, where the source does not see it.
	elsewhere := server.Moved()
	elsewhere.Start()
	c = elsewhere.Client()
	remove(t, c, "/a", "1")
	register(t, c, "/a", "2", "10.0.0.2:1")
	res, err := c.Put(t.Context(), "/elsewhere", "")
	ok(t, err)
	_, err = c.Compact(t.Context(), res.Header.Revision, clientv3.WithCompactPhysical())
	ok(t, err)
	elsewhere.Kill()
	server.Start()
	f.until("/a", "10.0.0.2:1", "")
}

// TestEtcdLosesItsData has an etcd set up anew below a source, and below one that
// starts.
func TestEtcdLosesItsData(t *testing.T) {
	t.Parallel()
	server := etcdtest.New(t)
	server.Start()
	c := server.Client()
	store, err := bolt.Open("file:" + filepath.Join(t.TempDir(), "state.db"))
	ok(t, err)
	defer store.Close()
	for i := range 4 {
		register(t, c, "/a", fmt.Sprint(i), fmt.Sprintf("10.0.0.1:%d", i+1))
	}
	register(t, c, "/b", "1", "10.0.0.2:1")
	const all = "10.0.0.1:1 10.0.0.1:2 10.0.0.1:3 10.0.0.1:4"
	f := find(t, server, newBoard(t, store, "/a", "/b"))
	f.until("/a", all, "")
	f.until("/b", "10.0.0.2:1", "")
	server.Kill()
	server.Wipe()
	server.Start()
	f.until("/a", all, "EtcdLostData: etcd has lost its data or is another one: the 4 endpoints that were known before stay until half as many are registered; now there are 0")
	f.until("/b", "10.0.0.2:1", "EtcdLostData")
	register(t, c, "/a", "9", "10.0.0.1:9")
	f.until("/a", all+" 10.0.0.1:9", "there are 1")
	f.stop()
	f = find(t, server, newBoard(t, store, "/a", "/b"))
	f.until("/a", all+" 10.0.0.1:9", "there are 1")
	register(t, c, "/a", "1", "10.0.0.1:1")
	f.until("/a", "10.0.0.1:1 10.0.0.1:9", "")
	remove(t, c, "/a", "9") // and from then on it is believed again
	remove(t, c, "/a", "1")
	f.until("/a", "", "NoEndpoints")
	f.until("/b", "10.0.0.2:1", "EtcdLostData")
	// Whoever means it takes the target out of the documents.
	ok(t, f.board.Want([]string{"/a"}))
	ok(t, f.board.Want([]string{"/a", "/b"}))
	f.until("/b", "", "NoEndpoints")
}

// TestTargetsFollowTheBoard holds that what is no longer wanted is not followed.
func TestTargetsFollowTheBoard(t *testing.T) {
	server := etcdtest.New(t)
	server.Start()
	c := server.Client()
	register(t, c, "/a", "1", "10.0.0.1:1")
	register(t, c, "/b", "1", "10.0.0.1:2")
	f := find(t, server, newBoard(t, nil), func(c *etcdclient.Config) {
		c.Members = append([]string{"http://127.0.0.1:1"}, c.Members...) // of which one is away
	})
	ok(t, f.board.Want([]string{"/a"}))
	f.until("/a", "10.0.0.1:1", "")
	ok(t, f.board.Want([]string{"/b"}))
	f.until("/b", "10.0.0.1:2", "")
	f.until("/a", "unknown", "")
	register(t, c, "/a", "2", "10.0.0.2:1")
	register(t, c, "/b", "2", "10.0.0.2:2")
	f.until("/b", "10.0.0.1:2 10.0.0.2:2", "")
	f.until("/a", "unknown", "")
}

// TestTooMany has more records under a target than are taken.
func TestTooMany(t *testing.T) {
	server := etcdtest.New(t)
	server.Start()
	c := server.Client()
	register(t, c, "/a", "0", "10.0.0.1:1")
	f := find(t, server, newBoard(t, nil, "/a"))
	f.until("/a", "10.0.0.1:1", "")
	const many = 10_001
	for start := 0; start < many; start += 100 {
		var ops []clientv3.Op
		for i := start; i < min(start+100, many); i++ {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("/a/%06d", i), `{"Addr":"10.0.0.1:1"}`))
		}
		_, err := c.Txn(t.Context()).Then(ops...).Commit()
		ok(t, err)
	}
	f.until("/a", "10.0.0.1:1", "NotRead: there are more than 10000 records below it")
	f.stop()
	f = find(t, server, newBoard(t, nil, "/a"))
	f.until("/a", "unknown", "NotRead: there are more than 10000 records below it")
	_, err := c.Delete(t.Context(), "/a/0001", clientv3.WithPrefix())
	ok(t, err)
	f.until("/a", "10.0.0.1:1", "")
}

// TestNoEtcd has a daemon that knows no etcd.
func TestNoEtcd(t *testing.T) {
	board := newBoard(t, nil)
	f := find(t, etcdtest.New(t), board, func(c *etcdclient.Config) { c.Members = nil })
	ok(t, board.Want([]string{"/a"}))
	f.until("/a", "unknown", "EtcdAway: etcd has not answered since")
	if w := board.Trouble("/a").Message; !strings.HasSuffix(w, "the daemon runs without --etcd; start it with etcd's URLs") {
		t.Errorf("it says %q", w)
	}
}
