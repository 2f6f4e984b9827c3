package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/sinks/xds"
)

// certificates writes ca.pem, and NAME.pem and NAME.key for a server at 127.0.0.1
// and a client with a DNS name.
func (l *lab) certificates(dir, server, client string) {
	l.t.Helper()
	write := func(file, kind string, der []byte) {
		l.ok(os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	ca := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "gray test"}}
	var caKey *ecdsa.PrivateKey
	for i, c := range []*x509.Certificate{
		ca,
		{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
		{DNSNames: []string{client}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		l.ok(err)
		if i == 0 {
			caKey = key
		}
		c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(int64(i+1)), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, c, ca, &key.PublicKey, caKey)
		l.ok(err)
		raw, err := x509.MarshalECPrivateKey(key)
		l.ok(err)
		name := []string{"ca", server, client}[i]
		write(name+".pem", "CERTIFICATE", der)
		write(name+".key", "EC PRIVATE KEY", raw)
	}
}

// gray runs the command line and returns what it prints.
func (l *lab) gray(args ...string) string {
	l.t.Helper()
	cmd := exec.CommandContext(l.t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), "GRAY_TEST_RUN_MAIN=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		l.t.Fatalf("gray %s: %v\n%s%s", strings.Join(args, " "), err, out, &stderr)
	}
	return string(out)
}

// TestStatusProxies has a real Envoy come by mTLS with the bootstrap that gray
// renders, and refuse a listener: gray status --proxies shows both.
func TestStatusProxies(t *testing.T) {
	envoy := testEnvoy(t)
	l := newLab(t)
	taken, err := net.Listen("tcp", l.Address("15001"))
	l.ok(err)
	defer taken.Close()
	dir := t.TempDir()
	l.certificates(dir, "daemon", "host-1")
	l.startDaemon("--secrets-dir", dir, "--xds-cert", "daemon.pem", "--xds-key", "daemon.key", "--xds-ca", "ca.pem")
	bootstrap := filepath.Join(dir, "envoy.yaml")
	l.ok(os.WriteFile(bootstrap, []byte(l.gray("render", "bootstrap", "host-1", l.Repo, "--xds-listen", l.Address("18000"),
		"--node-ca", filepath.Join(dir, "ca.pem"), "--node-cert", filepath.Join(dir, "host-1.pem"), "--node-key", filepath.Join(dir, "host-1.key"))), 0o600))
	cmd := exec.CommandContext(t.Context(), envoy, "-c", bootstrap, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warn")
	l.ok(cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })

	show := func(args ...string) string {
		return l.gray(append([]string{"status", "--proxies", "--admin-listen", l.Address("18001")}, args...)...)
	}
	l.until("the refusal shows", func(*admin.Status) bool { return strings.Contains(show(), "refused Listener") })
	text := show()
	for _, want := range []string{
		`(?m)^NODE +CLIENT +VERSION +PROTOCOL +SINCE +STATE$`,
		`(?m)^host-1 +envoy +1\.40\.0 +delta +20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ +waits: 1 Listener refused$`,
		`(?m)^host-1 refused Listener host-1 at 20\S+Z, of nodes/host-1.yaml:1: .*(in use|bind).*$`,
	} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("no line is %s:\n%s", want, text)
		}
	}
	if text := show("host-9"); strings.Contains(text, "host-1") {
		t.Errorf("of another node:\n%s", text)
	}
	var out struct {
		APIVersion string
		Proxies    []xds.Proxy
	}
	l.ok(json.Unmarshal([]byte(show("host-1", "-o", "json")), &out))
	if len(out.Proxies) != 1 || out.APIVersion != "gray.dev/proxies/v1" {
		t.Fatalf("got %+v", out)
	}
	p := out.Proxies[0]
	if p.Synced || p.Since.IsZero() || p.LastNACK == nil || len(p.LastNACK.Places) != 1 || p.LastNACK.Places[0] != "nodes/host-1.yaml:1" {
		t.Errorf("got %+v with %+v", p, p.LastNACK)
	}
	l.ok(taken.Close())
	l.ok(l.moveProxy())
	l.ok(l.Commit(t.Context(), "another port"))
	l.live()
	l.until("it is synced", func(*admin.Status) bool { return regexp.MustCompile(`(?m)^host-1 .* synced$`).MatchString(show()) })
}

// TestStatusProxiesText holds what is printed of each kind of client.
func TestStatusProxiesText(t *testing.T) {
	at := time.Date(2026, 11, 25, 4, 0, 0, 0, time.UTC)
	s := httptest.NewServer(admin.Handler(nil, func() admin.Peers {
		return admin.Peers{Proxies: []xds.Proxy{
			{Node: "app-1", Agent: "gRPC Go", Version: "1.85.0", Protocol: "sotw", Since: at, Synced: true, Cannot: []string{"api: retries", "b: retries"}},
			{Node: "host-1", Agent: "envoy", Version: "1.40.0", Protocol: "delta", Since: at, Waits: "1 Cluster refused", LastNACK: &xds.NACK{
				Time: at, Type: "Cluster", Resource: "api/v1", Places: []string{"s.yaml:7", "s.yaml:9"}, Message: "no",
			}},
		}}
	}))
	defer s.Close()
	show := func(args ...string) string {
		root := newRoot()
		var out strings.Builder
		root.SetOut(&out)
		root.SetArgs(append([]string{"status", "--proxies", "--admin-listen", s.Listener.Addr().String()}, args...))
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	want := `NODE    CLIENT   VERSION  PROTOCOL  SINCE                 STATE
app-1   gRPC Go  1.85.0   sotw      2026-11-25T04:00:00Z  synced
host-1  envoy    1.40.0   delta     2026-11-25T04:00:00Z  waits: 1 Cluster refused

app-1 cannot do: api: retries; b: retries
host-1 refused Cluster api/v1 at 2026-11-25T04:00:00Z, of s.yaml:7 s.yaml:9: no
`
	if got := show(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := show("app-1", "-o", "json"); got != `{"apiVersion":"gray.dev/proxies/v1","proxies":[{"node":"app-1","agent":"gRPC Go","version":"1.85.0","protocol":"sotw","since":"2026-11-25T04:00:00Z","synced":true,"cannot":["api: retries","b: retries"]}]}`+"\n" {
		t.Errorf("got %s", got)
	}
}
