package main_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/gray-release/gray/client"
	"github.com/gray-release/gray/tools/etcdtest"
)

// patience bounds every wait of these tests.
const patience = 30 * time.Second

// TestMain gives the environment a proxy that answers nobody, and makes the test
// binary an etcd where it is asked to.
func TestMain(m *testing.M) {
	etcdtest.Main()
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		_ = os.Setenv(name, "http://127.0.0.1:1")
	}
	os.Exit(m.Run())
}

// eventually waits until f says that all is well.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited %s in vain: %v", patience, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// answer is who answered, which host was asked for and what routing header came.
type answer struct{ By, Host, RouteBy string }

// backend serves HTTP/1.1, HTTP/2 and gRPC on one port and says in each what it
// was asked.
type backend struct {
	healthpb.UnimplementedHealthServer
	name    string
	address string
	server  *httptest.Server
}

func startBackend(t testing.TB, name string) *backend {
	t.Helper()
	b := &backend{name: name}
	rpc := grpc.NewServer()
	healthpb.RegisterHealthServer(rpc, b)
	b.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			rpc.ServeHTTP(w, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("by", b.name)
		w.Header().Set("host", r.Host)
		w.Header().Set("routeby", strings.Join(r.Header.Values(client.Header), "|"))
		_, _ = w.Write(body)
	}))
	b.server.Config.Protocols = new(http.Protocols)
	b.server.Config.Protocols.SetHTTP1(true)
	b.server.Config.Protocols.SetUnencryptedHTTP2(true)
	b.server.Start()
	t.Cleanup(b.server.Close)
	b.address = b.server.Listener.Addr().String()
	return b
}

func (b *backend) headers(ctx context.Context) metadata.MD {
	in, _ := metadata.FromIncomingContext(ctx)
	return metadata.Pairs("by", b.name, "host", strings.Join(in.Get(":authority"), "|"), "routeby", strings.Join(in.Get(client.Header), "|"))
}

// Check answers a unary call.
func (b *backend) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	return &healthpb.HealthCheckResponse{}, grpc.SetHeader(ctx, b.headers(ctx))
}

// Watch answers a stream.
func (b *backend) Watch(_ *healthpb.HealthCheckRequest, stream healthpb.Health_WatchServer) error {
	if err := stream.SetHeader(b.headers(stream.Context())); err != nil {
		return err
	}
	return stream.Send(&healthpb.HealthCheckResponse{})
}

// asker makes one request in each of the three forms.
type asker struct {
	http *http.Client
	conn *grpc.ClientConn
	url  string
}

// newAsker asks service over HTTP and rpc over gRPC.
func newAsker(t *testing.T, cfg client.Config, service, rpc string) *asker {
	t.Helper()
	transport, err := client.NewTransport(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = transport.Close() })
	conn, err := grpc.NewClient("gray:///"+rpc, append(client.DialOptions(cfg), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &asker{&http.Client{Transport: transport}, conn, "http://" + service + "/"}
}

// forms are the ways to ask, by name.
func (a *asker) forms() map[string]func(context.Context) (answer, error) {
	return map[string]func(context.Context) (answer, error){"http": a.get, "unary": a.unary, "stream": a.stream}
}

func (a *asker) get(ctx context.Context) (answer, error) { return a.send(ctx, http.MethodGet, nil) }

func (a *asker) send(ctx context.Context, method string, body io.Reader) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, a.url, body)
	if err != nil {
		return answer{}, err
	}
	if have, ok := ctx.Value(extraKey{}).(string); ok {
		req.Header.Set(client.Header, have)
	}
	res, err := a.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusOK {
		return answer{}, fmt.Errorf("%s: %s", res.Status, text)
	}
	return answer{res.Header.Get("by"), res.Header.Get("host"), res.Header.Get("routeby")}, nil
}

// extraKey is for a header of the caller's own.
type extraKey struct{}

func withExtra(ctx context.Context) context.Context {
	if have, ok := ctx.Value(extraKey{}).(string); ok {
		return metadata.AppendToOutgoingContext(ctx, client.Header, have)
	}
	return ctx
}

func (a *asker) unary(ctx context.Context) (answer, error) {
	ctx, cancel := context.WithTimeout(withExtra(ctx), patience)
	defer cancel()
	var md metadata.MD
	_, err := healthpb.NewHealthClient(a.conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.Header(&md))
	return answerOf(md), err
}

func (a *asker) stream(ctx context.Context) (answer, error) {
	ctx, cancel := context.WithTimeout(withExtra(ctx), patience)
	defer cancel()
	stream, err := healthpb.NewHealthClient(a.conn).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return answer{}, err
	}
	if _, err := stream.Recv(); err != nil {
		return answer{}, err
	}
	md, err := stream.Header()
	return answerOf(md), err
}

func answerOf(md metadata.MD) answer {
	return answer{strings.Join(md.Get("by"), "|"), strings.Join(md.Get("host"), "|"), strings.Join(md.Get("routeby"), "|")}
}

// freeAddress is a loopback address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
