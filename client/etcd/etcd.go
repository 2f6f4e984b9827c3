package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
)

const (
	readTimeout = 2 * time.Second // of the first read, to notice that etcd is away
	firstPause  = 200 * time.Millisecond
	longPause   = 5 * time.Second
)

// Naming is a client.Naming.
type Naming struct {
	etcd   *clientv3.Client
	prefix string
}

// New returns the naming of services whose endpoints are registered with
// go.etcd.io/etcd/client/v3/naming/endpoints under prefix + name: with the prefix
// "/services/", the keys of the endpoints of vpc-api.internal begin with
// "/services/vpc-api.internal/". The caller closes the client.
func New(etcd *clientv3.Client, prefix string) *Naming { return &Naming{etcd, prefix} }

// Watch calls update with the addresses of a name, at the start and whenever they
// change, and with an error while etcd cannot be asked. It returns when ctx ends.
func (n *Naming) Watch(ctx context.Context, name string, update func([]string, error)) {
	pause := firstPause
	for {
		err := n.follow(ctx, n.prefix+name, func(addresses []string) {
			pause = firstPause
			update(addresses, nil)
		})
		if ctx.Err() != nil {
			return
		}
		update(nil, fmt.Errorf("cannot look up %s in etcd: %w", name, err))
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, longPause)
	}
}

// follow reports the addresses of a target until etcd ends the watch, which it does if
// it has compacted what the watch missed.
func (n *Naming) follow(ctx context.Context, target string, tell func([]string)) error {
	// A member without a leader then fails instead of staying silent.
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	manager, err := endpoints.NewManager(n.etcd, target)
	if err != nil {
		return err
	}
	late := time.AfterFunc(readTimeout, cancel)
	updates, err := manager.NewWatchChannel(ctx)
	if !late.Stop() {
		return fmt.Errorf("no answer for %s", readTimeout)
	}
	if err != nil {
		return err
	}
	// The channel already has the endpoints, or nothing if there are none.
	known := endpoints.Key2EndpointMap{}
	select {
	case batch := <-updates:
		take(known, batch)
	default:
	}
	last := addressesOf(known)
	tell(last)
	for batch := range updates {
		take(known, batch)
		if now := addressesOf(known); !slices.Equal(now, last) {
			last = now
			tell(now)
		}
	}
	return errors.New("the watch ended")
}

func take(known endpoints.Key2EndpointMap, batch []*endpoints.Update) {
	for _, u := range batch {
		if u.Op == endpoints.Add {
			known[u.Key] = u.Endpoint
		} else {
			delete(known, u.Key)
		}
	}
}

// addressesOf returns the addresses of endpoints, sorted and without duplicates. It
// leaves out what is not host:port, which cannot be dialled.
func addressesOf(known endpoints.Key2EndpointMap) []string {
	addresses := []string{}
	for _, e := range known {
		if _, _, err := net.SplitHostPort(e.Addr); err == nil {
			addresses = append(addresses, e.Addr)
		}
	}
	slices.Sort(addresses)
	return slices.Compact(addresses)
}
