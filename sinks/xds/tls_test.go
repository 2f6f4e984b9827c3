package xds

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/tools/testnet"
)

// authority signs certificates into a folder.
type authority struct {
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newAuthority makes an authority whose certificate is NAME.pem of a folder.
func newAuthority(t testing.TB, dir, name string) *authority {
	t.Helper()
	a := &authority{t: t, dir: dir}
	template := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, key := a.sign(template)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, a.key = cert, key
	a.write(name+".pem", "CERTIFICATE", der)
	return a
}

func (a *authority) sign(c *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.Subject = serial, pkix.Name{CommonName: "gray test " + serial.String()}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if signer == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

// leaf writes FILE.pem and FILE.key for a DNS name, or for 127.0.0.1.
func (a *authority) leaf(file, name string, usage x509.ExtKeyUsage) {
	a.t.Helper()
	c := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{usage}, KeyUsage: x509.KeyUsageDigitalSignature, DNSNames: []string{name}}
	if ip := net.ParseIP(name); ip != nil {
		c.DNSNames, c.IPAddresses = nil, []net.IP{ip}
	}
	der, key := a.sign(c)
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(file+".pem", "CERTIFICATE", der)
	a.write(file+".key", "EC PRIVATE KEY", raw)
}

func (a *authority) write(file, kind string, der []byte) {
	a.t.Helper()
	writeSecret(a.t, filepath.Join(a.dir, file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// writeSecret puts a whole file in place, as what rotates certificates does.
func writeSecret(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// lines is a log to look into.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// holds waits until a line has all the words.
func (l *lines) holds(t testing.TB, words ...string) {
	t.Helper()
	testnet.Eventually(t, func() string { return "no line has " + strings.Join(words, ", ") + ":\n" + l.String() }, func() bool {
		for line := range strings.Lines(l.String()) {
			n := 0
			for _, w := range words {
				if strings.Contains(line, w) {
					n++
				}
			}
			if n == len(words) {
				return true
			}
		}
		return false
	})
}

// securedHost is a host that wants certificates; its folder holds ca.pem and
// server.pem.
func securedHost(t testing.TB) (*host, *authority, *lines) {
	t.Helper()
	dir := t.TempDir()
	ca := newAuthority(t, dir, "ca")
	ca.leaf("server", "127.0.0.1", x509.ExtKeyUsageServerAuth)
	log := new(lines)
	logger := log.logger()
	creds, err := Credentials(TLS{SecretsDir: dir, Cert: "server.pem", Key: "server.key", CA: "ca.pem"}, logger)
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t, Config{Log: logger, AckWait: time.Millisecond}, "", grpc.Creds(creds))
	h.service("api", "10.0.0.1:80", "10.0.0.2:80")
	h.node("host-1", 15001)
	h.mustApply()
	return h, ca, log
}

// clientCreds are those of a client by its files; ca is that of the server.
func (a *authority) clientCreds(ca, file string) credentials.TransportCredentials {
	a.t.Helper()
	pool := x509.NewCertPool()
	b, err := os.ReadFile(filepath.Join(a.dir, ca+".pem"))
	if err != nil || !pool.AppendCertsFromPEM(b) {
		a.t.Fatal(ca, err)
	}
	cfg := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	if file != "" {
		pair, err := tls.LoadX509KeyPair(filepath.Join(a.dir, file+".pem"), filepath.Join(a.dir, file+".key"))
		if err != nil {
			a.t.Fatal(err)
		}
		// Whatever authorities the server asks for.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return credentials.NewTLS(cfg)
}

// TestTLSNames serves a client only by the name in its certificate.
func TestTLSNames(t *testing.T) {
	h, ca, log := securedHost(t)
	ca.leaf("host-1", "host-1", x509.ExtKeyUsageClientAuth)
	ca.leaf("wild", "*", x509.ExtKeyUsageClientAuth)
	ca.leaf("daemon", "host-1", x509.ExtKeyUsageServerAuth)
	theirs := newAuthority(t, ca.dir, "theirs")
	theirs.leaf("stranger", "host-1", x509.ExtKeyUsageClientAuth)
	good := newClientOn(h, "host-1", dialBy(t, h, ca.clientCreds("ca", "host-1")))
	good.subscribe(typeCluster)
	good.expect("Cluster +api/v1 +api/v2")
	for _, c := range []struct {
		name, node string
		creds      credentials.TransportCredentials
		code       codes.Code
		logged     string
	}{
		{"another node's", "host-2", ca.clientCreds("ca", "host-1"), codes.PermissionDenied, `node id host-2 is not among the DNS names [\"host-1\"]`},
		{"a wildcard", "host-1", ca.clientCreds("ca", "wild"), codes.PermissionDenied, `node id host-1 is not among the DNS names [\"*\"]`},
		{"another authority", "host-1", ca.clientCreds("ca", "stranger"), codes.Unavailable, "unknown authority"},
		{"a server's", "host-1", ca.clientCreds("ca", "daemon"), codes.Unavailable, "incompatible key usage"},
		{"none", "host-1", ca.clientCreds("ca", ""), codes.Unavailable, "didn't provide a certificate"},
		{"plaintext", "host-1", insecure.NewCredentials(), codes.Unavailable, "does not look like a TLS handshake"},
	} {
		conn, err := grpc.NewClient(h.addr, grpc.WithTransportCredentials(c.creds))
		if err != nil {
			t.Fatal(err)
		}
		if got := turnedAway(t, conn, c.node); status.Code(got) != c.code {
			t.Errorf("%s: %v, want %s", c.name, got, c.code)
		}
		log.holds(t, "a client of xDS is refused", "127.0.0.1", c.logged)
		_ = conn.Close()
	}
	h.service("b", "10.0.0.3:80", "")
	h.mustApply()
	good.expect("Cluster +b/v1 +b/v2") // it has noticed nothing
	if p := h.sink.Proxies(); len(p) != 1 || p[0].Node != "host-1" {
		t.Errorf("proxies %+v", p)
	}
}

// TestTLSRotation replaces the files under a server that goes on.
func TestTLSRotation(t *testing.T) {
	h, ca, log := securedHost(t)
	ca.leaf("host-1", "host-1", x509.ExtKeyUsageClientAuth)
	before := ca.clientCreds("ca", "host-1")
	old := newClientOn(h, "host-1", dialBy(t, h, before))
	old.subscribe(typeCluster)
	old.expect("Cluster +api/v1 +api/v2")

	good, err := os.ReadFile(filepath.Join(ca.dir, "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	writeSecret(t, filepath.Join(ca.dir, "server.key"), []byte("-----BEGIN SECRET-----"))
	again := newClientOn(h, "host-1", dialBy(t, h, before))
	again.subscribe(typeCluster)
	again.expect("Cluster +api/v1 +api/v2")
	log.holds(t, "the last good one stays", "server.pem and server.key are not a certificate and its key")
	if strings.Contains(log.String(), "SECRET") {
		t.Errorf("the log shows a key:\n%s", log)
	}
	writeSecret(t, filepath.Join(ca.dir, "server.key"), good)

	next := newAuthority(t, ca.dir, "ca") // in place of the old one
	next.leaf("server", "127.0.0.1", x509.ExtKeyUsageServerAuth)
	next.leaf("host-1", "host-1", x509.ExtKeyUsageClientAuth)
	fresh := newClientOn(h, "host-1", dialBy(t, h, next.clientCreds("ca", "host-1")))
	fresh.subscribe(typeCluster)
	fresh.expect("Cluster +api/v1 +api/v2")
	log.holds(t, "was replaced")
	conn, err := grpc.NewClient(h.addr, grpc.WithTransportCredentials(before))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := turnedAway(t, conn, "host-1"); status.Code(err) != codes.Unavailable {
		t.Errorf("a client of the old authority: %v", err)
	}
	h.service("b", "10.0.0.3:80", "")
	h.mustApply()
	old.expect("Cluster +b/v1 +b/v2")

	for _, files := range []TLS{
		{SecretsDir: ca.dir, Cert: "nothing.pem", Key: "server.key", CA: "ca.pem"},
		{SecretsDir: ca.dir, Cert: "server.pem", Key: "host-1.key", CA: "ca.pem"},
		{SecretsDir: ca.dir, Cert: "server.pem", Key: "server.key", CA: "server.key"},
		{SecretsDir: ca.dir, Cert: "server.pem", Key: "/etc/passwd", CA: "ca.pem"},
	} {
		if _, err := Credentials(files, nil); err == nil {
			t.Errorf("%+v can be used", files)
		}
	}
}

// TestEnvoyTLS connects real Envoys: one with its certificate, one with that of
// another node, and one that expects another daemon.
func TestEnvoyTLS(t *testing.T) {
	h, ca, log := securedHost(t)
	h.service("api", backend(t, "one"), backend(t, "two"))
	for file, name := range map[string]string{"host-1": "host-1", "host-2": "host-9", "host-3": "host-3"} {
		ca.leaf(file, name, x509.ExtKeyUsageClientAuth)
	}
	server := func(file, name string) Server {
		at := func(f string) string { return filepath.Join(ca.dir, f) }
		return Server{Address: h.addr, CA: at("ca.pem"), Cert: at(file + ".pem"), Key: at(file + ".key"), Name: name}
	}
	e := startEnvoyOf(h, h.node("host-1", testnet.FreePort()), server("host-1", ""))
	wrong := startEnvoyOf(h, h.node("host-2", testnet.FreePort()), server("host-2", ""))
	misled := startEnvoyOf(h, h.node("host-3", testnet.FreePort()), server("host-3", "other.internal"))
	h.mustApply()
	e.answers("one HTTP/1.1", "api.internal")
	log.holds(t, "a client of xDS is refused", `node id host-2 is not among the DNS names [\"host-9\"]`)
	testnet.Eventually(t, func() string { return "the daemon's name is not checked" }, func() bool {
		return misled.stat("cluster.gray-xds.ssl.fail_verify_san") > 0
	})
	h.account("api", "7", "v2")
	h.mustApply()
	e.answers("two HTTP/1.1", "api.internal", "x-ucloud-routeby: account_id=7")
	for _, x := range []*envoy{wrong, misled} {
		if n := x.stat("cluster_manager.cds.update_success"); n != 0 {
			t.Errorf("%s was sent %d updates", x.admin, n)
		}
		if _, err := http.Get("http://" + x.proxy); err == nil {
			t.Errorf("%s listens", x.proxy)
		}
	}
	if p := h.sink.Proxies(); len(p) != 1 || p[0].Node != "host-1" {
		t.Errorf("proxies %+v", p)
	}
}

// TestBootstrapTLS has Envoy check the bootstrap with TLS.
func TestBootstrapTLS(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, dir, "ca")
	ca.leaf("node", "host-1", x509.ExtKeyUsageClientAuth)
	h := newHost(t, Config{}, "")
	n := h.node("host-1", 15001)
	at := func(f string) string { return filepath.Join(dir, f) }
	for _, server := range []Server{
		{Address: "gray.internal:18000"}, {Address: "192.0.2.1:18000"}, {Address: "[2001:db8::1]:18000"}, {Address: "192.0.2.1:18000", Name: "gray.internal"},
	} {
		server.CA, server.Cert, server.Key = at("ca.pem"), at("node.pem"), at("node.key")
		validBootstrap(t, n, server)
	}
	for _, server := range []Server{
		{Address: "a:1", Name: "x"}, {Address: "a:1", CA: "/ca", Cert: "/cert"}, {Address: "a:1", CA: "/ca", Cert: "/cert", Key: "key"},
	} {
		if _, err := Bootstrap(n, server); err == nil {
			t.Errorf("%+v makes a bootstrap", server)
		}
	}
}
