package xds

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/tools/testnet"
)

// BenchmarkEnvoyAccounts sends requests of listed accounts through real Envoys: one
// that gray configures, with lists of several lengths, and others with other ways of
// saying the same. They take turns, so that what else the machine does hits all
// alike. Each reports requests a second and the 99th percentile of their time.
func BenchmarkEnvoyAccounts(b *testing.B) {
	var ways []*way
	for _, n := range []int{0, 100, 10_000, 100_000} {
		ways = append(ways, grayWay(b, n))
	}
	for _, n := range []int{100, 1000, 10_000} {
		ways = append(ways, staticWay(b, "regex routes", n, regexRoutes(n)))
	}
	for _, n := range []int{100, 10_000, 100_000} {
		ways = append(ways, staticWay(b, "exact_match_map", n, matchMap(n)))
	}
	const rounds, each = 7, 700 * time.Millisecond
	for round := range rounds + 1 {
		for _, w := range ways {
			rate, p99 := w.load(b, each)
			if round > 0 { // the first one warms up
				w.rates, w.p99s = append(w.rates, rate), append(w.p99s, p99)
			}
		}
	}
	for _, w := range ways {
		b.Run(fmt.Sprintf("%s/accounts=%d", w.name, w.accounts), func(b *testing.B) {
			for b.Loop() {
			}
			slices.Sort(w.rates)
			slices.Sort(w.p99s)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(w.rates[len(w.rates)/2], "req/s")
			b.ReportMetric(float64(w.p99s[len(w.p99s)/2].Microseconds()), "p99-µs")
			b.ReportMetric(float64(w.config)/1e6, "config-MB")
		})
	}
}

// way is an Envoy that tells accounts apart in one way.
type way struct {
	name     string
	accounts int
	config   int // bytes
	proxy    string
	rates    []float64
	p99s     []time.Duration
}

// load sends requests on a few connections for a while.
func (w *way) load(b *testing.B, d time.Duration) (rate float64, p99 time.Duration) {
	const conns = 4
	times := make([][]time.Duration, conns)
	var wait sync.WaitGroup
	start := time.Now()
	for i := range conns {
		wait.Go(func() {
			c, err := net.Dial("tcp", w.proxy)
			if err != nil {
				b.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			r := bufio.NewReader(c)
			for n := i; time.Since(start) < d; n += conns {
				begin := time.Now()
				if err := w.one(c, r, n*7919); err != nil {
					b.Errorf("%s: %v", w.name, err)
					return
				}
				times[i] = append(times[i], time.Since(begin))
			}
		})
	}
	wait.Wait()
	all := slices.Concat(times...)
	slices.Sort(all)
	return float64(len(all)) / time.Since(start).Seconds(), all[len(all)*99/100]
}

func (w *way) one(c net.Conn, r *bufio.Reader, n int) error {
	want := "two"
	if w.accounts == 0 {
		want = "one"
	}
	account := fmt.Sprint(50_000_000 + n%max(w.accounts, 1))
	got, err := answerTo(c, r, account)
	if err == nil && got != want {
		err = fmt.Errorf("account %s is answered by %q", account, got)
	}
	return err
}

// answerTo sends a request of an account and returns the body of the answer.
func answerTo(c net.Conn, r *bufio.Reader, account string) (string, error) {
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: api.internal\r\nx-ucloud-routeby: region=cn-bj2; account_id=%s\r\n\r\n", account); err != nil {
		return "", err
	}
	for length := 0; ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", err
		}
		if v, ok := strings.CutPrefix(line, "content-length: "); ok {
			length, _ = strconv.Atoi(strings.TrimSpace(v))
		}
		if line != "\r\n" {
			continue
		}
		body := make([]byte, length)
		_, err = io.ReadFull(r, body)
		return string(body), err
	}
}

// plainBackend answers whatever comes, as cheaply as can be.
func plainBackend(b *testing.B, name string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = l.Close() })
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s", len(name), name)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				buf := make([]byte, 4096)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
						_, _ = c.Write(answer)
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

func grayWay(b *testing.B, accounts int) *way {
	h := newHost(b, Config{}, "")
	h.service("api", plainBackend(b, "one"), plainBackend(b, "two"))
	n := h.node("host-1", testnet.FreePort())
	for i := range accounts {
		h.account("api", fmt.Sprint(50_000_000+i), "v2")
	}
	e := startEnvoy(h, n)
	h.mustApply()
	h.synced("host-1")
	size := 0
	for _, m := range h.sent() {
		size += m.bytes
	}
	return &way{name: "gray", accounts: accounts, config: size, proxy: e.proxy}
}

// staticWay runs an Envoy with a virtual host of its own.
func staticWay(b *testing.B, name string, accounts int, vhost string) *way {
	port, admin := testnet.FreePort(), testnet.FreePort()
	one, two := plainBackend(b, "one"), plainBackend(b, "two")
	var text strings.Builder
	fmt.Fprintf(&text, `admin: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}
static_resources:
  clusters:
`, admin)
	for i, addr := range []string{one, two} {
		_, p, _ := net.SplitHostPort(addr)
		fmt.Fprintf(&text, `  - name: v%[1]d
    load_assignment: {cluster_name: v%[1]d, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %[2]s}}}}]}]}
`, i+1, p)
	}
	fmt.Fprintf(&text, `  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: g
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
          route_config:
            name: r
            virtual_hosts:
            - name: api
              domains: [api.internal]
%s`, port, vhost)
	path := filepath.Join(b.TempDir(), "envoy.yaml")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(envoyBinary(b), "-c", path, "--concurrency", "1", "--use-dynamic-base-id", "-l", "error")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	w := &way{name: name, accounts: accounts, config: len(vhost), proxy: fmt.Sprintf("127.0.0.1:%d", port)}
	for end := time.Now().Add(2 * time.Minute); ; {
		if c, err := net.Dial("tcp", w.proxy); err == nil {
			_ = c.Close()
			return w
		}
		if time.Now().After(end) {
			b.Fatalf("%s with %d accounts does not come up", name, accounts)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// regexRoutes is a route an account, whose expression looks for it in the header.
func regexRoutes(accounts int) string {
	var b strings.Builder
	b.WriteString("              routes:\n")
	for i := range accounts {
		fmt.Fprintf(&b, "              - {match: {prefix: /, headers: [{name: x-ucloud-routeby, string_match: {safe_regex: {regex: '(.*;)?\\s*account_id=%d\\s*(;.*)?'}}}]}, route: {cluster: v2}}\n", 50_000_000+i)
	}
	b.WriteString("              - {match: {prefix: /}, route: {cluster: v1}}\n")
	return b.String()
}

// matchMap is VirtualHost.matcher with a map of accounts. No filter takes the
// account out of the header: the whole header is the key, which is the least that
// this way costs.
func matchMap(accounts int) string {
	route := func(cluster string) string {
		return `{action: {name: route, typed_config: {"@type": type.googleapis.com/envoy.config.route.v3.Route, match: {prefix: /}, route: {cluster: ` + cluster + `}}}}`
	}
	var b strings.Builder
	b.WriteString(`              matcher:
                matcher_tree:
                  input: {name: h, typed_config: {"@type": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-ucloud-routeby}}
                  exact_match_map:
                    map:
`)
	for i := range accounts {
		fmt.Fprintf(&b, "                      'region=cn-bj2; account_id=%d': %s\n", 50_000_000+i, route("v2"))
	}
	fmt.Fprintf(&b, "                on_no_match: %s\n", route("v1"))
	return b.String()
}

// BenchmarkEnvoyOneAccount adds one account to lists of several lengths: the bytes
// that an Envoy is sent, and the time until a request of the account is answered by
// the new version.
func BenchmarkEnvoyOneAccount(b *testing.B) {
	for _, accounts := range []int{100, 100_000} {
		b.Run(fmt.Sprintf("accounts=%d", accounts), func(b *testing.B) {
			h := newHost(b, Config{Store: newStore(b)}, "")
			h.service("api", plainBackend(b, "one"), plainBackend(b, "two"))
			n := h.node("host-1", testnet.FreePort())
			for i := range accounts {
				h.account("api", fmt.Sprint(50_000_000+i), "v2")
			}
			e := startEnvoy(h, n)
			h.mustApply()
			h.synced("host-1")
			c, err := net.Dial("tcp", e.proxy)
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			r := bufio.NewReader(c)
			h.sent()
			var sizes, rounds int
			for b.Loop() {
				rounds++
				account := fmt.Sprint(60_000_000 + rounds)
				name := policies.Name{Kind: schema.KindService, Name: "api", Part: "account/" + account}
				h.account("api", account, "v2")
				all, err := h.sink.Lower(h.ir, name)
				if err != nil {
					b.Fatal(err)
				}
				applied := make(chan error)
				go func() { applied <- h.sink.Apply(b.Context(), nil, []reconciler.Change{{New: all[0]}}) }()
				for got := ""; got != "two"; {
					if got, err = answerTo(c, r, account); err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				if err := <-applied; err != nil {
					b.Fatal(err)
				}
				for _, m := range h.sent() {
					sizes += m.bytes
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(sizes)/float64(rounds), "bytes/change")
		})
	}
}
