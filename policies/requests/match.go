package requests

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/gray-release/gray/policies/memo"
	"github.com/gray-release/gray/schema"
)

// Slots is how many slots the accounts are split into, one percent each.
const Slots = 100

// Rule sends the requests of a service that match it to a version.
type Rule struct {
	Priority int
	Version  string
	Match    []Match // any of them, in canonical order
	Policy   string
	Origin   schema.Position
}

// Match is a set of requests: those that pass all header tests, and whose account has
// a slot in Lo <= slot < Hi.
type Match struct {
	Tests []HeaderTest `json:"tests,omitempty"` // sorted, without duplicates
	Lo    int          `json:"lo,omitempty"`
	Hi    int          `json:"hi"`
}

// Every is all requests, and All the match of a rule for them, which most rules share.
var (
	Every = Match{Hi: Slots}
	All   = []Match{Every}
)

// HeaderTest is a test of one request header. It passes if a line of the header does. A
// missing header fails every test.
type HeaderTest struct {
	Name  string `json:"name"` // lower case
	Kind  string `json:"kind"` // "exact", "prefix", "suffix", "regex" (RE2, of the whole value) or "present"
	Value string `json:"value,omitempty"`
	Not   bool   `json:"not,omitempty"` // inverts the test
}

// Holds tells whether the lines of the header pass the test.
func (t *HeaderTest) Holds(lines []string) bool {
	return slices.ContainsFunc(lines, t.passes) != t.Not
}

func (t *HeaderTest) passes(value string) bool {
	switch t.Kind {
	case "exact":
		return value == t.Value
	case "prefix":
		return strings.HasPrefix(value, t.Value)
	case "suffix":
		return strings.HasSuffix(value, t.Value)
	case "regex":
		return expressions.Get(t.Value, wholeValue).MatchString(value)
	}
	return true
}

var expressions = memo.New[string, *regexp.Regexp](1024)

// wholeValue is an expression that schema has checked, for whole values.
func wholeValue(expr string) *regexp.Regexp { return regexp.MustCompile(`\A(?:` + expr + `)\z`) }

// String describes the test in words.
func (t *HeaderTest) String() string {
	switch {
	case t.Kind == "present" && t.Not:
		return "without " + t.Name
	case t.Kind == "present":
		return "with " + t.Name
	}
	not := ""
	if t.Not {
		not = "not "
	}
	return fmt.Sprintf("%s %s%s %q", t.Name, not, t.Kind, t.Value)
}

func compareTests(a, b HeaderTest) int {
	not := map[bool]int{true: 1}
	return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Kind, b.Kind), strings.Compare(a.Value, b.Value),
		cmp.Compare(not[a.Not], not[b.Not]))
}

// apart tells whether no lines pass both tests.
func (t *HeaderTest) apart(o *HeaderTest) bool {
	if t.Name != o.Name {
		return false
	}
	for _, p := range [][2]*HeaderTest{{t, o}, {o, t}} {
		a, b := p[0], p[1]
		switch {
		case a.Kind == b.Kind && a.Value == b.Value:
			return a.Not != b.Not
		case a.Kind == "exact" && !a.Not && b.Not:
			return b.passes(a.Value)
		case a.Kind == "present" && a.Not:
			return !b.Not
		}
	}
	return false
}

// apartInLine tells whether no single line passes both tests.
func (t *HeaderTest) apartInLine(o *HeaderTest) bool {
	if t.Name != o.Name || t.Not || o.Not {
		return t.apart(o)
	}
	switch {
	case t.Kind == "exact":
		return !o.passes(t.Value)
	case o.Kind == "exact":
		return !t.passes(o.Value)
	case t.Kind == "prefix" && o.Kind == "prefix":
		return !strings.HasPrefix(t.Value, o.Value) && !strings.HasPrefix(o.Value, t.Value)
	case t.Kind == "suffix" && o.Kind == "suffix":
		return !strings.HasSuffix(t.Value, o.Value) && !strings.HasSuffix(o.Value, t.Value)
	}
	return false
}

// Intersect returns the requests in both sets, or false if there are none.
func (m Match) Intersect(o Match) (Match, bool) {
	both := Match{Lo: max(m.Lo, o.Lo), Hi: min(m.Hi, o.Hi)}
	if both.Lo >= both.Hi {
		return both, false
	}
	both.Tests = slices.Concat(m.Tests, o.Tests)
	slices.SortFunc(both.Tests, compareTests)
	both.Tests = slices.Compact(both.Tests)
	for i := range both.Tests {
		for j := range i {
			if both.Tests[i].apart(&both.Tests[j]) {
				return both, false
			}
		}
	}
	return both, true
}

// Meets is Intersect for requests that have each header at most once.
func (m Match) Meets(o Match) (Match, bool) {
	both, some := m.Intersect(o)
	for i := range both.Tests {
		for j := range i {
			some = some && !both.Tests[i].apartInLine(&both.Tests[j])
		}
	}
	return both, some
}

// without returns sets that together are m without o.
func (m Match) without(o Match) []Match {
	if _, some := m.Intersect(o); !some {
		return []Match{m}
	}
	var left []Match
	for _, rest := range []Match{{Lo: 0, Hi: o.Lo}, {Lo: o.Hi, Hi: Slots}} {
		if part, some := m.Intersect(rest); some {
			left = append(left, part)
		}
	}
	for _, t := range o.Tests {
		t.Not = !t.Not
		if part, some := m.Intersect(Match{Tests: []HeaderTest{t}, Hi: Slots}); some {
			left = append(left, part)
		}
	}
	return left
}

// covers tells whether m has every request of o. It may miss that of different tests.
func (m Match) covers(o Match) bool {
	return m.Lo <= o.Lo && o.Hi <= m.Hi &&
		!slices.ContainsFunc(m.Tests, func(t HeaderTest) bool { return !slices.Contains(o.Tests, t) })
}

func (m Match) compare(o Match) int {
	return cmp.Or(slices.CompareFunc(m.Tests, o.Tests, compareTests), cmp.Compare(m.Lo, o.Lo), cmp.Compare(m.Hi, o.Hi))
}

// Equal tells whether two sets are written the same.
func (m Match) Equal(o Match) bool { return m.compare(o) == 0 }

// Whole tells whether the set is all requests.
func (m Match) Whole() bool { return m.Equal(Every) }

// Holds tells whether a request is in the set, given the slot of its account and the
// lines of its headers by lower-case name.
func (m Match) Holds(slot int, headers map[string][]string) bool {
	for i := range m.Tests {
		if !m.Tests[i].Holds(headers[m.Tests[i].Name]) {
			return false
		}
	}
	return m.Lo <= slot && slot < m.Hi
}

// String describes the set in words.
func (m Match) String() string {
	var words []string
	for i := range m.Tests {
		words = append(words, m.Tests[i].String())
	}
	switch {
	case m.Lo == 0 && m.Hi == Slots:
	case m.Lo == 0:
		words = append(words, fmt.Sprintf("%d%% of accounts", m.Hi))
	default:
		words = append(words, fmt.Sprintf("accounts from %d%% to %d%%", m.Lo, m.Hi))
	}
	if len(words) == 0 {
		return "all requests"
	}
	return strings.Join(words, " and ")
}

// Equal tells whether two rules are equal.
func (r *Rule) Equal(o *Rule) bool {
	return r.Priority == o.Priority && r.Version == o.Version && r.Policy == o.Policy && r.Origin == o.Origin &&
		slices.EqualFunc(r.Match, o.Match, Match.Equal)
}

// Whole tells whether the rule matches every request.
func (r *Rule) Whole() bool { return len(r.Match) == 1 && r.Match[0].Whole() }

// Holds tells whether the rule matches a request; see Match.Holds.
func (r *Rule) Holds(slot int, headers map[string][]string) bool {
	return slices.ContainsFunc(r.Match, func(m Match) bool { return m.Holds(slot, headers) })
}

// MatchString describes in words what the rule matches.
func (r *Rule) MatchString() string {
	words := make([]string, len(r.Match))
	for i, m := range r.Match {
		words[i] = m.String()
	}
	return strings.Join(words, ", or ")
}

// MaxCombinations is how many routes the entries of one policy may need.
const MaxCombinations = 64

// Combine returns the requests in matches and not in exclude, as sets in canonical
// order, or false if they need more than MaxCombinations routes.
func Combine(matches, exclude []Match) ([]Match, bool) {
	if len(exclude) == 0 && slices.ContainsFunc(matches, Match.Whole) {
		return All, true
	}
	sets := slices.Clone(matches)
	for _, e := range exclude {
		var left []Match
		for _, m := range reduceSets(sets) {
			if left = append(left, m.without(e)...); len(left) > 16*MaxCombinations {
				return nil, false
			}
		}
		sets = left
	}
	sets = reduceSets(sets)
	return sets, CountRoutes(sets) <= MaxCombinations
}

// CountRoutes is how many routes sets need. An inverted test that an empty value would
// pass needs two: one for a missing header.
func CountRoutes(sets []Match) int {
	all := 0
	for _, m := range sets {
		n := 1
		for i := range m.Tests {
			if t := &m.Tests[i]; t.Not && t.Kind != "present" && t.passes("") && n <= MaxServiceSets {
				n *= 2
			}
		}
		all += n
	}
	return all
}

// reduceSets sorts sets and drops those that another covers.
func reduceSets(sets []Match) []Match {
	slices.SortFunc(sets, Match.compare)
	sets = slices.CompactFunc(sets, Match.Equal)
	var out []Match
	for i, m := range sets {
		hidden := func(j int) bool { return i != j && sets[j].covers(m) }
		held := false
		for j := range sets {
			held = held || hidden(j)
		}
		if !held {
			out = append(out, m)
		}
	}
	return out
}

// OrderRules merges the rules for all requests of a service with those of one account,
// in the order in which the first match decides. Rules for all requests are skipped if
// their policy is in instead. Rules after one that matches every request are dropped.
func OrderRules(general []*Rule, own []Rule, instead []string) []*Rule {
	var rules []*Rule
	for _, r := range general {
		if !slices.Contains(instead, r.Policy) {
			rules = append(rules, r)
		}
	}
	for i := range own {
		rules = append(rules, &own[i])
	}
	slices.SortStableFunc(rules, func(a, b *Rule) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), strings.Compare(a.Version, b.Version))
	})
	for i, r := range rules {
		if r.Whole() {
			return rules[:i+1]
		}
	}
	return rules
}

// MaxServiceSets is how many routes the rules of one service may need. Envoy looks at
// them one after another.
const MaxServiceSets = 256
