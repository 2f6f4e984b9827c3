package xds

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/xds/lower"
)

// packer turns resources into what is served, in two steps: stage works out what
// changes would do and which of them cannot be served, adopt does it.
type packer struct {
	owners   map[string]string // host -> its service
	services map[string]*service
	groups   map[groupKey]*group
}

// service is a service that is served.
type service struct {
	body     *lower.VirtualHost
	rules    map[string]*lower.Rule // by policy
	groups   map[groupKey]bool      // that have accounts
	accounts int                    // in all groups
}

func newPacker() *packer {
	return &packer{owners: map[string]string{}, services: map[string]*service{}, groups: map[groupKey]*group{}}
}

// staged is what changes would do.
type staged struct {
	puts     []put
	services map[string]*lower.VirtualHost     // nil: removed
	rules    map[string]map[string]*lower.Rule // by service and policy; nil: removed
	edits    map[groupKey]*edit
	failed   *reconciler.PartialError
}

// stage works out what changes do; their Old is what is served now.
func (p *packer) stage(changes []reconciler.Change) *staged {
	st := &staged{services: map[string]*lower.VirtualHost{}, rules: map[string]map[string]*lower.Rule{}, edits: map[groupKey]*edit{}}
	p.stageHosts(st, changes)
	for _, c := range changes {
		switch c.Key().Kind {
		case lower.KindVirtualHost:
		case lower.KindRule:
			st.failed = st.failed.Add(c.Key(), p.stageRule(st, c))
		case lower.KindAccount:
			st.failed = st.failed.Add(c.Key(), p.stageAccount(st, c))
		default:
			st.failed = st.failed.Add(c.Key(), stageNative(st, c))
		}
	}
	if bad := p.stageServices(st); len(bad) > 0 { // the rest may be different without them
		rest := p.stage(slices.DeleteFunc(slices.Clone(changes), func(c reconciler.Change) bool {
			service, _, _ := strings.Cut(c.Key().Name, "/")
			return bad[service] != nil && (c.Key().Kind == lower.KindVirtualHost || c.Key().Kind == lower.KindRule)
		}))
		for _, c := range changes {
			service, _, _ := strings.Cut(c.Key().Name, "/")
			if c.Key().Kind == lower.KindVirtualHost || c.Key().Kind == lower.KindRule {
				rest.failed = rest.failed.Add(c.Key(), bad[service])
			}
		}
		return rest
	}
	for g, e := range st.edits {
		p.stageGroup(st, g, e)
	}
	return st
}

// adopt takes over what was staged.
func (p *packer) adopt(st *staged) {
	for name := range st.services {
		if old := p.services[name]; old != nil {
			for _, h := range old.body.Hosts {
				delete(p.owners, h)
			}
		}
	}
	for name, body := range st.services {
		switch svc := p.services[name]; {
		case body == nil:
			delete(p.services, name)
			continue
		case svc == nil:
			p.services[name] = &service{body: body, rules: map[string]*lower.Rule{}, groups: map[groupKey]bool{}}
		default:
			svc.body = body
		}
		for _, h := range body.Hosts {
			p.owners[h] = name
		}
	}
	for name, rules := range st.rules {
		if svc := p.services[name]; svc != nil {
			maps.Copy(svc.rules, rules)
			maps.DeleteFunc(svc.rules, func(_ string, b *lower.Rule) bool { return b == nil })
		}
	}
	for g, e := range st.edits {
		p.adoptGroup(g, e)
	}
}

// bodyOf is a service as it will be; nil: not served.
func (p *packer) bodyOf(st *staged, name string) *lower.VirtualHost {
	if body, changes := st.services[name]; changes {
		return body
	}
	if svc := p.services[name]; svc != nil {
		return svc.body
	}
	return nil
}

// rulesOf is the rules of a service as they will be, by precedence.
func (p *packer) rulesOf(st *staged, name string) []*requests.Rule {
	bodies := map[string]*lower.Rule{}
	if svc := p.services[name]; svc != nil {
		maps.Copy(bodies, svc.rules)
	}
	maps.Copy(bodies, st.rules[name])
	var rules []*requests.Rule
	for _, policy := range slices.Sorted(maps.Keys(bodies)) {
		if b := bodies[policy]; b != nil {
			r := b.Request(policy)
			rules = append(rules, &r)
		}
	}
	return rules
}

// stageHosts stages the services themselves.
func (p *packer) stageHosts(st *staged, changes []reconciler.Change) {
	var hosts []reconciler.Change
	for _, c := range changes {
		if c.Key().Kind == lower.KindVirtualHost {
			hosts = append(hosts, c)
		}
	}
	failed := map[reconciler.Key]error{}
	p.claim(hosts, failed)
	for _, c := range hosts {
		if err := failed[c.Key()]; err != nil {
			st.failed = st.failed.Add(c.Key(), err)
			continue
		}
		st.services[c.Key().Name] = nil
		if c.New != nil {
			st.services[c.Key().Name] = c.New.Body.(*lower.VirtualHost)
		}
	}
}

// stageRule stages a rule.
func (p *packer) stageRule(st *staged, c reconciler.Change) error {
	name, policy, _ := strings.Cut(c.Key().Name, "/")
	var body *lower.Rule
	if c.New != nil {
		body = c.New.Body.(*lower.Rule)
		if p.bodyOf(st, name) == nil {
			return fmt.Errorf("service %s is not served, so its rules cannot be", name)
		}
		if err := lower.CheckLabel(body.Version); err != nil {
			return err
		}
	}
	if st.rules[name] == nil {
		st.rules[name] = map[string]*lower.Rule{}
	}
	st.rules[name][policy] = body
	return nil
}

// stageServices packs the virtual hosts of the services that change. It returns
// those for which that fails, with the errors.
func (p *packer) stageServices(st *staged) map[string]error {
	bad := map[string]error{}
	names := maps.Clone(st.services)
	for name := range st.rules {
		names[name] = nil
	}
	for name := range names {
		body, old := p.bodyOf(st, name), p.services[name]
		var ready *packed
		if body != nil {
			var err error
			if ready, err = pack(body.Host(name, p.rulesOf(st, name))); err != nil {
				bad[name] = err
			}
		}
		st.puts = append(st.puts, put{typeVirtualHost, lower.HostName(name), ready})
		if old != nil && (body == nil || len(st.rules[name]) > 0 || !body.SameForAccounts(old.body)) {
			for g := range old.groups {
				st.edit(g)
			}
		}
	}
	return bad
}

// stageNative stages a resource that is one Envoy message.
func stageNative(st *staged, c reconciler.Change) error {
	k := c.Key()
	t, ok := map[string]wireType{lower.KindCluster: typeCluster, lower.KindEndpoints: typeEndpoints, lower.KindListener: typeListener}[k.Kind]
	if !ok {
		return fmt.Errorf("there is no kind %q at this target", k.Kind)
	}
	if c.New == nil {
		st.puts = append(st.puts, put{t, k.Name, nil})
		return nil
	}
	if err := lower.CheckName(k.Name); err != nil {
		return err
	}
	packed, err := pack(c.New.Body.(lower.Native).Message(k.Name))
	if err != nil {
		return err
	}
	st.puts = append(st.puts, put{t, k.Name, packed})
	return nil
}

// claim finds the changes that take a host of another service, also one that the
// other service keeps because its own change fails.
func (p *packer) claim(changes []reconciler.Change, failed map[reconciler.Key]error) {
	for again := true; again; {
		again = false
		moving, taken := map[string]bool{}, map[string]string{}
		for _, c := range changes {
			moving[c.Key().Name] = failed[c.Key()] == nil
		}
		for _, c := range changes {
			if failed[c.Key()] != nil || c.New == nil {
				continue
			}
			if err := p.claimOne(c.New, moving, taken); err != nil {
				failed[c.Key()] = err
				again = true
			}
		}
	}
}

func (p *packer) claimOne(res *reconciler.Resource, moving map[string]bool, taken map[string]string) error {
	if err := cmp.Or(lower.CheckLabel(res.Name), lower.CheckLabel(res.Body.(*lower.VirtualHost).Default)); err != nil {
		return err
	}
	for _, host := range res.Body.(*lower.VirtualHost).Hosts {
		if err := lower.CheckLabel(strings.TrimPrefix(host, "*.")); err != nil {
			return fmt.Errorf("host cannot be routed: %w", err)
		}
		owner, again := taken[host]
		if !again && !moving[p.owners[host]] {
			owner = p.owners[host]
		}
		if owner != "" {
			return fmt.Errorf("host %s belongs to service %s; a host can be that of one service only", host, owner)
		}
		taken[host] = res.Name
	}
	return nil
}

// stageAPI stages the listeners and routes that gRPC's own clients get, of the
// services that change. Removals come first, as a host may move from one service to
// another.
func (p *packer) stageAPI(st *staged) {
	names := maps.Clone(st.services)
	for name := range st.rules {
		names[name] = nil
	}
	var removed, added []put
	stays := map[string]bool{} // hosts
	for name := range names {
		if old := p.services[name]; old != nil {
			for _, host := range old.body.Hosts {
				removed = append(removed, put{apiListener, host, nil})
			}
		}
		body := p.bodyOf(st, name)
		if body == nil {
			removed = append(removed, put{apiRoutes, name, nil})
			continue
		}
		puts, err := apiService(name, body, p.rulesOf(st, name))
		if err != nil {
			st.failed = st.failed.Add(lower.Key(lower.KindVirtualHost, name), fmt.Errorf("clients of gRPC cannot be served: %w", err))
			continue
		}
		added = append(added, puts...)
		for _, host := range body.Hosts {
			stays[host] = true
		}
	}
	removed = slices.DeleteFunc(removed, func(p put) bool { return p.t == apiListener && stays[p.name] })
	st.puts = append(append(st.puts, removed...), added...)
}

func apiService(service string, b *lower.VirtualHost, rules []*requests.Rule) ([]put, error) {
	routes, err := pack(b.APIRoutes(service, rules))
	if err != nil {
		return nil, err
	}
	puts := []put{{apiRoutes, service, routes}}
	for _, host := range b.Hosts {
		if strings.HasPrefix(host, "*.") {
			continue // these clients ask for full names
		}
		listener, err := pack(lower.APIListener(host, service))
		if err != nil {
			return nil, err
		}
		puts = append(puts, put{apiListener, host, listener})
	}
	return puts, nil
}
