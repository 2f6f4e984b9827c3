package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"google.golang.org/grpc"

	"github.com/gray-release/gray/sinks/compose"
	"github.com/gray-release/gray/sinks/xds"
)

// secured tells whether xDS is served by TLS.
func (c *daemonConfig) secured() bool { return c.xdsTLS.Cert+c.xdsTLS.Key+c.xdsTLS.CA != "" }

// listenXDS opens the listener of xDS, by TLS where that is configured.
func (c *daemonConfig) listenXDS() (net.Listener, []grpc.ServerOption, error) {
	if !c.secured() {
		l, err := listenPlain(c.xdsListen, c.insecure)
		if err != nil {
			err = fmt.Errorf("%w, or --xds-cert, --xds-key and --xds-ca", err)
		}
		return l, xds.ServerOptions(), err
	}
	if c.xdsTLS.Cert == "" || c.xdsTLS.Key == "" || c.xdsTLS.CA == "" {
		return nil, nil, errors.New("--xds-cert, --xds-key and --xds-ca belong together; give all three")
	}
	c.xdsTLS.SecretsDir = c.secrets
	creds, err := xds.Credentials(c.xdsTLS, c.logger())
	if err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp", c.xdsListen)
	return l, append(xds.ServerOptions(), grpc.Creds(creds)), err
}

// composeFiles is the sink of --compose-dir.
func (c *daemonConfig) composeFiles() (*compose.Sink, error) {
	server := c.nodes
	if server.Address == "" {
		server.Address = c.xdsListen
		if bound, err := netip.ParseAddrPort(server.Address); strings.HasPrefix(server.Address, ":") || err == nil && bound.Addr().IsUnspecified() {
			return nil, fmt.Errorf("--xds-listen %s is no address that a node could reach; give --xds-address for the files of --compose-dir", server.Address)
		}
	}
	if c.secured() && server.Cert == "" {
		return nil, errors.New("--xds-cert has nodes show a certificate; say where it lies on them by --node-ca, --node-cert and --node-key")
	}
	return compose.New(composeConfig(c.composeDir, server))
}
