package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/p4rt"
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
	native := &cobra.Command{
		Use: "xds [PATH]", Short: "Print what Envoys are sent, as YAML", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return renderNative(cmd, pathArg(args), xds.Target, xds.YAML)
		},
	}
	entries := &cobra.Command{
		Use: "p4 [PATH]", Short: "Print what switches are written, as protobuf text", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return renderNative(cmd, pathArg(args), p4rt.TargetOf(""), p4rt.Text)
		},
	}
	cmd.AddCommand(bootstrap, native, entries)
	return cmd
}

// renderNative prints the resources of the targets whose names have a prefix.
func renderNative(cmd *cobra.Command, path, targets string, text func([]*reconciler.Resource) (string, error)) error {
	c, err := compileFolder(cmd.Context(), path, policies.NewIDs())
	if err != nil {
		return err
	}
	var some []*reconciler.Resource
	for k, r := range c.Desired {
		if strings.HasPrefix(k.Target, targets) {
			some = append(some, r)
		}
	}
	out, err := text(some)
	if err != nil {
		return err
	}
	_, err = io.WriteString(cmd.OutOrStdout(), out)
	return err
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
