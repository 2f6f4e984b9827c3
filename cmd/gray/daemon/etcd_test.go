package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/gray-release/gray/etcdclient"
	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/sources/etcd"
	"github.com/gray-release/gray/tools/testnet"
)

// secretsDir writes an authority, a certificate of it for this host and its key, and a
// password, into a folder as --secrets-dir names one.
func secretsDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, b []byte) {
		if kind != "" {
			b = pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gray"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write("ca.pem", "CERTIFICATE", der)
	write("key.pem", "PRIVATE KEY", keyDER)
	write("password", "", []byte("hunter2\n"))
	write("wrong", "", []byte("hunter3\n"))
	write("empty", "", []byte("\n"))
	return dir
}

func TestEtcdFlagsAreRefused(t *testing.T) {
	dir := secretsDir(t)
	for _, c := range []struct {
		flags Etcd
		want  string
	}{
		{Etcd{Members: []string{"127.0.0.1:2379"}}, "is not the URL of a member"},
		{Etcd{Members: []string{"https://u:hunter2@127.0.0.1:2379"}}, "is not the URL of a member"},
		{Etcd{Members: []string{"https://%zz:hunter2@h"}}, "is not the URL of a member"},
		{Etcd{Members: []string{"http://10.0.0.1:2379"}}, "is plaintext beyond loopback"},
		{Etcd{Members: []string{"http://etcd.internal:2379"}}, "is plaintext beyond loopback"},
		{Etcd{Members: []string{"http://127.0.0.1:1", "https://10.0.0.1:1"}}, "both http and https"},
		{Etcd{Members: []string{"https://h:1"}, Cert: "ca.pem"}, "--etcd-cert and --etcd-key go together"},
		{Etcd{Members: []string{"https://h:1"}, Username: "gray"}, "--etcd-username and --etcd-password-file go together"},
		{Etcd{Members: []string{"http://[::1]:1"}, CA: "ca.pem"}, "are for https members"},
		{Etcd{Members: []string{"https://h:1"}, CA: "../x.pem"}, "--etcd-ca: "},
		{Etcd{Members: []string{"https://h:1"}, CA: "key.pem"}, "holds no certificate"},
		{Etcd{Members: []string{"https://h:1"}, Cert: "ca.pem", Key: "password"}, "not a certificate and its key"},
		{Etcd{Username: "gray", PasswordFile: "/etc/passwd"}, "is not below --secrets-dir"},
		{Etcd{Username: "gray", PasswordFile: "empty"}, "want the password on one line"},
	} {
		_, err := c.flags.config(dir, false)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%+v: %v, want %q", c.flags, err, c.want)
		}
	}
	for _, f := range []Etcd{{}, {Members: []string{"http://localhost:1", "http://[::1]:2379/"}}, {Members: []string{"https://etcd.internal"}}} {
		if _, err := f.config(dir, false); err != nil {
			t.Errorf("%+v: %v", f, err)
		}
	}
	if _, err := (&Etcd{Members: []string{"http://10.0.0.1:2379"}}).config(dir, true); err != nil {
		t.Error(err)
	}
}

// securedEtcd runs an etcd that wants a certificate and has the one of a secrets folder.
func securedEtcd(t *testing.T, dir string) string {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.BcryptCost = t.TempDir(), "fatal", 4
	address := testnet.FreeAddress()
	at := []url.URL{{Scheme: "https", Host: address}}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = at, at
	cfg.ListenPeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	tlsInfo := &cfg.ClientTLSInfo
	tlsInfo.CertFile, tlsInfo.KeyFile, tlsInfo.TrustedCAFile = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "ca.pem")
	tlsInfo.ClientCertAuth = true
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	<-server.Server.ReadyNotify()
	return address
}

// TestEtcdAsksWhoIsThere has an etcd that wants a certificate, a user and a password.
func TestEtcdAsksWhoIsThere(t *testing.T) {
	dir := secretsDir(t)
	address := securedEtcd(t, dir)
	flags := Etcd{
		Members: []string{"https://" + address}, CA: "ca.pem", Cert: "ca.pem", Key: "key.pem", Username: "root", PasswordFile: "password",
	}
	good, err := flags.config(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: good.Members, TLS: good.TLS, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, err := range []error{
		second(c.Put(t.Context(), "/a/1", `{"Addr":"10.0.0.1:80"}`)),
		second(c.UserAdd(t.Context(), "root", "hunter2")),
		second(c.UserGrantRole(t.Context(), "root", "root")),
		second(c.AuthEnable(t.Context())),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	says(t, good, "10.0.0.1:80")
	for _, c := range []struct {
		change func(*Etcd)
		want   string
	}{
		{func(f *Etcd) { f.PasswordFile = "wrong" }, "EtcdAway: etcd has not answered since"},
		{func(f *Etcd) { f.PasswordFile = "wrong" }, "authentication failed"},
		{func(f *Etcd) { f.Cert, f.Key, f.Username, f.PasswordFile = "", "", "", "" }, "certificate required"},
		// The certificate's user may read nothing.
		{func(f *Etcd) { f.Username, f.PasswordFile = "", "" }, "NotRead: etcdserver: permission denied"},
	} {
		bad := flags
		c.change(&bad)
		cfg, err := bad.config(dir, false)
		if err != nil {
			t.Fatal(err)
		}
		says(t, cfg, c.want)
	}
}

func second[T any](_ T, err error) error { return err }

// says runs a source until what it knows of target /a, or what is wrong with that,
// holds a text.
func says(t *testing.T, cfg etcdclient.Config, want string) {
	t.Helper()
	board, err := board.NewDiscovery(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := board.Want([]string{"/a"}); err != nil {
		t.Fatal(err)
	}
	cfg.Log = slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var done sync.WaitGroup
	done.Go(func() { etcd.Run(ctx, board, cfg) })
	defer done.Wait()
	defer cancel()
	var got string
	for !strings.Contains(got, want) {
		select {
		case <-board.Woken():
		case <-ctx.Done():
			t.Fatalf("it says %q, want %q in it", got, want)
		}
		f, _ := board.Known("/a")
		w := board.Trouble("/a")
		got = w.Reason + ": " + w.Message
		for _, e := range f.Endpoints {
			got += netip.AddrPortFrom(e.Address, e.Port).String()
		}
		if strings.Contains(got, "hunter") {
			t.Fatalf("a password shows: %s", got)
		}
	}
}
