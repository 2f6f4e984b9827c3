package main_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/client"
	"github.com/gray-release/gray/client/etcd"
	"github.com/gray-release/gray/tools/etcdtest"
)

const (
	prefix = "/services/"
	name   = "vpc-api.internal"
)

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func manager(t *testing.T, c *clientv3.Client) endpoints.Manager {
	t.Helper()
	m, err := endpoints.NewManager(c, prefix+name)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// answeredBy waits until each form of request is answered by exactly these.
func answeredBy(t *testing.T, a *asker, want ...string) {
	t.Helper()
	for form, ask := range a.forms() {
		eventually(t, func() error {
			seen := map[string]int{}
			for range 4 * len(want) {
				got, err := ask(client.WithAccount(t.Context(), "7"))
				if err != nil {
					return fmt.Errorf("%s: %w", form, err)
				}
				if got.RouteBy != "account_id=7" {
					t.Fatalf("%s: the account came as %q", form, got.RouteBy)
				}
				seen[got.By]++
			}
			for _, w := range want {
				if seen[w] == 0 {
					return fmt.Errorf("%s: answered by %v, want all of %v", form, seen, want)
				}
			}
			if len(seen) != len(want) {
				return fmt.Errorf("%s: answered by %v, want only %v", form, seen, want)
			}
			return nil
		})
	}
}

// TestEtcd finds endpoints that are registered by etcd's own naming package, and
// follows them.
func TestEtcd(t *testing.T) {
	server := etcdtest.New(t)
	server.Start()
	etcdClient := server.Client()
	m := manager(t, etcdClient)
	b1, b2 := startBackend(t, "b1"), startBackend(t, "b2")
	ok(t, m.AddEndpoint(t.Context(), prefix+name+"/1", endpoints.Endpoint{Addr: b1.address}))
	a := newAsker(t, client.Config{Naming: etcd.New(etcdClient, prefix)}, name, name)
	answeredBy(t, a, "b1")
	got, err := a.get(t.Context())
	if err != nil || got.Host != name {
		t.Errorf("the host is %q, %v, want %q", got.Host, err, name)
	}
	// Under the prefix of another name, and no address.
	ok(t, m.AddEndpoint(t.Context(), prefix+name+"/junk", endpoints.Endpoint{Addr: "nonsense"}))
	_, err = etcdClient.Put(t.Context(), prefix+name+".cn/1", `{"Op":0,"Addr":"127.0.0.1:1"}`)
	ok(t, err)
	_, err = etcdClient.Put(t.Context(), prefix+name+"/broken", "{")
	ok(t, err)
	ok(t, m.AddEndpoint(t.Context(), prefix+name+"/2", endpoints.Endpoint{Addr: b2.address}))
	answeredBy(t, a, "b1", "b2")
	ok(t, m.DeleteEndpoint(t.Context(), prefix+name+"/1"))
	answeredBy(t, a, "b2")

	// An endpoint that nobody serves costs no HTTP request, with a body or without.
	ok(t, m.AddEndpoint(t.Context(), prefix+name+"/3", endpoints.Endpoint{Addr: freeAddress(t)}))
	dead := &counter{inner: etcd.New(etcdClient, prefix), want: 2, reached: make(chan struct{})}
	d := newAsker(t, client.Config{Naming: dead}, name, name)
	_, err = d.get(t.Context())
	ok(t, err)
	<-dead.reached
	for i := range 6 {
		if got, err := d.send(t.Context(), http.MethodPost, strings.NewReader("x")); err != nil || got.By != "b2" {
			t.Fatalf("request %d beside a dead endpoint: got %+v, %v", i, got, err)
		}
	}
	// A body that cannot be had again is not sent twice.
	failed := 0
	for range 6 {
		if _, err := d.send(t.Context(), http.MethodPost, io.MultiReader(strings.NewReader("x"))); err != nil {
			failed++
		}
	}
	if failed == 0 || failed == 6 {
		t.Errorf("%d of 6 requests with a body that cannot be had again failed, want those that met the dead endpoint", failed)
	}

	for _, k := range []string{"/2", "/3", "/junk"} {
		ok(t, m.DeleteEndpoint(t.Context(), prefix+name+k))
	}
	for form, ask := range a.forms() {
		eventually(t, func() error {
			_, err := ask(t.Context())
			if err == nil || form != "http" && status.Code(err) != codes.Unavailable {
				return fmt.Errorf("%s without endpoints: got error %w", form, err)
			}
			return nil
		})
	}
	for form, ask := range newAsker(t, client.Config{Naming: etcd.New(etcdClient, prefix)}, "nobody.internal", "nobody.internal").forms() {
		if _, err := ask(t.Context()); err == nil || !strings.Contains(err.Error(), "no endpoint of nobody.internal") {
			t.Errorf("%s of a name without endpoints: got error %v", form, err)
		}
	}
}

// counter says when a naming has told of so many addresses.
type counter struct {
	inner   client.Naming
	want    int
	reached chan struct{}
}

func (c *counter) Watch(ctx context.Context, name string, update func([]string, error)) {
	c.inner.Watch(ctx, name, func(addresses []string, err error) {
		update(addresses, err)
		if len(addresses) == c.want {
			close(c.reached)
		}
	})
}

// again repeats a call that an etcd which has just been started may break off.
func again(t *testing.T, call func() error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := call()
		if status.Code(err) != codes.Unavailable {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// TestEtcdAway holds that etcd may be away at the start and later: what is known
// stays, and what changes meanwhile is seen when it is back, even where etcd has
// forgotten how it came about.
func TestEtcdAway(t *testing.T) {
	server := etcdtest.New(t)
	c := server.Client()
	a := newAsker(t, client.Config{Naming: etcd.New(c, prefix)}, name, name)
	b1, b2 := startBackend(t, "b1"), startBackend(t, "b2")
	for form, ask := range a.forms() {
		_, err := ask(t.Context())
		if err == nil || !strings.Contains(err.Error(), "cannot look up "+name+" in etcd") {
			t.Errorf("%s while etcd is away: got %v", form, err)
		}
		if form != "http" && status.Code(err) != codes.Unavailable {
			t.Errorf("%s while etcd is away: got code %s", form, status.Code(err))
		}
	}
	server.Start()
	ok(t, again(t, func() error {
		return manager(t, c).AddEndpoint(t.Context(), prefix+name+"/1", endpoints.Endpoint{Addr: b1.address})
	}))
	answeredBy(t, a, "b1")

	server.Kill()
	answeredBy(t, a, "b1")

	// Somebody else sees another etcd with the same data.
	elsewhere := server.Moved()
	elsewhere.Start()
	other := elsewhere.Client()
	m := manager(t, other)
	ok(t, again(t, func() error { return m.DeleteEndpoint(t.Context(), prefix+name+"/1") }))
	ok(t, again(t, func() error {
		return m.AddEndpoint(t.Context(), prefix+name+"/2", endpoints.Endpoint{Addr: b2.address})
	}))
	res, err := other.Put(t.Context(), "/elsewhere", "")
	ok(t, err)
	_, err = other.Compact(t.Context(), res.Header.Revision, clientv3.WithCompactPhysical())
	ok(t, err)
	elsewhere.Kill()
	server.Start()
	answeredBy(t, a, "b2")
}

// TestNamesAreBounded holds that a transport follows a bounded number of names,
// and looks one up again that gave way.
func TestNamesAreBounded(t *testing.T) {
	b := startBackend(t, "b")
	running := &fixed{address: b.address, live: map[string]int{}}
	transport, err := client.NewTransport(client.Config{Naming: running})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(name string) {
		t.Helper()
		res, err := (&http.Client{Transport: transport}).Get("http://" + name + "/")
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
	}
	for i := range 1030 {
		ask(fmt.Sprintf("n%d.internal", i))
	}
	eventually(t, func() error {
		if n := running.count(); n != 1024 {
			return fmt.Errorf("%d names are followed", n)
		}
		return nil
	})
	ask("n0.internal")
	_ = transport.Close()
	eventually(t, func() error {
		if n := running.count(); n != 0 {
			return fmt.Errorf("%d names are still followed", n)
		}
		return nil
	})
}

// fixed is a naming that knows one address for every name.
type fixed struct {
	address string
	mu      sync.Mutex
	live    map[string]int
}

func (f *fixed) Watch(ctx context.Context, name string, update func([]string, error)) {
	f.add(name, 1)
	defer f.add(name, -1)
	update([]string{f.address}, nil)
	<-ctx.Done()
}

func (f *fixed) add(name string, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.live[name] += n; f.live[name] == 0 {
		delete(f.live, name)
	}
}

func (f *fixed) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.live)
}
