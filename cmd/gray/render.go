package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gray-release/gray/cmd/gray/daemon"
	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/bgp"
	"github.com/gray-release/gray/sinks/compose"
	"github.com/gray-release/gray/sinks/p4rt"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
	"github.com/gray-release/gray/sinks/xds"
	"github.com/gray-release/gray/sources/dir"
)

func validateCommand() *cobra.Command {
	strict := false
	cmd := &cobra.Command{
		Use: "validate [PATH]", Short: "Validate documents, and print each error with its file and line", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := compileFolder(cmd.Context(), argOr(args, "."))
			if err != nil {
				return err
			}
			for _, w := range c.Warnings {
				fmt.Fprintln(os.Stderr, "warning:", w)
			}
			if err := tooOdd(cmd, strict, len(c.Warnings)); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d documents are valid; they compile to %d resources\n", c.Objects, len(c.Desired))
			return nil
		},
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "warnings are errors")
	return cmd
}

// tooOdd says that there are warnings where they are errors.
func tooOdd(cmd *cobra.Command, strict bool, warnings int) error {
	if !strict || warnings == 0 {
		return nil
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "gray: %d warnings, which --strict makes errors\n", warnings)
	return errNo
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

func renderCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "render", Short: "Print what gray generates from the documents"}
	native := &cobra.Command{
		Use: "xds [PATH]", Short: "Print the xDS resources for Envoys, as YAML", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return renderNative(cmd, argOr(args, "."), xds.Target, xds.YAML)
		},
	}
	entries := &cobra.Command{
		Use: "p4 [PATH]", Short: "Print the table entries for switches, as protobuf text", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return renderNative(cmd, argOr(args, "."), p4rt.TargetOf(""), p4rt.Text)
		},
	}
	cmd.AddCommand(composeCommand(), bootstrapCommand(), systemdCommand(), native, entries)
	return cmd
}

// renderNative prints the resources of the targets whose names begin with a prefix.
func renderNative(cmd *cobra.Command, path, targets string, text func([]*reconciler.Resource) (string, error)) error {
	c, err := compileFolder(cmd.Context(), path)
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

// defaultXDS is where a daemon serves xDS by default.
const defaultXDS = "127.0.0.1:18000"

// nodeText renders a file for a node.
type nodeText func(*policies.IR, *policies.Node) (string, error)

func composeCommand() *cobra.Command {
	var server xds.Server
	cmd := nodeCommand("compose", "Print the docker-compose file of a node", compose.ComposeSuffix, func(ir *policies.IR, n *policies.Node) (string, error) {
		sink, err := compose.New(daemon.ComposeConfig("", server))
		if err != nil {
			return "", err
		}
		return sink.Render(ir, n)
	})
	serverFlags(cmd, &server)
	return cmd
}

func bootstrapCommand() *cobra.Command {
	var server xds.Server
	cmd := nodeCommand("bootstrap", "Print the Envoy bootstrap of a node", compose.BootstrapSuffix, func(_ *policies.IR, n *policies.Node) (string, error) {
		b, err := xds.Bootstrap(n, server)
		return compose.Mark(n.Name, string(b)), err
	})
	serverFlags(cmd, &server)
	return cmd
}

func systemdCommand() *cobra.Command {
	var envoy string
	cmd := nodeCommand("systemd", "Print the systemd unit of a node's Envoy, for a host without containers", compose.UnitSuffix, func(_ *policies.IR, n *policies.Node) (string, error) {
		return compose.Unit(n, envoy)
	})
	cmd.Flags().StringVar(&envoy, "envoy", "/usr/bin/envoy", "the path of Envoy on the host")
	return cmd
}

func serverFlags(cmd *cobra.Command, server *xds.Server) {
	cmd.Flags().StringVar(&server.Address, "xds-listen", defaultXDS, "the address at which the nodes reach the daemon's xDS, host:port")
	nodeTLSFlags(cmd, server)
}

// nodeTLSFlags adds the flags for the TLS of nodes. Their files are on the nodes.
func nodeTLSFlags(cmd *cobra.Command, server *xds.Server) {
	f := cmd.Flags()
	f.StringVar(&server.CA, "node-ca", "", "file on the nodes with the CA certificate that signs the daemon's")
	f.StringVar(&server.Cert, "node-cert", "", "file on the nodes with the node's certificate, which has the Node's name as its DNS name")
	f.StringVar(&server.Key, "node-key", "", "file on the nodes with the key of --node-cert")
	f.StringVar(&server.Name, "xds-name", "", "the daemon's name in its certificate; default: the host at which nodes reach it")
}

// nodeCommand prints the file of one node, or keeps those of all nodes in a folder.
func nodeCommand(name, short, suffix string, text nodeText) *cobra.Command {
	var all bool
	var out string
	cmd := &cobra.Command{
		Use: name + " NODE [PATH]", Short: short,
		Long: short + ". With --all, leave out NODE: the folder --out then gets a file for each node. Only files that differ are written, those of nodes that are gone are removed, and files that gray did not write are left alone.",
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case all && out == "":
				return errors.New("--all writes to a folder; name it with --out")
			case !all && out != "":
				return errors.New("--out is for all nodes; add --all, or leave out --out to print one")
			case all:
				return cobra.MaximumNArgs(1)(cmd, args)
			}
			return cobra.RangeArgs(1, 2)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if all {
				return renderNodes(cmd, argOr(args, "."), compose.Folder{Dir: out, Suffix: suffix}, text)
			}
			ir, _, err := compileIR(cmd.Context(), argOr(args[1:], "."))
			if err != nil {
				return err
			}
			node, ok := ir.Get(policies.Name{Kind: schema.KindNode, Name: args[0]}).(*policies.Node)
			if !ok {
				return fmt.Errorf("there is no Node %q in the repository", args[0])
			}
			s, err := text(ir, node)
			if err != nil {
				return err
			}
			_, err = io.WriteString(cmd.OutOrStdout(), s)
			return err
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "write the files of all nodes to the folder --out")
	cmd.Flags().StringVar(&out, "out", "", "with --all, the folder to write to")
	return cmd
}

// renderNodes keeps the files of all nodes in a folder. It renders all of them before
// it writes any.
func renderNodes(cmd *cobra.Command, path string, folder compose.Folder, text nodeText) error {
	ir, units, err := compileIR(cmd.Context(), path)
	if err != nil {
		return err
	}
	texts := map[string]string{}
	var wrong schema.Errors
	for _, u := range units {
		n, ok := ir.Get(u).(*policies.Node)
		if !ok {
			continue
		}
		texts[n.Name], err = text(ir, n)
		if list, ok := errors.AsType[schema.Errors](err); ok {
			wrong = append(wrong, list...)
		} else if err != nil {
			return err
		}
	}
	if len(wrong) > 0 {
		return wrong.Sort()
	}
	written, removed, err := folder.Sync(texts)
	for _, name := range written {
		fmt.Fprintln(cmd.ErrOrStderr(), "wrote", name)
	}
	for _, name := range removed {
		fmt.Fprintln(cmd.ErrOrStderr(), "removed", name)
	}
	return err
}

// compileIR compiles the repository at path.
func compileIR(ctx context.Context, path string) (*policies.IR, []policies.Name, error) {
	snapshot, err := dir.Read(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	return compileSnapshot(snapshot)
}

func compileSnapshot(snapshot *schema.Snapshot) (*policies.IR, []policies.Name, error) {
	set := schema.NewSet()
	return policies.NewCompiler(policies.NewIDs(), pipeline.TableSizes).Compile(set, set.Update(snapshot), policies.Facts{})
}
