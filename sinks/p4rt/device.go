package p4rt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/secrets"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// Limits of the connection to a switch.
const (
	maxReceive    = 256 << 20 // BMv2 answers a read of a whole table in one message
	maxHeaderList = 16 << 20  // the errors of a batch are sent in a header
	retryFirst    = 500 * time.Millisecond
	retryMost     = 30 * time.Second
	maxNoPrimary  = 8 // answers in a row that nobody is primary, before the stream is closed
)

// keepAlive detects within half a minute that a switch is gone without closing the
// connection. It is TCP's: gRPC servers close connections whose HTTP/2 pings come more
// often than every five minutes.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

// errBackup is why a device is not primary while another controller is.
var errBackup = errors.New("another controller is primary")

// device is the connection to one switch. Its stream is kept open in the background:
// the controller is primary exactly as long as its stream is open.
type device struct {
	target string
	spec   targetBody
	conn   *grpc.ClientConn
	client p4v1.P4RuntimeClient
	stop   context.CancelFunc
	done   chan struct{}

	mu         sync.Mutex
	id         election      // of the open stream
	won        election      // the last id with which this controller was primary
	notPrimary error         // nil: this controller is primary
	changed    chan struct{} // closed and replaced when notPrimary is set
	program    *pipeline.Program
	known
}

// setProgram sets the pipeline that the switch is to run.
func (d *device) setProgram(p *pipeline.Program) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.program = p
}

// table returns one of gray's tables as the switch's pipeline has it.
func (d *device) table(id uint32) *pipeline.Table {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.program.Index.Tables[id]
}

// dial connects to a target and, unless the sink is read-only, starts to arbitrate.
func (s *Sink) dial(target string, spec targetBody) (*device, error) {
	creds, err := s.credentials(spec)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(spec.address,
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{KeepAliveConfig: keepAlive}).DialContext(ctx, "tcp", address)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: s.limits.retry, Multiplier: 1.6, Jitter: 0.2, MaxDelay: retryMost},
			MinConnectTimeout: s.limits.primary,
		}),
		grpc.WithMaxHeaderListSize(uint32(s.limits.header)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(s.limits.receive)))
	if err != nil {
		return nil, fmt.Errorf("cannot connect to %s: %w", spec.address, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	d := &device{
		target: target, spec: spec, conn: conn, client: p4v1.NewP4RuntimeClient(conn), stop: stop,
		done: make(chan struct{}), changed: make(chan struct{}),
		notPrimary: errors.New("not connected yet"), known: newKnown(),
	}
	if s.cfg.ReadOnly {
		close(d.done)
		return d, nil
	}
	go func() {
		defer close(d.done)
		d.supervise(ctx, s)
	}()
	return d, nil
}

func (d *device) close() error {
	d.stop()
	<-d.done
	return d.conn.Close()
}

// credentials returns plaintext on loopback or if the document allows it, else TLS
// with the files that the document names.
func (s *Sink) credentials(spec targetBody) (credentials.TransportCredentials, error) {
	if spec.tls.CA == "" {
		host, _, _ := net.SplitHostPort(spec.address)
		if spec.insecure || schema.IsLoopback(host) {
			return insecure.NewCredentials(), nil
		}
		return nil, fmt.Errorf("%s is not on loopback; give tls, or insecure: true", spec.address)
	}
	pool, err := secrets.ReadAuthorities(s.cfg.SecretsDir, spec.tls.CA)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	if spec.tls.Cert != "" {
		pair, err := secrets.ReadKeyPair(s.cfg.SecretsDir, spec.tls.Cert, spec.tls.Key)
		if err != nil {
			return nil, err
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(cfg), nil
}
