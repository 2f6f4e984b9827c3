package lower

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unique"

	"github.com/gray-release/gray/policies/memo"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
)

// Rule sends the matching requests of a service to a version.
type Rule struct {
	Priority int              `json:"priority"`
	Version  string           `json:"version"`
	Match    []requests.Match `json:"match,omitempty"` // empty, in an account's: all requests
}

// Equal implements reconciler.Body.
func (b *Rule) Equal(o reconciler.Body) bool {
	x, ok := o.(*Rule)
	return ok && b.String() == x.String()
}

// String implements reconciler.Body.
func (b *Rule) String() string {
	return fmt.Sprintf("%s -> %s, priority %d", b.matchString(), b.Version, b.Priority)
}

func (b *Rule) matchString() string { return (&requests.Rule{Match: b.Match}).MatchString() }

// Delta implements reconciler.Body.
func (b *Rule) Delta(old reconciler.Body) string {
	o, ok := old.(*Rule)
	if !ok {
		return reconciler.FromTo(old, b)
	}
	return deltaOf(
		"", o.matchString(), b.matchString(),
		"version ", o.Version, b.Version,
		"priority ", strconv.Itoa(o.Priority), strconv.Itoa(b.Priority),
	)
}

// Request is the rule as package policies has it.
func (b *Rule) Request(policy string) requests.Rule {
	r := requests.Rule{Priority: b.Priority, Version: b.Version, Match: b.Match, Policy: policy}
	if r.Match == nil {
		r.Match = []requests.Match{{Hi: requests.Slots}}
	}
	return r
}

// Account is how requests of one account are routed, apart from the general rules
// of its service. There are many accounts. So the name is that of the key,
// "service/account", and shares its memory, and equal decisions share theirs.
type Account struct {
	name     string
	Decision Decision
}

// Decision is the rules of an account. Equal ones compare equal.
type Decision struct{ text unique.Handle[string] } // rules in JSON

// rules are the rules of an account, by precedence, and the policies whose general
// rules do not hold for it.
type rules struct {
	Rules   []Rule   `json:"rules,omitempty"`
	Instead []string `json:"instead,omitempty"`
}

func newAccount(name string, own []requests.Rule, instead []string) *Account {
	if len(own) == 1 && own[0].Whole() && len(instead) == 0 {
		return &Account{name, simples.Get(simple{own[0].Priority, own[0].Version}, simple.decision)}
	}
	d := rules{Instead: instead}
	for i := range own {
		b := Rule{Priority: own[i].Priority, Version: own[i].Version}
		if !own[i].Whole() {
			b.Match = own[i].Match
		}
		d.Rules = append(d.Rules, b)
	}
	return &Account{name, d.decision()}
}

// simple is a decision for one version at one priority, as most are.
type simple struct {
	priority int
	version  string
}

func (s simple) decision() Decision {
	return rules{Rules: []Rule{{Priority: s.priority, Version: s.version}}}.decision()
}

var (
	simples   = memo.New[simple, Decision](1024)
	decisions = memo.New[Decision, *rules](1024) // accounts in a row mostly have equal decisions
)

func (d rules) decision() Decision {
	text, err := json.Marshal(d)
	if err != nil {
		panic("xds: " + err.Error()) // strings and numbers can be encoded
	}
	return Decision{unique.Make(string(text))}
}

func (d Decision) read() *rules {
	return decisions.Get(d, func(d Decision) *rules {
		r := new(rules)
		if err := json.Unmarshal([]byte(d.text.Value()), r); err != nil {
			panic("xds: " + err.Error()) // UnmarshalJSON has checked it
		}
		return r
	})
}

// Order joins the general rules of the service with those of the decision, in the
// order in which they are tried.
func (d Decision) Order(general []*requests.Rule) []*requests.Rule {
	r := d.read()
	own := make([]requests.Rule, len(r.Rules))
	for i := range r.Rules {
		own[i] = r.Rules[i].Request("")
	}
	return requests.OrderRules(general, own, r.Instead)
}

// Validate refuses an account that no request can carry, or a version that no
// service can have.
func (b *Account) Validate() error {
	if _, account := b.split(); len(account) == 0 || len(account) > requests.MaxAccount {
		return fmt.Errorf("the account has %d bytes; want 1 to %d", len(account), requests.MaxAccount)
	}
	for _, r := range b.Decision.read().Rules {
		if err := CheckLabel(r.Version); err != nil {
			return err
		}
	}
	return nil
}

// MarshalJSON implements json.Marshaler.
func (b *Account) MarshalJSON() ([]byte, error) { return []byte(b.Decision.text.Value()), nil }

// UnmarshalJSON implements json.Unmarshaler.
func (b *Account) UnmarshalJSON(text []byte) error {
	d := new(rules)
	if err := json.Unmarshal(text, d); err != nil {
		return err
	}
	if len(d.Rules) == 0 && len(d.Instead) == 0 {
		return errors.New("an account without rules")
	}
	b.Decision = Decision{unique.Make(string(text))}
	return nil
}

// Equal implements reconciler.Body.
func (b *Account) Equal(o reconciler.Body) bool {
	x, ok := o.(*Account)
	return ok && *b == *x
}

// Takes is the account whose requests leave the Service's default.
func (b *Account) Takes() (vni uint32, account string) {
	_, account = b.split()
	return 0, account
}

// String implements reconciler.Body.
func (b *Account) String() string { return b.who() + " -> " + b.Decision.read().String() }

// String says where requests go: "v2", or "v2, priority 100 (MATCH)" for each rule.
func (d *rules) String() string {
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
func (b *Account) Delta(old reconciler.Body) string {
	o, ok := old.(*Account)
	if !ok {
		return reconciler.FromTo(old, b)
	}
	was, is := o.Decision.read(), b.Decision.read()
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

// split cuts the name.
func (b *Account) split() (service, account string) {
	service, account, _ = strings.Cut(b.name, "/")
	return service, account
}

func (b *Account) who() string {
	service, account := b.split()
	return service + " account " + account
}
