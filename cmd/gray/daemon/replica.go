package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/stores/etcd"
)

// asReplica makes the replica for an etcd --state, nil for any other.
func (c *Config) asReplica() (*etcd.Replica, error) {
	members, prefix, err := c.stateMembers()
	if err != nil || members == nil {
		return nil, err
	}
	if c.Once {
		return nil, errors.New("--once needs a --state file of its own: it would end before another replica could lead")
	}
	if c.State.Lease < 2*time.Second || c.State.Lease > time.Hour || c.State.Lease%time.Second != 0 {
		return nil, fmt.Errorf("--lease %s: want whole seconds, from 2s to 1h", c.State.Lease)
	}
	flags := c.State.Etcd
	flags.name, flags.Members = "state", members
	cfg := etcd.ReplicaConfig{Prefix: prefix, Name: c.State.Replica, Lease: c.State.Lease}
	if cfg.Config, err = flags.config(c.Secrets, c.Insecure); err != nil {
		return nil, err
	}
	cfg.Log = c.Log
	if cfg.Name == "" {
		if cfg.Name, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("the host name is not known: %w; give --replica", err)
		}
	}
	return etcd.NewReplica(cfg), nil
}

// stateMembers returns the URLs of etcd's members and the prefix of all keys from
// --state; none for a file.
func (c *Config) stateMembers() (members []string, prefix string, err error) {
	scheme, rest, _ := strings.Cut(c.State.At, "://")
	url, ok := map[string]string{"etcd": "http://", "etcds": "https://"}[scheme]
	if !ok {
		return nil, "", nil
	}
	hosts, path, _ := strings.Cut(rest, "/")
	if hosts == "" {
		return nil, "", fmt.Errorf("--state %q names no etcd; want etcd://host:2379", c.State.At)
	}
	for h := range strings.SplitSeq(hosts, ",") {
		members = append(members, url+h)
	}
	return members, "/" + cmp.Or(strings.Trim(path, "/"), "gray"), nil
}

// moved is the progress of all rollouts, as this replica read it last. It is read while
// the replica leads too, so that its Envoys keep their routes when it loses the lead
// because etcd is away.
type moved struct {
	mu   sync.Mutex
	last *board.Moved  // nil: never read
	now  *board.Follow // of the loop that follows now, or followed last
}

// board makes a board for a loop that follows, with what was read last.
func (m *moved) board() *board.Follow {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.now = board.NewFollow(); m.last != nil {
		m.now.Set(*m.last)
	}
	return m.now
}

// follow reads until ctx ends. If one record cannot be read, it takes none.
func (m *moved) follow(ctx context.Context, replica *etcd.Replica, log *slog.Logger) {
	replica.Follow(ctx, reconciler.BucketRollouts, reconciler.PrefixState, func(records map[string][]byte) {
		read, err := reconciler.ReadMoved(records)
		if err != nil {
			log.Error("the progress of rollouts cannot be read, what was read last stays", "error", err)
			return
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.last = &read; m.now != nil {
			m.now.Set(read)
		}
	})
}
