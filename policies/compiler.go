package policies

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/schema"
)

// Compiler makes the IR of a repository and follows it from commit to commit:
// a call costs what its changes touch. There is one code path; a first call
// with every name is the full pass.
type Compiler struct {
	set   *schema.Set
	facts Facts // of the last call
	ir    *IR
	sizes ReadTableSizes
	documents
	claimed
	networks
	rollouts
	blends
	num   numbering
	usage map[string]*usage // by gateway
	problems
	todo
}

// ReadTableSizes reads the sizes of a pipeline's tables by name from its P4Info in
// protobuf's text format.
type ReadTableSizes func(p4info []byte) (map[string]int, error)

// documents is who says what, and who looks at whom.
type documents struct {
	docs    map[schema.Name]*docState
	deps    map[dep]map[schema.Name]bool
	owners  map[uniqueKey][]schema.Name // who claims what only one may have
	clashes map[uniqueKey]bool          // keys with several owners
}

// claimed is what policies say about units.
type claimed struct {
	claims  map[Name][]claim // in order of precedence
	parts   map[schema.Name]map[Name]bool
	general map[string]map[Name]bool // by service: the claimed units that are about all requests
	cells   map[string]map[Name]bool // units that have claims, by part
}

// networks finds Networks and their VMs.
type networks struct {
	nets map[string]map[schema.Name]bool // by account
	vms  map[uint32][]netip.Addr         // of the route tables by VNI, sorted
}

// problems is what is wrong or odd, by whom it is found at.
type problems struct {
	docErrs map[schema.Name]schema.Errors
	warns   map[schema.Name]schema.Errors
	errs    map[Name][]unitError
}

// todo is what the next call has to look at, and what it has made.
type todo struct {
	again       map[schema.Name]bool // documents to read again
	dirty       map[Name]bool        // units to make anew
	stirred     map[mover]bool       // moves to claim anew
	dirtyBlends map[Name]bool        // blends to look at; true: to make anew
	defaults    map[string]bool      // gateways whose default pool is to be looked at
	pending     map[Name]bool        // units made anew since the last call without errors
	generalNow  map[string][]*taken  // what generalOf has worked out in this call
}

// docState is what a document contributed, so that it can be taken back.
type docState struct {
	doc    *schema.Document
	facade string // what others see of it; while it is equal they need no second look
	runs   string // of a Service: what the nodes that run it see besides
	deps   []dep
	unique []uniqueKey
	units  []Name // units that it has claims on
	vni    uint32 // of a Network
	vms    []netip.Addr
	ids    []idKey
}

// unitError is an error of a unit. Of the errors of one pair of policies only
// the first is reported: they all ask for the same remedy.
type unitError struct {
	pair string
	err  *schema.Error
}

// dep is something that a document's meaning depends on.
type dep struct{ kind, name string }

// The kinds of deps that are no documents.
const (
	depAccount = "account" // the networks of an account
	depLabels  = "labels"  // the labels of all networks
	depRuns    = "runs"    // what of a Service runs on nodes
)

// uniqueKey is something that only one document may have.
type uniqueKey struct{ what, value string }

// claim is one policy's word on a unit.
type claim struct {
	doc     *schema.Document
	spec    *schema.PolicySpec
	exclude bool
	match   *schema.Match // on a Service
	line    int
	box     packets.Match // on a Gateway
	percent int           // of the buckets or of the accounts, 1 to 100; of an exclude, those that stay
	network string        // whose move by the policy's rollout it is; empty: the documents say it
	planned bool          // it takes nothing yet: a rollout will come to it
}

// NewCompiler returns a compiler of an empty repository. The table of numbers
// is the one that an earlier compiler ended with, or a new one; it is the
// compiler's from now on. Without sizes, switches cannot name a pipeline of the
// repository.
func NewCompiler(ids *IDs, sizes ReadTableSizes) *Compiler {
	return &Compiler{
		ir: NewIR(ids), num: newNumbering(ids), sizes: sizes, usage: map[string]*usage{},
		documents: documents{
			docs: map[schema.Name]*docState{}, deps: map[dep]map[schema.Name]bool{},
			owners: map[uniqueKey][]schema.Name{}, clashes: map[uniqueKey]bool{},
		},
		claimed: claimed{
			claims: map[Name][]claim{}, parts: map[schema.Name]map[Name]bool{},
			general: map[string]map[Name]bool{}, cells: map[string]map[Name]bool{},
		},
		networks: networks{nets: map[string]map[schema.Name]bool{}, vms: map[uint32][]netip.Addr{}},
		rollouts: rollouts{rolls: map[string]*rolling{}, scopes: map[string]map[string]bool{}},
		blends: blends{
			uses: map[Name]map[string]schema.Position{}, users: map[Name]map[Name]schema.Position{},
			byGateway: map[string]map[Name]bool{}, blendIDs: map[Name][]idKey{},
		},
		problems: problems{docErrs: map[schema.Name]schema.Errors{}, warns: map[schema.Name]schema.Errors{}, errs: map[Name][]unitError{}},
		todo: todo{
			again: map[schema.Name]bool{}, dirty: map[Name]bool{}, stirred: map[mover]bool{}, dirtyBlends: map[Name]bool{},
			defaults: map[string]bool{}, pending: map[Name]bool{}, generalNow: map[string][]*taken{},
		},
	}
}

// Compile makes the IR of a set and of what is known beside it, given the names of
// the documents that changed since the last call. It returns the sorted names of the
// units that changed since the last call that succeeded. The error is schema.Errors
// and holds those of the set too; the IR then is not to be used.
func (c *Compiler) Compile(set *schema.Set, changed []schema.Name, facts Facts) (*IR, []Name, error) {
	c.set = set
	c.learn(facts)
	again := c.again
	c.again = map[schema.Name]bool{}
	for _, name := range changed {
		again[name] = true
	}
	// Documents that others look at come first; who looks at them is seen again
	// only where what is seen of them changed.
	for _, kinds := range [][]string{
		{schema.KindSwitch, schema.KindNetwork},
		{schema.KindService, schema.KindGateway},
		{schema.KindPolicy, schema.KindNode},
	} {
		for _, name := range sortedOf(again, kinds) {
			c.document(name, again)
		}
	}
	c.moves()
	for _, name := range slices.Sorted(maps.Keys(c.defaults)) {
		c.setDefault(name)
	}
	clear(c.defaults)
	for _, name := range slices.SortedFunc(maps.Keys(c.dirty), Name.Compare) {
		c.compilePart(name)
	}
	clear(c.dirty)
	clear(c.generalNow)
	for _, name := range slices.SortedFunc(maps.Keys(c.dirtyBlends), Name.Compare) {
		c.compileBlend(name, c.dirtyBlends[name])
	}
	clear(c.dirtyBlends)
	c.number()
	if err := c.err(); err != nil {
		return c.ir, nil, err
	}
	units := slices.SortedFunc(maps.Keys(c.pending), Name.Compare)
	clear(c.pending)
	c.settleIDs()
	return c.ir, units, nil
}

func sortedOf(names map[schema.Name]bool, kinds []string) []schema.Name {
	var some []schema.Name
	for n := range names {
		if slices.Contains(kinds, n.Kind) {
			some = append(some, n)
		}
	}
	slices.SortFunc(some, schema.Name.Compare)
	return some
}

// IDs returns a copy of the table of numbers, to be kept for the next compiler.
func (c *Compiler) IDs() *IDs { return c.num.ids.Clone() }

// UnsavedIDs is what the store lacks of the table of numbers, as IDs.Unsaved says it.
func (c *Compiler) UnsavedIDs() (put map[string][]byte, remove []string, err error) {
	return c.num.ids.Unsaved()
}

// IDsSaved says that the store has what UnsavedIDs returned.
func (c *Compiler) IDsSaved() { c.num.ids.Saved() }

// Warnings is what is odd and still allowed, sorted by place.
func (c *Compiler) Warnings() schema.Errors {
	var all schema.Errors
	for _, w := range c.warns {
		all = append(all, w...)
	}
	return all.Sort()
}

// err is all that is wrong, or nil.
func (c *Compiler) err() error {
	var errs schema.Errors
	if own := c.set.Err(); own != nil {
		list, _ := errors.AsType[schema.Errors](own)
		errs = append(errs, list...)
	}
	for _, e := range c.docErrs {
		errs = append(errs, e...)
	}
	pairs := map[string]bool{}
	for _, n := range slices.SortedFunc(maps.Keys(c.errs), Name.Compare) {
		for _, e := range c.errs[n] {
			if !pairs[e.pair] {
				errs = append(errs, e.err)
			}
			pairs[e.pair] = true
		}
	}
	for key := range c.clashes {
		errs = append(errs, c.clash(key)...)
	}
	errs = append(errs, c.overflows()...)
	if len(errs) == 0 {
		return nil
	}
	return errs.Sort()
}

// document takes back what a document contributed and reads it again.
func (c *Compiler) document(name schema.Name, again map[schema.Name]bool) {
	old := c.docs[name]
	if old == nil {
		old = &docState{}
	}
	c.takeBack(name, old)
	delete(c.docErrs, name)
	delete(c.warns, name)
	delete(c.docs, name)
	now := &docState{doc: c.standsFor(c.set.Get(name))}
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
	if old.runs != now.runs {
		for user := range c.deps[dep{depRuns, name.Name}] {
			again[user] = true
		}
	}
	if old.vni != now.vni || !slices.Equal(old.vms, now.vms) {
		c.touchVNI(old.vni)
		c.touchVNI(now.vni)
		for policy := range c.scopes[name.Name] {
			c.rolls[policy].stale[name.Name] = true
			c.stir(policy, name.Name)
		}
	}
	if old.facade == now.facade {
		return
	}
	for part := range c.parts[name] {
		c.dirty[part] = true
		c.pending[part] = true // sinks look at the whole as well
	}
	for _, d := range append(seenAs(old), seenAs(now)...) {
		for user := range c.deps[d] {
			again[user] = true
		}
	}
}

// seenAs is under which deps others look at a document.
func seenAs(s *docState) []dep {
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
		delete(c.nets[s.doc.Spec.(*schema.NetworkSpec).Account], name)
		delete(c.vms, s.vni)
	}
	for _, u := range s.units {
		left := slices.DeleteFunc(c.claims[u], func(cl claim) bool { return cl.doc == s.doc })
		c.claims[u] = left
		if len(left) == 0 {
			delete(c.claims, u)
			delete(c.general[u.Name], u)
		}
		c.touch(u)
	}
}

// touch marks a unit to be made anew. The rules that name no VNI meet those of
// every VNI, so all of the gateway's cells follow; and what is about all requests
// of a service meets what is about each account.
func (c *Compiler) touch(u Name) {
	c.dirty[u] = true
	if u.Kind == schema.KindGateway && u.Part == anyVNI {
		c.defaults[u.Name] = true
	}
	if u.Part == anyVNI || u.Kind == schema.KindService && strings.HasPrefix(u.Part, policyPart) {
		for part := range c.parts[schema.Name{Kind: u.Kind, Name: u.Name}] {
			c.dirty[part] = true
		}
	}
}

// touchVNI marks the cells of a VNI to be made anew.
func (c *Compiler) touchVNI(vni uint32) {
	for cell := range c.cells[fmt.Sprintf("%s%d", vniPart, vni)] {
		c.dirty[cell] = true
	}
}

// dependOn notes that a document looks at something.
func (c *Compiler) dependOn(s *docState, kind, name string) {
	d := dep{kind, name}
	if slices.Contains(s.deps, d) {
		return
	}
	s.deps = append(s.deps, d)
	if c.deps[d] == nil {
		c.deps[d] = map[schema.Name]bool{}
	}
	c.deps[d][s.doc.Name] = true
}

// own claims something that only one document may have.
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

// clash reports at every owner but the first by place.
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

// uniqueField is the field of a document that holds what clashes.
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

// errorf records an error of a document.
func (c *Compiler) errorf(s *docState, field, format string, args ...any) {
	c.docErrs[s.doc.Name] = append(c.docErrs[s.doc.Name], s.doc.Errorf(field, format, args...))
}
