package xds

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"unique"

	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
)

// ruleBody sends the requests of a service that match to a version.
type ruleBody struct {
	Priority int              `json:"priority"`
	Version  string           `json:"version"`
	Match    []requests.Match `json:"match,omitempty"` // of an account, nothing is everything
}

// Equal implements reconciler.Body.
func (b *ruleBody) Equal(o reconciler.Body) bool {
	x, ok := o.(*ruleBody)
	return ok && b.String() == x.String()
}

// String implements reconciler.Body.
func (b *ruleBody) String() string {
	return fmt.Sprintf("%s -> %s, priority %d", b.matchString(), b.Version, b.Priority)
}

func (b *ruleBody) matchString() string { return (&requests.Rule{Match: b.Match}).MatchString() }

// Delta implements reconciler.Body.
func (b *ruleBody) Delta(old reconciler.Body) string {
	o, ok := old.(*ruleBody)
	if !ok {
		return fromTo(old, b)
	}
	var words []string
	if was, is := o.matchString(), b.matchString(); was != is {
		words = append(words, was+" -> "+is)
	}
	if o.Version != b.Version {
		words = append(words, fmt.Sprintf("version %s -> %s", o.Version, b.Version))
	}
	if o.Priority != b.Priority {
		words = append(words, fmt.Sprintf("priority %d -> %d", o.Priority, b.Priority))
	}
	return strings.Join(words, ", ")
}

// rule is the body as policies has it.
func (b *ruleBody) rule(policy string) requests.Rule {
	r := requests.Rule{Priority: b.Priority, Version: b.Version, Match: b.Match, Policy: policy}
	if r.Match == nil {
		r.Match = []requests.Match{{Hi: requests.Slots}}
	}
	return r
}

// accountBody is what holds for one account beside the rules for all. There are
// many of them, so the name is the key's, "service/account", and shares its memory,
// and accounts with equal rules share their text.
type accountBody struct {
	name string
	text unique.Handle[string] // a decision in JSON
}

// decision is the rules of an account, by precedence, and the policies whose
// general rules do not count for it.
type decision struct {
	Rules   []ruleBody `json:"rules,omitempty"`
	Instead []string   `json:"instead,omitempty"`
}

// decisions remembers the last few that were asked for: accounts that come one
// after another mostly have the same.
var decisions struct {
	sync.Mutex
	of map[unique.Handle[string]]*decision
}

func newAccount(name string, rules []requests.Rule, instead []string) *accountBody {
	if len(rules) == 1 && rules[0].Whole() && len(instead) == 0 {
		return &accountBody{name, simpleText(rules[0].Priority, rules[0].Version)}
	}
	d := decision{Instead: instead}
	for i := range rules {
		b := ruleBody{Priority: rules[i].Priority, Version: rules[i].Version}
		if !rules[i].Whole() {
			b.Match = rules[i].Match
		}
		d.Rules = append(d.Rules, b)
	}
	return &accountBody{name, textOf(d)}
}

// simple is a decision that is a version and a priority, as most are.
type simple struct {
	priority int
	version  string
}

// simpleTexts holds the texts of such decisions.
var simpleTexts struct {
	sync.Mutex
	of map[simple]unique.Handle[string]
}

func simpleText(priority int, version string) unique.Handle[string] {
	simpleTexts.Lock()
	defer simpleTexts.Unlock()
	text, known := simpleTexts.of[simple{priority, version}]
	if !known {
		if simpleTexts.of == nil {
			simpleTexts.of = map[simple]unique.Handle[string]{}
		}
		text = textOf(decision{Rules: []ruleBody{{Priority: priority, Version: version}}})
		simpleTexts.of[simple{priority, version}] = text
	}
	return text
}

func textOf(d decision) unique.Handle[string] {
	text, err := json.Marshal(d)
	if err != nil {
		panic("xds: " + err.Error()) // strings and numbers alone
	}
	return unique.Make(string(text))
}

func (b *accountBody) decision() *decision { return decisionOf(b.text) }

func decisionOf(text unique.Handle[string]) *decision {
	const most = 1024
	decisions.Lock()
	defer decisions.Unlock()
	if d := decisions.of[text]; d != nil {
		return d
	}
	d := new(decision)
	if err := json.Unmarshal([]byte(text.Value()), d); err != nil {
		panic("xds: " + err.Error()) // it was checked when it was read
	}
	if decisions.of == nil || len(decisions.of) >= most {
		decisions.of = map[unique.Handle[string]]*decision{}
	}
	decisions.of[text] = d
	return d
}

// rules is the rules as policies has them.
func (d *decision) rules() []requests.Rule {
	all := make([]requests.Rule, len(d.Rules))
	for i := range d.Rules {
		all[i] = d.Rules[i].rule("")
	}
	return all
}

// MarshalJSON implements json.Marshaler.
func (b *accountBody) MarshalJSON() ([]byte, error) { return []byte(b.text.Value()), nil }

// UnmarshalJSON implements json.Unmarshaler.
func (b *accountBody) UnmarshalJSON(text []byte) error {
	d := new(decision)
	if err := json.Unmarshal(text, d); err != nil {
		return err
	}
	if len(d.Rules) == 0 && len(d.Instead) == 0 {
		return fmt.Errorf("an account of which nothing is said")
	}
	b.text = unique.Make(string(text))
	return nil
}

// Equal implements reconciler.Body.
func (b *accountBody) Equal(o reconciler.Body) bool {
	x, ok := o.(*accountBody)
	return ok && *b == *x
}

// Takes is the account whose requests it takes away from the Service's default.
func (b *accountBody) Takes() (vni uint32, account string) {
	_, account = b.split()
	return 0, account
}

// String implements reconciler.Body.
func (b *accountBody) String() string { return b.who() + " -> " + b.decision().String() }

// String says where the requests go: "v2, priority 100".
func (d *decision) String() string {
	if len(d.Rules) == 1 && d.Rules[0].Match == nil && len(d.Instead) == 0 {
		return d.Rules[0].Version
	}
	var words []string
	for i := range d.Rules {
		r := &d.Rules[i]
		to := fmt.Sprintf("%s, priority %d", r.Version, r.Priority)
		if r.Match != nil {
			to = fmt.Sprintf("%s (%s)", to, r.matchString())
		}
		words = append(words, to)
	}
	if len(d.Instead) > 0 {
		words = append(words, "without what "+strings.Join(d.Instead, ", ")+" says of all")
	}
	return strings.Join(words, "; ")
}

// Delta implements reconciler.Body.
func (b *accountBody) Delta(old reconciler.Body) string {
	o, ok := old.(*accountBody)
	if !ok {
		return fromTo(old, b)
	}
	was, is := o.decision(), b.decision()
	if len(was.Rules) == 1 && len(is.Rules) == 1 && slices.Equal(was.Instead, is.Instead) {
		a, z := &was.Rules[0], &is.Rules[0]
		switch {
		case a.Match != nil || z.Match != nil:
		case a.Priority == z.Priority:
			return fmt.Sprintf("%s %s -> %s", b.who(), a.Version, z.Version)
		case a.Version == z.Version:
			return fmt.Sprintf("%s priority %d -> %d", b.who(), a.Priority, z.Priority)
		}
	}
	return fmt.Sprintf("%s %s -> %s", b.who(), was, is)
}

// split gives the two halves of the name.
func (b *accountBody) split() (service, account string) {
	service, account, _ = strings.Cut(b.name, "/")
	return service, account
}

func (b *accountBody) who() string {
	service, account := b.split()
	return service + " account " + account
}
