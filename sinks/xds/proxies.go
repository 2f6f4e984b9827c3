package xds

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/xds/lower"
)

// Proxy is the status of a connected Envoy, or another xDS client.
type Proxy struct {
	Node     string    `json:"node"`
	Agent    string    `json:"agent"`    // its program: envoy, gRPC Go
	Version  string    `json:"version"`  // of the program
	Protocol string    `json:"protocol"` // delta or sotw
	Since    time.Time `json:"since"`    // when it connected
	Synced   bool      `json:"synced"`   // it has acknowledged all that is served
	Waits    string    `json:"waits,omitempty"`
	LastNACK *NACK     `json:"lastNACK,omitempty"`
	Cannot   []string  `json:"cannot,omitempty"` // what its protocol cannot express, and it does not get
}

// NACK is a client's refusal of resources.
type NACK struct {
	Time     time.Time `json:"time"`
	Type     string    `json:"type"`             // of the resource
	Resource string    `json:"resource"`         // its name; the first few of many
	Places   []string  `json:"places,omitempty"` // file:line of the documents that it was made of; the first few of many
	Message  string    `json:"message"`
}

// Proxies lists the connected clients by node. Waits says why one is not synced.
func (s *Sink) Proxies() []Proxy {
	s.mu.RLock()
	revision := s.wire.revision
	s.mu.RUnlock()
	all := []Proxy{}
	for _, st := range s.admission.all() {
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

// cannot lists what a SotW client does not get of the services that it has asked for.
// The caller holds the stream's lock.
func (st *stream) cannot() []string {
	if !st.sotw {
		return nil
	}
	st.sink.mu.RLock()
	defer st.sink.mu.RUnlock()
	services := map[string]bool{}
	for host := range st.types[typeListener].names {
		if service := st.sink.packer.owners[host]; service != "" {
			services[service] = true
		}
	}
	const most = 20
	var all []string
	for _, service := range slices.Sorted(maps.Keys(services)) {
		svc := st.sink.packer.services[service]
		shares := 0
		for _, b := range svc.rules {
			if slices.ContainsFunc(b.Match, func(m requests.Match) bool { return m.Lo != 0 || m.Hi != requests.Slots }) {
				shares++
			}
		}
		if n := svc.accounts; n > 0 {
			all = append(all, fmt.Sprintf("%s: %d accounts of policies count as requests without an account", service, n))
		}
		if shares > 0 {
			all = append(all, fmt.Sprintf("%s: the shares of accounts of %d policies: all count as requests without an account", service, shares))
		}
		r := st.sink.state[lower.Key(lower.KindCluster, service+"/"+svc.body.Default)]
		if r != nil && r.Body.(*lower.Cluster).HealthChecked() {
			all = append(all, fmt.Sprintf("%s: health checks", service))
		}
		if svc.body.Retries > 0 {
			all = append(all, fmt.Sprintf("%s: retries", service))
		}
	}
	if len(all) > most {
		all = append(all[:most], fmt.Sprintf("and %d more", len(all)-most))
	}
	return all
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

// refused collects by key what connected clients refuse of what is served.
func (s *Sink) refused() *reconciler.PartialError {
	by := map[reconciler.Key]map[string]string{} // key -> client -> message
	for _, st := range s.admission.all() {
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

// absent adds the Nodes of which no Envoy is connected.
func (s *Sink) absent(state reconciler.State, failed *reconciler.PartialError) *reconciler.PartialError {
	if !s.cfg.Alone {
		return failed
	}
	here := map[string]bool{}
	for _, st := range s.admission.all() {
		st.mu.Lock()
		here[st.node] = here[st.node] || !st.sotw // Envoys speak delta only
		st.mu.Unlock()
	}
	for k := range state {
		if k.Kind == lower.KindListener && !here[k.Name] {
			failed = failed.Add(k, &reconciler.ReasonError{Reason: reconciler.ReasonNotConnected, Err: fmt.Errorf("no Envoy of Node %s is connected; see its log, and start it with what gray render bootstrap %s says", k.Name, k.Name)})
		}
	}
	return failed
}

func (st *stream) who() string {
	if st.sotw {
		return "the client of " + st.node
	}
	return "the envoy of " + st.node
}

// refusals calls f for every key whose resource, as it is served now, is refused.
func (st *stream) refusals(f func(k reconciler.Key, message string)) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.sink.mu.RLock()
	defer st.sink.mu.RUnlock()
	for t := range wireTypes {
		for name, r := range st.types[t].refused {
			if p := st.served(t, name); p == nil || p.version != r.version {
				continue // there is a newer version, which it may accept
			}
			for _, k := range st.sink.keysOf(st.table(t), name, st.node, r.message) {
				f(k, r.message)
			}
		}
	}
}

// places lists the documents, as file:line, that resources were made of; the first
// few of many.
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

// keysOf is the keys that a resource is made of: for a shard, those of the accounts
// that the message names, or of all if it names none. The caller holds the lock.
func (s *Sink) keysOf(t wireType, name, node, message string) []reconciler.Key {
	switch t {
	case typeCluster:
		return []reconciler.Key{lower.Key(lower.KindCluster, name)}
	case typeEndpoints:
		return []reconciler.Key{lower.Key(lower.KindEndpoints, name)}
	case typeListener, typeRoutes:
		return []reconciler.Key{lower.Key(lower.KindListener, node)}
	case apiListener:
		return []reconciler.Key{lower.Key(lower.KindVirtualHost, s.packer.owners[name])}
	case apiRoutes:
		return []reconciler.Key{lower.Key(lower.KindVirtualHost, name)}
	}
	parts := strings.Split(strings.TrimPrefix(name, lower.RoutesName+"/"), "@")
	service := parts[0]
	if len(parts) != 3 {
		return []reconciler.Key{lower.Key(lower.KindVirtualHost, service)}
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
	for _, d := range g.shards[name] {
		for _, account := range g.accounts[d] {
			k := lower.Key(lower.KindAccount, service+"/"+account)
			all = append(all, k)
			if mentions(message, lower.AccountDomain(service, account)) {
				named = append(named, k)
			}
		}
	}
	if len(named) > 0 {
		return named
	}
	return all
}
