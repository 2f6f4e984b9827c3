package softswitch

import (
	"fmt"
	"slices"
	"strings"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Personality is in what a switch differs from the strict one, as other P4Runtime
// servers do. All of them refuse the atomicity
// modes other than CONTINUE_ON_ERROR, empty the tables when a pipeline is
// committed, and leave don't-care fields out of what is read.
type Personality struct {
	Name string // strict, bmv2, stratum or pins

	message     string // of a Write of which updates failed
	fullUnknown bool   // an entry that a full table does not take is UNKNOWN
	oneResponse bool   // a Read is answered in one message, however large
	anyPriority bool   // a wildcard Read takes no notice of a priority
	stopAtFirst bool   // after the first update that fails, the rest is ABORTED
	uniqueKeys  bool   // an update with the key of one before it in the batch is refused
}

// personalities are all that there are: the strict one, which is the default, BMv2
// with PI, Stratum on Tofino, and PINS.
var personalities = []Personality{
	{Name: "strict", message: "some updates failed"},
	{Name: "bmv2", fullUnknown: true, oneResponse: true, anyPriority: true},
	{Name: "stratum", message: "One or more write operations failed."},
	{Name: "pins", message: "some updates failed", stopAtFirst: true, uniqueKeys: true},
}

// PersonalityNames are the names that PersonalityOf takes.
func PersonalityNames() []string {
	var names []string
	for _, p := range personalities {
		names = append(names, p.Name)
	}
	return names
}

// PersonalityOf returns the personality of a name.
func PersonalityOf(name string) (Personality, error) {
	i := slices.IndexFunc(personalities, func(p Personality) bool { return p.Name == name })
	if i < 0 {
		return Personality{}, fmt.Errorf("there is no personality %q; want %s", name, strings.Join(PersonalityNames(), ", "))
	}
	return personalities[i], nil
}

// writeAll carries out the updates of a batch and returns the error of each.
func (p *Personality) writeAll(to *program, updates []*p4v1.Update) (errs []error, failed bool) {
	errs = make([]error, len(updates))
	seen := map[string]bool{}
	for i, u := range updates {
		switch {
		case failed && p.stopAtFirst:
			errs[i] = status.Error(codes.Aborted, "not tried, as one before it failed")
		case p.uniqueKeys && to.repeats(seen, u):
			errs[i] = status.Error(codes.InvalidArgument, "another update of the batch has the same key")
		default:
			errs[i] = to.update(u)
		}
		if p.fullUnknown && status.Code(errs[i]) == codes.ResourceExhausted {
			errs[i] = status.Error(codes.Unknown, "the entry cannot be added to the target")
		}
		failed = failed || errs[i] != nil
	}
	return errs, failed
}

// repeats tells whether an update of a table entry has a key that was seen, and
// notes the key.
func (p *program) repeats(seen map[string]bool, u *p4v1.Update) bool {
	e := u.GetEntity().GetTableEntry()
	t := p.tables[e.GetTableId()]
	if e == nil || t == nil {
		return false
	}
	key, err := checkKey(t.info, e)
	if err != nil {
		return false // the update itself will say so
	}
	k := fmt.Sprintf("%d %s", t.info.ID, key)
	before := seen[k]
	seen[k] = true
	return before
}

// asked is what a request for an entity is taken for.
func (p *Personality) asked(e *p4v1.Entity) *p4v1.Entity {
	if f := e.GetTableEntry(); p.anyPriority && f.GetPriority() != 0 && len(f.GetMatch()) == 0 {
		e = proto.CloneOf(e)
		e.GetTableEntry().Priority = 0
	}
	return e
}

// chunk is how many entities of so many a response of a Read holds.
func (p *Personality) chunk(all int) int {
	if p.oneResponse {
		return all
	}
	return readChunk
}
