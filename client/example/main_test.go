package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/gray-release/gray/client"
)

// Example runs the program against a service on IP:port.
func Example() {
	rpc := grpc.NewServer()
	healthpb.RegisterHealthServer(rpc, health.NewServer())
	service := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			rpc.ServeHTTP(w, r)
			return
		}
		fmt.Fprintln(w, r.Header.Get(client.Header))
	}))
	service.Config.Protocols = new(http.Protocols)
	service.Config.Protocols.SetHTTP1(true)
	service.Config.Protocols.SetUnencryptedHTTP2(true)
	service.Start()
	defer service.Close()

	os.Args = []string{"example", "-account", "50002001", service.Listener.Addr().String()}
	main()
	// Output:
	// HTTP: 200 OK
	// account_id=50002001
	// gRPC: SERVING
}

// TestDocs holds that docs/client.md shows the program as it is.
func TestDocs(t *testing.T) {
	code, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	docs, err := os.ReadFile("../../docs/client.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(docs), "```go\n"+string(code)+"```\n") {
		t.Error("docs/client.md does not show client/example/main.go as it is; copy it there")
	}
}
