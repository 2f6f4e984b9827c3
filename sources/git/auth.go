package git

import (
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

// Auth names the files with what a remote wants to see. Files, so that no secret
// stands in a command line or an environment. They are read at every fetch, so
// that a token can be replaced while the daemon runs.
type Auth struct {
	Username      string // for https with a password; with a token it is not needed
	PasswordFile  string // a password or token
	SSHKeyFile    string
	SSHPassphrase string // a file with the key's passphrase
	KnownHosts    string // the host keys that are trusted
	CAFile        string // further authorities for https
}

// connect begins a session with a remote. The secrets that it returns must not
// be shown.
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

// check tells early what is wrong with the files.
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

// login is the user and password for https; nil for none.
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
	user := a.Username
	if user == "" {
		user = e.User
	}
	if user == "" {
		user = "git" // hosts that take a token ignore the name, but want one
	}
	return &githttp.BasicAuth{Username: user, Password: password}, []string{password}, nil
}

// roots is the authorities for https; nil for those of the system.
func (a Auth) roots() (*x509.CertPool, error) {
	if a.CAFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(a.CAFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the authorities of --git-ca: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate; --git-ca wants a file in PEM", a.CAFile)
	}
	return roots, nil
}

// ssh is how to log in by ssh, and which host keys to trust.
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
	user := e.User
	if user == "" {
		user = "git"
	}
	keys, err := gitssh.NewPublicKeys(user, []byte(key+"\n"), passphrase)
	if err != nil {
		return nil, []string{passphrase}, fmt.Errorf("cannot use the key %s: %w; an encrypted one needs --ssh-passphrase-file", a.SSHKeyFile, err)
	}
	hosts, err := gitssh.NewKnownHostsDb(a.KnownHosts)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the host keys %s: %w", a.KnownHosts, err)
	}
	return &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(keys.Signer)}, HostKeyCallback: hosts.HostKeyCallback(),
		// Else the server might show a key of a kind that is not in the file.
		HostKeyAlgorithms: hosts.HostKeyAlgorithms(address(e)),
	}, []string{passphrase}, nil
}

// readSecret reads a file that only its owner and group may read.
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
		return "", fmt.Errorf("the secret %s is open to everybody (mode %04o); run chmod o= on it", path, mode)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret))
	if err != nil {
		return "", fmt.Errorf("cannot read a secret: %w", err)
	}
	secret := strings.TrimSpace(string(b))
	if secret == "" {
		return "", fmt.Errorf("the secret %s is empty", path)
	}
	return secret, nil
}
