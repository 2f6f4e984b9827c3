package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"

	"github.com/spf13/pflag"

	"github.com/gray-release/gray/etcdclient"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sources/etcd"
)

// etcdFlags say which etcd holds endpoints or the state, and who the daemon is to it.
type etcdFlags struct {
	name          string // that the flags begin with; empty: etcd
	members       []string
	ca, cert, key string // below the secrets folder
	username      string
	passwordFile  string // likewise
}

func (e *etcdFlags) add(f *pflag.FlagSet) {
	f.StringSliceVar(&e.members, "etcd", nil, "the etcd in which endpoints are registered, http:// or https:// URLs of its members; can be repeated")
	e.addAccess(f, "etcd")
}

// addAccess adds the flags that say who the daemon is.
func (e *etcdFlags) addAccess(f *pflag.FlagSet, which string) {
	name := e.flag()[2:]
	f.StringVar(&e.ca, name+"-ca", "", "file with the authority of "+which+", below --secrets-dir; default: those of the system")
	f.StringVar(&e.cert, name+"-cert", "", "file with the daemon's certificate for "+which+", below --secrets-dir")
	f.StringVar(&e.key, name+"-key", "", "file with its key, below --secrets-dir")
	f.StringVar(&e.username, name+"-username", "", "user name for "+which)
	f.StringVar(&e.passwordFile, name+"-password-file", "", "file with the password for "+which+", below --secrets-dir")
}

// flag is the flag that names the members, and how the others begin.
func (e *etcdFlags) flag() string { return "--" + cmp.Or(e.name, "etcd") }

// lookUp makes the board of what is in etcd, and what fills it until its context ends.
func (c *daemonConfig) lookUp(store *reconciler.Store) (*reconciler.Discovery, func(context.Context), error) {
	cfg, err := c.etcd.config(c.secrets, c.insecure)
	if err != nil {
		return nil, nil, err
	}
	cfg.Log = c.logger()
	board, err := reconciler.NewDiscovery(store)
	return board, func(ctx context.Context) { etcd.Run(ctx, board, cfg) }, err
}

// config makes the source's configuration of the flags.
func (e *etcdFlags) config(secrets string, insecure bool) (etcdclient.Config, error) {
	c := etcdclient.Config{Members: slices.Clone(e.members), Username: e.username}
	secure := 0
	for i, m := range e.members {
		u, err := url.Parse(m)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Path != "" && u.Path != "/" {
			return c, fmt.Errorf("%s %q is no URL of a member; want https://host:2379 or http://host:2379", e.flag(), clipURL(u, m))
		}
		c.Members[i] = u.Scheme + "://" + u.Host
		if u.Scheme == "https" {
			secure++
			continue
		}
		if !insecure && !isLoopback(u.Hostname()) {
			return c, fmt.Errorf("%s %s is plaintext and not on loopback; use TLS, or give --insecure", e.flag(), m)
		}
	}
	if secure != 0 && secure != len(e.members) {
		return c, fmt.Errorf("%s has both http and https members; want one of the two", e.flag())
	}
	if (e.cert == "") != (e.key == "") {
		return c, fmt.Errorf("%[1]s-cert and %[1]s-key go together; give both or none", e.flag())
	}
	if (e.username == "") != (e.passwordFile == "") {
		return c, fmt.Errorf("%[1]s-username and %[1]s-password-file go together; give both or none", e.flag())
	}
	if e.passwordFile != "" {
		b, err := reconciler.ReadSecret(secrets, e.passwordFile)
		if err != nil {
			return c, fmt.Errorf("%s-password-file: %w", e.flag(), err)
		}
		if c.Password = string(bytes.TrimRight(b, "\r\n")); c.Password == "" {
			return c, fmt.Errorf("%s-password-file %s is empty; want the password on one line", e.flag(), e.passwordFile)
		}
	}
	if secure == 0 {
		if e.ca != "" || e.cert != "" {
			return c, fmt.Errorf("%[1]s-ca and %[1]s-cert are for https members; give %[1]s as %[2]s://host:2379", e.flag(), map[bool]string{true: "https", false: "etcds"}[e.name == ""])
		}
		return c, nil
	}
	var err error
	c.TLS, err = e.tls(secrets)
	return c, err
}

// clipURL is an address without the password that somebody may have put into it.
func clipURL(u *url.URL, text string) string {
	if u == nil {
		return "(not shown)"
	}
	if u.User != nil {
		return u.Redacted()
	}
	return text
}

// tls reads the certificate anew for every connection, so that it can be renewed.
func (e *etcdFlags) tls(secrets string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if e.ca != "" {
		b, err := reconciler.ReadSecret(secrets, e.ca)
		if err != nil {
			return nil, fmt.Errorf("%s-ca: %w", e.flag(), err)
		}
		if cfg.RootCAs = x509.NewCertPool(); !cfg.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%s-ca %s holds no certificate; want PEM", e.flag(), e.ca)
		}
	}
	if e.cert == "" {
		return cfg, nil
	}
	read := func() (*tls.Certificate, error) {
		cert, err := reconciler.ReadSecret(secrets, e.cert)
		if err != nil {
			return nil, fmt.Errorf("%s-cert: %w", e.flag(), err)
		}
		key, err := reconciler.ReadSecret(secrets, e.key)
		if err != nil {
			return nil, fmt.Errorf("%s-key: %w", e.flag(), err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("%[1]s-cert %[2]s and %[1]s-key %[3]s are no certificate and key that belong together", e.flag(), e.cert, e.key)
		}
		return &pair, nil
	}
	if _, err := read(); err != nil {
		return nil, err
	}
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return read() }
	return cfg, nil
}
