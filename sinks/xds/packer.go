package xds

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
)

// packer turns resources into what is served. Work comes in two steps: stage
// works out what changes would do and finds those that cannot be served, adopt
// does it; nothing is half done.
type packer struct {
	owners   map[string]string // host -> service that has it
	services map[string]*service
	groups   map[groupKey]*group
}

// service is a service that is served.
type service struct {
	body   *virtualHostBody
	rules  map[string]*ruleBody // by policy
	groups map[groupKey]bool    // those that have accounts
}

func newPacker() *packer {
	return &packer{owners: map[string]string{}, services: map[string]*service{}, groups: map[groupKey]*group{}}
}

// staged is what changes do.
type staged struct {
	puts     []put
	services map[string]*virtualHostBody     // nil: it goes
	rules    map[string]map[string]*ruleBody // by service and policy; nil: it goes
	edits    map[groupKey]*edit
	failed   *reconciler.PartialError
}

// stage works out changes; an Old is what is served now.
func (p *packer) stage(changes []reconciler.Change) *staged {
	st := &staged{services: map[string]*virtualHostBody{}, rules: map[string]map[string]*ruleBody{}, edits: map[groupKey]*edit{}}
	p.stageHosts(st, changes)
	for _, c := range changes {
		switch c.Key().Kind {
		case kindVirtualHost:
		case kindRule:
			st.failed = st.failed.Add(c.Key(), p.stageRule(st, c))
		case kindAccount:
			st.failed = st.failed.Add(c.Key(), p.stageAccount(st, c))
		default:
			st.failed = st.failed.Add(c.Key(), stageNative(st, c))
		}
	}
	if bad := p.stageServices(st); len(bad) > 0 { // without them, all else may be another matter
		rest := p.stage(slices.DeleteFunc(slices.Clone(changes), func(c reconciler.Change) bool {
			service, _, _ := strings.Cut(c.Key().Name, "/")
			return bad[service] != nil && (c.Key().Kind == kindVirtualHost || c.Key().Kind == kindRule)
		}))
		for _, c := range changes {
			service, _, _ := strings.Cut(c.Key().Name, "/")
			if c.Key().Kind == kindVirtualHost || c.Key().Kind == kindRule {
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
			p.services[name] = &service{body: body, rules: map[string]*ruleBody{}, groups: map[groupKey]bool{}}
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
			maps.DeleteFunc(svc.rules, func(_ string, b *ruleBody) bool { return b == nil })
		}
	}
	for g, e := range st.edits {
		p.adoptGroup(g, e)
	}
}

// bodyOf is what a service will be, nil where it is not served.
func (p *packer) bodyOf(st *staged, name string) *virtualHostBody {
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
	bodies := map[string]*ruleBody{}
	if svc := p.services[name]; svc != nil {
		maps.Copy(bodies, svc.rules)
	}
	maps.Copy(bodies, st.rules[name])
	var rules []*requests.Rule
	for _, policy := range slices.Sorted(maps.Keys(bodies)) {
		if b := bodies[policy]; b != nil {
			r := b.rule(policy)
			rules = append(rules, &r)
		}
	}
	return rules
}

// stageHosts stages what services are.
func (p *packer) stageHosts(st *staged, changes []reconciler.Change) {
	var hosts []reconciler.Change
	for _, c := range changes {
		if c.Key().Kind == kindVirtualHost {
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
			st.services[c.Key().Name] = c.New.Body.(*virtualHostBody)
		}
	}
}

// stageRule notes that a rule comes, goes or changes.
func (p *packer) stageRule(st *staged, c reconciler.Change) error {
	name, policy, _ := strings.Cut(c.Key().Name, "/")
	var body *ruleBody
	if c.New != nil {
		body = c.New.Body.(*ruleBody)
		if p.bodyOf(st, name) == nil {
			return fmt.Errorf("service %s is not served, so its rules cannot be", name)
		}
		if err := checkLabel(body.Version); err != nil {
			return err
		}
	}
	if st.rules[name] == nil {
		st.rules[name] = map[string]*ruleBody{}
	}
	st.rules[name][policy] = body
	return nil
}

// stageServices packs the virtual hosts of the services that change. It returns
// the services of which that fails.
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
			if ready, err = pack(defaultHost(name, body, p.rulesOf(st, name))); err != nil {
				bad[name] = err
			}
		}
		st.puts = append(st.puts, put{typeVirtualHost, defaultHostName(name), ready})
		if old != nil && (body == nil || len(st.rules[name]) > 0 || !body.sameForAccounts(old.body)) {
			for g := range old.groups {
				st.edit(g)
			}
		}
	}
	return bad
}

// stageNative stages a resource that is one on the wire too.
func stageNative(st *staged, c reconciler.Change) error {
	k := c.Key()
	t, ok := map[string]wireType{kindCluster: typeCluster, kindEndpoints: typeEndpoints, kindListener: typeListener}[k.Kind]
	if !ok {
		return fmt.Errorf("there is no kind %q at this target", k.Kind)
	}
	if c.New == nil {
		st.puts = append(st.puts, put{t, k.Name, nil})
		return nil
	}
	if err := checkName(k.Name); err != nil {
		return err
	}
	var m proto.Message
	switch b := c.New.Body.(type) {
	case *clusterBody:
		m = nativeCluster(k.Name, b)
	case *endpointsBody:
		m = nativeEndpoints(k.Name, b)
	case *listenerBody:
		m = nativeListener(k.Name, b)
	}
	packed, err := pack(m)
	if err != nil {
		return err
	}
	st.puts = append(st.puts, put{t, k.Name, packed})
	return nil
}

// checkLabel is checkName for what must be one part of a name.
func checkLabel(s string) error {
	if s == "" || strings.Contains(s, "/") {
		return fmt.Errorf("%q is no name; want lower-case letters, digits, dots and dashes", s)
	}
	return checkName(s)
}

// checkName refuses names that Envoy, or the way they are joined, would not
// bear.
func checkName(name string) error {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '/' {
			return fmt.Errorf("the name %q holds %q; want lower-case letters, digits, dots and dashes", name, c)
		}
	}
	return nil
}

// claim finds the changes that take a host which another service has, or goes on
// having because its own change fails.
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
	if err := cmp.Or(checkLabel(res.Name), checkLabel(res.Body.(*virtualHostBody).Default)); err != nil {
		return err
	}
	for _, host := range res.Body.(*virtualHostBody).Hosts {
		if err := checkLabel(strings.TrimPrefix(host, "*.")); err != nil {
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
