package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"

	"github.com/gray-release/gray/cmd/gray/daemon"
	"github.com/gray-release/gray/sinks/p4rt/softswitch"
	"github.com/gray-release/gray/sources/git"
)

// wait bounds how long a commit may take to be live on both planes.
const wait = 20 * time.Second

// ErrFailed says that an expectation failed. It has been printed already.
var ErrFailed = errors.New("expectations failed")

// Command is gray demo; it runs other verbs through gray.
func Command(gray Gray) *cobra.Command {
	var rollout, broken bool
	cmd := &cobra.Command{
		Use: "demo", Short: "Show gray on this machine: one commit moves an account on both planes", Args: cobra.NoArgs,
		Long: "Show gray on this machine: one commit moves an account on both planes. With --rollout, two VPCs move to a new version batch by batch; that needs no Envoy.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &demo{Lab: Lab{Gray: gray}, out: cmd.OutOrStdout()}
			switch {
			case rollout:
				return (&rolloutDemo{demo: d, broken: broken}).run(cmd.Context())
			case broken:
				return errors.New("--broken needs --rollout; give both")
			}
			return d.run(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&rollout, "rollout", false, "show a rollout: two VPCs move batch by batch")
	cmd.Flags().BoolVar(&broken, "broken", false, "with --rollout, let the new server drop the packets of one VPC")
	return cmd
}

// demo runs two HTTP backends, a real Envoy, a software gateway, a Git repository and
// the daemon.
type demo struct {
	Lab
	out    io.Writer
	lab    *packetLab
	parts  ending // what was started
	failed int
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

func (d *demo) run(ctx context.Context) (err error) {
	envoy, err := FindEnvoy(ctx)
	if err != nil {
		return err
	}
	start := func(ctx context.Context) error { return d.start(ctx, envoy) }
	return d.perform(ctx, start, d.story, d.hints)
}

// perform starts a laboratory, tells a story in it and says whether all expectations
// held. On a terminal the laboratory then stays up, with hints on what to try.
func (d *demo) perform(ctx context.Context, start, story func(context.Context) error, hints func()) (err error) {
	if d.Dir, err = os.MkdirTemp("", "gray-demo-"); err != nil {
		return err
	}
	defer os.RemoveAll(d.Dir)
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		err = errors.Join(err, d.parts.stop())
	}()
	if err := start(ctx); err != nil {
		return err
	}
	if err := story(ctx); err != nil {
		return err
	}
	if d.failed > 0 {
		d.say("\n%d expectations failed; the log of the daemon:", d.failed)
		log, _ := os.ReadFile(filepath.Join(d.Dir, "daemon.log"))
		d.say("%s", log)
		return ErrFailed
	}
	d.say("\nAll expectations held.")
	if term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd())) {
		d.say("\nEverything is still running; end it with Ctrl-C. You can try:")
		hints()
		<-ctx.Done()
	}
	return nil
}

// hints prints what to try.
func (d *demo) hints() {
	d.say("  curl -x 127.0.0.1:%d -H 'x-ucloud-routeby: account_id=50002002' http://vpc-api.internal/", d.Ports["15001"])
	d.say("  gray status --admin-listen 127.0.0.1:%d", d.Ports["18001"])
	d.say("  cd %s, edit policies/, then:", d.Repo)
	d.say("  gray diff --admin-listen 127.0.0.1:%d", d.Ports["18001"])
	d.say("  git add -A && git commit -m 'another account'")
}

// ending is the functions that end the parts of a laboratory.
type ending []func() error

// stop calls them, the last one first.
func (e *ending) stop() error {
	var errs []error
	for _, f := range slices.Backward(*e) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

func (e *ending) add(f func() error) { *e = append(*e, f) }

// start starts everything, which runs until ctx ends.
func (d *demo) start(ctx context.Context, envoy string) error {
	if err := d.ChoosePorts("18081", "18082", "15001", "15000", "9559", "18000", "18001"); err != nil {
		return err
	}
	for _, v := range []string{"1", "2"} {
		backend, err := d.StartBackend(v)
		if err != nil {
			return err
		}
		d.parts.add(func() error { backend.Close(); return nil })
	}
	sw := softswitch.New(1)
	var err error
	if d.lab, err = newPacketLab(sw); err != nil {
		return err
	}
	if err := d.serveSwitch(ctx, sw); err != nil {
		return err
	}
	if err := d.MakeRepository(ctx); err != nil {
		return err
	}
	if err := d.startDaemon(ctx); err != nil {
		return err
	}
	stopEnvoy, err := d.StartEnvoy(ctx, envoy)
	if err != nil {
		return err
	}
	d.parts.add(stopEnvoy)
	return nil
}

// serveSwitch serves P4Runtime for a software gateway.
func (d *demo) serveSwitch(ctx context.Context, sw *softswitch.Switch) error {
	l, err := net.Listen("tcp", d.Address("9559"))
	if err != nil {
		return err
	}
	server := grpc.NewServer(softswitch.ServerOptions()...)
	sw.Register(server)
	done := make(chan error, 1)
	go func() { done <- daemon.Serve(ctx, server, l) }()
	d.parts.add(func() error { return errors.Join(<-done, sw.Close()) })
	return nil
}

// startDaemon runs the daemon; each change adapts its configuration.
func (d *demo) startDaemon(ctx context.Context, change ...func(*daemon.Config)) error {
	log, err := os.Create(filepath.Join(d.Dir, "daemon.log"))
	if err != nil {
		return err
	}
	ready := make(chan struct{})
	c := daemon.Config{
		Source: daemon.Source{Kind: "git", Git: git.Config{URL: d.Repo, Branch: "main", Interval: time.Minute}},
		State:  daemon.State{At: "file:" + filepath.Join(d.Dir, "state.db")},
		XDS:    daemon.XDS{Listen: d.Address("18000")}, Admin: d.Address("18001"), Secrets: d.Dir,
		Limits: daemon.Limits{Drift: 30 * time.Second, MaxDelete: 30},
		Log:    slog.New(slog.NewTextHandler(log, nil)), Ready: func() { close(ready) },
	}
	for _, f := range change {
		f(&c)
	}
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	select {
	case <-ready:
	case err := <-done:
		return errors.Join(err, log.Close())
	}
	d.parts.add(func() error { return errors.Join(<-done, log.Close()) })
	return nil
}

// showDiff prints what gray diff says before a commit.
func (d *demo) showDiff(ctx context.Context) error {
	d.say("\n$ gray diff")
	return d.Gray(ctx, d.out, "diff", d.Repo, "--admin-listen", d.Address("18001"))
}
