package git

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const password = "pa:ss/w@rd %41"

// wantNoSecret fails if an error shows a secret, in whatever form.
func wantNoSecret(t *testing.T, err error, secrets ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, s := range secrets {
		for _, form := range []string{s, url.QueryEscape(s), url.PathEscape(s), url.UserPassword("u", s).String()} {
			if strings.Contains(err.Error(), form) {
				t.Errorf("error %q shows %q", err, form)
			}
		}
	}
}

func TestHTTPS(t *testing.T) {
	r := newRepo(t)
	r.commit("a.yaml", "1")
	g, ca := serveTLS(t, r, "git", password)
	defer g.wantNoConnection()
	file := secret(t, password+"\n")
	s := follow(t, g.URL, Config{Auth: Auth{PasswordFile: file, CAFile: ca}})
	wantFiles(t, fetch(t, s), "a.yaml", "1")
	r.commit("a.yaml", "2")
	wantFiles(t, fetch(t, s), "a.yaml", "2")

	// The password is wrong, and the server repeats it: the error does not.
	last := r.commit("a.yaml", "3")
	if err := os.WriteFile(file, []byte("wrong & secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, s, "cannot fetch "+g.URL+": authentication required: denied git:xxxxx")
	_, err := s.Fetch(t.Context())
	wantNoSecret(t, err, "wrong & secret")
	// It is replaced while the source lives, and the last good commit was kept.
	if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
		t.Fatal(err)
	}
	snap := fetch(t, s)
	wantFiles(t, snap, "a.yaml", "3")
	wantRevision(t, snap, "main@sha1:"+last)

	g.set(func() { g.user = "alice" })
	wantError(t, s, "authentication required")
	named := follow(t, g.URL, Config{Auth: Auth{Username: "alice", PasswordFile: file, CAFile: ca}})
	wantFiles(t, fetch(t, named), "a.yaml", "3")
	wantError(t, follow(t, g.URL, Config{Auth: Auth{PasswordFile: file}}), "certificate")
	wantError(t, follow(t, g.URL, Config{Auth: Auth{CAFile: ca}}), "authentication required")
	wantError(t, follow(t, g.URL+"-none", Config{Auth: Auth{Username: "alice", PasswordFile: file, CAFile: ca}}), "repository not found")

	// User and password in the URL work, and are never shown.
	for _, user := range []*url.Userinfo{url.UserPassword("alice", password), url.UserPassword("alice", "wrong@pass:word")} {
		u, err := url.Parse(g.URL)
		if err != nil {
			t.Fatal(err)
		}
		u.User = user
		in := follow(t, u.String(), Config{Auth: Auth{CAFile: ca}})
		if p, _ := user.Password(); p == password {
			wantFiles(t, fetch(t, in), "a.yaml", "3")
			g.set(func() { g.user = "bob" })
		}
		_, err = in.Fetch(t.Context())
		wantNoSecret(t, err, password, "wrong@pass:word")
		if !strings.Contains(err.Error(), g.URL) {
			t.Errorf("error %q does not name the repository", err)
		}
		g.set(func() { g.user = "alice" })
	}
	// A user alone is a token.
	token := strings.Replace(g.URL, "://", "://ghp_token@", 1)
	_, err = follow(t, token, Config{Auth: Auth{CAFile: ca}}).Fetch(t.Context())
	wantNoSecret(t, err, "ghp_token")
}

// TestSecretFiles has what is wrong with the files told when the source is made,
// and also later.
func TestSecretFiles(t *testing.T) {
	open := secret(t, "x")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(t.TempDir(), "none")
	const https = "https://example.com/r"
	const ssh = "ssh://example.com/r"
	for _, c := range []struct {
		url  string
		auth Auth
		want string
	}{
		{https, Auth{PasswordFile: none}, "no such file"},
		{https, Auth{PasswordFile: secret(t, " \n")}, "is empty"},
		{https, Auth{PasswordFile: open}, "(mode 0644); run chmod o= on it"},
		{https, Auth{CAFile: none}, "cannot read --git-ca"},
		{https, Auth{CAFile: secret(t, "nothing")}, "has no certificate"},
		{ssh, Auth{KnownHosts: open}, "give --ssh-key and --known-hosts"},
		{ssh, Auth{SSHKeyFile: open, KnownHosts: open}, "everybody can access the secret"},
		{ssh, Auth{SSHKeyFile: secret(t, "no key"), KnownHosts: open}, "cannot use the key"},
	} {
		_, err := New(Config{URL: c.url, Branch: "main", Auth: c.auth, MirrorDir: t.TempDir()})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.auth, err, c.want)
		}
	}
	r := newRepo(t)
	r.commit("a.yaml", "1")
	g, ca := serveTLS(t, r, "git", password)
	file := secret(t, "\ufeff"+password)
	s := follow(t, g.URL, Config{Auth: Auth{PasswordFile: file, CAFile: ca}})
	fetch(t, s)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	wantError(t, s, "cannot read a secret")
}

// failure is what a server does, and what an error then holds.
type failure struct {
	wrap func(w http.ResponseWriter, r *http.Request, next http.Handler)
	want string
}

// failures lists ways in which a server fails. One hangs until it is released.
func failures(released <-chan struct{}) map[string]failure {
	return map[string]failure{
		"error": {func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			http.Error(w, strings.Repeat("<p>\n", 100_000), http.StatusBadGateway)
		}, "status code: 502"},
		"denied": {func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			http.Error(w, strings.Repeat("<p>\n", 100_000), http.StatusForbidden)
		}, "authorization failed: <p> <p>"},
		"page": {func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			fmt.Fprint(w, "<html>log in</html>")
		}, "does not answer like a Git server"},
		"reset": {func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }, "EOF"},
		"cut": {func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()*2/3])
		}, ""},
		"nothing": {func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodGet {
				next.ServeHTTP(w, r)
			}
		}, "lacks object"},
		"bad pack": {func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			b := rec.Body.Bytes()
			if r.Method == http.MethodPost {
				b[len(b)-40] ^= 1
			}
			_, _ = w.Write(b)
		}, ""},
		"hang": {func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodGet {
				next.ServeHTTP(w, r)
				return
			}
			_, _ = w.Write([]byte("0008NAK\n"))
			w.(http.Flusher).Flush()
			select {
			case <-released:
			case <-r.Context().Done():
			}
		}, "deadline exceeded"},
		"downgrade": {func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			http.Redirect(w, r, "ftp://127.0.0.1/x/info/refs?service=git-upload-pack", http.StatusFound)
		}, "redirect"},
	}
}

// TestRemoteAway has the remote fail in several ways; each time the last good
// commit stays, and the next fetch goes on.
func TestRemoteAway(t *testing.T) {
	r := newRepo(t)
	r.commit("a.yaml", "0", "b.yaml", strings.Repeat("much ", 1000))
	g := serveHTTP(t, r)
	s := follow(t, g.URL, Config{})
	fetch(t, s)
	released := make(chan struct{})
	defer close(released)
	for name, c := range failures(released) {
		t.Run(name, func(t *testing.T) {
			r.commit("a.yaml", name)
			g.set(func() { g.wrap = c.wrap })
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			_, err := s.Fetch(ctx)
			if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 1000 || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q", err)
			}
			if rest, _ := filepath.Glob(filepath.Join(s.mirror.dir, "objects", "pack", "tmp_*")); len(rest) > 0 {
				t.Errorf("left over: %v", rest)
			}
			g.set(func() { g.wrap = nil })
			if got := string(fetch(t, s).Files.Get("a.yaml").Data); got != name {
				t.Errorf("got %q", got)
			}
		})
	}
	dead := follow(t, "http://127.0.0.1:1/r", Config{})
	wantError(t, dead, "connection refused")
	empty := newRepo(t)
	wantError(t, follow(t, serveHTTP(t, empty).URL, Config{}), `no branch "main" with a commit`)
	wantError(t, follow(t, g.URL, Config{Branch: "other"}), `no branch "other" with a commit`)
}

// TestEndlessRemote has a remote that never ends what it says.
func TestEndlessRemote(t *testing.T) {
	r := newRepo(t)
	r.commit("a.yaml", "1")
	g := serveHTTP(t, r)
	s := follow(t, g.URL, Config{})
	fetch(t, s)
	defer func(n int64) { maxRefs = n }(maxRefs)
	maxRefs = 1 << 20
	for _, c := range []struct {
		status int
		line   string
		want   string
	}{
		{http.StatusForbidden, "no", "authorization failed"},
		{http.StatusOK, "003f" + strings.Repeat("0123456789", 4) + " refs/heads/branch\n", "the remote sends more than gray accepts"},
	} {
		g.set(func() {
			g.wrap = func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
				w.WriteHeader(c.status)
				fmt.Fprint(w, "001e# service=git-upload-pack\n00000040"+strings.Repeat("0123456789", 4)+" refs/heads/branch\x00\n")
				for r.Context().Err() == nil {
					fmt.Fprint(w, strings.Repeat(c.line, 1000))
				}
			}
		})
		wantError(t, s, c.want)
	}
	g.set(func() { g.wrap = nil })
	r.commit("a.yaml", "2")
	wantFiles(t, fetch(t, s), "a.yaml", "2")
}

// TestRedirect moves a repository: it is found, but the password is not given to
// another host, and plaintext is refused.
func TestRedirect(t *testing.T) {
	r := newRepo(t)
	r.commit("a.yaml", "1")
	steal := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if _, p, ok := req.BasicAuth(); ok {
			t.Errorf("the password %q went to another host", p)
		}
		http.Error(w, "no password", http.StatusUnauthorized)
	})
	plain, thief := httptest.NewServer(steal), httptest.NewTLSServer(steal)
	t.Cleanup(plain.Close)
	t.Cleanup(thief.Close)
	g, ca := serveTLS(t, r, "git", password)
	s := follow(t, g.URL+"/old", Config{Auth: Auth{PasswordFile: secret(t, password), CAFile: ca}})
	to := func(url string) {
		g.set(func() {
			g.wrap = func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if rest, moved := strings.CutPrefix(req.URL.RequestURI(), "/repo/old"); moved {
					http.Redirect(w, req, url+rest, http.StatusMovedPermanently)
					return
				}
				next.ServeHTTP(w, req)
			}
		})
	}
	to("/repo")
	wantFiles(t, fetch(t, s), "a.yaml", "1")
	to(plain.URL + "/repo")
	wantError(t, s, `changes scheme from "https" to "http"`)
	to(thief.URL + "/repo")
	wantError(t, s, "authentication required: no password")
	to("/repo")
	wantFiles(t, fetch(t, s), "a.yaml", "1")
}
