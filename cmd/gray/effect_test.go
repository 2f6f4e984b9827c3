package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// BenchmarkCommitToEffect commits one more account each time, and waits until a
// request of it is answered by the new version: from the start of git commit to the
// answer. It is the whole way: Git, the daemon as a process of its own, a real Envoy.
func BenchmarkCommitToEffect(b *testing.B) {
	for _, accounts := range []int{100, 100_000} {
		b.Run(fmt.Sprintf("accounts=%d", accounts), func(b *testing.B) { benchmarkEffect(b, accounts) })
	}
}

func benchmarkEffect(b *testing.B, accounts int) {
	envoy := testEnvoy(b)
	l := newLab(b)
	for _, version := range []string{"1", "2"} {
		backend, err := l.StartBackend(version)
		l.ok(err)
		b.Cleanup(backend.Close)
	}
	l.ok(os.MkdirAll(filepath.Join(l.Repo, "policies"), 0o700))
	add := func(file string, from, n int) {
		text := "kind: GrayPolicy\nmetadata: {name: " + file + "}\nspec:\n  targets: [{kind: Service, name: vpc-api}]\n  version: v2\n  match:\n  - accounts:\n"
		for i := range n {
			text += fmt.Sprintf("    - \"%d\"\n", from+i)
		}
		l.ok(os.WriteFile(filepath.Join(l.Repo, "policies", file+".yaml"), []byte(text), 0o600))
		l.ok(l.Git(b.Context(), "add", "-A"))
	}
	const most = 25_000 // in a document
	for from := 0; from < accounts; from += most {
		add(fmt.Sprintf("listed-%d", from), 50_000_000+from, min(most, accounts-from))
	}
	l.ok(l.Commit(b.Context(), "accounts"))
	l.startDaemon("--drift-interval", "30s")
	stop, err := l.StartEnvoy(b.Context(), envoy)
	l.ok(err)
	b.Cleanup(func() { _ = stop() })
	l.live()
	for get(b, l.Address("15001"), "50000001") != "v2" {
		time.Sleep(10 * time.Millisecond)
	}
	var times []time.Duration
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		account := fmt.Sprint(60_000_000 + i)
		add(fmt.Sprintf("one-%d", i), 60_000_000+i, 1)
		b.StartTimer()
		start := time.Now()
		l.ok(l.Git(b.Context(), "commit", "-q", "-m", account))
		for get(b, l.Address("15001"), account) != "v2" {
		}
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, "p99-ms")
}

func get(b *testing.B, proxy, account string) string {
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://"+proxy+"/", nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Host = "vpc-api.internal"
	req.Header.Set("x-ucloud-routeby", "account_id="+account)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return strings.TrimSpace(string(body))
}
