package policies

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/schema"
)

// requestSet is the requests of a claim, whatever their account. It returns false if no
// request can pass the tests.
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

// requestPolicy is what one policy says about requests of a service.
type requestPolicy struct {
	doc            *schema.Document
	spec           *schema.PolicySpec
	line           int // of the first match, or else of the first exclude
	matched        bool
	match, exclude []requests.Match
	sets           []requests.Match // match without exclude
	planned        bool             // its rollout will match all that it does not exclude
	idle           bool             // it is planned and says nothing else about the account, so its rules for all requests apply
	final          []requests.Match // what sets will be when the rollout is complete
}

func (t *requestPolicy) origin() schema.Position {
	return schema.Position{Path: t.doc.Path, Line: t.line}
}

// add adds those of the claims that are of the policy.
func (t *requestPolicy) add(claims []claim) {
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

// requestPolicies groups claims by policy, in order of precedence: priority, then name.
// The name only fixes the order, as policies of equal priority must not conflict.
func requestPolicies(claims []claim) []*requestPolicy {
	byDoc := map[*schema.Document]*requestPolicy{}
	var all []*requestPolicy
	for i := range claims {
		doc := claims[i].doc
		if byDoc[doc] == nil {
			byDoc[doc] = &requestPolicy{doc: doc, spec: claims[i].spec}
			byDoc[doc].add(claims)
			all = append(all, byDoc[doc])
		}
	}
	slices.SortFunc(all, func(a, b *requestPolicy) int {
		return cmp.Or(cmp.Compare(b.spec.Priority, a.spec.Priority), strings.Compare(a.doc.Name.Name, b.doc.Name.Name))
	})
	return all
}

// rule is the rule of the policy.
func (t *requestPolicy) rule() requests.Rule {
	return requests.Rule{Priority: t.spec.Priority, Version: t.spec.Version, Match: t.sets, Policy: t.doc.Name.Name, Origin: t.origin()}
}

// combine works out the sets of requests that a policy matches.
func (c *Compiler) combine(n Name, t *requestPolicy) {
	var ok bool
	t.sets, ok = requests.Combine(t.match, t.exclude)
	if t.final = t.sets; ok && t.planned {
		t.final, ok = requests.Combine(requests.All, t.exclude)
	}
	if ok {
		return
	}
	t.sets, t.final = nil, nil
	at := t.doc.Errorf("spec.exclude", "match and exclude need more than %d routes for Service %s; match or exclude less", requests.MaxCombinations, n.Name)
	c.errs[n] = append(c.errs[n], unitError{t.doc.Name.Name + " " + n.Name, at})
}

// generalOf is what policies say about all requests of a service, in order of
// precedence. It is worked out once per Compile.
func (c *Compiler) generalOf(service string) []*requestPolicy {
	if all, done := c.generalCache[service]; done {
		return all
	}
	var claims []claim
	for n := range c.general[service] {
		claims = append(claims, c.claims[n]...)
	}
	all := requestPolicies(claims)
	for _, t := range all {
		t.sets, _ = requests.Combine(t.match, t.exclude) // policyRule reports the error
		t.final = t.sets
	}
	c.generalCache[service] = all
	return all
}

// policyRule makes the rule of one policy for all requests of a service, or nil if it
// matches none.
func (c *Compiler) policyRule(n Name, claims []claim) any {
	own := requestPolicies(claims)
	if len(own) == 0 {
		return nil
	}
	c.combine(n, own[0])
	sets := 0
	for _, o := range c.generalOf(n.Name) {
		sets += requests.CountRoutes(o.sets)
		if o.doc == own[0].doc && sets > requests.MaxServiceSets {
			at := o.doc.Errorf("spec.match", "needs more than %d routes for Service %s, with the policies that precede it; match less", requests.MaxServiceSets, n.Name)
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

// accountRoute makes the route of one account of a service, or nil if the account has
// no rules of its own.
func (c *Compiler) accountRoute(n Name, claims []claim) any {
	route := &requests.AccountRoute{Service: n.Name, Account: strings.TrimPrefix(n.Part, accountPart)}
	general := c.generalOf(n.Name)
	own := requestPolicies(claims)
	for _, t := range own {
		if i := slices.IndexFunc(general, func(g *requestPolicy) bool { return g.doc == t.doc }); i >= 0 && t.idle {
			t.exclude = append(t.exclude, general[i].exclude...)
		} else if i >= 0 {
			t.match = append(t.match, general[i].match...)
			t.exclude = append(t.exclude, general[i].exclude...)
			if len(general[i].sets) > 0 {
				route.Instead = append(route.Instead, t.doc.Name.Name)
			}
		}
		c.combine(n, t)
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
		route.Rules = route.Rules[:last] // the default does the same
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

// ownRules is the rules of an account, up to the first that matches every request.
func ownRules(own []*requestPolicy) []requests.Rule {
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

// requestConflict reports that two policies of one priority match the same requests,
// of one account or of all, with different versions, or one of them by its rollout: nobody
// could tell then which of them has moved what. Requests that match both only
// because they have a header twice are not reported; they get the version that
// sorts first.
func (c *Compiler) requestConflict(n Name, a, b *requestPolicy, account string) {
	if a.doc == b.doc || a.spec.Priority != b.spec.Priority || a.spec.Version == b.spec.Version && !a.planned && !b.planned {
		return
	}
	for _, m := range a.final {
		for _, o := range b.final {
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

func (t *requestPolicy) side() side { return side{t.doc, t.spec, t.line} }
