package policies

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/gray-release/gray/schema"
)

// docState is what a document contributed, so that it can be undone.
type docState struct {
	doc    *schema.Document
	facade string // what other documents see of it; if it changes, they are read again
	empty  string // of a Service: the versions that nothing can serve
	runs   string // of a Service: what the nodes that run it see beside that
	deps   []dep
	unique []uniqueKey
	units  []Name // units that it claims
	vni    uint32 // of a Network
	vms    []netip.Addr
	nets   []netip.Prefix // of a Network: the routes that are no VMs
	ids    []idKey
}

// dep is something that a document depends on.
type dep struct{ kind, name string }

// The kinds of deps that are not documents.
const (
	depAccount = "account" // the networks of an account
	depLabels  = "labels"  // the labels of all networks
	depRuns    = "runs"    // what nodes run of a Service
	depRoutes  = "routes"  // the route table of a Network
	depNamed   = "named"   // whether any Network has an account
)

// uniqueKey is something that only one document may have.
type uniqueKey struct{ what, value string }

// document undoes what a document contributed and reads it again.
func (c *Compiler) document(name schema.Name, again map[schema.Name]bool) {
	old := c.docs[name]
	if old == nil {
		old = &docState{}
	}
	named := c.named
	c.takeBack(name, old)
	delete(c.docErrs, name)
	delete(c.warns, name)
	delete(c.docs, name)
	now := &docState{doc: c.inForce(c.set.Get(name))}
	if now.doc != nil {
		c.docs[name] = now
		c.examine(now)
	} else {
		c.ir.Put(Name{Kind: name.Kind, Name: name.Name}, nil)
	}
	if name.Kind != schema.KindPolicy {
		c.pending[Name{Kind: name.Kind, Name: name.Name}] = true
	}
	if name.Kind == schema.KindGateway {
		c.wantIDs(Name{Kind: name.Kind, Name: name.Name}, old.ids, now.ids)
		c.defaults[name.Name] = true
		for blend := range c.byGateway[name.Name] {
			c.dirtyBlends[blend] = true
		}
	}
	if (named == 0) != (c.named == 0) {
		c.readAgain(again, dep{depNamed, ""})
	}
	if !slices.Equal(old.vms, now.vms) || !slices.Equal(old.nets, now.nets) {
		c.readAgain(again, dep{depRoutes, name.Name})
	}
	if old.empty != now.empty {
		c.readAgain(again, dep{name.Kind, name.Name})
	}
	if old.runs != now.runs {
		c.readAgain(again, dep{depRuns, name.Name})
	}
	if old.vni != now.vni || !slices.Equal(old.vms, now.vms) {
		c.touchVNI(old.vni)
		c.touchVNI(now.vni)
		for policy := range c.scopes[name.Name] {
			c.rolls[policy].stale[name.Name] = true
			c.touchMove(policy, name.Name)
		}
	}
	if old.facade == now.facade {
		return
	}
	for part := range c.parts[name] {
		c.dirty[part] = true
		c.pending[part] = true // sinks lower it with its document
	}
	for _, d := range append(depsOn(old), depsOn(now)...) {
		c.readAgain(again, d)
	}
}

// readAgain has the documents that depend on something be read again.
func (c *Compiler) readAgain(again map[schema.Name]bool, d dep) {
	for user := range c.deps[d] {
		again[user] = true
	}
}

// depsOn returns the deps by which others depend on a document.
func depsOn(s *docState) []dep {
	if s.doc == nil {
		return nil
	}
	deps := []dep{{s.doc.Kind, s.doc.Name.Name}}
	if n, ok := s.doc.Spec.(*schema.NetworkSpec); ok {
		deps = append(deps, dep{depAccount, n.Account}, dep{depLabels, ""})
	}
	return deps
}

// takeBack undoes what a document contributed.
func (c *Compiler) takeBack(name schema.Name, s *docState) {
	if name.Kind == schema.KindPolicy {
		c.endRollout(name.Name)
	}
	delete(c.switches, name)
	for _, d := range s.deps {
		delete(c.deps[d], name)
		if len(c.deps[d]) == 0 {
			delete(c.deps, d)
		}
	}
	for _, k := range s.unique {
		c.disown(k, name)
	}
	if s.doc != nil && name.Kind == schema.KindNetwork {
		account := s.doc.Spec.(*schema.NetworkSpec).Account
		delete(c.nets[account], name)
		if account != "" {
			c.named--
		}
		delete(c.vms, s.vni)
	}
	for _, u := range s.units {
		c.retake(u, s.doc)
		left := slices.DeleteFunc(c.claims[u], func(cl claim) bool { return cl.doc == s.doc })
		c.claims[u] = left
		if len(left) == 0 {
			delete(c.claims, u)
			delete(c.general[u.Name], u)
		}
		c.touch(u)
	}
}

// dependOn records that a document depends on something.
func (c *Compiler) dependOn(s *docState, kind, name string) {
	d := dep{kind, name}
	if c.deps[d][s.doc.Name] {
		return
	}
	s.deps = append(s.deps, d)
	if c.deps[d] == nil {
		c.deps[d] = map[schema.Name]bool{}
	}
	c.deps[d][s.doc.Name] = true
}

// own records something that only one document may have.
func (c *Compiler) own(s *docState, what, value string) {
	k := uniqueKey{what, value}
	s.unique = append(s.unique, k)
	c.owners[k] = append(c.owners[k], s.doc.Name)
	if len(c.owners[k]) > 1 {
		c.clashes[k] = true
	}
}

func (c *Compiler) disown(k uniqueKey, name schema.Name) {
	left := slices.DeleteFunc(slices.Clone(c.owners[k]), func(n schema.Name) bool { return n == name })
	c.owners[k] = left
	if len(left) < 2 {
		delete(c.clashes, k)
	}
	if len(left) == 0 {
		delete(c.owners, k)
	}
}

// clash reports a key at every owner but the first by place.
func (c *Compiler) clash(k uniqueKey) schema.Errors {
	var docs []*schema.Document
	for _, n := range c.owners[k] {
		docs = append(docs, c.docs[n].doc)
	}
	slices.SortFunc(docs, (*schema.Document).Compare)
	var errs schema.Errors
	for _, d := range docs[1:] {
		errs = append(errs, d.Errorf(uniqueField(d, k), "%s %s belongs to %s %s already, at %s",
			k.what, k.value, docs[0].Kind, docs[0].Name.Name, docs[0].Position))
	}
	return errs
}

// uniqueField is the field of a document that has a key.
func uniqueField(d *schema.Document, k uniqueKey) string {
	switch spec := d.Spec.(type) {
	case *schema.GatewaySpec:
		i := slices.IndexFunc(spec.VIPs, func(a schema.Addr) bool { return a.String() == k.value })
		return fmt.Sprintf("spec.vips[%d]", i)
	case *schema.ServiceSpec:
		return fmt.Sprintf("spec.hosts[%d]", slices.Index(spec.Hosts, k.value))
	case *schema.NetworkSpec:
		return "spec.vni"
	case *schema.SwitchSpec:
		b := bgpOf(spec.BGP)
		i := slices.IndexFunc(spec.BGP.Neighbors, func(n schema.BGPNeighbor) bool {
			return neighborKey(b.LocalAddress, n.Address.Addr) == k.value
		})
		return fmt.Sprintf("spec.bgp.neighbors[%d].address", i)
	}
	return "spec"
}

// warnf records a warning of a document, once.
func (c *Compiler) warnf(s *docState, field, format string, args ...any) {
	w := s.doc.Errorf(field, format, args...)
	all := c.warns[s.doc.Name]
	if !slices.ContainsFunc(all, func(o *schema.Error) bool { return o.Error() == w.Error() }) {
		c.warns[s.doc.Name] = append(all, w)
	}
}

// errorf records an error of a document.
func (c *Compiler) errorf(s *docState, field, format string, args ...any) {
	c.docErrs[s.doc.Name] = append(c.docErrs[s.doc.Name], s.doc.Errorf(field, format, args...))
}
