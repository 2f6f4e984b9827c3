package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt"
	"github.com/gray-release/gray/sinks/xds"
)

func renderCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "render", Short: "Print what gray makes of the documents"}
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
	cmd.AddCommand(composeCommand(), bootstrapCommand(), systemdCommand(), native, entries)
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
