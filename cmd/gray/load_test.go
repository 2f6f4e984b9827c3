package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/policies/requests"
)

// churnBackend serves HTTP/1.1, HTTP/2 and gRPC, and says who it is in a header.
func churnBackend(t *testing.T, name string) string {
	t.Helper()
	say := metadata.Pairs("x-backend", name)
	rpc := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			_ = grpc.SetHeader(ctx, say)
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			_ = ss.SetHeader(say)
			return next(srv, ss)
		}))
	healthv1.RegisterHealthServer(rpc, health.NewServer())
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			rpc.ServeHTTP(w, r)
			return
		}
		w.Header().Set("x-backend", name)
		_, _ = io.WriteString(w, "ok")
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close(); rpc.Stop() })
	return s.Listener.Addr().String()
}

// load is clients that send requests all the time and check the answers.
type load struct {
	t      *testing.T
	c      *churn
	proxy  string
	cancel context.CancelFunc
	wait   sync.WaitGroup

	count  [4]atomic.Int64 // by kind
	absent atomic.Int64    // answers that no service has the host
	tick   chan struct{}   // a request was answered
	failed atomic.Bool
}

var loadKinds = [4]string{"HTTP/1.1", "HTTP/2", "unary gRPC", "streaming gRPC"}

func startLoad(t *testing.T, c *churn, proxy string) *load {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{t: t, c: c, proxy: proxy, cancel: cancel, tick: make(chan struct{}, 1)}
	t.Cleanup(l.stop)
	for i := range 8 {
		client := l.client(i % len(loadKinds))
		l.wait.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 5))
			for ctx.Err() == nil && !l.failed.Load() {
				l.one(ctx, rnd, i%len(loadKinds), client)
			}
		})
	}
	return l
}

func (l *load) stop() {
	l.cancel()
	l.wait.Wait()
}

// some returns after so many more requests.
func (l *load) some(n int64) {
	l.t.Helper()
	deadline := time.After(30 * time.Second)
	for until := l.total() + n; l.total() < until && !l.failed.Load(); {
		select {
		case <-l.tick:
		case <-deadline:
			l.t.Fatalf("only %s within 30 s", l)
		}
	}
	if l.failed.Load() {
		l.t.FailNow()
	}
}

func (l *load) total() (n int64) {
	for i := range l.count {
		n += l.count[i].Load()
	}
	return n
}

// String says how many requests there were.
func (l *load) String() string {
	var words []string
	for i, kind := range loadKinds {
		words = append(words, fmt.Sprintf("%d %s", l.count[i].Load(), kind))
	}
	return fmt.Sprintf("%s requests; %d of them found no service", strings.Join(words, ", "), l.absent.Load())
}

// ask sends a request of one kind and returns who answered; empty where no
// service has the host.
type ask func(ctx context.Context, host, routing string) (cluster string, err error)

func (l *load) client(kind int) ask {
	if kind <= 1 {
		transport := &http.Transport{Protocols: new(http.Protocols)}
		transport.Protocols.SetHTTP1(kind == 0)
		transport.Protocols.SetUnencryptedHTTP2(kind == 1)
		l.t.Cleanup(transport.CloseIdleConnections)
		return func(ctx context.Context, host, routing string) (string, error) {
			return l.get(ctx, transport, host, routing)
		}
	}
	conns := map[string]*grpc.ClientConn{}
	return func(ctx context.Context, host, routing string) (string, error) {
		if conns[host] == nil {
			conn, err := grpc.NewClient("passthrough:///"+l.proxy, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(host))
			if err != nil {
				return "", err
			}
			l.t.Cleanup(func() { _ = conn.Close() })
			conns[host] = conn
		}
		ctx = metadata.AppendToOutgoingContext(ctx, "x-ucloud-routeby", routing)
		return call(ctx, healthv1.NewHealthClient(conns[host]), kind == 3)
	}
}

func (l *load) get(ctx context.Context, transport *http.Transport, host, routing string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.proxy+"/x", nil)
	if err != nil {
		return "", err
	}
	req.Host = host
	req.Header.Set("x-ucloud-routeby", routing)
	res, err := transport.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return "", err
	case res.StatusCode == http.StatusNotFound && strings.HasPrefix(string(body), "gray: no service"):
		return "", nil
	case res.StatusCode != http.StatusOK:
		return "", fmt.Errorf("status %d: %s", res.StatusCode, body)
	}
	return res.Header.Get("x-backend"), nil
}

// call makes a call, or opens a stream, takes its first message and keeps it for a
// moment.
func call(ctx context.Context, client healthv1.HealthClient, stream bool) (string, error) {
	var head metadata.MD
	var err error
	if !stream {
		_, err = client.Check(ctx, &healthv1.HealthCheckRequest{}, grpc.Header(&head))
	} else {
		head, err = watch(ctx, client)
	}
	if status.Code(err) == codes.Unimplemented { // as gRPC takes a 404
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return strings.Join(head.Get("x-backend"), ","), nil
}

// watch opens a stream and keeps it for a moment after its one message.
func watch(ctx context.Context, client healthv1.HealthClient) (metadata.MD, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := client.Watch(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		return nil, err
	}
	head, err := s.Header()
	if err != nil {
		return nil, err
	}
	if _, err := s.Recv(); err != nil {
		return nil, err
	}
	defer time.AfterFunc(150*time.Millisecond, cancel).Stop()
	if _, err := s.Recv(); ctx.Err() == nil {
		return nil, fmt.Errorf("the stream broke off: %w", err)
	}
	return head, nil
}

// one sends a request and checks who answers.
func (l *load) one(ctx context.Context, rnd *rand.Rand, kind int, send ask) {
	service := churnServices[rnd.IntN(2)]
	if kind >= 2 {
		service = churnServices[2+rnd.IntN(2)]
	}
	routing := fmt.Sprintf("region=x; account_id=%d", rnd.IntN(churnAccounts))
	from := l.c.settled()
	cluster, err := send(ctx, service+".internal", routing)
	if ctx.Err() != nil {
		return
	}
	l.count[kind].Add(1)
	if cluster == "" {
		l.absent.Add(1)
	}
	select {
	case l.tick <- struct{}{}:
	default:
	}
	r := requests.Request{Host: service + ".internal", Headers: map[string][]string{"x-ucloud-routeby": {routing}}}
	switch {
	case err != nil:
		l.fail(fmt.Errorf("%s to %s with %s: %w", loadKinds[kind], service, routing, err))
	case !l.c.allows(from, r, cluster):
		l.fail(fmt.Errorf("%s to %s with %s was answered by %q, which no commit from %d to %d says", loadKinds[kind], service, routing, cluster, from, len(l.c.history())-1))
	}
}

func (l *load) fail(err error) {
	if !errors.Is(err, context.Canceled) {
		l.failed.Store(true)
		l.t.Error(err)
	}
}
