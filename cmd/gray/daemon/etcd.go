package daemon

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"slices"

	"github.com/gray-release/gray/etcdclient"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/secrets"
	"github.com/gray-release/gray/sources/etcd"
)

// Etcd says which etcd holds the endpoints or the state, and how to log in to it.
type Etcd struct {
	Members       []string // URLs; none for the state, whose members are in State.At
	CA, Cert, Key string   // below the secrets folder
	Username      string
	PasswordFile  string // likewise

	name string // what the flags begin with; empty: etcd
}

// flag is the flag with the members, and the beginning of the other flags.
func (e *Etcd) flag() string { return "--" + cmp.Or(e.name, "etcd") }

// lookUp returns the board of endpoints in etcd, and a function that fills it until its
// context ends.
func (c *Config) lookUp(store *reconciler.Store) (*board.Discovery, func(context.Context), error) {
	cfg, err := c.Etcd.config(c.Secrets, c.Insecure)
	if err != nil {
		return nil, nil, err
	}
	cfg.Log = c.Log
	var records *board.Records // nil for a replica: each looks up endpoints itself
	if store != nil {
		records = &store.Records
	}
	board, err := board.NewDiscovery(records)
	return board, func(ctx context.Context) { etcd.Run(ctx, board, cfg) }, err
}

// config makes the configuration of a client from the flags.
func (e *Etcd) config(dir string, insecure bool) (etcdclient.Config, error) {
	c := etcdclient.Config{Members: slices.Clone(e.Members), Username: e.Username}
	secure := 0
	for i, m := range e.Members {
		u, err := url.Parse(m)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Path != "" && u.Path != "/" {
			return c, fmt.Errorf("%s %q is not the URL of a member; want https://host:2379 or http://host:2379", e.flag(), clipURL(u, m))
		}
		c.Members[i] = u.Scheme + "://" + u.Host
		if u.Scheme == "https" {
			secure++
			continue
		}
		if !insecure && !schema.IsLoopback(u.Hostname()) {
			return c, fmt.Errorf("%s %s is plaintext beyond loopback; use TLS, or give --insecure", e.flag(), m)
		}
	}
	if secure != 0 && secure != len(e.Members) {
		return c, fmt.Errorf("%s has both http and https members; want only one of them", e.flag())
	}
	if (e.Cert == "") != (e.Key == "") {
		return c, fmt.Errorf("%[1]s-cert and %[1]s-key go together; give both or none", e.flag())
	}
	if (e.Username == "") != (e.PasswordFile == "") {
		return c, fmt.Errorf("%[1]s-username and %[1]s-password-file go together; give both or none", e.flag())
	}
	if e.PasswordFile != "" {
		b, err := secrets.Read(dir, e.PasswordFile)
		if err != nil {
			return c, fmt.Errorf("%s-password-file: %w", e.flag(), err)
		}
		if c.Password = string(bytes.TrimRight(b, "\r\n")); c.Password == "" {
			return c, fmt.Errorf("%s-password-file %s is empty; want the password on one line", e.flag(), e.PasswordFile)
		}
	}
	if secure == 0 {
		if e.CA != "" || e.Cert != "" {
			return c, fmt.Errorf("%[1]s-ca and %[1]s-cert are for https members; give %[1]s as %[2]s://host:2379", e.flag(), map[bool]string{true: "https", false: "etcds"}[e.name == ""])
		}
		return c, nil
	}
	var err error
	c.TLS, err = e.tls(dir)
	return c, err
}

// clipURL is an address without any password in it.
func clipURL(u *url.URL, text string) string {
	if u == nil {
		return "(not shown)"
	}
	if u.User != nil {
		return u.Redacted()
	}
	return text
}

// tls reads the certificate again for every connection, so that you can renew it.
func (e *Etcd) tls(dir string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if e.CA != "" {
		var err error
		if cfg.RootCAs, err = secrets.ReadAuthorities(dir, e.CA); err != nil {
			return nil, fmt.Errorf("%s-ca: %w", e.flag(), err)
		}
	}
	if e.Cert == "" {
		return cfg, nil
	}
	read := func() (*tls.Certificate, error) {
		pair, err := secrets.ReadKeyPair(dir, e.Cert, e.Key)
		if err != nil {
			err = fmt.Errorf("%[1]s-cert and %[1]s-key: %[2]w", e.flag(), err)
		}
		return &pair, err
	}
	if _, err := read(); err != nil {
		return nil, err
	}
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return read() }
	return cfg, nil
}
