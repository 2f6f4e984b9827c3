package git

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// sshSession talks to git-upload-pack on another machine. go-git's own ssh client waits
// for ever for a server that accepts and then sends nothing; here the connection ends
// with the context.
type sshSession struct {
	client  *ssh.Client
	session *ssh.Session
	stop    func() bool // keeps ctx from closing the connection
	in      io.WriteCloser
	out     io.Reader
	said    *tail
	asked   bool // a request was sent
}

// address is the host and port of an ssh endpoint.
func address(e *transport.Endpoint) string {
	return net.JoinHostPort(strings.Trim(e.Host, "[]"), strconv.Itoa(cmp.Or(e.Port, 22)))
}

func dialSSH(ctx context.Context, e *transport.Endpoint, config *ssh.ClientConfig) (transport.UploadPackSession, error) {
	dialer := net.Dialer{Timeout: answerTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", address(e))
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	c, channels, requests, err := ssh.NewClientConn(conn, address(e), config)
	if err != nil {
		stop()
		return nil, errors.Join(hostKeyError(err), conn.Close())
	}
	s := &sshSession{client: ssh.NewClient(c, channels, requests), stop: stop, said: &tail{}}
	if err := s.start(e.Path); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// hostKeyError says what to do about an unknown host key.
func hostKeyError(err error) error {
	var key *knownhosts.KeyError
	switch {
	case !errors.As(err, &key):
		return err
	case len(key.Want) == 0:
		return fmt.Errorf("%w; verify its key and add it to --known-hosts", err)
	}
	return fmt.Errorf("%w; this may be an attack, or a new key: verify it, then change --known-hosts", err)
}

func (s *sshSession) start(path string) error {
	var err error
	if s.session, err = s.client.NewSession(); err != nil {
		return err
	}
	s.session.Stderr = s.said
	if s.in, err = s.session.StdinPipe(); err != nil {
		return err
	}
	if s.out, err = s.session.StdoutPipe(); err != nil {
		return err
	}
	if strings.HasPrefix(path, "/~") {
		path = path[1:] // ssh://HOST/~/PATH is relative to the home folder, as in Git
	}
	return s.session.Start("git-upload-pack " + quote(path))
}

// quote quotes a word for the remote shell, as Git does.
func quote(word string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "!", `'\!'`).Replace(word) + "'"
}

// AdvertisedReferences implements transport.Session.
func (s *sshSession) AdvertisedReferences() (*packp.AdvRefs, error) {
	return s.AdvertisedReferencesContext(context.Background())
}

// AdvertisedReferencesContext implements transport.Session; the context of dialSSH
// bounds it.
func (s *sshSession) AdvertisedReferencesContext(context.Context) (*packp.AdvRefs, error) {
	refs := packp.NewAdvRefs()
	err := refs.Decode(&limited{s.out, maxRefs})
	switch {
	case errors.Is(err, packp.ErrEmptyAdvRefs) || err == nil && refs.IsEmpty():
		return nil, transport.ErrEmptyRemoteRepository
	case err != nil:
		return nil, s.explain(err)
	}
	transport.FilterUnsupportedCapabilities(refs.Capabilities)
	return refs, nil
}

// UploadPack implements transport.UploadPackSession.
func (s *sshSession) UploadPack(_ context.Context, req *packp.UploadPackRequest) (*packp.UploadPackResponse, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	s.asked = true
	var ask bytes.Buffer
	err := errors.Join(req.UploadRequest.Encode(&ask), req.UploadHaves.Encode(&ask, false), pktline.NewEncoder(&ask).EncodeString("done\n"))
	if err != nil {
		return nil, err
	}
	if _, err := ask.WriteTo(s.in); err != nil {
		return nil, s.explain(err)
	}
	res := packp.NewUploadPackResponse(req)
	if err := res.Decode(io.NopCloser(s.out)); err != nil {
		return nil, s.explain(err)
	}
	return res, nil
}

// explain adds the remote's standard error, after giving it a little time to write it
// and end.
func (s *sshSession) explain(err error) error {
	late := time.AfterFunc(2*time.Second, func() { _ = s.client.Close() })
	defer late.Stop()
	_ = s.in.Close()
	_ = s.session.Wait()
	if said := s.said.String(); said != "" {
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// Close ends the session and the connection.
func (s *sshSession) Close() error {
	if s.in != nil && !s.asked {
		_, _ = s.in.Write(pktline.FlushPkt) // tells the remote that no request will come
	}
	s.stop()
	if err := s.client.Close(); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// tail keeps the remote's standard error, up to maxPage bytes.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p[:min(len(p), maxPage-len(t.text))]...)
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}
