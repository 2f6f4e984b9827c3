package git

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
)

// maxRefs bounds the list of a remote's branches and tags, in bytes. It is a
// variable for the tests.
var maxRefs int64 = 64 << 20

const (
	maxPage       = 4 << 10 // bounds an error message of a remote, in bytes
	answerTimeout = time.Minute
)

// httpSession is a session of go-git whose connections end with it.
type httpSession struct {
	transport.UploadPackSession
	http *http.Transport
}

// Close ends the session.
func (s *httpSession) Close() error {
	defer s.http.CloseIdleConnections()
	return s.UploadPackSession.Close()
}

// dialHTTP makes a session over https, which connects when it is used. go-git handles
// redirects: it follows none to plaintext, and sends no password to another host.
func dialHTTP(e *transport.Endpoint, login *githttp.BasicAuth, roots *x509.CertPool) (transport.UploadPackSession, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = answerTimeout
	t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	plain := *e
	plain.User, plain.Password = "", "" // errors would show them
	var auth transport.AuthMethod
	if login != nil {
		auth = login
	}
	s, err := githttp.NewClient(&http.Client{Transport: bounded{t}}).NewUploadPackSession(&plain, auth)
	if err != nil {
		return nil, err
	}
	return &httpSession{s, t}, nil
}

// bounded bounds the size of answers: go-git reads the list of branches and the text of
// an error without a limit.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.RoundTripper.RoundTrip(r)
	switch {
	case err != nil:
		return nil, err
	case res.StatusCode >= 300:
		res.Body = body{io.LimitReader(res.Body, maxPage), res.Body}
	case r.Method == http.MethodGet:
		res.Body = body{&limited{res.Body, maxRefs}, res.Body}
	}
	return res, nil
}

type body struct {
	io.Reader
	io.Closer
}

// limited is a reader that fails at its limit.
type limited struct {
	io.Reader
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, fmt.Errorf("the remote sends more than gray accepts; is it a repository of documents?")
	}
	return n, err
}
