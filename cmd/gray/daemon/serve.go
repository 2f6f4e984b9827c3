package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/compose"
	"github.com/gray-release/gray/sinks/xds"
)

// secured reports whether xDS is served over TLS.
func (c *Config) secured() bool { return c.XDS.TLS.Cert+c.XDS.TLS.Key+c.XDS.TLS.CA != "" }

// listenXDS opens the listener for xDS, with TLS if that is configured.
func (c *Config) listenXDS() (net.Listener, []grpc.ServerOption, error) {
	if !c.secured() {
		l, err := Listen(c.XDS.Listen, c.Insecure)
		if errors.Is(err, errPlaintext) {
			err = fmt.Errorf("%w, or --xds-cert, --xds-key and --xds-ca", err)
		}
		return l, xds.ServerOptions(), err
	}
	if c.XDS.TLS.Cert == "" || c.XDS.TLS.Key == "" || c.XDS.TLS.CA == "" {
		return nil, nil, errors.New("--xds-cert, --xds-key and --xds-ca go together; give all three")
	}
	c.XDS.TLS.SecretsDir = c.Secrets
	creds, err := xds.Credentials(c.XDS.TLS, c.Log)
	if err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp", c.XDS.Listen)
	return l, append(xds.ServerOptions(), grpc.Creds(creds)), err
}

// composeFiles makes the sink for --compose-dir.
func (c *Config) composeFiles() (*compose.Sink, error) {
	server := c.XDS.Nodes
	if server.Address == "" {
		server.Address = c.XDS.Listen
		if bound, err := netip.ParseAddrPort(server.Address); strings.HasPrefix(server.Address, ":") || err == nil && bound.Addr().IsUnspecified() {
			return nil, fmt.Errorf("nodes cannot reach --xds-listen %s; give --xds-address for the files of --compose-dir", server.Address)
		}
	}
	if c.secured() && server.Cert == "" {
		return nil, errors.New("with --xds-cert, nodes need a certificate; say where it is on them with --node-ca, --node-cert and --node-key")
	}
	return compose.New(ComposeConfig(c.XDS.ComposeDir, server))
}

// serve starts the xDS and the admin server. The function that it returns waits until
// both have ended, after ctx has.
func (c *Config) serve(ctx context.Context, api http.Handler, envoys *xds.Sink, errs chan<- error) (func(), error) {
	xdsListener, options, err := c.listenXDS()
	if err != nil {
		return nil, err
	}
	adminListener, err := Listen(c.Admin, false)
	if err != nil {
		return nil, errors.Join(err, xdsListener.Close())
	}
	server := grpc.NewServer(options...)
	envoys.Register(server)
	web := &http.Server{
		Handler: api, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx },
	}
	done := make(chan struct{}, 2)
	go func() {
		if err := Serve(ctx, server, xdsListener); err != nil {
			errs <- err
		}
		done <- struct{}{}
	}()
	go func() {
		stop := context.AfterFunc(ctx, func() { _ = web.Close() })
		defer stop()
		if err := web.Serve(adminListener); !errors.Is(err, http.ErrServerClosed) {
			errs <- err
		}
		done <- struct{}{}
	}()
	return func() { <-done; <-done }, nil
}

// errPlaintext is why a listener is not opened.
var errPlaintext = errors.New("is plaintext beyond loopback")

// Listen opens a plaintext listener; beyond loopback only if insecure is set.
func Listen(address string, insecure bool) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%q is not host:port", address)
	}
	if !schema.IsLoopback(host) && !insecure {
		return nil, fmt.Errorf("%s %w; use 127.0.0.1, or --insecure", address, errPlaintext)
	}
	return net.Listen("tcp", address)
}

// Serve runs a gRPC server until ctx ends.
func Serve(ctx context.Context, server *grpc.Server, l net.Listener) error {
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(l); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// ComposeConfig is the configuration of compose files; server says how their Envoys
// reach the daemon.
func ComposeConfig(folder string, server xds.Server) compose.Config {
	c := compose.Config{Dir: folder, Bootstrap: func(n *policies.Node) ([]byte, error) { return xds.Bootstrap(n, server) }}
	for _, file := range []string{server.CA, server.Cert, server.Key} {
		if file != "" && !slices.Contains(c.Mounts, path.Dir(file)) {
			c.Mounts = append(c.Mounts, path.Dir(file))
		}
	}
	return c
}
