package daemon

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/gray-release/gray/stores/etcd"
)

func TestReplicaFlagsAreRefused(t *testing.T) {
	dir := secretsDir(t)
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.State.At = "etcd:///gray" }, "names no etcd"},
		{func(c *Config) { c.State.At = "etcd://u:hunter2@127.0.0.1:2379" }, "is not the URL of a member"},
		{func(c *Config) { c.State.At = "etcd://127.0.0.1:1,,127.0.0.1:2" }, "is not the URL of a member"},
		{func(c *Config) { c.State.At = "etcd://10.0.0.1:2379" }, "--state http://10.0.0.1:2379 is plaintext beyond loopback"},
		{func(c *Config) { c.State.Etcd.CA = "ca.pem" }, "give --state as etcds://host:2379"},
		{func(c *Config) { c.State.Etcd.Username = "u" }, "--state-username and --state-password-file go together"},
		{func(c *Config) { c.Once = true }, "--once"},
		{func(c *Config) { c.State.Lease = time.Second }, "--lease 1s"},
		{func(c *Config) { c.State.Lease = 2500 * time.Millisecond }, "--lease 2.5s"},
	} {
		cfg := Config{State: State{At: "etcd://127.0.0.1:2379", Lease: 10 * time.Second}, Secrets: dir, Log: slog.New(slog.DiscardHandler)}
		c.change(&cfg)
		_, err := cfg.asReplica()
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter") {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	alone := Config{State: State{At: "file:/state.db"}}
	if r, err := alone.asReplica(); r != nil || err != nil {
		t.Errorf("a file makes a replica %v, %v", r, err)
	}
	far := Config{State: State{At: "etcd://10.0.0.1:2379,10.0.0.2:2379/a/b/"}, Insecure: true}
	if members, prefix, err := far.stateMembers(); err != nil || strings.Join(members, " ") != "http://10.0.0.1:2379 http://10.0.0.2:2379" || prefix != "/a/b" {
		t.Errorf("%s is %q below %q, %v", far.State.At, members, prefix, err)
	}
}

// TestReplicaOfASecuredEtcd leads and writes by a certificate and as a user who may
// read and write below the prefix, and nothing else.
func TestReplicaOfASecuredEtcd(t *testing.T) {
	dir := secretsDir(t)
	c := Config{
		Secrets: dir, Log: slog.New(slog.DiscardHandler),
		State: State{At: "etcds://" + securedEtcd(t, dir) + "/shard-1", Lease: 4 * time.Second, Etcd: Etcd{CA: "ca.pem", Cert: "ca.pem", Key: "key.pem", Username: "gray", PasswordFile: "password"}},
	}
	flags := c.State.Etcd
	flags.name = "state"
	flags.Members, _, _ = c.stateMembers()
	cfg, err := flags.config(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	root, err := clientv3.New(clientv3.Config{Endpoints: cfg.Members, TLS: cfg.TLS, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	ctx := t.Context()
	for _, err := range []error{
		second(root.UserAdd(ctx, "root", "hunter2")), second(root.UserGrantRole(ctx, "root", "root")),
		second(root.RoleAdd(ctx, "gray")), second(root.UserAdd(ctx, "gray", "hunter2")), second(root.UserGrantRole(ctx, "gray", "gray")),
		second(root.RoleGrantPermission(ctx, "gray", "/shard-1/", clientv3.GetPrefixRangeEnd("/shard-1/"), clientv3.PermissionType(clientv3.PermReadWrite))),
		second(root.AuthEnable(ctx)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r, err := c.asReplica()
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	written := false
	r.Run(running, func(context.Context) {}, func(l *etcd.Lead) error {
		defer stop()
		store, err := l.Store()
		if err == nil {
			err = store.Write("b", map[string][]byte{"x": []byte("1")}, nil)
		}
		if err == nil {
			err = store.Load("b", func(string, []byte) error { written = true; return nil })
		}
		if err != nil {
			t.Error(err)
		}
		return err
	})
	if s := r.Status(); !written {
		t.Errorf("nothing was written; it stands as %+v", s)
	}
}
