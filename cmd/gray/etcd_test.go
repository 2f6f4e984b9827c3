package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/tools/etcdtest"
)

// etcdLab is a laboratory whose service looked.internal finds its endpoints in etcd.
type etcdLab struct {
	*lab
	server   *etcdtest.Server
	client   *clientv3.Client
	asker    *http.Client
	backends map[string]string // address by name, which is what it answers
}

func newEtcdLab(t *testing.T, server *etcdtest.Server) *etcdLab {
	l := &etcdLab{lab: newLab(t), server: server, backends: map[string]string{}}
	for _, name := range []string{"e1", "e2", "own"} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, name) }))
		t.Cleanup(s.Close)
		l.backends[name] = s.Listener.Addr().String()
	}
	tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: l.Address("15001")})}
	t.Cleanup(tr.CloseIdleConnections)
	l.asker = &http.Client{Transport: tr, Timeout: 5 * time.Second}
	l.service("looked", "etcd: {target: /services/looked/v1}", "etcd: {target: /services/looked/v2}")
	return l
}

// service commits a service with versions that run as the fields say.
func (l *etcdLab) service(name string, versions ...string) {
	l.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "kind: Service\nmetadata: {name: %s}\nspec:\n  hosts: [%s.internal]\n  default: v1\n  retries: 1\n  versions:\n", name, name)
	for i, v := range versions {
		fmt.Fprintf(&b, "  - {name: v%d, %s}\n", i+1, v)
	}
	l.ok(os.WriteFile(filepath.Join(l.Repo, "services", name+".yaml"), []byte(b.String()), 0o644))
}

func (l *etcdLab) register(target, name string) {
	l.t.Helper()
	l.change(target, func(m endpoints.Manager) error {
		return m.AddEndpoint(l.t.Context(), target+"/"+name, endpoints.Endpoint{Addr: l.backends[name]})
	})
}

func (l *etcdLab) remove(target, name string) {
	l.t.Helper()
	l.change(target, func(m endpoints.Manager) error { return m.DeleteEndpoint(l.t.Context(), target+"/"+name) })
}

// change changes what is registered; an etcd that was just started may break off.
func (l *etcdLab) change(target string, f func(endpoints.Manager) error) {
	l.t.Helper()
	m, err := endpoints.NewManager(l.client, target)
	l.ok(err)
	for end := time.Now().Add(10 * time.Second); ; {
		if err = f(m); status.Code(err) != codes.Unavailable || time.Now().After(end) {
			break
		}
	}
	l.ok(err)
}

// ask sends one request through the Envoy.
func (l *etcdLab) ask(host string) (string, error) {
	res, err := l.asker.Get("http://" + host + "/")
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", res.StatusCode, b)
	}
	return string(b), err
}

// answered waits until a host is answered by exactly these.
func (l *etcdLab) answered(host string, want ...string) {
	l.t.Helper()
	var got []string
	var last error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		seen := map[string]bool{}
		last = nil
		for range 10 {
			body, err := l.ask(host)
			if err != nil {
				last = err
				break
			}
			seen[body] = true
		}
		got = got[:0]
		for _, name := range []string{"e1", "e2", "own"} {
			if seen[name] {
				got = append(got, name)
			}
		}
		if last == nil && slices.Equal(got, want) {
			return
		}
	}
	log, _ := os.ReadFile(l.log)
	l.t.Fatalf("%s is answered by %q, %v, want %q; log:\n%s", host, got, last, want, log)
}

// degraded waits until a service shows, or does not show, that something is wrong.
func (l *etcdLab) degraded(service, reason string) reconciler.Condition {
	l.t.Helper()
	var found reconciler.Condition
	l.until(service+" is degraded by "+reason, func(s *admin.Status) bool {
		for _, d := range s.Documents {
			if d.Name != service {
				continue
			}
			i := slices.IndexFunc(d.Conditions, func(c reconciler.Condition) bool { return c.Type == "Degraded" })
			if i >= 0 {
				found = d.Conditions[i]
			}
			return i < 0 && reason == "" || i >= 0 && found.Reason == reason
		}
		return false
	})
	return found
}

// load sends requests without a pause until the function is called, which says how
// many there were and fails the test where one was not answered.
func (l *etcdLab) load(host string) func() {
	ctx, cancel := context.WithCancel(l.t.Context())
	var done sync.WaitGroup
	var sent, failed atomic.Int32
	var first atomic.Value
	done.Go(func() {
		for ctx.Err() == nil {
			sent.Add(1)
			if _, err := l.ask(host); err != nil {
				failed.Add(1)
				first.CompareAndSwap(nil, err.Error())
			}
		}
	})
	return func() {
		l.t.Helper()
		cancel()
		done.Wait()
		l.t.Logf("%s: %d requests, %d failed", host, sent.Load(), failed.Load())
		if failed.Load() > 0 || sent.Load() == 0 {
			l.t.Errorf("%s: %d of %d requests failed, first: %v", host, failed.Load(), sent.Load(), first.Load())
		}
	}
}

// nothingChanges holds that a dry run of what is in force shows nothing.
func (l *etcdLab) nothingChanges() {
	l.t.Helper()
	d, err := (&diffFlags{admin: l.Address("18001")}).compare(l.t.Context(), l.Repo)
	l.ok(err)
	if len(d.Changes) != 0 {
		l.t.Errorf("gray diff shows\n%s", d.Text)
	}
}

// TestEndpointsFromEtcd feeds endpoints that etcd's own package registers into a
// real Envoy.
func TestEndpointsFromEtcd(t *testing.T) {
	t.Parallel()
	for name, server := range map[string]func(testing.TB) *etcdtest.Server{"embedded": etcdtest.New, "debian": etcdtest.NewDebian} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			envoy := testEnvoy(t)
			l := newEtcdLab(t, server(t))
			stop, err := l.StartEnvoy(t.Context(), envoy)
			l.ok(err)
			t.Cleanup(func() { _ = stop() })
			l.endpointsFromEtcd()
			l.etcdGoes()
			l.documentsChange()
		})
	}
}

const lookedV1, lookedV2 = "/services/looked/v1", "/services/looked/v2"

// endpointsFromEtcd has endpoints come and go, and records that are none.
func (l *etcdLab) endpointsFromEtcd() {
	l.ok(l.Commit(l.t.Context(), "a service whose endpoints are in etcd"))
	l.startDaemon("--etcd", l.server.URL)
	// etcd is away at the start: what is in no proxy yet waits for it.
	c := l.degraded("looked", "EtcdAway")
	if !strings.Contains(c.Message, "services/looked.yaml:8: version v1, etcd "+lookedV1+": etcd has not answered since 20") {
		l.t.Errorf("an etcd that is away shows as %+v", c)
	}
	l.until("the rest is live", func(s *admin.Status) bool {
		for _, d := range s.Documents {
			if c := d.Conditions[0]; (d.Name == "looked") != (c.Reason == "Refused" && strings.Contains(c.Message, "services/looked.yaml:8: xds Endpoints looked/v1: nobody knows yet")) ||
				d.Name != "looked" && c.Status != "True" {
				return false
			}
		}
		return len(s.Documents) > 1
	})
	l.server.Start()
	l.client = l.server.Client()
	l.degraded("looked", "NoEndpoints")
	l.live()
	l.register(lookedV1, "e1")
	l.register(lookedV2, "e2")
	l.degraded("looked", "")
	l.answered("looked.internal", "e1")
	began := time.Now()
	l.register(lookedV1, "e2")
	l.answered("looked.internal", "e1", "e2")
	l.t.Logf("an endpoint is asked %s after it was registered", time.Since(began).Round(time.Millisecond))
	_, err := l.client.Put(l.t.Context(), lookedV1+"/bad", `{"Op":0,"Addr":"e3.internal:80"}`)
	l.ok(err)
	c = l.degraded("looked", "RecordsLeftOut")
	if want := `services/looked.yaml:8: version v1, etcd /services/looked/v1: 1 of 3 records are left out: "/services/looked/v1/bad" has the address "e3.internal:80", want IP:port`; c.Message != want {
		l.t.Errorf("a bad record shows as\n%s, want\n%s", c.Message, want)
	}
	_, err = l.client.Delete(l.t.Context(), lookedV1+"/bad")
	l.ok(err)
	l.degraded("looked", "")
	l.nothingChanges()
}

// etcdGoes kills etcd, and the daemon too, under load.
func (l *etcdLab) etcdGoes() {
	done := l.load("looked.internal")
	before := l.updates()
	l.server.Kill()
	l.degraded("looked", "EtcdAway")
	l.answered("looked.internal", "e1", "e2")
	l.kill()
	l.startDaemon("--etcd", l.server.URL)
	l.degraded("looked", "EtcdAway")
	l.live()
	l.nothingChanges()
	l.answered("looked.internal", "e1", "e2")
	if text, _ := l.applied(0); text != "" {
		l.t.Errorf("a restarted daemon applied\n%s", text)
	}
	if n := l.updates() - before; n != 0 {
		l.t.Errorf("the Envoy got %d updates while etcd was away and the daemon started again, want none", n)
	}
	l.server.Start()
	l.degraded("looked", "")
	l.remove(lookedV1, "e1")
	l.answered("looked.internal", "e2")
	done()
}

// documentsChange has a service move its endpoints into etcd, and out of it, under
// load.
func (l *etcdLab) documentsChange() {
	listed := fmt.Sprintf("endpoints: [{address: 127.0.0.1, port: %s}]", l.backends["own"][strings.LastIndexByte(l.backends["own"], ':')+1:])
	l.service("own", listed)
	l.ok(l.Commit(l.t.Context(), "listed"))
	l.live()
	l.answered("own.internal", "own")
	done := l.load("own.internal")
	l.register("/services/own", "e1")
	l.service("own", "etcd: {target: /services/own}")
	d, err := (&diffFlags{admin: l.Address("18001")}).compare(l.t.Context(), l.Repo)
	l.ok(err)
	if want := "+ etcd Service own/v1: /services/own  # services/own.yaml:8\n~ xds Endpoints own/v1: listed -> etcd /services/own  # services/own.yaml:8\n"; d.Text != want {
		l.t.Errorf("gray diff shows\n%s, want\n%s", d.Text, want)
	}
	l.ok(l.Commit(l.t.Context(), "from etcd"))
	l.answered("own.internal", "e1")
	l.service("own", listed)
	l.ok(l.Commit(l.t.Context(), "listed again"))
	l.answered("own.internal", "own")

	// Checks come and go.
	file := filepath.Join(l.Repo, "services", "own.yaml")
	b, err := os.ReadFile(file)
	l.ok(err)
	for _, check := range []string{"  healthCheck: {tcp: {}, interval: 100ms}\n", "  healthCheck: {http: {path: /}, interval: 100ms}\n", ""} {
		l.ok(os.WriteFile(file, append(slices.Clip(b), check...), 0o644))
		l.ok(l.Commit(l.t.Context(), "checked: "+check))
		l.live()
		l.answered("own.internal", "own")
	}
	done()
}

// TestOnceLooksIntoEtcd holds that --once waits for what etcd has.
func TestOnceLooksIntoEtcd(t *testing.T) {
	t.Parallel()
	l := newEtcdLab(t, etcdtest.New(t))
	l.ok(l.Commit(t.Context(), "a service whose endpoints are in etcd"))
	code, said := l.once("--etcd", l.server.URL, "--once-timeout", "2s")
	if want := "services/looked.yaml:8: xds Endpoints looked/v1: nobody knows yet what is registered under etcd " + lookedV1; code != exitNo || !strings.Contains(said, want) {
		t.Errorf("with etcd away it ends with %d and says\n%s, want %s in it", code, said, want)
	}
	l.server.Start()
	l.client = l.server.Client()
	l.register(lookedV1, "e1")
	if code, said := l.once("--etcd", l.server.URL); code != exitFine || said != "" {
		t.Errorf("it ends with %d and says\n%s", code, said)
	}
}
