package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/gray-release/gray/cmd/gray/daemon"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/bgp"
	"github.com/gray-release/gray/sinks/compose"
	"github.com/gray-release/gray/sinks/p4rt"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
	"github.com/gray-release/gray/sinks/xds"
	"github.com/gray-release/gray/sources/dir"
)

func validateCommand() *cobra.Command {
	return &cobra.Command{
		Use: "validate [PATH]", Short: "Validate documents, and print each error with its file and line", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := compileFolder(cmd.Context(), pathArg(args))
			if err != nil {
				return err
			}
			printWarnings(c)
			fmt.Fprintf(cmd.OutOrStdout(), "%d documents are valid; they compile to %d resources\n", c.Objects, len(c.Desired))
			return nil
		},
	}
}

// newOffline makes a compiler whose sinks only lower.
func newOffline() (reconciler.Offline, error) {
	x, err := xds.New(xds.Config{})
	if err != nil {
		return reconciler.Offline{}, err
	}
	files, err := compose.New(daemon.ComposeConfig("", xds.Server{Address: defaultXDS}))
	if err != nil {
		return reconciler.Offline{}, err
	}
	sinks := []reconciler.Sink{x, p4rt.New(p4rt.Config{ReadOnly: true}), bgp.New(bgp.Config{}), files}
	return reconciler.Offline{Sinks: sinks, TableSizes: pipeline.TableSizes}, nil
}

// compileFolder reads and compiles a folder.
func compileFolder(ctx context.Context, path string) (*reconciler.Compiled, error) {
	s, err := dir.Read(ctx, path)
	if err != nil {
		return nil, err
	}
	offline, err := newOffline()
	if err != nil {
		return nil, err
	}
	return offline.Compile(s, reconciler.Nothing())
}

func printWarnings(c *reconciler.Compiled) {
	for _, w := range c.Warnings {
		fmt.Fprintln(os.Stderr, "warning:", w)
	}
}
