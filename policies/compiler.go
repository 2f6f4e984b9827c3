// Package policies is what the documents mean: the IR in gray's own words and the
// compiler that makes it, with precedence, conflicts and the sizes of tables.
//
// It is the second step of the straight line, between the documents of package
// schema and the native resources that each sink lowers the IR to. It is pure: no
// YAML, no protobuf, no vendor type, no I/O and no clock. Equal documents, facts and
// IDs give an equal IR, whatever was compiled before.
//
// Below it are three packages that are pure too and do not import the compiler:
// packets (sets of packets, flow rules, hashing, what a switch does with a packet),
// requests (sets of requests, routes, what an Envoy does with a request) and rollout
// (the state machine of rollouts).
package policies

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/schema"
)

// Compiler compiles a repository to the IR, commit after commit. The cost of a call
// depends on what changed. There is one code path: a full pass is a first call with
// every name.
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
	ids   idAssignment
	usage map[string]*usage // by gateway
	problems
	todo
}

// ReadTableSizes reads the sizes of a pipeline's tables by name from its P4Info in
// protobuf's text format.
type ReadTableSizes func(p4info []byte) (map[string]int, error)

// documents is what each document contributed, and which others depend on it.
type documents struct {
	docs     map[schema.Name]*docState
	deps     map[dep]map[schema.Name]bool
	owners   map[uniqueKey][]schema.Name // the documents that have a key
	clashes  map[uniqueKey]bool          // keys that several documents have
	switches map[schema.Name]bool        // all Switches
}

// claimed is the claims of policies on units.
type claimed struct {
	claims  map[Name][]claim // in order of precedence
	parts   map[schema.Name]map[Name]bool
	general map[string]map[Name]bool // by service: the claimed units for all requests
	cells   map[string]map[Name]bool // claimed units, by part
}

// networks is an index of Networks and their VMs.
type networks struct {
	nets  map[string]map[schema.Name]bool // by account
	vms   map[uint32][]netip.Addr         // of the route tables, by VNI, sorted
	named int                             // Networks with an account
}

// problems is the errors and warnings, by where they were found.
type problems struct {
	docErrs map[schema.Name]schema.Errors
	warns   map[schema.Name]schema.Errors
	errs    map[Name][]unitError
	shadows map[Name]map[*schema.Document]*schema.Document // by unit: the policies that others leave nothing to
}

// todo is what the next call has to compile, and what changed since the last one.
type todo struct {
	again        map[schema.Name]bool        // documents to read again
	dirty        map[Name]bool               // units to compile again
	dirtyMoves   map[networkMove]bool        // moves to claim again
	dirtyBlends  map[Name]bool               // blends to check; true: to compile again
	defaults     map[string]bool             // gateways whose default pool is to be worked out again
	pending      map[Name]bool               // units that changed since the last call without errors
	generalCache map[string][]*requestPolicy // results of generalOf in this call
}

// unitError is an error of a unit. Only the first error of a pair of policies is
// reported, as all of them have the same fix.
type unitError struct {
	pair string
	err  *schema.Error
}

// claim is what one entry of a policy, or its rollout, says about a unit.
type claim struct {
	doc     *schema.Document
	spec    *schema.PolicySpec
	exclude bool
	match   *schema.Match // on a Service
	line    int
	box     packets.Match // on a Gateway
	percent int           // of the buckets or of the accounts, 1 to 100; of an exclude, the share that stays
	network string        // the Network whose move by the rollout it is; empty: the documents say it
	planned bool          // it matches nothing yet: the rollout will
}

// NewCompiler returns a compiler of an empty repository. It takes over the table of
// IDs: that of an earlier compiler or a new one. If sizes is nil, a Switch cannot name
// a pipeline of the repository.
func NewCompiler(ids *IDs, sizes ReadTableSizes) *Compiler {
	return &Compiler{
		ir: NewIR(ids), ids: newIDAssignment(ids), sizes: sizes, usage: map[string]*usage{},
		documents: documents{
			docs: map[schema.Name]*docState{}, deps: map[dep]map[schema.Name]bool{},
			owners: map[uniqueKey][]schema.Name{}, clashes: map[uniqueKey]bool{}, switches: map[schema.Name]bool{},
		},
		claimed: claimed{
			claims: map[Name][]claim{}, parts: map[schema.Name]map[Name]bool{},
			general: map[string]map[Name]bool{}, cells: map[string]map[Name]bool{},
		},
		networks: networks{nets: map[string]map[schema.Name]bool{}, vms: map[uint32][]netip.Addr{}},
		rollouts: rollouts{rolls: map[string]*declaredRollout{}, scopes: map[string]map[string]bool{}, plans: map[Name]map[string]bool{}},
		blends: blends{
			uses: map[Name]map[string]schema.Position{}, users: map[Name]map[Name]schema.Position{},
			byGateway: map[string]map[Name]bool{}, blendIDs: map[Name][]idKey{},
		},
		problems: problems{docErrs: map[schema.Name]schema.Errors{}, warns: map[schema.Name]schema.Errors{}, errs: map[Name][]unitError{}, shadows: map[Name]map[*schema.Document]*schema.Document{}},
		todo: todo{
			again: map[schema.Name]bool{}, dirty: map[Name]bool{}, dirtyMoves: map[networkMove]bool{}, dirtyBlends: map[Name]bool{},
			defaults: map[string]bool{}, pending: map[Name]bool{}, generalCache: map[string][]*requestPolicy{},
		},
	}
}

// Compile compiles a set and the facts, given the names of the documents that changed
// since the last call. It returns the sorted names of the units that changed since
// the last call that succeeded. The error is a schema.Errors with the errors of the
// set too; the IR must not be used then.
func (c *Compiler) Compile(set *schema.Set, changed []schema.Name, facts Facts) (*IR, []Name, error) {
	c.set = set
	c.learn(facts)
	again := c.again
	c.again = map[schema.Name]bool{}
	for _, name := range changed {
		again[name] = true
	}
	// Documents that others depend on come first. Those that depend on them are read
	// again only if the part that they see has changed.
	for _, kinds := range [][]string{
		{schema.KindSwitch, schema.KindNetwork},
		{schema.KindService, schema.KindGateway},
		{schema.KindPolicy, schema.KindNode},
	} {
		for _, name := range sortedOf(again, kinds) {
			c.document(name, again)
		}
	}
	c.claimMoves()
	for _, name := range slices.Sorted(maps.Keys(c.defaults)) {
		c.setDefault(name)
	}
	clear(c.defaults)
	for _, name := range slices.SortedFunc(maps.Keys(c.dirty), Name.Compare) {
		c.compilePart(name)
	}
	clear(c.dirty)
	clear(c.generalCache)
	for _, name := range slices.SortedFunc(maps.Keys(c.dirtyBlends), Name.Compare) {
		c.compileBlend(name, c.dirtyBlends[name])
	}
	clear(c.dirtyBlends)
	c.assignIDs()
	if err := c.err(); err != nil {
		return c.ir, nil, err
	}
	units := slices.SortedFunc(maps.Keys(c.pending), Name.Compare)
	clear(c.pending)
	c.releaseIDs()
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

// IDs returns a copy of the table of IDs, for the next compiler.
func (c *Compiler) IDs() *IDs { return c.ids.table.Clone() }

// UnsavedIDs returns the records of IDs to put into the store and to remove from it,
// since the last call of IDsSaved.
func (c *Compiler) UnsavedIDs() (put map[string][]byte, remove []string, err error) {
	return c.ids.table.unsaved()
}

// IDsSaved tells that the store has what UnsavedIDs returned.
func (c *Compiler) IDsSaved() { c.ids.table.saved() }

// Warnings returns the warnings, sorted by place.
func (c *Compiler) Warnings() schema.Errors {
	var all schema.Errors
	for _, w := range c.warns {
		all = append(all, w...)
	}
	all = append(all, c.shadowed()...)
	all = append(all, c.unused()...)
	return all.Sort()
}

// err returns all errors, or nil.
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

// touch marks a unit to be compiled again. Rules that name no VNI affect every VNI, so
// they mark all cells of the gateway; rules for all requests of a service affect every
// account.
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

// touchVNI marks the cells of a VNI to be compiled again.
func (c *Compiler) touchVNI(vni uint32) {
	for cell := range c.cells[packets.VNIPart(vni)] {
		c.dirty[cell] = true
	}
}

// compilePart compiles one part from the claims on it.
func (c *Compiler) compilePart(n Name) {
	delete(c.errs, n)
	whole := schema.Name{Kind: n.Kind, Name: n.Name}
	claims := c.claims[n]
	c.shadow(n, claims)
	var unit any
	switch {
	case n.Kind == schema.KindService && c.ir.Service(n.Name) != nil:
		if strings.HasPrefix(n.Part, policyPart) {
			unit = c.policyRule(n, claims)
		} else {
			unit = c.accountRoute(n, claims)
		}
	case n.Kind == schema.KindGateway:
		gw := c.ir.Gateway(n.Name)
		cell := &packets.Cell{}
		if gw != nil && len(claims) > 0 {
			cell = c.cell(n, gw, claims)
		}
		if len(cell.Rules) > 0 {
			unit = cell
		}
		if was, _ := c.ir.Get(n).(*packets.Cell); was != nil && slices.Equal(was.Rules, cell.Rules) {
			unit = was
			break
		}
		c.count(n, cell)
		c.useBlends(n, blendsOf(cell.Rules))
	}
	if unit != c.ir.Get(n) {
		c.pending[n] = true
	}
	c.ir.Put(n, unit)
	if len(claims) == 0 {
		delete(c.parts[whole], n)
		if len(c.parts[whole]) == 0 {
			delete(c.parts, whole)
		}
		delete(c.cells[n.Part], n)
		if len(c.cells[n.Part]) == 0 {
			delete(c.cells, n.Part)
		}
	}
}
