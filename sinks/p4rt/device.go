package p4rt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/gray-release/gray/reconciler"
)

// Limits of the connection to a switch.
const (
	maxReceive    = 256 << 20 // BMv2 answers a read of a whole table in one message
	maxHeaderList = 16 << 20  // the errors of a batch travel in a header
	retryFirst    = 500 * time.Millisecond
	retryMost     = 30 * time.Second
)

// device is the connection to one switch. Its stream is kept up in the
// background, as being primary lasts exactly as long as the stream.
type device struct {
	target string
	spec   targetBody
	conn   *grpc.ClientConn
	client p4v1.P4RuntimeClient
	stop   context.CancelFunc
	done   chan struct{}

	mu       sync.Mutex
	id       *p4v1.Uint128 // of the stream that is open
	primary  bool
	standing error         // why not primary
	changed  chan struct{} // closed and replaced when the standing changes
	since    time.Time
}

// dial makes the connection of a target and starts to arbitrate unless only
// reads are wanted.
func (s *Sink) dial(target string, spec targetBody) (*device, error) {
	creds, err := s.credentials(spec)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(spec.address,
		grpc.WithTransportCredentials(creds),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithMaxHeaderListSize(maxHeaderList),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceive)))
	if err != nil {
		return nil, fmt.Errorf("cannot connect to %s: %w", spec.address, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	d := &device{
		target: target, spec: spec, conn: conn, client: p4v1.NewP4RuntimeClient(conn), stop: stop,
		done: make(chan struct{}), changed: make(chan struct{}), since: time.Now(),
		standing: errors.New("not connected yet"),
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

// credentials are plaintext on loopback or where the document allows it, else
// TLS with the files of the document.
func (s *Sink) credentials(spec targetBody) (credentials.TransportCredentials, error) {
	if spec.tls.CA == "" {
		host, _, _ := net.SplitHostPort(spec.address)
		a, err := netip.ParseAddr(host)
		if spec.insecure || host == "localhost" || err == nil && a.IsLoopback() {
			return insecure.NewCredentials(), nil
		}
		return nil, fmt.Errorf("%s is not on loopback; give tls, or insecure: true", spec.address)
	}
	ca, err := reconciler.ReadSecret(s.cfg.SecretsDir, spec.tls.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate; want PEM", spec.tls.CA)
	}
	cfg := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	if spec.tls.Cert != "" {
		cert, err := reconciler.ReadSecret(s.cfg.SecretsDir, spec.tls.Cert)
		if err != nil {
			return nil, err
		}
		key, err := reconciler.ReadSecret(s.cfg.SecretsDir, spec.tls.Key)
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("%s and %s are no certificate and key that belong together", spec.tls.Cert, spec.tls.Key)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(cfg), nil
}

// supervise keeps the stream up: arbitrate, listen, and when it ends do it again
// with a higher election id.
func (d *device) supervise(ctx context.Context, s *Sink) {
	wait := retryFirst
	for ctx.Err() == nil {
		began := time.Now()
		err := d.listen(ctx, s)
		d.stand(s, false, fmt.Errorf("the stream to %s ended: %w", d.spec.address, reason(err)))
		if time.Since(began) > retryMost {
			wait = retryFirst
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait + rand.N(wait/5)): // spread, so that many daemons do not come back at once
		}
		wait = min(2*wait, retryMost)
	}
}

// listen opens a stream, arbitrates on it and follows its standing until it
// ends.
func (d *device) listen(ctx context.Context, s *Sink) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := d.client.StreamChannel(ctx)
	if err != nil {
		return err
	}
	id := &p4v1.Uint128{High: s.cfg.Epoch, Low: s.elections.Add(1)}
	d.mu.Lock()
	d.id = id
	d.mu.Unlock()
	a := &p4v1.MasterArbitrationUpdate{DeviceId: d.spec.deviceID, ElectionId: id}
	if d.spec.role != "" {
		a.Role = &p4v1.Role{Name: d.spec.role}
	}
	if err := stream.Send(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Arbitration{Arbitration: a}}); err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		a := m.GetArbitration()
		if a == nil {
			continue
		}
		switch codes.Code(a.GetStatus().GetCode()) {
		case codes.OK:
			d.stand(s, true, nil)
		default:
			d.stand(s, false, fmt.Errorf("another controller is primary of %s, with election id %d/%d; stop it, or wait until it lets go",
				d.target, a.GetElectionId().GetHigh(), a.GetElectionId().GetLow()))
		}
	}
}

// stand records whether this is the primary, and wakes the loop if that is new.
func (d *device) stand(s *Sink, primary bool, standing error) {
	d.mu.Lock()
	news := d.primary != primary || primary
	if d.primary != primary {
		d.since = time.Now()
	}
	d.primary, d.standing = primary, standing
	close(d.changed)
	d.changed = make(chan struct{})
	d.mu.Unlock()
	if news {
		s.cfg.Hints.Add(d.target)
	}
}

// lead waits until this is the primary and returns the election id to write
// with. It gives up at the end of ctx, or at once where another is primary.
func (d *device) lead(ctx context.Context) (*p4v1.Uint128, error) {
	for {
		d.mu.Lock()
		id, primary, standing, changed := d.id, d.primary, d.standing, d.changed
		d.mu.Unlock()
		if primary {
			return id, nil
		}
		if standing != nil && strings.HasPrefix(standing.Error(), "another controller") {
			return nil, standing
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, standing
		}
	}
}
