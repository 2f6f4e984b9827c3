package p4rt

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
)

// authority signs certificates of 127.0.0.1.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	der  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert = &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.der, a.key = a.sign(a.cert)
	return a
}

// sign makes a certificate and its key.
func (a *authority) sign(c *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.Subject = pkix.Name{CommonName: "gray test"}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	signer := a.key
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

// leaf makes the PEM files of a server or client below a folder.
func (a *authority) leaf(dir, name string, usage x509.ExtKeyUsage) tls.Certificate {
	a.t.Helper()
	der, key := a.sign(&x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{usage}, KeyUsage: x509.KeyUsageDigitalSignature,
	})
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	certPEM, keyPEM := pemOf("CERTIFICATE", der), pemOf("EC PRIVATE KEY", raw)
	writeFile(a.t, filepath.Join(dir, name+".pem"), certPEM)
	writeFile(a.t, filepath.Join(dir, name+".key"), keyPEM)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		a.t.Fatal(err)
	}
	return pair
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestTLS programs a switch that asks for a client's certificate, and none that has the
// certificate of another name or authority, or none.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	ours, theirs := newAuthority(t), newAuthority(t)
	writeFile(t, filepath.Join(dir, "ca.pem"), pemOf("CERTIFICATE", ours.der))
	writeFile(t, filepath.Join(dir, "theirs.pem"), pemOf("CERTIFICATE", theirs.der))
	server := ours.leaf(dir, "server", x509.ExtKeyUsageServerAuth)
	ours.leaf(dir, "client", x509.ExtKeyUsageClientAuth)
	pool := x509.NewCertPool()
	pool.AddCert(mustParse(t, ours.der))
	l := newLab(t, grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{server}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	})))
	try := func(patience time.Duration, files *policies.TLS) error {
		s := newSink(t, 1)
		s.cfg.SecretsDir = dir
		s.limits.primary = patience
		defer s.Close()
		self := switchOf(&policies.Switch{Name: "gw-a", Address: l.address, DeviceID: 1, Push: "ifDifferent", TLS: files})
		if err := s.Apply(t.Context(), self, creates(self)); err != nil {
			return err
		}
		_, err := s.Observe(t.Context(), self.Target, self)
		return err
	}
	if err := try(patience, &policies.TLS{CA: "ca.pem", Cert: "client.pem", Key: "client.key"}); err != nil {
		t.Errorf("with the right files: %v", err)
	}
	for name, c := range map[string]struct {
		files *policies.TLS
		want  string
	}{
		"no certificate":      {&policies.TLS{CA: "ca.pem"}, "ended"},
		"plaintext":           {nil, "ended"},
		"another authority":   {&policies.TLS{CA: "theirs.pem", Cert: "client.pem", Key: "client.key"}, "unknown authority"},
		"a server's as ours":  {&policies.TLS{CA: "ca.pem", Cert: "server.pem", Key: "server.key"}, "ended"},
		"key of another":      {&policies.TLS{CA: "ca.pem", Cert: "client.pem", Key: "server.key"}, "are not a certificate and its key"},
		"a key as authority":  {&policies.TLS{CA: "client.key"}, "no certificate"},
		"no such file":        {&policies.TLS{CA: "nothing.pem"}, "nothing.pem cannot be read"},
		"no such key":         {&policies.TLS{CA: "ca.pem", Cert: "client.pem", Key: "nothing.key"}, "nothing.key cannot be read"},
		"no such certificate": {&policies.TLS{CA: "ca.pem", Cert: "nothing.crt", Key: "client.key"}, "nothing.crt cannot be read"},
	} {
		err := try(300*time.Millisecond, c.files)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%s: error %v, want one about %q", name, err, c.want)
		}
	}
}

func mustParse(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestPlaintext allows plaintext on loopback, or if the document says so.
func TestPlaintext(t *testing.T) {
	s := New(Config{})
	for address, ok := range map[string]bool{
		"127.0.0.1:9559": true, "localhost:9559": true, "[::1]:9559": true, "127.9.9.9:1": true,
		"192.0.2.1:9559": false, "switch.example:9559": false, "[2001:db8::1]:9559": false,
	} {
		for _, insecure := range []bool{false, true} {
			_, err := s.credentials(targetBody{address: address, insecure: insecure})
			if (err == nil) != (ok || insecure) {
				t.Errorf("%s, insecure %t: error %v", address, insecure, err)
			}
		}
	}
	self := targetAt("192.0.2.1:9559")
	if _, err := s.Observe(t.Context(), self.Target, self); err == nil || !strings.Contains(err.Error(), "insecure: true") {
		t.Errorf("Observe: %v", err)
	}
	if err := s.Apply(t.Context(), nil, nil); err == nil || !strings.Contains(err.Error(), "no Switch document") {
		t.Errorf("Apply without a document: %v", err)
	}
	if _, err := s.Observe(t.Context(), "p4rt/x", (*reconciler.Resource)(nil)); err == nil {
		t.Error("Observe without a document")
	}
}
