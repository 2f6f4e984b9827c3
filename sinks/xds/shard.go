package xds

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"

	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/xds/lower"
)

// shardCount is how many groups the accounts of a service are in: with 100,000
// accounts, one more resends about a hundred.
const shardCount = 1024

// groupKey names the accounts of a service with the same hash. An account never
// leaves its group.
type groupKey struct {
	service string
	number  uint32
}

// group is the accounts of a group. Those with equal routes are one virtual host, a
// shard.
type group struct {
	accounts map[lower.Decision][]string // by decision, sorted
	shards   map[string][]lower.Decision // the decisions in a shard, by its name
}

// edit is the changes of a group.
type edit struct {
	keys []reconciler.Key
	drop map[string]lower.Decision // account -> its old decision
	add  map[string]lower.Decision // account -> its new decision
	to   *group                    // the result
}

// shardName is the name of a shard of a group. Sorted by name, the shards of a group
// are next to each other.
func (k groupKey) shardName(routes string) string {
	return fmt.Sprintf("%s@%04d@%s", lower.HostName(k.service), k.number, routes)
}

// groupName is the part of a shard's name that names its group. A group has to be
// sent in one response, as an account may move from one of its shards to another.
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

// stageAccount stages an account.
func (p *packer) stageAccount(st *staged, c reconciler.Change) error {
	service, account, _ := strings.Cut(c.Key().Name, "/")
	if c.New != nil {
		if p.bodyOf(st, service) == nil {
			return fmt.Errorf("service %s is not served, so its account %s cannot be", service, account)
		}
		if err := c.New.Body.(*lower.Account).Validate(); err != nil {
			return err
		}
	}
	e := st.edit(groupOf(service, account))
	e.keys = append(e.keys, c.Key())
	if c.Old != nil {
		e.drop[account] = c.Old.Body.(*lower.Account).Decision
	}
	if c.New != nil {
		e.add[account] = c.New.Body.(*lower.Account).Decision
	}
	return nil
}

func (st *staged) edit(g groupKey) *edit {
	e := st.edits[g]
	if e == nil {
		e = &edit{drop: map[string]lower.Decision{}, add: map[string]lower.Decision{}}
		st.edits[g] = e
	}
	return e
}

// stageGroup packs the shards of a group that changes. Where that fails, its changes
// fail, and what is served of it stays.
func (p *packer) stageGroup(st *staged, g groupKey, e *edit) {
	puts, err := p.packGroup(st, g, e)
	if err == nil {
		st.puts = append(st.puts, puts...)
		return
	}
	delete(st.edits, g)
	if len(e.keys) == 0 {
		e.keys = []reconciler.Key{lower.Key(lower.KindVirtualHost, g.service)}
	}
	for _, k := range e.keys {
		st.failed = st.failed.Add(k, err)
	}
}

func (p *packer) packGroup(st *staged, g groupKey, e *edit) ([]put, error) {
	old := p.groups[g]
	if old == nil {
		old = &group{}
	}
	e.to = &group{accounts: old.after(e), shards: map[string][]lower.Decision{}}
	body := p.bodyOf(st, g.service)
	if body == nil {
		e.to.accounts = nil
	}
	general := p.rulesOf(st, g.service)
	routes := map[string][]*requests.Rule{} // by shard
	for d := range e.to.accounts {
		rules := d.Order(general)
		name := g.shardName(routesID(rules, body.Default))
		routes[name] = rules
		e.to.shards[name] = append(e.to.shards[name], d)
	}
	var puts []put
	for name := range old.shards {
		if routes[name] == nil && e.to.shards[name] == nil {
			puts = append(puts, put{typeVirtualHost, name, nil})
		}
	}
	for name, decisions := range e.to.shards {
		var accounts []string
		for _, d := range decisions {
			accounts = append(accounts, e.to.accounts[d]...)
		}
		slices.Sort(accounts)
		packed, err := pack(body.AccountsHost(name, g.service, accounts, routes[name]))
		if err != nil {
			return nil, err
		}
		puts = append(puts, put{typeVirtualHost, name, packed})
	}
	return puts, nil
}

// size is how many accounts a group has; a nil one has none.
func (g *group) size() (n int) {
	if g != nil {
		for _, accounts := range g.accounts {
			n += len(accounts)
		}
	}
	return n
}

// after is the accounts of a group after an edit.
func (g *group) after(e *edit) map[lower.Decision][]string {
	all := maps.Clone(g.accounts)
	if all == nil {
		all = map[lower.Decision][]string{}
	}
	touched := map[lower.Decision]bool{}
	for _, d := range e.drop {
		touched[d] = true
	}
	for _, d := range e.add {
		touched[d] = true
	}
	for d := range touched {
		all[d] = slices.DeleteFunc(slices.Clone(all[d]), func(account string) bool {
			_, drops := e.drop[account]
			_, adds := e.add[account]
			return drops || adds
		})
	}
	for account, d := range e.add {
		all[d] = append(all[d], account)
	}
	for d := range touched {
		if slices.Sort(all[d]); len(all[d]) == 0 {
			delete(all, d)
		}
	}
	return all
}

func (p *packer) adoptGroup(g groupKey, e *edit) {
	svc := p.services[g.service]
	if svc != nil {
		svc.accounts += e.to.size() - p.groups[g].size()
	}
	if len(e.to.accounts) == 0 {
		delete(p.groups, g)
		if svc != nil {
			delete(svc.groups, g)
		}
		return
	}
	p.groups[g] = e.to
	svc.groups[g] = true
}

// routesID identifies the routes of accounts: by the version where they have one
// route, else by a hash.
func routesID(rules []*requests.Rule, byDefault string) string {
	switch {
	case len(rules) == 0:
		return byDefault
	case rules[0].Whole():
		return rules[0].Version
	}
	h := fnv.New64a()
	for _, r := range rules {
		_, _ = fmt.Fprintf(h, "%s -> %s\n", r.MatchString(), r.Version)
	}
	return fmt.Sprintf("%016x", h.Sum64())
}
