package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/gray-release/gray/cmd/gray/daemon"
	"github.com/gray-release/gray/cmd/gray/demo"
	"github.com/gray-release/gray/schema"
)

// The exit codes.
const (
	exitFine = 0
	exitNo   = 1 // the answer is no: a difference, an invalid document, a rollout that has failed
	exitFail = 2 // gray could not answer
)

// errNo says that the answer is no. It has been printed already.
var errNo = errors.New("no")

func main() { os.Exit(run()) }

// run runs the command line and returns the exit code.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := newRoot().ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitFine
	case errors.Is(err, errNo), errors.Is(err, daemon.ErrNotLive), errors.Is(err, demo.ErrFailed):
		return exitNo
	}
	if invalid, ok := errors.AsType[schema.Errors](err); ok {
		fmt.Fprintln(os.Stderr, invalid)
		return exitNo
	}
	fmt.Fprintln(os.Stderr, "gray:", err)
	return exitFail
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use: "gray", Short: "GitOps for gray (canary) releases in a virtual network",
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return fromEnvironment(cmd) },
	}
	root.AddCommand(validateCommand(), diffCommand(), daemonCommand(), statusCommand(), rolloutCommand(), traceCommand(), renderCommand(),
		switchCommand(), demo.Command(gray), schemaCommand(), versionCommand())
	return root
}

// gray runs a command line for the demo, where exit code 1 is not an error.
func gray(ctx context.Context, out io.Writer, args ...string) error {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(out)
	if err := root.ExecuteContext(ctx); !errors.Is(err, errNo) {
		return err
	}
	return nil
}

// fromEnvironment gives every flag that is not on the command line the value of
// GRAY_<FLAG>, if there is one.
func fromEnvironment(cmd *cobra.Command) error {
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		name := "GRAY_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if value, ok := os.LookupEnv(name); ok && !f.Changed {
			if err := cmd.Flags().Set(f.Name, value); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		}
	})
	return errors.Join(errs...)
}

// argOr is the first argument of a verb, or a default.
func argOr(args []string, missing string) string {
	if len(args) == 0 {
		return missing
	}
	return args[0]
}

func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use: "schema [KIND]", Short: "Print the JSON Schema for editors", Args: cobra.MaximumNArgs(1), ValidArgs: schema.Kinds(),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := schema.JSONSchema(argOr(args, ""))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", b)
			return err
		},
	}
}

// version is set by the release build.
var version = "devel"

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			goVersion := ""
			if info, ok := debug.ReadBuildInfo(); ok {
				goVersion = info.GoVersion
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "gray %s %s documents %s\n", version, goVersion, schema.APIVersion)
			return err
		},
	}
}
