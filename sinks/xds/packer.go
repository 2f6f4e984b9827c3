package xds

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/reconciler"
)

// shardCount is into how many shards the accounts of a service are cut: with
// 100,000 accounts, one more resends about a hundred.
const shardCount = 1024

// groupKey names the accounts of a service that share a hash. An account stays
// in its group whatever its version.
type groupKey struct {
	service string
	number  uint32
}

// shardKey names the accounts of a group that go to one version: one virtual
// host.
type shardKey struct {
	groupKey
	version string
}

// name sorts the shards of a group next to each other.
func (k shardKey) name() string {
	return fmt.Sprintf("%s@%04d@%s", defaultHostName(k.service), k.number, k.version)
}

// groupName is the part of a virtual host's name that is that of its group: what
// has to be sent in one response, as an account may move within it.
func groupName(t wireType, name string) string {
	if at := strings.LastIndexByte(name, '@'); t == typeVirtualHost && at > strings.IndexByte(name, '@') {
		return name[:at]
	}
	return name
}

func groupOf(service, account string) groupKey {
	h := fnv.New32a()
	_, _ = h.Write([]byte(account))
	return groupKey{service, h.Sum32() % shardCount}
}

// packer turns resources into what is served. Work comes in two steps: stage
// works out what changes would do and finds those that cannot be served, adopt
// does it; nothing is half done.
type packer struct {
	owners   map[string]string // host -> service that has it
	services map[string]*virtualHostBody
	groups   map[string]map[groupKey]bool // the groups of a service that have accounts
	shards   map[groupKey]map[string][]string
}

func newPacker() *packer {
	return &packer{
		owners: map[string]string{}, services: map[string]*virtualHostBody{},
		groups: map[string]map[groupKey]bool{}, shards: map[groupKey]map[string][]string{},
	}
}

// staged is what changes do.
type staged struct {
	puts     []put
	services map[string]*virtualHostBody // nil: it goes
	edits    map[groupKey]*edit
	failed   *reconciler.PartialError
}

// edit is what happens to a group.
type edit struct {
	keys   []reconciler.Key
	drop   map[string]string   // account -> version that it leaves
	add    map[string]string   // account -> version that it comes to
	shards map[string][]string // what comes of it, by version
}

// stage works out changes; an Old is what is served now.
func (p *packer) stage(changes []reconciler.Change) *staged {
	st := &staged{services: map[string]*virtualHostBody{}, edits: map[groupKey]*edit{}}
	p.stageHosts(st, changes)
	for _, c := range changes {
		switch c.Key().Kind {
		case kindVirtualHost:
		case kindAccount:
			st.failed = st.failed.Add(c.Key(), p.stageAccount(st, c))
		default:
			st.failed = st.failed.Add(c.Key(), stageNative(st, c))
		}
	}
	for g, e := range st.edits {
		if err := p.stageGroup(st, g, e); err != nil {
			delete(st.edits, g)
			if len(e.keys) == 0 {
				e.keys = []reconciler.Key{key(kindVirtualHost, g.service)}
			}
			for _, k := range e.keys {
				st.failed = st.failed.Add(k, err)
			}
		}
	}
	return st
}

// adopt takes over what was staged.
func (p *packer) adopt(st *staged) {
	for service := range st.services {
		if old := p.services[service]; old != nil {
			for _, h := range old.Hosts {
				delete(p.owners, h)
			}
		}
		delete(p.services, service)
	}
	for service, body := range st.services {
		if body == nil {
			continue
		}
		p.services[service] = body
		for _, h := range body.Hosts {
			p.owners[h] = service
		}
	}
	for g, e := range st.edits {
		p.adoptGroup(g, e)
	}
}

func (p *packer) adoptGroup(g groupKey, e *edit) {
	for version, accounts := range e.shards {
		if p.shards[g] == nil {
			p.shards[g] = map[string][]string{}
		}
		p.shards[g][version] = accounts
		if len(accounts) == 0 {
			delete(p.shards[g], version)
		}
	}
	if len(p.shards[g]) == 0 {
		delete(p.shards, g)
		if delete(p.groups[g.service], g); len(p.groups[g.service]) == 0 {
			delete(p.groups, g.service)
		}
		return
	}
	if p.groups[g.service] == nil {
		p.groups[g.service] = map[groupKey]bool{}
	}
	p.groups[g.service][g] = true
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

// stageAccount notes that an account comes, goes or moves.
func (p *packer) stageAccount(st *staged, c reconciler.Change) error {
	service, account, _ := strings.Cut(c.Key().Name, "/")
	if c.New != nil {
		body, served := st.services[service]
		if !served {
			body = p.services[service]
		}
		if body == nil {
			return fmt.Errorf("service %s is not served, so its account %s cannot be", service, account)
		}
		if len(account) == 0 || len(account) > maxAccount {
			return fmt.Errorf("the account has %d bytes; want 1 to %d", len(account), maxAccount)
		}
		if err := checkLabel(c.New.Body.(*accountBody).Version); err != nil {
			return err
		}
	}
	e := st.edit(groupOf(service, account))
	e.keys = append(e.keys, c.Key())
	if c.Old != nil {
		e.drop[account] = c.Old.Body.(*accountBody).Version
	}
	if c.New != nil {
		e.add[account] = c.New.Body.(*accountBody).Version
	}
	return nil
}

// maxAccount is the longest account in bytes, here and in account.lua.
const maxAccount = 256

func (st *staged) edit(g groupKey) *edit {
	e := st.edits[g]
	if e == nil {
		e = &edit{drop: map[string]string{}, add: map[string]string{}, shards: map[string][]string{}}
		st.edits[g] = e
	}
	return e
}

// stageGroup packs the shards of a group that change.
func (p *packer) stageGroup(st *staged, g groupKey, e *edit) error {
	for _, version := range e.drop {
		e.shards[version] = nil
	}
	for account, version := range e.add {
		e.shards[version] = append(e.shards[version], account)
	}
	body, hostChanged := st.services[g.service]
	if hostChanged { // every shard is to be packed again
		for version := range p.shards[g] {
			if _, changed := e.shards[version]; !changed {
				e.shards[version] = nil
			}
		}
	} else {
		body = p.services[g.service]
	}
	var puts []put
	for version, accounts := range e.shards {
		for _, account := range p.shards[g][version] {
			if e.drop[account] != version && e.add[account] != version {
				accounts = append(accounts, account)
			}
		}
		slices.Sort(accounts)
		e.shards[version] = accounts
		k := shardKey{g, version}
		if len(accounts) == 0 || body == nil || len(body.Hosts) == 0 {
			puts = append(puts, put{typeVirtualHost, k.name(), nil})
			continue
		}
		packed, err := pack(accountsHost(k, accounts, body))
		if err != nil {
			return err
		}
		puts = append(puts, put{typeVirtualHost, k.name(), packed})
	}
	st.puts = append(st.puts, puts...)
	return nil
}

// stageHosts stages the virtual hosts of services.
func (p *packer) stageHosts(st *staged, changes []reconciler.Change) {
	var hosts []reconciler.Change
	ready, failed := map[string]*packed{}, map[reconciler.Key]error{}
	for _, c := range changes {
		if c.Key().Kind != kindVirtualHost {
			continue
		}
		hosts = append(hosts, c)
		if c.New != nil {
			packed, err := pack(defaultHost(c.New.Name, c.New.Body.(*virtualHostBody)))
			ready[c.New.Name] = packed
			if err != nil {
				failed[c.New.Key] = err
			}
		}
	}
	p.claim(hosts, failed)
	for _, c := range hosts {
		k := c.Key()
		if err := failed[k]; err != nil {
			st.failed = st.failed.Add(k, err)
			continue
		}
		var body *virtualHostBody
		if c.New != nil {
			body = c.New.Body.(*virtualHostBody)
		}
		st.services[k.Name] = body
		st.puts = append(st.puts, put{typeVirtualHost, defaultHostName(k.Name), ready[k.Name]})
		if old := p.services[k.Name]; body == nil || old == nil || !body.sameForAccounts(old) {
			for g := range p.groups[k.Name] {
				st.edit(g)
			}
		}
	}
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
		if err := checkLabel(host); err != nil {
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
