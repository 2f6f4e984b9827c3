package main_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/gray-release/gray/client"
	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/xds"
	"github.com/gray-release/gray/sources/dir"
)

// graylisted are accounts that the documents send to v2: every character that the
// header can carry is in one of them.
var graylisted = []string{
	"50002001", "MiXed-Case_1.~", "a b", "x;y", "x, y", "k=v", "it's", `back\slash`, "!#$%&()*+/:<>?@[]^`{|}", strings.Repeat("9", 256),
}

// documents are a service that speaks HTTP and one that speaks gRPC, each in two
// versions.
func documents(nodePort, adminPort string, v1, v2 *backend) string {
	var b strings.Builder
	for name, protocol := range map[string]string{"web": "http", "rpc": "grpc"} {
		fmt.Fprintf(&b, `---
apiVersion: gray.dev/v1alpha1
kind: Service
metadata: {name: %s}
spec:
  hosts: [%s.internal]
  protocol: %s
  default: v1
  versions:
`, name, name, protocol)
		for _, v := range []*backend{v1, v2} {
			host, port, _ := net.SplitHostPort(v.address)
			fmt.Fprintf(&b, "  - {name: %s, endpoints: [{address: %s, port: %s}]}\n", v.name, host, port)
		}
	}
	fmt.Fprintf(&b, `---
apiVersion: gray.dev/v1alpha1
kind: Node
metadata: {name: host-1}
spec:
  address: 127.0.0.1
  proxy: {port: %s, adminPort: %s}
---
apiVersion: gray.dev/v1alpha1
kind: GrayPolicy
metadata: {name: v2}
spec:
  targets: [{kind: Service, name: web}, {kind: Service, name: rpc}]
  version: v2
  match:
  - accounts:
`, nodePort, adminPort)
	for _, a := range graylisted {
		fmt.Fprintf(&b, "    - '%s'\n", strings.ReplaceAll(a, "'", "''"))
	}
	return b.String()
}

// startMesh runs a real Envoy that a real xDS sink serves, and returns the proxy's
// address.
func startMesh(t *testing.T, v1, v2 *backend) string {
	t.Helper()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	envoy := envoyBinary(t)
	proxy, admin := freeAddress(t), freeAddress(t)
	_, port, _ := net.SplitHostPort(proxy)
	_, adminPort, _ := net.SplitHostPort(admin)
	folder := t.TempDir()
	ok(os.WriteFile(filepath.Join(folder, "all.yaml"), []byte(documents(port, adminPort, v1, v2)), 0o600))
	snapshot, err := dir.Read(t.Context(), folder)
	ok(err)
	set := schema.NewSet()
	ir, units, err := policies.NewCompiler(policies.NewIDs(), nil).Compile(set, set.Update(snapshot), policies.Facts{})
	ok(err)
	sink, err := xds.New(xds.Config{})
	ok(err)
	for _, n := range units {
		resources, err := sink.Lower(ir, n)
		ok(err)
		var creates []reconciler.Change
		for _, r := range resources {
			creates = append(creates, reconciler.Change{New: r})
		}
		ok(sink.Apply(t.Context(), nil, creates))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ok(err)
	server := grpc.NewServer(xds.ServerOptions()...)
	sink.Register(server)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)

	bootstrap, err := xds.Bootstrap(ir.Get(policies.Name{Kind: schema.KindNode, Name: "host-1"}).(*policies.Node), xds.Server{Address: listener.Addr().String()})
	ok(err)
	file, log := filepath.Join(folder, "envoy.yaml"), filepath.Join(folder, "envoy.log")
	ok(os.WriteFile(file, bootstrap, 0o600))
	cmd := exec.Command(envoy, "-c", file, "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning", "--log-path", log)
	ok(cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if b, _ := os.ReadFile(log); t.Failed() {
			t.Logf("envoy says:\n%s", b)
		}
	})
	return proxy
}

// envoyBinary is the Envoy that make tools installs.
func envoyBinary(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("GRAY_ENVOY"); path != "" {
		return path
	}
	path, err := filepath.Abs("../../.tools/envoy")
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal("no envoy: run make tools, or name it in GRAY_ENVOY")
	}
	if err != nil {
		t.Skip("no envoy: run make tools, or name it in GRAY_ENVOY to run this test")
	}
	return path
}

// TestProxy goes through the mesh: the Envoy sends every account to its version.
func TestProxy(t *testing.T) {
	proxy := startMesh(t, startBackend(t, "v1"), startBackend(t, "v2"))
	// What the proxy is there for is not done by the client: the naming knows
	// nobody.
	cfg := client.Config{Proxy: proxy, Naming: silent{}}
	a := newAsker(t, cfg, "web.internal", "rpc.internal:8080")
	for form, ask := range a.forms() {
		eventually(t, func() error {
			got, err := ask(client.WithAccount(t.Context(), graylisted[0]))
			if err == nil && got.By != "v2" {
				err = fmt.Errorf("%s is answered by %+v", form, got)
			}
			return err
		})
		for _, account := range graylisted {
			got, err := ask(client.WithAccount(t.Context(), account))
			if err != nil || got.By != "v2" {
				t.Errorf("account %q by %s: answered by %+v, %v, want v2", account, form, got, err)
			}
		}
		for _, account := range []string{"", "50002002", "a", "x", "mixed-case_1.~"} {
			got, err := ask(client.WithAccount(t.Context(), account))
			if err != nil || got.By != "v1" {
				t.Errorf("account %q by %s: answered by %+v, %v, want v1", account, form, got, err)
			}
		}
		// The account of the context wins over what the caller wrote.
		extra := context.WithValue(t.Context(), extraKey{}, "region=cn-bj2; account_id=50002002")
		if got, err := ask(client.WithAccount(extra, "50002001")); err != nil || got.By != "v2" {
			t.Errorf("beside another account by %s: answered by %+v, %v, want v2", form, got, err)
		}
	}
	// No service and no proxy are errors; nobody is asked instead.
	b := startBackend(t, "b")
	for form, ask := range newAsker(t, cfg, "nobody.internal", "nobody.internal").forms() {
		if got, err := ask(t.Context()); err == nil {
			t.Errorf("a host that is no service by %s: answered by %+v", form, got)
		}
	}
	away := client.Config{Proxy: freeAddress(t), Naming: &fixed{address: b.address, live: map[string]int{}}}
	for form, ask := range newAsker(t, away, "web.internal", b.address).forms() {
		if got, err := ask(t.Context()); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a proxy that is away by %s: answered by %+v, %v", form, got, err)
		}
	}
}
