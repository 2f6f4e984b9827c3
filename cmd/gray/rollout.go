package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler"
)

// rolloutFlags are the flags of gray rollout.
type rolloutFlags struct {
	address, output string
	who, why, gate  string
	watch, all      bool
	limit           int
	timeout         time.Duration
}

func (f *rolloutFlags) client() admin.Client { return admin.Client{Address: f.address} }

func rolloutCommand() *cobra.Command {
	var f rolloutFlags
	cmd := &cobra.Command{
		Use: "rollout", Short: "Show and control rollouts", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("a command is missing; want status, history, promote, pause, resume, abort or retry; see gray rollout --help")
		},
	}
	cmd.PersistentFlags().StringVar(&f.address, "admin-listen", "127.0.0.1:18001", "the daemon's admin API, host:port")
	cmd.PersistentFlags().StringVarP(&f.output, "output", "o", "text", "text or json")
	cmd.AddCommand(rolloutStatusCommand(&f), rolloutHistoryCommand(&f))
	for _, v := range []struct{ verb, short string }{
		{rollout.VerbPromote, "Open gates, so that the steps behind them begin"},
		{rollout.VerbPause, "Pause a rollout: keep what is live and begin nothing new"},
		{rollout.VerbResume, "Continue after a pause, or after a failed batch that was kept"},
		{rollout.VerbAbort, "Take the whole rollout back to the default version"},
		{rollout.VerbRetry, "Test a failed batch again, or begin a rolled back rollout again"},
	} {
		cmd.AddCommand(rolloutVerbCommand(&f, v.verb, v.short))
	}
	for _, sub := range cmd.Commands() {
		do := sub.RunE
		sub.RunE = func(cmd *cobra.Command, args []string) error {
			if f.output != "text" && f.output != "json" {
				return fmt.Errorf("-o %s is not known; want text or json", f.output)
			}
			return do(cmd, args)
		}
	}
	return cmd
}

func rolloutStatusCommand(f *rolloutFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use: "status [NAME]", Short: "Show the state of all rollouts, or of one policy's", Args: cobra.MaximumNArgs(1),
		Long: "Show the state of all rollouts, or of the policy NAME's; the exit code is 1 if that one has failed. With --watch, follow it until it has completed or failed.",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case f.timeout != 0 && !f.watch:
				return errors.New("--timeout limits --watch; give that too")
			case f.watch && f.output == "json":
				return errors.New("--watch prints text only; repeat the command with -o json instead")
			case f.watch && len(args) == 0:
				return errors.New("--watch follows one rollout; give the name of its policy")
			case f.watch:
				return f.follow(cmd, args[0])
			case len(args) == 0:
				return f.showAll(cmd)
			}
			return f.showOne(cmd, args[0])
		},
	}
	cmd.Flags().BoolVarP(&f.watch, "watch", "w", false, "follow the rollout until it has completed or failed")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "how long --watch follows it, and then exits with 1; default: until it has ended or is Stalled")
	cmd.Flags().BoolVar(&f.all, "all", false, "show every Network, not only those that move now or next")
	return cmd
}

func rolloutHistoryCommand(f *rolloutFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use: "history [NAME]", Short: "Print the audit log of all rollouts, or of one policy's", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, raw, err := f.client().Audit(cmd.Context(), argOr(args, ""), f.limit)
			if err != nil {
				return err
			}
			if f.output == "json" {
				_, err = cmd.OutOrStdout().Write(raw)
				return err
			}
			return printAudit(cmd.OutOrStdout(), a.Records)
		},
	}
	cmd.Flags().IntVarP(&f.limit, "limit", "n", 100, "show this many of the newest records")
	return cmd
}

func rolloutVerbCommand(f *rolloutFlags, verb, short string) *cobra.Command {
	cmd := &cobra.Command{
		Use: verb + " NAME", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v := rollout.Verb{Verb: verb, Gate: f.gate, Who: cmp.Or(f.who, whoami()), Why: f.why}
			if verb == rollout.VerbPromote && f.gate == "" {
				return f.promote(cmd, args[0], v)
			}
			return f.do(cmd, args[0], v)
		},
	}
	cmd.Flags().StringVar(&f.who, "who", "", "your name for the audit log, which nobody verifies; default: $USER@host")
	cmd.Flags().StringVarP(&f.why, "reason", "m", "", "your reason, for the audit log and the status")
	if verb == rollout.VerbPromote {
		cmd.Flags().StringVar(&f.gate, "gate", "", "the gate to open, such as 1/vpc-1001/2; default: all gates that wait now")
	}
	return cmd
}

// whoami is the default name for the audit log.
func whoami() string {
	name := os.Getenv("USER")
	if u, err := user.Current(); name == "" && err == nil {
		name = u.Username
	}
	host, _ := os.Hostname()
	return cmp.Or(name, "somebody") + "@" + cmp.Or(host, "somewhere")
}

// notNow prints why a verb does not apply. That is an answer, not a failure.
func notNow(cmd *cobra.Command, err error) error {
	if !errors.Is(err, reconciler.ErrNotNow) {
		return err
	}
	fmt.Fprintln(cmd.ErrOrStderr(), "gray:", err)
	return errNo
}

// do carries out a verb and prints what it did.
func (f *rolloutFlags) do(cmd *cobra.Command, name string, v rollout.Verb) error {
	done, err := f.client().Do(cmd.Context(), name, v)
	if err != nil {
		return notNow(cmd, about(name, err))
	}
	return f.printDone(cmd.OutOrStdout(), done)
}

func (f *rolloutFlags) printDone(w io.Writer, d *admin.Done) error {
	if f.output == "json" {
		return json.NewEncoder(w).Encode(d)
	}
	if len(d.Events) == 0 {
		_, err := fmt.Fprintf(w, "%s: nothing to do\n", d.Policy)
		return err
	}
	for _, e := range d.Events {
		if _, err := fmt.Fprintf(w, "%s: %s\n", d.Policy, plain(e.Message)); err != nil {
			return err
		}
	}
	return nil
}

// promote lists the gates that wait, then opens each by its ID. So people who promote
// at the same time open no gate twice, and none that they were not shown.
func (f *rolloutFlags) promote(cmd *cobra.Command, name string, v rollout.Verb) error {
	r, _, err := f.client().Rollout(cmd.Context(), name)
	if err != nil {
		return about(name, err)
	}
	if len(r.Gates) == 0 {
		return notNow(cmd, fmt.Errorf("%w: no gate of %s waits to be opened; it is %s", reconciler.ErrNotNow, name, stateLine(r.RolloutStatus)))
	}
	all, opened := &admin.Done{APIVersion: admin.RolloutVersion, Policy: name, Events: []rollout.Event{}}, false
	for _, g := range r.Gates {
		if f.output == "text" {
			fmt.Fprintf(cmd.OutOrStdout(), "gate %s: %s\n", g.ID, gateText(g))
		}
		v.Gate = g.ID
		done, err := f.client().Do(cmd.Context(), name, v)
		if errors.Is(err, reconciler.ErrNotNow) { // somebody was faster
			fmt.Fprintln(cmd.ErrOrStderr(), "gray:", err)
			continue
		}
		if err != nil {
			return about(name, err)
		}
		opened = true
		all.Events = append(all.Events, done.Events...)
	}
	if !opened {
		return errNo
	}
	return f.printDone(cmd.OutOrStdout(), all)
}

func gateText(g rollout.Gate) string {
	text := fmt.Sprintf("batch %d of Network %s", g.Batch, g.Network)
	if g.Reason == "ThroughReached" {
		return text + " is beyond through"
	}
	return text + " needs approval"
}

// failed reports whether a rollout cannot complete by itself.
func failed(r *reconciler.RolloutStatus) bool {
	stalled := slices.ContainsFunc(r.Conditions, func(c reconciler.Condition) bool { return c.Type == "Stalled" })
	return stalled || r.Phase == rollout.PhaseRolledBack || r.Phase == rollout.PhaseRollingBack && r.Failure != nil
}

func (f *rolloutFlags) showAll(cmd *cobra.Command) error {
	all, raw, err := f.client().Rollouts(cmd.Context())
	if err != nil {
		return err
	}
	if f.output == "json" {
		_, err = cmd.OutOrStdout().Write(raw)
		return err
	}
	if len(all.Rollouts) == 0 {
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "no policy has a rollout")
		return err
	}
	return printRollouts(cmd.OutOrStdout(), all.Rollouts)
}

func (f *rolloutFlags) showOne(cmd *cobra.Command, name string) error {
	r, raw, err := f.client().Rollout(cmd.Context(), name)
	if err != nil {
		return about(name, err)
	}
	if f.output == "json" {
		_, err = cmd.OutOrStdout().Write(raw)
	} else {
		_, err = io.WriteString(cmd.OutOrStdout(), strings.Join(rolloutLines(r.RolloutStatus, f.all), "\n")+"\n")
	}
	if err == nil && failed(r.RolloutStatus) {
		return errNo
	}
	return err
}

// about adds the name of the policy to an error.
func about(name string, err error) error {
	if errors.Is(err, reconciler.ErrNoRollout) {
		return fmt.Errorf("%s: %w", name, err)
	}
	return err
}
