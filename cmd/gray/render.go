package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/xds"
	"github.com/gray-release/gray/sources/dir"
)

func renderCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "render", Short: "Print what gray makes of the documents"}
	var address string
	bootstrap := &cobra.Command{
		Use: "bootstrap NODE [PATH]", Short: "Print the Envoy bootstrap of a node", Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := renderBootstrap(cmd.Context(), pathArg(args[1:]), args[0], address)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(b)
			return err
		},
	}
	bootstrap.Flags().StringVar(&address, "xds-listen", "127.0.0.1:18000", "where the daemon serves xDS")
	cmd.AddCommand(bootstrap)
	return cmd
}

// renderBootstrap makes the Envoy bootstrap of a node of the repository at path.
func renderBootstrap(ctx context.Context, path, name, xdsAddress string) ([]byte, error) {
	snapshot, err := dir.Read(ctx, path)
	if err != nil {
		return nil, err
	}
	set := schema.NewSet()
	ir, _, err := policies.NewCompiler(policies.NewIDs()).Compile(set, set.Update(snapshot))
	if err != nil {
		return nil, err
	}
	node, ok := ir.Get(policies.Name{Kind: schema.KindNode, Name: name}).(*policies.Node)
	if !ok {
		return nil, fmt.Errorf("there is no Node %q in the repository", name)
	}
	return xds.Bootstrap(node, xdsAddress)
}
