package main_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/client"
)

// TestDirect dials IP:port, and holds what becomes of the account.
func TestDirect(t *testing.T) {
	b := startBackend(t, "b")
	a := newAsker(t, client.Config{}, b.address, b.address)
	for _, c := range []struct{ name, account, extra, want string }{
		{"none", "", "", ""},
		{"plain", "50002001", "", "account_id=50002001"},
		{"beside other keys", "50002001", "region=cn-bj2", "account_id=50002001; region=cn-bj2"},
		{"before another account", "1", "account_id=2", "account_id=1; account_id=2"},
		{"header of the caller alone", "", "account_id=2", "account_id=2"},
		{"separators", "a b;c,d=e", "", `account_id="a b;c,d=e"`},
	} {
		ctx := client.WithAccount(t.Context(), c.account)
		if c.extra != "" {
			ctx = context.WithValue(ctx, extraKey{}, c.extra)
		}
		if got := client.AccountFrom(ctx); got != c.account {
			t.Errorf("%s: the context holds %q", c.name, got)
		}
		for form, ask := range a.forms() {
			got, err := ask(ctx)
			if want := (answer{"b", b.address, c.want}); err != nil || got != want {
				t.Errorf("%s by %s: got %+v, %v, want %+v", c.name, form, got, err, want)
			}
		}
	}
}

// TestNoEnvironmentProxy holds that the proxy that TestMain puts into the
// environment is not used. It would not be for a loopback address either; 0.0.0.0
// leads to this machine as well.
func TestNoEnvironmentProxy(t *testing.T) {
	b := startBackend(t, "b")
	_, port, _ := net.SplitHostPort(b.address)
	address := "0.0.0.0:" + port
	for form, ask := range newAsker(t, client.Config{}, address, address).forms() {
		if got, err := ask(t.Context()); err != nil || got.By != "b" {
			t.Errorf("by %s: answered by %+v, %v", form, got, err)
		}
	}
}

// TestBadAccounts holds that an account that the header cannot carry is an error,
// and never a request of somebody else.
func TestBadAccounts(t *testing.T) {
	b := startBackend(t, "b")
	a := newAsker(t, client.Config{}, b.address, b.address)
	for account, want := range map[string]string{
		`say "hi"`:               "without double quotes",
		"tab\there":              "printable ASCII",
		"line\r\nx-evil: 1":      "printable ASCII",
		"kont\u00f3":             "printable ASCII",
		" 1":                     "begins or ends with a space",
		strings.Repeat("1", 257): "want at most 256",
	} {
		for form, ask := range a.forms() {
			_, err := ask(client.WithAccount(t.Context(), account))
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("account %q by %s: got error %v, want one that says %q", account, form, err, want)
			}
			if form != "http" && status.Code(err) != codes.InvalidArgument {
				t.Errorf("account %q by %s: got code %s", account, form, status.Code(err))
			}
		}
	}
}

// TestBadServices holds the errors of names and configurations that lead nowhere.
func TestBadServices(t *testing.T) {
	for _, c := range []struct {
		cfg     client.Config
		service string
		want    string
	}{
		{client.Config{}, "vpc-api.internal", "cannot be looked up"},
		{client.Config{}, "", "is not a service"},
		{client.Config{}, "a..b", "is not a service"},
		{client.Config{Proxy: "127.0.0.1"}, "vpc-api.internal", "is not host:port"},
		{client.Config{Proxy: ":15001"}, "vpc-api.internal", "is not host:port"},
		{client.Config{Proxy: "127.0.0.1:port"}, "vpc-api.internal", "is not host:port"},
	} {
		conn, err := grpc.NewClient("gray:///"+c.service, append(client.DialOptions(c.cfg), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
		if err != nil {
			t.Fatal(err)
		}
		_, err = (&asker{conn: conn}).unary(t.Context())
		_ = conn.Close()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("gRPC to %q by %+v: got %v, want %q", c.service, c.cfg, err, c.want)
		}
		transport, err := client.NewTransport(c.cfg)
		if err == nil {
			var req *http.Request
			if req, err = http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+c.service+"/", http.NoBody); err == nil {
				_, err = transport.RoundTrip(req)
			}
			_ = transport.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("HTTP to %q by %+v: got %v, want %q", c.service, c.cfg, err, c.want)
		}
	}
	for _, cfg := range []client.Config{{Proxy: "127.0.0.1:1"}, {Naming: silent{}}} {
		transport, err := client.NewTransport(cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, err = (&http.Client{Transport: transport}).Get("https://vpc-api.internal/")
		if err == nil || !strings.Contains(err.Error(), "by http only") {
			t.Errorf("https by %+v: got %v", cfg, err)
		}
		_ = transport.Close()
	}
}

// silent is a naming that never says anything.
type silent struct{}

func (silent) Watch(ctx context.Context, _ string, _ func([]string, error)) { <-ctx.Done() }

// TestClosed holds that a request that waits for a name ends with its transport,
// and with its own context.
func TestClosed(t *testing.T) {
	transport, err := client.NewTransport(client.Config{Naming: silent{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://vpc-api.internal/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := transport.RoundTrip(req); err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("a cancelled request: got %v", err)
	}
	done := make(chan error)
	go func() {
		_, err := transport.RoundTrip(req.Clone(t.Context()))
		done <- err
	}()
	_ = transport.Close()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("a request of a closed transport: got %v", err)
	}
}
