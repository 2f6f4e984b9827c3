package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/gray-release/gray/cmd/gray/daemon"
	"github.com/gray-release/gray/sinks/p4rt/softswitch"
)

func switchCommand() *cobra.Command {
	var listen string
	var device uint64
	var interfaces []string
	var personality string
	var insecure bool
	cmd := &cobra.Command{
		Use: "switch", Short: "Run a software gateway: a switch that serves P4Runtime", Args: cobra.NoArgs,
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
			l, err := daemon.Listen(listen, insecure)
			if err != nil {
				return err
			}
			server := grpc.NewServer(softswitch.ServerOptions()...)
			sw.Register(server)
			fmt.Fprintf(cmd.ErrOrStderr(), "device %d serves P4Runtime on %s with %d ports\n", device, l.Addr(), len(interfaces))
			return daemon.Serve(cmd.Context(), server, l)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:9559", "where to serve P4Runtime, host:port")
	cmd.Flags().Uint64Var(&device, "device-id", 1, "the P4Runtime device ID")
	cmd.Flags().StringArrayVarP(&interfaces, "interface", "i", nil, "attach a port to an interface, PORT@INTERFACE (repeatable)")
	cmd.Flags().StringVar(&personality, "personality", "strict", "behave like another P4Runtime server: "+strings.Join(softswitch.PersonalityNames(), ", "))
	cmd.Flags().BoolVar(&insecure, "insecure", false, "allow plaintext beyond loopback")
	return cmd
}
