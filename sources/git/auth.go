package git

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/plumbing/transport/ssh"
)

// Auth names the files with what a remote wants to see. Files, so that no secret
// stands in a command line or an environment.
type Auth struct {
	Username      string // for https with a password; with a token it is not needed
	PasswordFile  string // a password or token
	SSHKeyFile    string
	SSHPassphrase string // a file with the key's passphrase
	KnownHosts    string // the host keys that are trusted
	CAFile        string // further authorities for https
}

// method makes what go-git wants for a URL.
func (a Auth) method(raw string) (transport.AuthMethod, error) {
	e, err := transport.NewEndpoint(raw)
	if err != nil {
		return nil, err
	}
	if e.Protocol == "ssh" {
		return a.ssh(e)
	}
	if a.PasswordFile == "" {
		return nil, nil
	}
	password, err := readSecret(a.PasswordFile)
	if err != nil {
		return nil, err
	}
	user := a.Username
	if user == "" {
		user = "git" // hosts that take a token ignore the name, but want one
	}
	return &http.BasicAuth{Username: user, Password: password}, nil
}

func (a Auth) ssh(e *transport.Endpoint) (transport.AuthMethod, error) {
	if a.SSHKeyFile == "" || a.KnownHosts == "" {
		return nil, errors.New("ssh needs a key and the host keys to trust; give --ssh-key and --known-hosts")
	}
	passphrase := ""
	if a.SSHPassphrase != "" {
		var err error
		if passphrase, err = readSecret(a.SSHPassphrase); err != nil {
			return nil, err
		}
	}
	user := e.User
	if user == "" {
		user = "git"
	}
	keys, err := ssh.NewPublicKeysFromFile(user, a.SSHKeyFile, passphrase)
	if err != nil {
		return nil, fmt.Errorf("cannot use the ssh key %s: %w", a.SSHKeyFile, err)
	}
	if keys.HostKeyCallback, err = ssh.NewKnownHostsCallback(a.KnownHosts); err != nil {
		return nil, fmt.Errorf("cannot read the host keys %s: %w", a.KnownHosts, err)
	}
	return keys, nil
}

func readSecret(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("cannot read a secret: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// caBundle is the further authorities; a file that cannot be read gives none,
// and then the connection fails.
func (a Auth) caBundle() []byte {
	if a.CAFile == "" {
		return nil
	}
	b, err := os.ReadFile(a.CAFile)
	if err != nil {
		return []byte{}
	}
	return b
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
