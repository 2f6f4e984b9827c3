package p4rt

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc"

	"github.com/gray-release/gray/sinks/p4rt/softswitch"
	"github.com/gray-release/gray/sinks/sinktest"
)

// fabricSimCannot is what fabric-sim v1.0.6 cannot do, by part of the suite.
var fabricSimCannot = map[string]string{
	"Again":   "fabric-sim stops a batch at the first error and tells its code alone, not whose it is",
	"Refused": "fabric-sim validates nothing and knows no table size, so it refuses nothing",
}

// Besides, and not part of the suite: it crashes when counters are read, it takes
// a Read as one for all entries of the table whatever the filter, and it does not
// tell who is primary when the primary's stream ends (INVALID_ARGUMENT and no
// election id, where NOT_FOUND and the highest are due).

// TestConformanceFabricSim runs the suite against a P4Runtime server of another project.
func TestConformanceFabricSim(t *testing.T) {
	binary := buildFabricSim(t)
	sinktest.Run(t, sinktest.Config{Skip: fabricSimCannot, Start: func(t *testing.T) *sinktest.Rig {
		process, address := startFabricSim(t, binary)
		relay := newRelay(t, address)
		r := newConformanceRig(t, relay.address, func() p4v1.P4RuntimeClient { return dialTest(t, relay.address) })
		r.Sent = func() int { return int(relay.sent.Load()) }
		r.Kill = func() {
			_ = process.Kill()
			_, _ = process.Wait()
		}
		r.Stall = func() {
			if err := process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
		return r
	}})
}

// buildFabricSim builds tools/fabricsim, whose modules the Go proxy has.
func buildFabricSim(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "fabricsim")
	cmd := exec.Command("go", "build", "-C", filepath.FromSlash("../../tools/fabricsim"), "-o", binary, ".")
	cmd.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false", "GOWORK=off")
	out, err := cmd.CombinedOutput()
	if err == nil {
		return binary
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("cannot build tools/fabricsim: %v\n%s", err, out)
	}
	t.Skipf("cannot build tools/fabricsim, so this test is left out: %v\n%s", err, out)
	return ""
}

func startFabricSim(t *testing.T, binary string) (*os.Process, string) {
	t.Helper()
	cmd := exec.Command(binary)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stderr)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		crash, _ := io.ReadAll(lines)
		_ = cmd.Wait()
		if t.Failed() && len(crash) > 0 {
			t.Logf("fabric-sim says:\n%s", crash)
		}
	})
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatalf("fabric-sim does not say where it serves: %v", err)
	}
	return cmd.Process, strings.TrimSpace(line)
}

// relay is a P4Runtime server that forwards everything to another one and counts it.
type relay struct {
	p4v1.UnimplementedP4RuntimeServer
	address string
	to      p4v1.P4RuntimeClient
	sent    atomic.Int64
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{address: l.Addr().String(), to: dialTest(t, to)}
	server := grpc.NewServer(softswitch.ServerOptions()...)
	p4v1.RegisterP4RuntimeServer(server, r)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return r
}

func (r *relay) Write(ctx context.Context, req *p4v1.WriteRequest) (*p4v1.WriteResponse, error) {
	r.sent.Add(int64(len(req.GetUpdates())))
	return r.to.Write(ctx, req)
}

func (r *relay) SetForwardingPipelineConfig(ctx context.Context, req *p4v1.SetForwardingPipelineConfigRequest) (*p4v1.SetForwardingPipelineConfigResponse, error) {
	r.sent.Add(1)
	return r.to.SetForwardingPipelineConfig(ctx, req)
}

func (r *relay) GetForwardingPipelineConfig(ctx context.Context, req *p4v1.GetForwardingPipelineConfigRequest) (*p4v1.GetForwardingPipelineConfigResponse, error) {
	return r.to.GetForwardingPipelineConfig(ctx, req)
}

func (r *relay) Read(req *p4v1.ReadRequest, down p4v1.P4Runtime_ReadServer) error {
	up, err := r.to.Read(down.Context(), req)
	if err != nil {
		return err
	}
	for {
		res, err := up.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := down.Send(res); err != nil {
			return err
		}
	}
}

func (r *relay) StreamChannel(down p4v1.P4Runtime_StreamChannelServer) error {
	ctx, cancel := context.WithCancel(down.Context())
	defer cancel()
	up, err := r.to.StreamChannel(ctx)
	if err != nil {
		return err
	}
	var sending sync.WaitGroup
	defer sending.Wait()
	defer cancel()
	sending.Go(func() {
		for {
			m, err := down.Recv()
			if err != nil || up.Send(m) != nil {
				cancel()
				return
			}
		}
	})
	for {
		m, err := up.Recv()
		if err != nil {
			return err
		}
		if err := down.Send(m); err != nil {
			return err
		}
	}
}
