package git

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// sshServer serves a folder of repositories by the real git-upload-pack.
type sshServer struct {
	t      *testing.T
	addr   string
	folder string
	config *ssh.ServerConfig
	ran    chan string // the commands that were asked for
	ended  chan error  // how they ended
	mu     sync.Mutex
	other  string // is run instead
}

func (s *sshServer) set(other string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.other = other
}

func serveSSH(t *testing.T, folder, user string, key ssh.PublicKey, host ...ssh.Signer) *sshServer {
	t.Helper()
	need(t, "git")
	config := &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if c.User() == user && string(k.Marshal()) == string(key.Marshal()) {
			return nil, nil
		}
		return nil, errors.New("unknown key")
	}}
	for _, h := range host {
		config.AddHostKey(h)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	s := &sshServer{t: t, addr: listener.Addr().String(), folder: folder, config: config, ran: make(chan string, 100), ended: make(chan error, 100)}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go s.serve(conn)
		}
	}()
	return s
}

func (s *sshServer) serve(conn net.Conn) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, s.config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		go s.run(channel, requests)
	}
}

// run runs the command of a session by a shell, as sshd does.
func (s *sshServer) run(channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	for r := range requests {
		if r.Type != "exec" {
			_ = r.Reply(false, nil)
			continue
		}
		var ask struct{ Command string }
		if err := ssh.Unmarshal(r.Payload, &ask); err != nil {
			return
		}
		s.ran <- ask.Command
		_ = r.Reply(true, nil)
		s.mu.Lock()
		cmd := exec.Command("sh", "-c", cmp.Or(s.other, ask.Command))
		s.mu.Unlock()
		cmd.Dir, cmd.Env = s.folder, gitEnv
		cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
		in, err := cmd.StdinPipe()
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(in, channel); _ = in.Close() }()
		status := struct{ Code uint32 }{}
		if err = cmd.Run(); err != nil {
			status.Code = 1
		}
		s.ended <- err
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(&status))
		return
	}
}

// newKey makes a key, and the text of its file.
func newKey(t *testing.T) (ssh.Signer, string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "test")
	if err != nil {
		t.Fatal(err)
	}
	return signer, string(pem.EncodeToMemory(block))
}

func TestSSH(t *testing.T) {
	r := newRepo(t)
	odd := filepath.Join(filepath.Dir(r.dir), "it's odd!")
	r.commit("a.yaml", "1")
	r.git("clone", "--quiet", "--bare", ".", odd)
	user, plain := newKey(t)
	host, _ := newKey(t)
	_, otherText := newKey(t)
	// The server has a key of another kind too, which is not known.
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecHost, err := ssh.NewSignerFromKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	server := serveSSH(t, filepath.Dir(r.dir), "git", user.PublicKey(), ecHost, host)
	_, port, _ := net.SplitHostPort(server.addr)
	hosts := secret(t, knownhosts.Line([]string{knownhosts.Normalize(server.addr)}, host.PublicKey())+"\n")
	auth := Auth{SSHKeyFile: secret(t, plain), KnownHosts: hosts}
	base := "ssh://git@127.0.0.1:" + port

	s := follow(t, base+r.dir, Config{Auth: auth})
	wantFiles(t, fetch(t, s), "a.yaml", "1")
	r.commit("a.yaml", "2")
	wantFiles(t, fetch(t, s), "a.yaml", "2")
	fetch(t, s)
	for range 3 { // also the command that had nothing to send ends well
		if err := <-server.ended; err != nil {
			t.Error(err)
		}
	}
	wantFiles(t, fetch(t, follow(t, "ssh://127.0.0.1:"+port+r.dir, Config{Auth: auth})), "a.yaml", "2")
	wantFiles(t, fetch(t, follow(t, base+odd, Config{Auth: auth})), "a.yaml", "1")
	// The form of scp, which go-git reads with a port; a path without a slash
	// counts from the home folder.
	wantFiles(t, fetch(t, follow(t, "git@127.0.0.1:"+port+":repo", Config{Auth: auth})), "a.yaml", "2")
	wantFiles(t, fetch(t, follow(t, "git@127.0.0.1:"+port+":"+r.dir, Config{Auth: auth})), "a.yaml", "2")
	wantError(t, follow(t, base+"/none", Config{Auth: auth}), "cannot fetch ssh://127.0.0.1:"+port+"/none") // the reason may come too late to be read
	wantError(t, follow(t, base+"/none; touch "+t.TempDir(), Config{Auth: auth}), "cannot fetch ssh://127.0.0.1:"+port+"/none")
	wantError(t, follow(t, "ssh://eve@127.0.0.1:"+port+r.dir, Config{Auth: auth}), "unable to authenticate")

	for len(server.ran) > 0 {
		<-server.ran
	}
	// One that talks without an end is not listened to for ever.
	server.set("yes 003fx")
	wantError(t, s, "invalid hash text")
	server.set("")
	<-server.ran
	wantError(t, follow(t, base+"/~/no'ne", Config{Auth: auth}), "does not appear to be a git repository")
	if ran := <-server.ran; ran != `git-upload-pack '~/no'\''ne'` {
		t.Errorf("ran %s", ran)
	}
	// The key is replaced while the source lives.
	turned := secret(t, otherText)
	s = follow(t, base+r.dir, Config{Auth: Auth{SSHKeyFile: turned, KnownHosts: hosts}})
	wantError(t, s, "unable to authenticate")
	if err := os.WriteFile(turned, []byte(plain), 0o600); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, fetch(t, s), "a.yaml", "2")
}

// TestSSHPassphrase logs in with a key that ssh-keygen made.
func TestSSHPassphrase(t *testing.T) {
	const passphrase = "open sesame"
	key := filepath.Join(t.TempDir(), "key")
	// One round of its key derivation: sixteen take seconds with -race.
	keygen := exec.Command(need(t, "ssh-keygen"), "-q", "-t", "ed25519", "-a", "1", "-N", passphrase, "-f", key)
	if out, err := keygen.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(read(t, key+".pub"))
	if err != nil {
		t.Fatal(err)
	}
	r := newRepo(t)
	r.commit("a.yaml", "1")
	host, _ := newKey(t)
	server := serveSSH(t, filepath.Dir(r.dir), "git", public, host)
	known := secret(t, knownhosts.Line([]string{knownhosts.Normalize(server.addr)}, host.PublicKey())+"\n")
	url := "ssh://git@" + server.addr + r.dir
	auth := Auth{SSHKeyFile: key, SSHPassphrase: secret(t, passphrase+"\n"), KnownHosts: known}
	wantFiles(t, fetch(t, follow(t, url, Config{Auth: auth})), "a.yaml", "1")
	for _, phrase := range []string{"", secret(t, "wrong phrase")} {
		auth.SSHPassphrase = phrase
		_, err := New(Config{URL: url, Branch: "main", Auth: auth})
		wantNoSecret(t, err, "wrong phrase", passphrase)
		if !strings.Contains(err.Error(), "an encrypted key needs --ssh-passphrase-file") {
			t.Errorf("got %v", err)
		}
	}
}

// TestSCPLike has the forms that name no port.
func TestSCPLike(t *testing.T) {
	for url, want := range map[string]string{
		"git@example.com:org/repo.git":     "git example.com:22 org/repo.git",
		"example.com:/srv/repo":            " example.com:22 /srv/repo",
		"git@example.com:2222:repo":        "git example.com:2222 repo",
		"ssh://git@example.com/org/repo":   "git example.com:22 /org/repo",
		"ssh://git@[2001:db8::1]:2222/org": "git [2001:db8::1]:2222 /org",
		"ssh://[2001:db8::1]/org":          " [2001:db8::1]:22 /org",
	} {
		_, e, err := locate(url, false)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := e.User + " " + address(e) + " " + e.Path; got != want {
			t.Errorf("%s is %q, want %q", url, got, want)
		}
	}
}

// TestHostKeys sends no command to a host that is not known.
func TestHostKeys(t *testing.T) {
	r := newRepo(t)
	r.commit("a.yaml", "1")
	user, text := newKey(t)
	host, _ := newKey(t)
	wrong, _ := newKey(t)
	server := serveSSH(t, filepath.Dir(r.dir), "git", user.PublicKey(), host)
	line := func(addr string, key ssh.Signer) string {
		return knownhosts.Line([]string{knownhosts.Normalize(addr)}, key.PublicKey()) + "\n"
	}
	url := "ssh://git@" + server.addr + r.dir
	for name, c := range map[string]struct{ hosts, want string }{
		"none":    {"", "key is unknown; verify its key and add it to --known-hosts"},
		"other":   {line("example.com:22", host), "key is unknown; verify its key and add it to --known-hosts"},
		"wrong":   {line(server.addr, wrong), "key mismatch; this may be an attack"},
		"revoked": {"@revoked " + line(server.addr, host), "revoked"},
	} {
		t.Run(name, func(t *testing.T) {
			hosts := secret(t, c.hosts)
			s := follow(t, url, Config{Auth: Auth{SSHKeyFile: secret(t, text), KnownHosts: hosts}})
			wantError(t, s, c.want)
			select {
			case ran := <-server.ran:
				t.Errorf("ran %q", ran)
			default:
			}
			if err := os.WriteFile(hosts, []byte(line(server.addr, host)), 0o600); err != nil {
				t.Fatal(err)
			}
			wantFiles(t, fetch(t, s), "a.yaml", "1")
			<-server.ran
		})
	}
}

// TestSilentServer has servers that accept and then say nothing: a fetch ends
// with its time.
func TestSilentServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ended := make(chan error, 10)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, err := io.Copy(io.Discard, conn) // until the other side goes
				ended <- errors.Join(err, conn.Close())
			}()
		}
	}()
	_, text := newKey(t)
	host, _ := newKey(t)
	addr := listener.Addr().String()
	hosts := secret(t, knownhosts.Line([]string{knownhosts.Normalize(addr)}, host.PublicKey())+"\n")
	for _, url := range []string{"ssh://git@" + addr + "/r", "http://" + addr + "/r", "https://" + addr + "/r"} {
		s := follow(t, url, Config{Auth: Auth{SSHKeyFile: secret(t, text), KnownHosts: hosts}})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if _, err := s.Fetch(ctx); err == nil {
			t.Errorf("%s: no error", url)
		}
		cancel()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: the connection stays", url)
		}
	}
}
