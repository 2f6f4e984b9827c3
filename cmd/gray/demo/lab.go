package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/gray-release/gray"
)

// Lab is the quickstart on this machine: a Git repository, and the HTTP backends and the
// Envoy that its documents name. The tests of cmd/gray use it too.
type Lab struct {
	Dir   string // where the laboratory writes everything
	Repo  string
	Ports map[string]int // the port in use, by the port in the quickstart
	Gray  Gray
}

// Gray runs a command line of gray, which prints to out.
type Gray func(ctx context.Context, out io.Writer, args ...string) error

// ChoosePorts finds a free port for each port of the quickstart, so that the demo
// collides with nothing.
func (l *Lab) ChoosePorts(names ...string) error {
	l.Ports = map[string]int{}
	for _, n := range names {
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer func() { _ = free.Close() }() // after the last one, so that each has another port
		l.Ports[n] = free.Addr().(*net.TCPAddr).Port
	}
	return nil
}

// Address is the host:port in use for a port of the quickstart.
func (l *Lab) Address(port string) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(l.Ports[port]))
}

// StartBackend serves HTTP and answers with the name of a version.
func (l *Lab) StartBackend(v string) (*httptest.Server, error) {
	listener, err := net.Listen("tcp", l.Address("1808"+v))
	if err != nil {
		return nil, err
	}
	backend := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "v%s\n", v)
	}))
	_ = backend.Listener.Close()
	backend.Listener = listener
	backend.Start()
	return backend, nil
}

// MakeRepository makes a Git repository of the quickstart without its policies.
func (l *Lab) MakeRepository(ctx context.Context) error {
	l.Repo = filepath.Join(l.Dir, "repo")
	err := fs.WalkDir(gray.Quickstart(), ".", func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasPrefix(p, "policies/") {
			return err
		}
		return l.CopyFile(p)
	})
	if err != nil {
		return err
	}
	if err := l.Git(ctx, "init", "-q", "-b", "main"); err != nil {
		return err
	}
	return l.Commit(ctx, "The network as it is: everybody on v1")
}

// CopyFile copies a file of the quickstart into the repository, with the ports in use.
func (l *Lab) CopyFile(name string) error {
	b, err := fs.ReadFile(gray.Quickstart(), name)
	if err != nil {
		return err
	}
	text := string(b)
	for from, to := range l.Ports {
		text = strings.ReplaceAll(text, from, strconv.Itoa(to))
	}
	return l.write(name, text)
}

// write writes a document to the repository.
func (l *Lab) write(name, text string) error {
	to := filepath.Join(l.Repo, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, []byte(text), 0o644)
}

// Git runs git in the repository.
func (l *Lab) Git(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = l.Repo
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=demo", "GIT_AUTHOR_EMAIL=demo@example.com", "GIT_COMMITTER_NAME=demo", "GIT_COMMITTER_EMAIL=demo@example.com")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git %s: %w: %s", args[0], err, out)
	}
	return nil
}

// Commit commits everything in the repository.
func (l *Lab) Commit(ctx context.Context, message string) error {
	return errors.Join(l.Git(ctx, "add", "-A"), l.Git(ctx, "commit", "-q", "-m", message))
}

// StartEnvoy runs an Envoy as the node host-1 until ctx ends. The function that it
// returns waits for its end.
func (l *Lab) StartEnvoy(ctx context.Context, path string) (func() error, error) {
	var bootstrap bytes.Buffer
	if err := l.Gray(ctx, &bootstrap, "render", "bootstrap", "host-1", l.Repo, "--xds-listen", l.Address("18000")); err != nil {
		return nil, err
	}
	file := filepath.Join(l.Dir, "envoy.yaml")
	if err := os.WriteFile(file, bootstrap.Bytes(), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(l.Dir, "envoy.log"))
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, "-c", file, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warn")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return func() error {
		_ = cmd.Wait() // it is killed, which is not an error
		return log.Close()
	}, nil
}

// FindEnvoy returns the Envoy that GRAY_ENVOY names, or the first one on the PATH that
// is new enough.
func FindEnvoy(ctx context.Context) (string, error) {
	if path := os.Getenv("GRAY_ENVOY"); path != "" {
		return path, checkEnvoy(ctx, path)
	}
	var last error
	for _, folder := range filepath.SplitList(os.Getenv("PATH")) {
		path, err := exec.LookPath(filepath.Join(folder, "envoy"))
		if err != nil {
			continue
		}
		if last = checkEnvoy(ctx, path); last == nil {
			return path, nil
		}
	}
	if last != nil {
		return "", fmt.Errorf("%w; run make demo, which installs one, or set GRAY_ENVOY", last)
	}
	return "", errors.New("there is no envoy on the PATH; run make demo, which installs one, or set GRAY_ENVOY")
}

// checkEnvoy checks that an Envoy is new enough to know vhost_header.
func checkEnvoy(ctx context.Context, path string) error {
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return fmt.Errorf("%s --version: %w", path, err)
	}
	for part := range strings.SplitSeq(string(out), "/") {
		var major, minor, patch int
		if n, _ := fmt.Sscanf(part, "%d.%d.%d", &major, &minor, &patch); n == 3 {
			if major > 1 || major == 1 && minor >= 37 {
				return nil
			}
			return fmt.Errorf("%s is Envoy %s, and gray needs 1.37 or later", path, part)
		}
	}
	return fmt.Errorf("%s does not print its version", path)
}
