package git

import (
	"crypto/subtle"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
)

// gitServer serves repositories by the real git http-backend.
type gitServer struct {
	*httptest.Server
	t  *testing.T
	mu sync.Mutex
	// wrap may answer a request itself.
	wrap           func(w http.ResponseWriter, r *http.Request, next http.Handler)
	user, password string
	open           map[net.Conn]bool
}

// start starts a server that knows its connections.
func (g *gitServer) start(r *repo, start func(*httptest.Server)) {
	g.open = map[net.Conn]bool{}
	g.Server = httptest.NewUnstartedServer(g.handler(r))
	g.Config.ErrorLog = log.New(io.Discard, "", 0) // connections that a test breaks
	g.Config.ConnState = func(c net.Conn, state http.ConnState) {
		g.set(func() {
			if g.open[c] = true; state == http.StateClosed || state == http.StateHijacked {
				delete(g.open, c)
			}
		})
	}
	start(g.Server)
	g.t.Cleanup(g.Server.Close)
	g.URL += "/" + filepath.Base(r.dir)
}

// wantNoConnection holds that what was fetched left no connection open.
func (g *gitServer) wantNoConnection() {
	g.t.Helper()
	late := time.Now().Add(10 * time.Second)
	for n := 1; n > 0; runtime.Gosched() {
		if g.set(func() { n = len(g.open) }); time.Now().After(late) {
			g.t.Errorf("%d connections stay open", n)
			return
		}
	}
}

func (g *gitServer) set(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

func (g *gitServer) handler(r *repo) http.Handler {
	backend := &cgi.Handler{
		Path: need(g.t, "git"), Args: []string{"http-backend"}, Dir: r.dir,
		Env:    append(gitEnv, "GIT_PROJECT_ROOT="+filepath.Dir(r.dir), "GIT_HTTP_EXPORT_ALL=1"),
		Stderr: io.Discard,
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		g.mu.Lock()
		wrap, user, password := g.wrap, g.user, g.password
		g.mu.Unlock()
		u, p, _ := req.BasicAuth()
		switch {
		case subtle.ConstantTimeCompare([]byte(u+":"+p), []byte(user+":"+password)) == 0:
			// Some servers repeat what they were sent, and more than a line.
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			http.Error(w, "denied\n"+u+":"+p+"\n"+req.Header.Get("Authorization"), http.StatusUnauthorized)
		case wrap != nil:
			wrap(w, req, backend)
		default:
			backend.ServeHTTP(w, req)
		}
	})
}

// serveHTTP serves a repository by http on loopback, without a password. Its URL
// is that of the repository.
func serveHTTP(t *testing.T, r *repo) *gitServer {
	t.Helper()
	g := &gitServer{t: t}
	g.start(r, (*httptest.Server).Start)
	return g
}

// serveTLS serves a repository by https with a user and a password; the file
// that it returns holds the server's authority.
func serveTLS(t *testing.T, r *repo, user, password string) (*gitServer, string) {
	t.Helper()
	g := &gitServer{t: t, user: user, password: password}
	g.start(r, (*httptest.Server).StartTLS)
	ca := secret(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.Certificate().Raw})))
	return g, ca
}
