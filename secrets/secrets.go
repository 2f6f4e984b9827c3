// Package secrets reads keys, certificates and passwords from files below the secrets
// folder.
package secrets

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxSecret bounds a file with keys or passwords, in bytes.
const maxSecret = 1 << 20

// byteOrderMark is what some editors write before a text; it is no part of a secret.
const byteOrderMark = "\ufeff"

// Read reads a file that a document or a flag names: a key, a certificate or a
// password of at most 1 MiB. The file must be below the secrets folder after symbolic
// links are resolved, because documents are not trusted with the host. The error names
// the file and never contains any of it.
func Read(dir, path string) ([]byte, error) {
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, fmt.Errorf("--secrets-dir %s cannot be read: %w", dir, err)
	}
	full := path
	if !filepath.IsAbs(full) {
		full = filepath.Join(root, full)
	}
	resolved, err := filepath.EvalSymlinks(full)
	deepest, missing := resolved, err
	for at := full; missing != nil && at != filepath.Dir(at); { // whether a file outside exists is nobody's business
		at = filepath.Dir(at)
		deepest, missing = filepath.EvalSymlinks(at)
	}
	if rel, err := filepath.Rel(root, deepest); err != nil || !filepath.IsLocal(rel) {
		return nil, fmt.Errorf("%s is not below --secrets-dir %s", path, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", path, err)
	}
	f, err := os.Open(resolved)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", path, err)
	}
	if len(b) > maxSecret {
		return nil, fmt.Errorf("%s is larger than %d bytes; name the file of the secret alone", path, maxSecret)
	}
	return bytes.TrimPrefix(b, []byte(byteOrderMark)), nil
}

// ReadKeyPair reads a certificate and its key, as Read does.
func ReadKeyPair(dir, cert, key string) (tls.Certificate, error) {
	var content [2][]byte
	for i, path := range []string{cert, key} {
		b, err := Read(dir, path)
		if err != nil {
			return tls.Certificate{}, err
		}
		content[i] = b
	}
	pair, err := tls.X509KeyPair(content[0], content[1])
	if err != nil { // it may show what is in a file
		return pair, fmt.Errorf("%s and %s are not a certificate and its key", cert, key)
	}
	return pair, nil
}

// ReadAuthorities reads CA certificates, as Read does.
func ReadAuthorities(dir, path string) (*x509.CertPool, error) {
	b, err := Read(dir, path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s holds no certificate; want PEM", path)
	}
	return pool, nil
}
