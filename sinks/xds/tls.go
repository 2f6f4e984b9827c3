package xds

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/secrets"
)

// TLS names the server's certificate files, in PEM.
type TLS struct {
	SecretsDir string // that the files are in
	Cert, Key  string // of the server
	CA         string // that signs the certificates of its clients
}

// Credentials makes a server ask every client for a certificate of the CA. The files
// are read again for each connection, so that new ones need no restart. When they
// cannot be used, the last good ones are, and the log says so. An error is about the
// files as they are now.
func Credentials(files TLS, log *slog.Logger) (credentials.TransportCredentials, error) {
	id := &identity{files: files, log: log}
	if err := id.load(); err != nil {
		return nil, err
	}
	return &strict{
		TransportCredentials: credentials.NewTLS(&tls.Config{
			MinVersion:         tls.VersionTLS12,
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return id.config(), nil },
		}),
		log: log, logLimit: newLogLimit(),
	}, nil
}

// newLogLimit bounds the lines that clients can cause in the log.
func newLogLimit() *rate.Sometimes { return &rate.Sometimes{First: 10, Interval: time.Second} }

// identity is the last good content of the files.
type identity struct {
	files TLS
	log   *slog.Logger

	mu      sync.Mutex
	current *tls.Config
	failed  string // why the files are not used as they are now
}

// config is that of the files, or of the last good ones.
func (id *identity) config() *tls.Config {
	id.mu.Lock()
	defer id.mu.Unlock()
	before := id.current
	err := id.load()
	switch {
	case err != nil && err.Error() != id.failed:
		id.failed = err.Error()
		id.log.Error("the certificate of xDS is not replaced; the last good one stays", "error", err)
	case err == nil && id.current != before:
		id.log.Info("the certificate of xDS was replaced")
		fallthrough
	case err == nil:
		id.failed = ""
	}
	return id.current
}

// load reads the files, and uses them if they have changed.
func (id *identity) load() error {
	pair, err := secrets.ReadKeyPair(id.files.SecretsDir, id.files.Cert, id.files.Key)
	if err != nil {
		return err
	}
	pool, err := secrets.ReadAuthorities(id.files.SecretsDir, id.files.CA)
	if err != nil {
		return err
	}
	if c := id.current; c != nil && pool.Equal(c.ClientCAs) && slices.EqualFunc(pair.Certificate, c.Certificates[0].Certificate, bytes.Equal) {
		return nil
	}
	id.current = &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"},
		SessionTicketsDisabled: true, // a CA that was replaced admits nobody any more
	}
	return nil
}

// strict are credentials that log the clients that are refused.
type strict struct {
	credentials.TransportCredentials
	log      *slog.Logger
	logLimit *rate.Sometimes
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *strict) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := c.TransportCredentials.ServerHandshake(conn)
	if err != nil {
		c.logLimit.Do(func() {
			c.log.Warn("a client of xDS is refused", "address", conn.RemoteAddr().String(), "error", oneLine(err.Error()))
		})
	}
	return secured, info, err
}

// caller is the connection that a stream was opened on.
type caller struct {
	address string
	secured bool     // by TLS, with a client certificate
	names   []string // the DNS names in the certificate
}

func callerOf(ctx context.Context) caller {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return caller{}
	}
	c := caller{address: p.Addr.String()}
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
		c.secured = true
		if certs := info.State.PeerCertificates; len(certs) > 0 {
			c.names = certs[0].DNSNames
		}
	}
	return c
}

// checkNode refuses a node that is not in the certificate.
func (c caller) checkNode(node string) error {
	if !c.secured || slices.Contains(c.names, node) {
		return nil
	}
	return status.Errorf(codes.PermissionDenied, "node id %s is not among the DNS names %q of its certificate", node, c.names[:min(len(c.names), 5)])
}
