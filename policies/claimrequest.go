package policies

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/schema"
)

// claimRequests claims the requests of an entry on a Service: those of each account
// that it names, or else a share of all. An entry that also names packets is about
// Gateways only.
func (c *Compiler) claimRequests(e entryOf, service string) {
	m := e.m
	if m.Networks != nil || m.NetworkSelector != nil || m.VMs != nil || m.Flow != nil || e.percent() == 0 {
		return
	}
	if m.Accounts == nil {
		c.claim(e, Name{schema.KindService, service, policyPart + e.s.doc.Name.Name}, packets.Match{})
	}
	for _, a := range m.Accounts {
		c.claim(e, Name{schema.KindService, service, accountPart + a}, packets.Match{})
	}
}

// requestSet is the requests of a claim, as far as its account has no say; false
// where no request passes its tests.
func requestSet(cl *claim) (requests.Match, bool) {
	set := requests.Match{Hi: cl.percent}
	for _, h := range cl.match.Headers {
		t := requests.HeaderTest{Name: h.Name, Not: h.Invert}
		switch {
		case h.Exact != nil:
			t.Kind, t.Value = "exact", *h.Exact
		case h.Prefix != nil:
			t.Kind, t.Value = "prefix", *h.Prefix
		case h.Suffix != nil:
			t.Kind, t.Value = "suffix", *h.Suffix
		case h.Regex != nil:
			t.Kind, t.Value = "regex", *h.Regex
		case h.Present != nil:
			t.Kind, t.Not = "present", *h.Present == h.Invert
		}
		set.Tests = append(set.Tests, t)
	}
	return requests.Every.Intersect(set)
}

// taken is what one policy says about requests of a service.
type taken struct {
	doc            *schema.Document
	spec           *schema.PolicySpec
	line           int // of the first match, or else of the first exclude
	matched        bool
	match, exclude []requests.Match
	sets           []requests.Match // what comes of the two
	planned        bool             // its rollout will come to take all that it does not exclude
	idle           bool             // and it says nothing else of the account: what it says about all requests holds for it too
	will           []requests.Match // what sets will be then
}

func (t *taken) origin() schema.Position { return schema.Position{Path: t.doc.Path, Line: t.line} }

// add takes in claims of the policy.
func (t *taken) add(claims []claim) {
	for i := range claims {
		cl := &claims[i]
		if cl.doc != t.doc {
			continue
		}
		if cl.planned {
			t.planned = true
			t.line = cmp.Or(t.line, cl.line)
			continue
		}
		set, some := requestSet(cl)
		switch {
		case !some:
		case cl.exclude:
			t.exclude = append(t.exclude, set)
		default:
			t.match = append(t.match, set)
		}
		if first := !cl.exclude && !t.matched; first || t.line == 0 {
			t.line, t.matched = cl.line, first
		}
	}
	t.idle = t.planned && len(t.match)+len(t.exclude) == 0
}

// takenBy gathers claims by policy, in order of precedence: priority, then name
// (which decides nothing but the order, as equal priorities may not disagree).
func takenBy(claims []claim) []*taken {
	byDoc := map[*schema.Document]*taken{}
	var all []*taken
	for i := range claims {
		doc := claims[i].doc
		if byDoc[doc] == nil {
			byDoc[doc] = &taken{doc: doc, spec: claims[i].spec}
			byDoc[doc].add(claims)
			all = append(all, byDoc[doc])
		}
	}
	slices.SortFunc(all, func(a, b *taken) int {
		return cmp.Or(cmp.Compare(b.spec.Priority, a.spec.Priority), strings.Compare(a.doc.Name.Name, b.doc.Name.Name))
	})
	return all
}

// rule is what a policy says as a rule.
func (t *taken) rule() requests.Rule {
	return requests.Rule{Priority: t.spec.Priority, Version: t.spec.Version, Match: t.sets, Policy: t.doc.Name.Name, Origin: t.origin()}
}

// settle works out the sets that a policy takes.
func (c *Compiler) settle(n Name, t *taken) {
	var ok bool
	t.sets, ok = requests.Combine(t.match, t.exclude)
	if t.will = t.sets; ok && t.planned {
		t.will, ok = requests.Combine(requests.All, t.exclude)
	}
	if ok {
		return
	}
	t.sets, t.will = nil, nil
	at := t.doc.Errorf("spec.exclude", "makes more than %d sets of requests of what the policy matches of Service %s; name less in it", requests.MaxCombinations, n.Name)
	c.errs[n] = append(c.errs[n], unitError{t.doc.Name.Name + " " + n.Name, at})
}

// generalOf is what policies say about all requests of a service, by precedence.
// It is worked out once a Compile.
func (c *Compiler) generalOf(service string) []*taken {
	if all, done := c.generalNow[service]; done {
		return all
	}
	var claims []claim
	for n := range c.general[service] {
		claims = append(claims, c.claims[n]...)
	}
	all := takenBy(claims)
	for _, t := range all {
		t.sets, _ = requests.Combine(t.match, t.exclude) // who claims it reports what is wrong
		t.will = t.sets
	}
	c.generalNow[service] = all
	return all
}

// policyRule makes the rule of one policy about all requests of a service; nil
// where it takes none.
func (c *Compiler) policyRule(n Name, claims []claim) any {
	own := takenBy(claims)
	if len(own) == 0 {
		return nil
	}
	c.settle(n, own[0])
	sets := 0
	for _, o := range c.generalOf(n.Name) {
		sets += requests.CountRoutes(o.sets)
		if o.doc == own[0].doc && sets > requests.MaxServiceSets {
			at := o.doc.Errorf("spec.match", "makes more than %d sets of requests of Service %s, with those of the policies above it; name less", requests.MaxServiceSets, n.Name)
			c.errs[n] = append(c.errs[n], unitError{o.doc.Name.Name + " " + n.Name, at})
		}
		c.requestConflict(n, own[0], o, "")
	}
	if len(own[0].sets) == 0 {
		return nil
	}
	r := own[0].rule()
	if was, _ := c.ir.Get(n).(*requests.Rule); was != nil && was.Equal(&r) {
		return was
	}
	return &r
}

// accountRoute decides about one account of one service; nil where everything is
// as it is for all.
func (c *Compiler) accountRoute(n Name, claims []claim) any {
	route := &requests.AccountRoute{Service: n.Name, Account: strings.TrimPrefix(n.Part, accountPart)}
	general := c.generalOf(n.Name)
	own := takenBy(claims)
	for _, t := range own {
		if i := slices.IndexFunc(general, func(g *taken) bool { return g.doc == t.doc }); i >= 0 && t.idle {
			t.exclude = append(t.exclude, general[i].exclude...)
		} else if i >= 0 {
			t.match = append(t.match, general[i].match...)
			t.exclude = append(t.exclude, general[i].exclude...)
			if len(general[i].sets) > 0 {
				route.Instead = append(route.Instead, t.doc.Name.Name)
			}
		}
		c.settle(n, t)
	}
	for i, t := range own {
		for _, o := range own[:i] {
			c.requestConflict(n, t, o, route.Account)
		}
		for _, o := range general {
			if !slices.Contains(route.Instead, o.doc.Name.Name) {
				c.requestConflict(n, t, o, route.Account)
			}
		}
	}
	route.Rules = ownRules(own)
	if last := len(route.Rules) - 1; len(general) == 0 && last >= 0 && route.Rules[last].Version == c.ir.Service(n.Name).Default {
		route.Rules = route.Rules[:last] // which is where it goes anyway
	}
	if len(route.Rules) == 0 && len(route.Instead) == 0 {
		return nil
	}
	slices.Sort(route.Instead)
	for _, t := range slices.Backward(own) {
		if !t.idle {
			route.Origin = t.origin()
		}
	}
	if len(route.Rules) > 0 {
		route.Origin = route.Rules[0].Origin
	}
	if was, _ := c.ir.Get(n).(*requests.AccountRoute); was != nil && was.Equal(route) {
		return was
	}
	return route
}

// ownRules is the rules of an account up to the first that takes every request.
func ownRules(own []*taken) []requests.Rule {
	var rules []requests.Rule
	for _, t := range own {
		if len(t.sets) == 0 {
			continue
		}
		if rules = append(rules, t.rule()); rules[len(rules)-1].Whole() {
			break
		}
	}
	return rules
}

// requestConflict reports that two policies of one priority want different
// versions for the same requests, of one account or of all. Whoever sends a header
// in two lines, one for each of two policies, gets the lower version.
func (c *Compiler) requestConflict(n Name, a, b *taken, account string) {
	if a.doc == b.doc || a.spec.Priority != b.spec.Priority || a.spec.Version == b.spec.Version {
		return
	}
	for _, m := range a.will {
		for _, o := range b.will {
			both, some := m.Meets(o)
			if !some {
				continue
			}
			what := both.String()
			switch {
			case account != "" && both.Whole():
				what = "account " + account
			case account != "":
				what = fmt.Sprintf("%s of account %s", what, account)
			}
			c.conflict(n, b.side(), a.side(), what)
			return
		}
	}
}

func (t *taken) side() side { return side{t.doc, t.spec, t.line} }
