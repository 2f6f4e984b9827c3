package main

import (
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/gray-release/gray/cmd/gray/daemon"
)

func daemonCommand() *cobra.Command {
	var c daemon.Config
	var format string
	cmd := &cobra.Command{
		Use: "daemon", Short: "Keep what is live as the repository says", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			if format == "json" {
				c.Log = slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil))
			}
			c.Version = version
			return c.Run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Source.Git.URL, "repo", "", "the repository: a path, or a file://, https:// or ssh:// URL")
	f.StringVar(&c.Source.Kind, "source", "git", "where documents come from: git, or dir for a plain folder")
	f.StringVar(&c.Source.Git.Branch, "branch", "main", "the branch to follow")
	f.StringVar(&c.Source.Git.Path, "path", ".", "the folder in the repository to read")
	f.DurationVar(&c.Source.Git.Interval, "interval", time.Minute, "how often to look for new commits")
	f.BoolVar(&c.Source.Git.FollowRewrites, "follow-rewrites", false, "follow a branch whose history was rewritten")
	f.StringVar(&c.Source.Git.Auth.Username, "git-username", "", "user name for https")
	f.StringVar(&c.Source.Git.Auth.PasswordFile, "git-password-file", "", "file with a password or token for https")
	f.StringVar(&c.Source.Git.Auth.CAFile, "git-ca", "", "file with additional CA certificates for https")
	f.StringVar(&c.Source.Git.Auth.SSHKeyFile, "ssh-key", "", "file with the private key for ssh")
	f.StringVar(&c.Source.Git.Auth.SSHPassphrase, "ssh-passphrase-file", "", "file with the passphrase of --ssh-key")
	f.StringVar(&c.Source.Git.Auth.KnownHosts, "known-hosts", "", "file with the ssh host keys to trust")
	f.StringVar(&c.Source.Git.MirrorDir, "mirror-dir", "", "folder for the mirror of a remote repository; share it with no other daemon; default: next to the --state file, or a temporary folder")
	f.StringVar(&c.State.At, "state", "file:/var/lib/gray/state.db", "the store: file:PATH, or etcd://HOST:2379[,HOST:2379][/PREFIX] for several replicas (etcds:// for TLS)")
	etcdFlags(f, &c.State.Etcd, "state", "the etcd of --state")
	f.StringVar(&c.State.Replica, "replica", "", "with an etcd --state, the name of this replica; default: the host name")
	f.DurationVar(&c.State.Lease, "lease", 10*time.Second, "with an etcd --state, how long a silent leader keeps the lead")
	f.StringVar(&c.XDS.Listen, "xds-listen", defaultXDS, "where to serve xDS to Envoys, host:port")
	f.StringVar(&c.XDS.TLS.Cert, "xds-cert", "", "file below --secrets-dir with the certificate for xDS; each Envoy then needs a certificate with the name of its Node")
	f.StringVar(&c.XDS.TLS.Key, "xds-key", "", "file below --secrets-dir with the key of --xds-cert")
	f.StringVar(&c.XDS.TLS.CA, "xds-ca", "", "file below --secrets-dir with the CA certificates that sign those of the Envoys")
	f.StringVar(&c.XDS.Nodes.Address, "xds-address", "", "with --compose-dir, the address at which the nodes reach xDS; default: --xds-listen")
	f.StringVar(&c.XDS.ComposeDir, "compose-dir", "", "write a docker-compose file for each node to this folder, and keep it up to date")
	nodeTLSFlags(cmd, &c.XDS.Nodes)
	f.StringVar(&c.Admin, "admin-listen", "127.0.0.1:18001", "where to serve the admin API, host:port on loopback")
	f.StringVar(&c.Secrets, "secrets-dir", "/etc/gray", "the folder with the secrets that flags and documents name; no file outside it is read")
	f.StringSliceVar(&c.Etcd.Members, "etcd", nil, "http:// or https:// URLs of the etcd in which endpoints are registered (repeatable)")
	etcdFlags(f, &c.Etcd, "etcd", "etcd")
	f.StringVar(&c.Outward.Probes.ExecDir, "exec-dir", "", "the folder with the programs of exec tests; without it none is run")
	f.StringSliceVar(&c.Outward.Allow, "probe-allow", nil, "a network, such as 10.0.0.0/8, that http tests may reach in addition to the addresses in documents (repeatable)")
	f.StringVar(&c.Outward.Webhooks, "webhooks", "", "file below --secrets-dir with the webhooks for events of rollouts: [{url: https://..., format: json|slack}]")
	f.DurationVar(&c.Limits.Drift, "drift-interval", 30*time.Second, "how often to read every target again and repair drift")
	f.IntVar(&c.Limits.MaxDelete, "max-delete", 30, "refuse a commit that deletes more than this many per cent of what is live at any target")
	f.StringVar(&c.Limits.Confirm, "confirm-delete", "", "the revision of a commit that may delete more than --max-delete")
	f.BoolVar(&c.Once, "once", false, "reconcile once and exit: with 0 if everything is live, else with 1")
	f.DurationVar(&c.OnceFor, "once-timeout", time.Minute, "how long --once retries what fails")
	f.BoolVar(&c.Insecure, "insecure", false, "allow plaintext beyond loopback")
	f.StringVar(&format, "log-format", "text", "text or json")
	return cmd
}

// etcdFlags adds the flags for the daemon's TLS and login at an etcd; their names begin
// with name.
func etcdFlags(f *pflag.FlagSet, e *daemon.Etcd, name, which string) {
	f.StringVar(&e.CA, name+"-ca", "", "file below --secrets-dir with the CA certificate of "+which+"; default: the CAs of the system")
	f.StringVar(&e.Cert, name+"-cert", "", "file below --secrets-dir with the daemon's certificate for "+which)
	f.StringVar(&e.Key, name+"-key", "", "file below --secrets-dir with the key of --"+name+"-cert")
	f.StringVar(&e.Username, name+"-username", "", "user name for "+which)
	f.StringVar(&e.PasswordFile, name+"-password-file", "", "file below --secrets-dir with the password for "+which)
}
