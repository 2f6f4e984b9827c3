package git

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"golang.org/x/crypto/ssh"
)

// maxSecret bounds the files with secrets, in bytes.
const maxSecret = 1 << 20

// Auth names the files with the credentials for a remote. They are files so that no
// secret is in a command line or an environment, and are read at every fetch so that
// you can replace a token while the daemon runs.
type Auth struct {
	Username      string // for https with a password; a token needs none
	PasswordFile  string // a password or token
	SSHKeyFile    string
	SSHPassphrase string // a file with the key's passphrase
	KnownHosts    string // the trusted host keys
	CAFile        string // additional CA certificates for https
}

// connect begins a session with a remote. It also returns the secrets that must not be
// shown.
func (a Auth) connect(ctx context.Context, e *transport.Endpoint) (transport.UploadPackSession, []string, error) {
	if e.Protocol == "ssh" {
		config, secrets, err := a.ssh(e)
		if err != nil {
			return nil, secrets, err
		}
		session, err := dialSSH(ctx, e, config)
		return session, secrets, err
	}
	login, secrets, err := a.login(e)
	if err != nil {
		return nil, secrets, err
	}
	roots, err := a.roots()
	if err != nil {
		return nil, secrets, err
	}
	session, err := dialHTTP(e, login, roots)
	return session, secrets, err
}

// check reports early what is wrong with the files.
func (a Auth) check(e *transport.Endpoint) error {
	if e.Protocol == "ssh" {
		_, _, err := a.ssh(e)
		return err
	}
	if _, _, err := a.login(e); err != nil {
		return err
	}
	_, err := a.roots()
	return err
}

// login returns the user and password for https; nil for none.
func (a Auth) login(e *transport.Endpoint) (*githttp.BasicAuth, []string, error) {
	if a.PasswordFile == "" {
		if e.User == "" && e.Password == "" {
			return nil, nil, nil
		}
		return &githttp.BasicAuth{Username: e.User, Password: e.Password}, nil, nil
	}
	password, err := readSecret(a.PasswordFile)
	if err != nil {
		return nil, nil, err
	}
	user := cmp.Or(a.Username, e.User, "git") // hosts that accept a token ignore the name, but need one
	return &githttp.BasicAuth{Username: user, Password: password}, []string{password}, nil
}

// roots returns the CA certificates for https; nil for those of the system.
func (a Auth) roots() (*x509.CertPool, error) {
	if a.CAFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(a.CAFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read --git-ca: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate; --git-ca needs a PEM file", a.CAFile)
	}
	return roots, nil
}

// ssh returns how to log in by ssh, and which host keys to trust.
func (a Auth) ssh(e *transport.Endpoint) (*ssh.ClientConfig, []string, error) {
	if a.SSHKeyFile == "" || a.KnownHosts == "" {
		return nil, nil, errors.New("ssh needs a key and the host keys to trust; give --ssh-key and --known-hosts")
	}
	key, err := readSecret(a.SSHKeyFile)
	if err != nil {
		return nil, nil, err
	}
	passphrase := ""
	if a.SSHPassphrase != "" {
		if passphrase, err = readSecret(a.SSHPassphrase); err != nil {
			return nil, nil, err
		}
	}
	user := cmp.Or(e.User, "git")
	keys, err := gitssh.NewPublicKeys(user, []byte(key+"\n"), passphrase)
	if err != nil {
		return nil, []string{passphrase}, fmt.Errorf("cannot use the key %s: %w; an encrypted key needs --ssh-passphrase-file", a.SSHKeyFile, err)
	}
	hosts, err := gitssh.NewKnownHostsDb(a.KnownHosts)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the host keys %s: %w", a.KnownHosts, err)
	}
	return &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(keys.Signer)}, HostKeyCallback: hosts.HostKeyCallback(),
		// Otherwise the server might send a type of key that is not in the file.
		HostKeyAlgorithms: hosts.HostKeyAlgorithms(address(e)),
	}, []string{passphrase}, nil
}

// readSecret reads a file, and refuses one that everybody may read.
func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("cannot read a secret: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("cannot read a secret: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return "", fmt.Errorf("everybody can access the secret %s (mode %04o); run chmod o= on it", path, mode)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret))
	if err != nil {
		return "", fmt.Errorf("cannot read a secret: %w", err)
	}
	secret := strings.TrimSpace(strings.TrimPrefix(string(b), "\ufeff")) // some editors write a byte order mark
	if secret == "" {
		return "", fmt.Errorf("the secret %s is empty", path)
	}
	return secret, nil
}
