// Package etcdtest runs real etcds for tests: the embedded one and Debian's. Each is a
// process of its own, which can be killed and started again with its data.
package etcdtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/gray-release/gray/tools/testnet"
)

const patience = 30 * time.Second

// The environment that makes the test binary an etcd.
const (
	envAddress = "GRAY_TEST_ETCD"
	envDir     = "GRAY_TEST_ETCD_DIR"
)

// Main makes the test binary an etcd if a Server has started it. TestMain calls it first.
func Main() {
	if address := os.Getenv(envAddress); address != "" {
		fmt.Fprintln(os.Stderr, serve(os.Getenv(envDir), address))
		os.Exit(1)
	}
}

// serve runs the embedded etcd until it is killed.
func serve(dir, address string) error {
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel = dir, "fatal"
	clients := []url.URL{{Scheme: "http", Host: address}}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = clients, clients
	cfg.ListenPeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	return <-server.Err()
}

// Server is an etcd of one member.
type Server struct {
	URL     string
	t       testing.TB
	binary  string // empty: the test binary itself
	dir     string
	address string
	running *exec.Cmd
}

// New returns an embedded etcd that has not been started.
func New(t testing.TB) *Server {
	t.Helper()
	address := testnet.FreeAddress()
	s := &Server{URL: "http://" + address, t: t, dir: filepath.Join(t.TempDir(), "data"), address: address}
	t.Cleanup(s.Kill)
	return s
}

// NewDebian returns the etcd on the PATH, such as that of Debian's package etcd-server;
// it has not been started. Without one the test is skipped, and fails on CI.
func NewDebian(t testing.TB) *Server {
	t.Helper()
	binary, err := exec.LookPath("etcd")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal("no etcd: install etcd-server")
	}
	if err != nil {
		t.Skip("no etcd: install Debian's etcd-server to run this test")
	}
	s := New(t)
	s.binary = binary
	return s
}

// Moved returns the same server with the same data at another address. Only one of the
// two may run.
func (s *Server) Moved() *Server {
	moved := *s
	moved.address = testnet.FreeAddress()
	moved.URL, moved.running = "http://"+moved.address, nil
	s.t.Cleanup(moved.Kill)
	return &moved
}

// Start starts the server with the data that it has, and waits until it answers.
func (s *Server) Start() {
	s.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envAddress+"="+s.address, envDir+"="+s.dir)
	if s.binary != "" {
		peer := "http://" + testnet.FreeAddress()
		cmd = exec.Command(s.binary, "--data-dir", s.dir, "--listen-client-urls", s.URL, "--advertise-client-urls", s.URL,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer, "--logger", "zap", "--log-level", "fatal")
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.running = cmd
	c := s.Client()
	defer func() { _ = c.Close() }()
	for end := time.Now().Add(patience); ; {
		ctx, cancel := context.WithTimeout(s.t.Context(), time.Second)
		_, err := c.Get(ctx, "ready")
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("etcd does not answer: %v", err)
		}
	}
}

// Kill ends the server by SIGKILL.
func (s *Server) Kill() {
	if s.running != nil {
		_ = s.running.Process.Kill()
		_ = s.running.Wait()
		s.running = nil
	}
}

// Freeze stops the server as if it were cut off: connections stay open, and nothing
// answers.
func (s *Server) Freeze() { s.signal(syscall.SIGSTOP) }

// Thaw lets a frozen server continue.
func (s *Server) Thaw() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.running.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// Wipe deletes the data of a server that does not run.
func (s *Server) Wipe() {
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Fatal(err)
	}
}

// Client returns a client that retries quickly.
func (s *Server) Client() *clientv3.Client {
	s.t.Helper()
	quick := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, MaxDelay: 20 * time.Millisecond}}
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{s.URL}, Logger: zap.NewNop(), DialOptions: []grpc.DialOption{grpc.WithConnectParams(quick)},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}
