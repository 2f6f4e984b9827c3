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
		Use: "daemon", Short: "Keep live state at what the repository says", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			if format == "json" {
				c.Log = slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil))
			}
			return c.Run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Source.Git.URL, "repo", "", "the repository: a path, file://, https:// or ssh:// URL")
	f.StringVar(&c.Source.Kind, "source", "git", "git, or dir for a plain folder")
	f.StringVar(&c.Source.Git.Branch, "branch", "main", "the branch to follow")
	f.StringVar(&c.Source.Git.Path, "path", ".", "the folder in the repository")
	f.DurationVar(&c.Source.Git.Interval, "interval", time.Minute, "how often to look at the repository")
	f.BoolVar(&c.Source.Git.FollowRewrites, "follow-rewrites", false, "follow a branch whose history was rewritten")
	f.StringVar(&c.Source.Git.Auth.Username, "git-username", "", "user name for https")
	f.StringVar(&c.Source.Git.Auth.PasswordFile, "git-password-file", "", "file with a password or token for https")
	f.StringVar(&c.Source.Git.Auth.CAFile, "git-ca", "", "file with further authorities for https")
	f.StringVar(&c.Source.Git.Auth.SSHKeyFile, "ssh-key", "", "file with the key for ssh")
	f.StringVar(&c.Source.Git.Auth.SSHPassphrase, "ssh-passphrase-file", "", "file with the passphrase of the key")
	f.StringVar(&c.Source.Git.Auth.KnownHosts, "known-hosts", "", "file with the host keys to trust")
	f.StringVar(&c.Source.Git.MirrorDir, "mirror-dir", "", "a folder of this daemon alone to mirror a remote repository in; default: beside the --state file, else a temporary one")
	f.StringVar(&c.State.At, "state", "file:/var/lib/gray/state.db", "where to keep what outlives the daemon: file:PATH, or etcd://HOST:2379[,HOST:2379][/PREFIX] for several replicas (etcds:// by TLS)")
	etcdFlags(f, &c.State.Etcd, "state", "the etcd of --state")
	f.StringVar(&c.State.Replica, "replica", "", "this replica's name, with an etcd --state; default: the host's name")
	f.DurationVar(&c.State.Lease, "lease", 10*time.Second, "with an etcd --state, after how long another replica leads where the leader is silent")
	f.StringVar(&c.XDS.Listen, "xds-listen", defaultXDS, "where to serve Envoys")
	f.StringVar(&c.XDS.TLS.Cert, "xds-cert", "", "file below --secrets-dir with the certificate of xDS; Envoys then need one with their Node's name")
	f.StringVar(&c.XDS.TLS.Key, "xds-key", "", "file below --secrets-dir with the key of --xds-cert")
	f.StringVar(&c.XDS.TLS.CA, "xds-ca", "", "file below --secrets-dir with the authorities of the Envoys' certificates")
	f.StringVar(&c.XDS.Nodes.Address, "xds-address", "", "where the nodes reach what is served, for --compose-dir; default: --xds-listen")
	f.StringVar(&c.XDS.ComposeDir, "compose-dir", "", "a folder to keep a docker-compose file a node in")
	nodeTLSFlags(cmd, &c.XDS.Nodes)
	f.StringVar(&c.Admin, "admin-listen", "127.0.0.1:18001", "where to serve the admin API")
	f.StringVar(&c.Secrets, "secrets-dir", "/etc/gray", "where files that documents name must lie")
	f.StringSliceVar(&c.Etcd.Members, "etcd", nil, "the etcd in which endpoints are registered, http:// or https:// URLs of its members; can be repeated")
	etcdFlags(f, &c.Etcd, "etcd", "etcd")
	f.StringVar(&c.Outward.Probes.ExecDir, "exec-dir", "", "the folder below which programs that verify a rollout lie; none is run without it")
	f.StringSliceVar(&c.Outward.Allow, "probe-allow", nil, "a network, such as 10.0.0.0/8, that http probes may go to beside the addresses of the documents; can be repeated")
	f.StringVar(&c.Outward.Webhooks, "webhooks", "", "file below --secrets-dir that lists where events of rollouts go: [{url: https://..., format: json|slack}]")
	f.DurationVar(&c.Limits.Drift, "drift-interval", 30*time.Second, "how often to read live state again")
	f.IntVar(&c.Limits.MaxDelete, "max-delete", 30, "a commit is refused that deletes more than this many per cent of what is live at any target")
	f.StringVar(&c.Limits.Confirm, "confirm-delete", "", "the revision of a commit that may delete more than --max-delete")
	f.BoolVar(&c.Once, "once", false, "reconcile once and end: 0 where all is live, else 1")
	f.DurationVar(&c.OnceFor, "once-timeout", time.Minute, "how long --once goes on trying what fails")
	f.BoolVar(&c.Insecure, "insecure", false, "serve and speak plaintext beyond loopback")
	f.StringVar(&format, "log-format", "text", "text or json")
	return cmd
}

// etcdFlags adds the flags, whose names begin with one, that say who the daemon is to
// an etcd.
func etcdFlags(f *pflag.FlagSet, e *daemon.Etcd, name, which string) {
	f.StringVar(&e.CA, name+"-ca", "", "file with the authority of "+which+", below --secrets-dir; default: those of the system")
	f.StringVar(&e.Cert, name+"-cert", "", "file with the daemon's certificate for "+which+", below --secrets-dir")
	f.StringVar(&e.Key, name+"-key", "", "file with its key, below --secrets-dir")
	f.StringVar(&e.Username, name+"-username", "", "user name for "+which)
	f.StringVar(&e.PasswordFile, name+"-password-file", "", "file with the password for "+which+", below --secrets-dir")
}
