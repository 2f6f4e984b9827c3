package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/gray-release/gray/sinks/p4rt/softswitch"
)

func switchCommand() *cobra.Command {
	var listen string
	var device uint64
	var interfaces []string
	var personality string
	var insecure bool
	cmd := &cobra.Command{
		Use: "switch", Short: "Run the software gateway", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			like, err := softswitch.PersonalityOf(personality)
			if err != nil {
				return fmt.Errorf("--personality: %w", err)
			}
			sw := softswitch.NewLike(device, like)
			defer func() { err = errors.Join(err, sw.Close()) }()
			for _, i := range interfaces {
				number, name, ok := strings.Cut(i, "@")
				port, err := strconv.ParseUint(number, 10, 9)
				if !ok || err != nil {
					return fmt.Errorf("-i %s: want PORT@INTERFACE, such as 1@veth1", i)
				}
				if err := sw.AttachInterface(uint32(port), name); err != nil {
					return err
				}
			}
			l, err := listenPlain(listen, insecure)
			if err != nil {
				return err
			}
			server := grpc.NewServer(softswitch.ServerOptions()...)
			sw.Register(server)
			fmt.Fprintf(cmd.ErrOrStderr(), "device %d serves P4Runtime on %s with %d ports\n", device, l.Addr(), len(interfaces))
			return serve(cmd.Context(), server, l)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:9559", "where to serve P4Runtime")
	cmd.Flags().Uint64Var(&device, "device-id", 1, "the P4Runtime device id")
	cmd.Flags().StringArrayVarP(&interfaces, "interface", "i", nil, "a port and its interface, PORT@INTERFACE (repeatable)")
	cmd.Flags().StringVar(&personality, "personality", "strict", "what other server to be like: "+strings.Join(softswitch.PersonalityNames(), ", "))
	cmd.Flags().BoolVar(&insecure, "insecure", false, "serve plaintext beyond loopback")
	return cmd
}

// listenPlain opens a plaintext listener, beyond loopback only on request.
func listenPlain(address string, insecure bool) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%q is not host:port", address)
	}
	if !isLoopback(host) && !insecure {
		return nil, fmt.Errorf("%s is not on loopback and would be plaintext; use 127.0.0.1, or --insecure", address)
	}
	return net.Listen("tcp", address)
}

// isLoopback tells whether a host is this one alone.
func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// serve runs a gRPC server until ctx ends.
func serve(ctx context.Context, server *grpc.Server, l net.Listener) error {
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(l); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}
