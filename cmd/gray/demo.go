package main

import (
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
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"

	"github.com/gray-release/gray/sinks/p4rt/softswitch"
	"github.com/gray-release/gray/sources/git"
	"github.com/gray-release/gray/testdata"
)

// demoWait bounds how long a commit may take to show on both planes.
const demoWait = 20 * time.Second

func demoCommand() *cobra.Command {
	var rollout, broken bool
	cmd := &cobra.Command{
		Use: "demo", Short: "Show everything on one machine: one commit moves an account on both planes", Args: cobra.NoArgs,
		Long: "Show everything on one machine: one commit moves an account on both planes. With --rollout, a shard of two VPCs goes gray batch by batch, which needs no Envoy.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &demo{out: cmd.OutOrStdout()}
			switch {
			case rollout:
				return (&rolloutDemo{demo: d, broken: broken}).run(cmd.Context())
			case broken:
				return errors.New("--broken is of --rollout; give both")
			}
			return d.run(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&rollout, "rollout", false, "show a shard of VPCs go gray batch by batch")
	cmd.Flags().BoolVar(&broken, "broken", false, "with --rollout, have the new server lose the packets of a VPC")
	return cmd
}

// demo is a laboratory: two HTTP backends, a real Envoy, a software gateway, a
// Git repository and the daemon.
type demo struct {
	out    io.Writer
	dir    string // of everything that the demo writes
	repo   string
	ports  map[string]int // by the port that the quickstart has in its place
	lab    *packetLab
	failed int
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

func (d *demo) run(ctx context.Context) (err error) {
	envoy, err := findEnvoy(ctx)
	if err != nil {
		return err
	}
	start := func(ctx context.Context) (func() error, error) { return d.start(ctx, envoy) }
	return d.perform(ctx, start, d.story, d.hints)
}

// perform starts a laboratory, tells a story in it and says whether all was as
// expected. On a terminal the laboratory then stays up for whoever wants to try on,
// with some hints.
func (d *demo) perform(ctx context.Context, start func(context.Context) (func() error, error), story func(context.Context) error, hints func()) (err error) {
	if d.dir, err = os.MkdirTemp("", "gray-demo-"); err != nil {
		return err
	}
	defer os.RemoveAll(d.dir)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop, err := start(ctx)
	defer func() { err = errors.Join(err, stop()) }()
	defer cancel()
	if err != nil {
		return err
	}
	if err := story(ctx); err != nil {
		return err
	}
	if d.failed > 0 {
		d.say("\n%d expectations failed; the daemon said:", d.failed)
		log, _ := os.ReadFile(filepath.Join(d.dir, "daemon.log"))
		d.say("%s", log)
		return errNo
	}
	d.say("\nAll expectations held.")
	if term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd())) {
		d.say("\nEverything is still running; end it with Ctrl-C. To try:")
		hints()
		<-ctx.Done()
	}
	return nil
}

// hints says what to try.
func (d *demo) hints() {
	d.say("  curl -x 127.0.0.1:%d -H 'x-ucloud-routeby: account_id=50002002' http://vpc-api.internal/", d.ports["15001"])
	d.say("  gray status --admin-listen 127.0.0.1:%d", d.ports["18001"])
	d.say("  cd %s, edit policies/, then", d.repo)
	d.say("  gray diff --admin-listen 127.0.0.1:%d", d.ports["18001"])
	d.say("  git add -A && git commit -m 'another account'")
}

// findEnvoy finds the first Envoy on the PATH that is new enough, or the one that
// GRAY_ENVOY names.
func findEnvoy(ctx context.Context) (string, error) {
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

// checkEnvoy tells whether an Envoy knows vhost_header.
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
	return fmt.Errorf("%s does not tell its version", path)
}

// ending is what ends the parts of a laboratory.
type ending []func() error

// stop ends them, the last one first.
func (e *ending) stop() error {
	var errs []error
	for _, f := range slices.Backward(*e) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

func (e *ending) add(f func() error) { *e = append(*e, f) }

// start brings everything up. The function that it returns waits for all of it
// to end once ctx has.
func (d *demo) start(ctx context.Context, envoy string) (func() error, error) {
	parts := new(ending)
	stop := parts.stop
	if err := d.choosePorts("18081", "18082", "15001", "15000", "9559", "18000", "18001"); err != nil {
		return stop, err
	}
	for _, v := range []string{"1", "2"} {
		backend, err := d.startBackend(v)
		if err != nil {
			return stop, err
		}
		parts.add(func() error { backend.Close(); return nil })
	}
	stopSwitch, err := d.startSwitch(ctx)
	if err != nil {
		return stop, err
	}
	parts.add(stopSwitch)
	if err := d.makeRepository(ctx); err != nil {
		return stop, err
	}
	stopDaemon, err := d.startDaemon(ctx)
	if err != nil {
		return stop, err
	}
	parts.add(stopDaemon)
	stopEnvoy, err := d.startEnvoy(ctx, envoy)
	if err != nil {
		return stop, err
	}
	parts.add(stopEnvoy)
	return stop, nil
}

// choosePorts finds a free port for each that the quickstart names, so that the
// demo runs beside anything.
func (d *demo) choosePorts(names ...string) error {
	d.ports = map[string]int{}
	for _, n := range names {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close() // after the last one, so that each has another port
		d.ports[n] = l.Addr().(*net.TCPAddr).Port
	}
	return nil
}

func (d *demo) address(port string) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(d.ports[port]))
}

// startBackend serves HTTP as a version, which is all that it answers.
func (d *demo) startBackend(v string) (*httptest.Server, error) {
	l, err := net.Listen("tcp", d.address("1808"+v))
	if err != nil {
		return nil, err
	}
	backend := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "v%s\n", v)
	}))
	_ = backend.Listener.Close()
	backend.Listener = l
	backend.Start()
	return backend, nil
}

func (d *demo) startSwitch(ctx context.Context) (func() error, error) {
	sw := softswitch.New(1)
	lab, err := newPacketLab(sw)
	if err != nil {
		return nil, err
	}
	d.lab = lab
	return d.serveSwitch(ctx, sw)
}

// serveSwitch serves a software gateway's P4Runtime.
func (d *demo) serveSwitch(ctx context.Context, sw *softswitch.Switch) (func() error, error) {
	l, err := net.Listen("tcp", d.address("9559"))
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer(softswitch.ServerOptions()...)
	sw.Register(server)
	done := make(chan error, 1)
	go func() { done <- serve(ctx, server, l) }()
	return func() error { return errors.Join(<-done, sw.Close()) }, nil
}

// makeRepository makes a Git repository of the quickstart, still without its
// policies.
func (d *demo) makeRepository(ctx context.Context) error {
	d.repo = filepath.Join(d.dir, "repo")
	err := fs.WalkDir(testdata.Quickstart, "quickstart", func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.Contains(p, "/policies/") {
			return err
		}
		return d.copyFile(strings.TrimPrefix(p, "quickstart/"))
	})
	if err != nil {
		return err
	}
	if err := d.git(ctx, "init", "-q", "-b", "main"); err != nil {
		return err
	}
	return d.commit(ctx, "The network as it is: everybody on v1")
}

func (d *demo) copyFile(name string) error {
	b, err := testdata.Quickstart.ReadFile("quickstart/" + name)
	if err != nil {
		return err
	}
	text := string(b)
	for from, to := range d.ports {
		text = strings.ReplaceAll(text, from, strconv.Itoa(to))
	}
	to := filepath.Join(d.repo, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, []byte(text), 0o644)
}

func (d *demo) git(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = d.repo
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=demo", "GIT_AUTHOR_EMAIL=demo@example.com", "GIT_COMMITTER_NAME=demo", "GIT_COMMITTER_EMAIL=demo@example.com")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git %s: %w: %s", args[0], err, out)
	}
	return nil
}

func (d *demo) commit(ctx context.Context, message string) error {
	return errors.Join(d.git(ctx, "add", "-A"), d.git(ctx, "commit", "-q", "-m", message))
}

// startDaemon runs the daemon with what is changed of its configuration.
func (d *demo) startDaemon(ctx context.Context, change ...func(*daemonConfig)) (func() error, error) {
	log, err := os.Create(filepath.Join(d.dir, "daemon.log"))
	if err != nil {
		return nil, err
	}
	ready := make(chan struct{})
	c := daemonConfig{
		git: git.Config{URL: d.repo, Branch: "main", Interval: time.Minute}, source: "git",
		state: "file:" + filepath.Join(d.dir, "state.db"), xdsListen: d.address("18000"), admin: d.address("18001"),
		secrets: d.dir, drift: 30 * time.Second, maxDelete: 30, log: log, ready: func() { close(ready) },
	}
	for _, f := range change {
		f(&c)
	}
	done := make(chan error, 1)
	go func() { done <- c.run(ctx) }()
	select {
	case <-ready:
	case err := <-done:
		return nil, errors.Join(err, log.Close())
	}
	return func() error { return errors.Join(<-done, log.Close()) }, nil
}

func (d *demo) startEnvoy(ctx context.Context, path string) (func() error, error) {
	b, err := renderBootstrap(ctx, d.repo, "host-1", d.address("18000"))
	if err != nil {
		return nil, err
	}
	file := filepath.Join(d.dir, "envoy.yaml")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(d.dir, "envoy.log"))
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, "-c", file, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warn")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return func() error {
		_ = cmd.Wait() // it is killed, which is no error
		return log.Close()
	}, nil
}

// showDiff prints what gray diff says before a commit.
func (d *demo) showDiff(ctx context.Context) error {
	f := diffFlags{output: "text", admin: d.address("18001")}
	diff, err := f.compare(ctx, d.repo)
	if err != nil {
		return err
	}
	d.say("\n$ gray diff")
	return printDiff(d.out, diff, "text")
}
