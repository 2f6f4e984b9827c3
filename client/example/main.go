// Command example sends two requests to a service on behalf of an account: one over
// HTTP, and a health check over gRPC.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/gray-release/gray/client"
	"github.com/gray-release/gray/client/etcd"
)

func main() {
	proxy := flag.String("proxy", "", "the node's Envoy, such as 127.0.0.1:15001")
	members := flag.String("etcd", "", "etcd's members, such as 10.9.0.1:2379,10.9.0.2:2379")
	account := flag.String("account", "", "the account on whose behalf to ask")
	flag.Parse()
	log.SetFlags(0)
	if flag.NArg() != 1 {
		log.Fatal("usage: example [flags] SERVICE, a name such as vpc-api.internal or IP:port")
	}
	ctx := client.WithAccount(context.Background(), *account)
	if err := run(ctx, *proxy, *members, flag.Arg(0)); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, proxy, members, service string) error {
	cfg := client.Config{Proxy: proxy} // 1: through the mesh
	if members != "" {                 // 2: names are registered in etcd
		etcdClient, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(members, ",")})
		if err != nil {
			return err
		}
		defer func() { _ = etcdClient.Close() }()
		cfg.Naming = etcd.New(etcdClient, "/services/")
	}
	return ask(ctx, cfg, service) // 3: with neither, the service is IP:port
}

func ask(ctx context.Context, cfg client.Config, service string) error {
	transport, err := client.NewTransport(cfg)
	if err != nil {
		return err
	}
	defer func() { _ = transport.Close() }()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+service+"/", http.NoBody)
	if err != nil {
		return err
	}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	fmt.Println("HTTP:", res.Status)
	if _, err := io.Copy(os.Stdout, res.Body); err != nil {
		return err
	}

	conn, err := grpc.NewClient("gray:///"+service, append(client.DialOptions(cfg),
		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	health, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return err
	}
	fmt.Println("gRPC:", health.GetStatus())
	return nil
}
