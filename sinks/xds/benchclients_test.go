package xds

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/gray-release/gray/tools/testnet"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/sinks/xds/lower"
)

// TestMain makes the test binary the clients of a benchmark, so that the server's
// process is measured without them.
func TestMain(m *testing.M) {
	if spec := os.Getenv("GRAY_TEST_CLIENTS"); spec != "" {
		if err := crowdMain(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	testnet.Main(m)
}

// crowdSpec is what the process of clients is to do.
type crowdSpec struct {
	Address string
	Clients int
	Load    map[string]int // how many resources of each type a client gets at first
}

// crowdMain connects clients, each by a connection of its own, and says "loaded"
// when each has all. For each line "TYPE NAME" on its input it says "armed", and
// "done BYTES" when each has got that resource since.
func crowdMain(raw string) error {
	var spec crowdSpec
	if err := json.Unmarshal([]byte(raw), &spec); err != nil {
		return err
	}
	c := &crowd{spec: spec, changed: make(chan struct{}, 1), failed: make(chan error, 1)}
	for i := range spec.Clients {
		if err := c.connect(fmt.Sprintf("n%d", i)); err != nil {
			return err
		}
	}
	if err := c.wait(func() bool { return c.loaded == spec.Clients }); err != nil {
		return err
	}
	fmt.Println("loaded")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		c.mu.Lock()
		c.kind, c.name, _ = strings.Cut(in.Text(), " ")
		c.round, c.got, c.bytes = c.round+1, 0, 0
		c.mu.Unlock()
		fmt.Println("armed")
		if err := c.wait(func() bool { return c.got == spec.Clients }); err != nil {
			return err
		}
		c.mu.Lock()
		fmt.Println("done", c.bytes)
		c.mu.Unlock()
	}
	return nil
}

// crowd is many clients, of which it counts what they get.
type crowd struct {
	spec    crowdSpec
	changed chan struct{}
	failed  chan error

	mu         sync.Mutex
	loaded     int
	kind, name string // waited for
	round      int
	got, bytes int // since then
}

func (c *crowd) wait(f func() bool) error {
	for {
		c.mu.Lock()
		ok := f()
		c.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-c.changed:
		case err := <-c.failed:
			return err
		case <-time.After(2 * time.Minute):
			c.mu.Lock()
			defer c.mu.Unlock()
			return fmt.Errorf("%d clients have all, %d the new %s %s", c.loaded, c.got, c.kind, c.name)
		}
	}
}

// crowdClient is a client that acknowledges everything and keeps nothing.
type crowdClient struct {
	*crowd
	stream deltaClient
	counts map[string]int
	loaded bool
	round  int // in which it had what was waited for
}

func (c *crowd) connect(node string) error {
	conn, err := grpc.NewClient(c.spec.Address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)), grpc.WithReadBufferSize(4<<10))
	if err != nil {
		return err
	}
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(context.Background())
	if err != nil {
		return err
	}
	cl := &crowdClient{crowd: c, stream: stream, counts: map[string]int{}}
	for _, t := range []wireType{typeCluster, typeListener} {
		req := request(t)
		req.Node = &corev3.Node{Id: node}
		if err := stream.Send(req); err != nil {
			return err
		}
	}
	go func() { c.failed <- cl.run() }()
	return nil
}

func (cl *crowdClient) run() error {
	for {
		res, err := cl.stream.Recv()
		if err != nil {
			return err
		}
		for _, req := range cl.take(res) {
			if err := cl.stream.Send(req); err != nil {
				return err
			}
		}
	}
}

// take counts a response; it asks for what follows from it when it first came.
func (cl *crowdClient) take(res *discoveryv3.DeltaDiscoveryResponse) []*discoveryv3.DeltaDiscoveryRequest {
	t := typeOf(res.GetTypeUrl())
	ack := request(t)
	ack.ResponseNonce = res.GetNonce()
	all := []*discoveryv3.DeltaDiscoveryRequest{ack}
	first := cl.counts[res.GetTypeUrl()] == 0
	if to, ok := map[wireType]wireType{typeCluster: typeEndpoints, typeListener: typeRoutes, typeRoutes: typeVirtualHost}[t]; ok && first {
		req := request(to)
		switch to {
		case typeEndpoints:
			for _, r := range res.GetResources() {
				req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, r.GetName())
			}
		case typeRoutes:
			req.ResourceNamesSubscribe = []string{lower.RoutesName}
		}
		all = append(all, req)
	}
	cl.counts[res.GetTypeUrl()] += len(res.GetResources())
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if !cl.loaded {
		cl.loaded = true
		for kind, n := range cl.spec.Load {
			cl.loaded = cl.loaded && cl.counts[kind] >= n
		}
		if cl.loaded {
			cl.crowd.loaded++
			cl.tell()
		}
	}
	cl.bytes += proto.Size(res)
	if cl.round != cl.crowd.round && res.GetTypeUrl() == cl.kind {
		for _, r := range res.GetResources() {
			if r.GetName() == cl.name {
				cl.round = cl.crowd.round
				cl.got++
				cl.tell()
			}
		}
	}
	return all
}

func (c *crowd) tell() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// crowdProcess is a crowd in a process of its own.
type crowdProcess struct {
	t   testing.TB
	in  io.Writer
	out *bufio.Scanner
}

// startCrowd starts clients and returns when they have everything.
func startCrowd(t testing.TB, spec crowdSpec) *crowdProcess {
	t.Helper()
	raw, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "GRAY_TEST_CLIENTS="+string(raw))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	p := &crowdProcess{t, in, bufio.NewScanner(out)}
	p.says("loaded")
	return p
}

// says reads the next line, which begins with a word, and returns the rest.
func (p *crowdProcess) says(word string) string {
	p.t.Helper()
	if !p.out.Scan() {
		p.t.Fatalf("the clients ended before they said %q: %v", word, p.out.Err())
	}
	got, rest, _ := strings.Cut(p.out.Text(), " ")
	if got != word {
		p.t.Fatalf("the clients said %q, want %q", p.out.Text(), word)
	}
	return rest
}

// arm has the clients wait for a resource.
func (p *crowdProcess) arm(kind, name string) {
	p.t.Helper()
	_, err := fmt.Fprintln(p.in, kind, name)
	if err != nil {
		p.t.Fatal(err)
	}
	p.says("armed")
}
