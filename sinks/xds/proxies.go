package xds

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gray-release/gray/reconciler"
)

// Proxy is how a connected Envoy, or another client of xDS, stands.
type Proxy struct {
	Node     string    `json:"node"`
	Agent    string    `json:"agent"`    // what it is: envoy, gRPC Go
	Version  string    `json:"version"`  // of that
	Protocol string    `json:"protocol"` // delta or sotw
	Since    time.Time `json:"since"`    // it is connected
	Synced   bool      `json:"synced"`   // it has acknowledged all that is served
	Waits    string    `json:"waits,omitempty"`
	LastNACK *NACK     `json:"lastNACK,omitempty"`
	Cannot   []string  `json:"cannot,omitempty"` // what it is not given, as its protocol has no words for it
}

// NACK is a refusal by a client.
type NACK struct {
	Time     time.Time `json:"time"`
	Type     string    `json:"type"`             // of the resource
	Resource string    `json:"resource"`         // its name; the first few of many
	Places   []string  `json:"places,omitempty"` // of the documents that make it, file:line; the first few of many
	Message  string    `json:"message"`
}

// Proxies lists the connected Envoys by node. Waits says what keeps one from
// being synced.
func (s *Sink) Proxies() []Proxy {
	s.mu.RLock()
	revision := s.wire.revision
	s.mu.RUnlock()
	all := []Proxy{}
	for _, st := range s.all() {
		if p := st.proxy(revision); p.Node != "" {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b Proxy) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), a.Since.Compare(b.Since))
	})
	return all
}

func (st *stream) proxy(revision uint64) Proxy {
	st.mu.Lock()
	defer st.mu.Unlock()
	p := Proxy{
		Node: st.node, Agent: st.agent, Version: st.version, Protocol: "delta", Since: st.since, LastNACK: st.lastNACK,
		Cannot: st.cannot(),
	}
	if st.sotw {
		p.Protocol = "sotw"
	}
	var waits []string
	for t := range wireTypes {
		ts := &st.types[t]
		if ts.out != nil {
			waits = append(waits, fmt.Sprintf("%s %s not acknowledged yet", shortType(t), itemNames(ts.out.items)))
		}
		if len(ts.refused) > 0 {
			waits = append(waits, fmt.Sprintf("%d %s refused", len(ts.refused), shortType(t)))
		}
	}
	if len(st.warming) > 0 {
		waits = append(waits, fmt.Sprintf("the endpoints of %d clusters not asked for or not acknowledged yet", len(st.warming)))
	}
	if len(waits) == 0 && st.settled < revision {
		waits = append(waits, "the newest state is about to be sent")
	}
	p.Waits, p.Synced = strings.Join(waits, "; "), len(waits) == 0
	return p
}

// itemNames lists the first few names.
func itemNames(items []item) string {
	const most = 3
	var names []string
	for _, it := range items[:min(most, len(items))] {
		names = append(names, it.name)
	}
	if len(items) > most {
		names = append(names, fmt.Sprintf("and %d more", len(items)-most))
	}
	return strings.Join(names, " ")
}

// refused gathers by key what connected Envoys refuse of what is served.
func (s *Sink) refused() *reconciler.PartialError {
	by := map[reconciler.Key]map[string]string{} // key -> client -> message
	for _, st := range s.all() {
		st.refusals(func(k reconciler.Key, message string) {
			if by[k] == nil {
				by[k] = map[string]string{}
			}
			by[k][st.who()] = message
		})
	}
	var failed *reconciler.PartialError
	for k, clients := range by {
		first := slices.Min(slices.Collect(maps.Keys(clients)))
		more := ""
		if len(clients) > 1 {
			more = fmt.Sprintf(" (and %d others)", len(clients)-1)
		}
		failed = failed.Add(k, fmt.Errorf("%s%s refuses it: %s", first, more, clients[first]))
	}
	return failed
}

func (st *stream) who() string {
	if st.sotw {
		return "the client of " + st.node
	}
	return "the envoy of " + st.node
}

// refusals calls f for every key of which a resource is refused as it is served
// now.
func (st *stream) refusals(f func(k reconciler.Key, message string)) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.sink.mu.RLock()
	defer st.sink.mu.RUnlock()
	for t := range wireTypes {
		for name, r := range st.types[t].refused {
			if p := st.served(t, name); p == nil || p.version != r.version {
				continue // there is a newer one, which it may take
			}
			for _, k := range st.sink.keysOf(st.table(t), name, st.node, r.message) {
				f(k, r.message)
			}
		}
	}
}

// places lists where the documents stand that make resources, the first few.
func (st *stream) places(t wireType, names []string, message string) []string {
	st.sink.mu.RLock()
	defer st.sink.mu.RUnlock()
	var all []string
	for _, name := range names {
		for _, k := range st.sink.keysOf(st.table(t), name, st.node, message) {
			if r := st.sink.state[k]; r != nil && r.Origin.Path != "" {
				all = append(all, r.Origin.String())
			}
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	return all[:min(len(all), 5)]
}

// keysOf is the keys that a resource is made of. Of the accounts that share a
// virtual host those that the message names, or else all. The caller holds the
// lock.
func (s *Sink) keysOf(t wireType, name, node, message string) []reconciler.Key {
	switch t {
	case typeCluster:
		return []reconciler.Key{key(kindCluster, name)}
	case typeEndpoints:
		return []reconciler.Key{key(kindEndpoints, name)}
	case typeListener, typeRoutes:
		return []reconciler.Key{key(kindListener, node)}
	case apiListener:
		return []reconciler.Key{key(kindVirtualHost, s.packer.owners[name])}
	case apiRoutes:
		return []reconciler.Key{key(kindVirtualHost, name)}
	}
	parts := strings.Split(strings.TrimPrefix(name, routesName+"/"), "@")
	service := parts[0]
	if len(parts) != 3 {
		return []reconciler.Key{key(kindVirtualHost, service)}
	}
	var number uint32
	if _, err := fmt.Sscanf(parts[1], "%d", &number); err != nil {
		return nil
	}
	g := s.packer.groups[groupKey{service, number}]
	if g == nil {
		return nil
	}
	var named, all []reconciler.Key
	for _, text := range g.shards[name] {
		for _, account := range g.accounts[text] {
			k := key(kindAccount, service+"/"+account)
			all = append(all, k)
			if mentions(message, accountDomain(service, account)) {
				named = append(named, k)
			}
		}
	}
	if len(named) > 0 {
		return named
	}
	return all
}
