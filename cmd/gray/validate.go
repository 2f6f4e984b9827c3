package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/gray-release/gray/cmd/gray/daemon"
	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/bgp"
	"github.com/gray-release/gray/sinks/compose"
	"github.com/gray-release/gray/sinks/p4rt"
	"github.com/gray-release/gray/sinks/xds"
	"github.com/gray-release/gray/sources/dir"
)

func validateCommand() *cobra.Command {
	return &cobra.Command{
		Use: "validate [PATH]", Short: "Check documents: every error with its file and line", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := compileFolder(cmd.Context(), pathArg(args), policies.NewIDs())
			if err != nil {
				return err
			}
			printWarnings(c)
			fmt.Fprintf(cmd.OutOrStdout(), "%d documents are valid; they make %d resources\n", c.Objects, len(c.Desired))
			return nil
		},
	}
}

// pureSinks are sinks that only lower.
func pureSinks() ([]reconciler.Sink, error) {
	x, err := xds.New(xds.Config{})
	if err != nil {
		return nil, err
	}
	files, err := compose.New(daemon.ComposeConfig("", xds.Server{Address: defaultXDS}))
	if err != nil {
		return nil, err
	}
	return []reconciler.Sink{x, p4rt.New(p4rt.Config{ReadOnly: true}), bgp.New(bgp.Config{}), files}, nil
}

// compileFolder reads and compiles a folder as it lies there.
func compileFolder(ctx context.Context, path string, ids *policies.IDs) (*reconciler.Compiled, error) {
	s, err := dir.Read(ctx, path)
	if err != nil {
		return nil, err
	}
	sinks, err := pureSinks()
	if err != nil {
		return nil, err
	}
	return reconciler.CompileSnapshot(sinks, s, ids)
}

func printWarnings(c *reconciler.Compiled) {
	for _, w := range c.Warnings {
		fmt.Fprintln(os.Stderr, "warning:", w)
	}
}
