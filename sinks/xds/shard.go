package xds

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"unique"

	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
)

// shardCount is into how many groups the accounts of a service are cut: with
// 100,000 accounts, one more resends about a hundred.
const shardCount = 1024

// groupKey names the accounts of a service that share a hash. An account stays
// in its group whatever becomes of it.
type groupKey struct {
	service string
	number  uint32
}

// group is the accounts of a group: those with equal routes are one virtual host,
// a shard.
type group struct {
	accounts map[unique.Handle[string]][]string // by decision, sorted
	shards   map[string][]unique.Handle[string] // by the virtual host's name: the decisions in it
}

// edit is what happens to a group.
type edit struct {
	keys []reconciler.Key
	drop map[string]unique.Handle[string] // account -> decision that it leaves
	add  map[string]unique.Handle[string] // account -> decision that it comes to
	to   *group                           // what comes of it
}

// shardName is the name of the virtual host of a group's accounts that are routed
// alike. The shards of a group stand next to each other.
func (k groupKey) shardName(routes string) string {
	return fmt.Sprintf("%s@%04d@%s", defaultHostName(k.service), k.number, routes)
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

// stageAccount notes that an account comes, goes or moves.
func (p *packer) stageAccount(st *staged, c reconciler.Change) error {
	service, account, _ := strings.Cut(c.Key().Name, "/")
	if c.New != nil {
		if p.bodyOf(st, service) == nil {
			return fmt.Errorf("service %s is not served, so its account %s cannot be", service, account)
		}
		if len(account) == 0 || len(account) > requests.MaxAccount {
			return fmt.Errorf("the account has %d bytes; want 1 to %d", len(account), requests.MaxAccount)
		}
		for _, r := range c.New.Body.(*accountBody).decision().Rules {
			if err := checkLabel(r.Version); err != nil {
				return err
			}
		}
	}
	e := st.edit(groupOf(service, account))
	e.keys = append(e.keys, c.Key())
	if c.Old != nil {
		e.drop[account] = c.Old.Body.(*accountBody).text
	}
	if c.New != nil {
		e.add[account] = c.New.Body.(*accountBody).text
	}
	return nil
}

func (st *staged) edit(g groupKey) *edit {
	e := st.edits[g]
	if e == nil {
		e = &edit{drop: map[string]unique.Handle[string]{}, add: map[string]unique.Handle[string]{}}
		st.edits[g] = e
	}
	return e
}

// stageGroup packs the shards of a group that changes. Where that fails, so do the
// accounts that change, and the others stay.
func (p *packer) stageGroup(st *staged, g groupKey, e *edit) {
	puts, err := p.packGroup(st, g, e)
	if err == nil {
		st.puts = append(st.puts, puts...)
		return
	}
	delete(st.edits, g)
	if len(e.keys) == 0 {
		e.keys = []reconciler.Key{key(kindVirtualHost, g.service)}
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
	e.to = &group{accounts: old.after(e), shards: map[string][]unique.Handle[string]{}}
	body := p.bodyOf(st, g.service)
	if body == nil {
		e.to.accounts = nil
	}
	general := p.rulesOf(st, g.service)
	routes := map[string][]*requests.Rule{} // by shard
	for text := range e.to.accounts {
		d := decisionOf(text)
		rules := requests.OrderRules(general, d.rules(), d.Instead)
		name := g.shardName(routesID(rules, body.Default))
		routes[name] = rules
		e.to.shards[name] = append(e.to.shards[name], text)
	}
	var puts []put
	for name := range old.shards {
		if routes[name] == nil && e.to.shards[name] == nil {
			puts = append(puts, put{typeVirtualHost, name, nil})
		}
	}
	for name, texts := range e.to.shards {
		var accounts []string
		for _, text := range texts {
			accounts = append(accounts, e.to.accounts[text]...)
		}
		slices.Sort(accounts)
		packed, err := pack(accountsHost(name, g.service, accounts, body, routes[name]))
		if err != nil {
			return nil, err
		}
		puts = append(puts, put{typeVirtualHost, name, packed})
	}
	return puts, nil
}

// after is the accounts of a group after an edit.
func (g *group) after(e *edit) map[unique.Handle[string]][]string {
	all := maps.Clone(g.accounts)
	if all == nil {
		all = map[unique.Handle[string]][]string{}
	}
	touched := map[unique.Handle[string]]bool{}
	for _, text := range e.drop {
		touched[text] = true
	}
	for _, text := range e.add {
		touched[text] = true
	}
	for text := range touched {
		all[text] = slices.DeleteFunc(slices.Clone(all[text]), func(account string) bool {
			_, drops := e.drop[account]
			_, adds := e.add[account]
			return drops || adds
		})
	}
	for account, text := range e.add {
		all[text] = append(all[text], account)
	}
	for text := range touched {
		if slices.Sort(all[text]); len(all[text]) == 0 {
			delete(all, text)
		}
	}
	return all
}

func (p *packer) adoptGroup(g groupKey, e *edit) {
	svc := p.services[g.service]
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

// routesID tells apart what requests of accounts are routed by: the version where
// that is all there is to it, else a hash.
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
