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

// Personality says how a switch differs from a strict one, as other P4Runtime servers
// do. All of them refuse atomicity modes other than CONTINUE_ON_ERROR, empty the tables
// when a pipeline is committed, and omit don't-care fields when read.
type Personality struct {
	Name string // strict, bmv2, stratum or pins

	message     string // the error message of a Write with failed updates
	fullUnknown bool   // an insert into a full table fails with UNKNOWN
	oneResponse bool   // a Read is answered in one message, however large
	anyPriority bool   // a wildcard Read ignores the priority
	stopAtFirst bool   // after the first update that fails, the rest is ABORTED
	uniqueKeys  bool   // a second update with the same key in a batch is refused
}

// personalities has all personalities: the strict one, which is the default, BMv2 with
// PI, Stratum on Tofino, and PINS.
var personalities = []Personality{
	{Name: "strict", message: "some updates failed"},
	{Name: "bmv2", fullUnknown: true, oneResponse: true, anyPriority: true},
	{Name: "stratum", message: "One or more write operations failed."},
	{Name: "pins", message: "some updates failed", stopAtFirst: true, uniqueKeys: true},
}

// PersonalityNames lists the names that PersonalityOf accepts.
func PersonalityNames() []string {
	var names []string
	for _, p := range personalities {
		names = append(names, p.Name)
	}
	return names
}

// PersonalityOf returns the personality with a name.
func PersonalityOf(name string) (Personality, error) {
	i := slices.IndexFunc(personalities, func(p Personality) bool { return p.Name == name })
	if i < 0 {
		return Personality{}, fmt.Errorf("there is no personality %q; want %s", name, strings.Join(PersonalityNames(), ", "))
	}
	return personalities[i], nil
}

// writeAll makes the updates of a batch and returns the error of each.
func (p *Personality) writeAll(to *program, updates []*p4v1.Update) (errs []error, failed bool) {
	errs = make([]error, len(updates))
	seen := map[string]bool{}
	for i, u := range updates {
		switch {
		case failed && p.stopAtFirst:
			errs[i] = status.Error(codes.Aborted, "not tried, as an earlier update failed")
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

// repeats tells whether an update has the key of an earlier one, and adds its key to
// seen.
func (p *program) repeats(seen map[string]bool, u *p4v1.Update) bool {
	e := u.GetEntity().GetTableEntry()
	t := p.tables[e.GetTableId()]
	if e == nil || t == nil {
		return false
	}
	key, err := checkKey(t.info, e)
	if err != nil {
		return false // the update itself will fail
	}
	k := fmt.Sprintf("%d %s", t.info.ID, key)
	before := seen[k]
	seen[k] = true
	return before
}

// filter returns an entity of a Read as this personality understands it.
func (p *Personality) filter(e *p4v1.Entity) *p4v1.Entity {
	if f := e.GetTableEntry(); p.anyPriority && f.GetPriority() != 0 && len(f.GetMatch()) == 0 {
		e = proto.CloneOf(e)
		e.GetTableEntry().Priority = 0
	}
	return e
}

// chunk is how many of all entities one response of a Read holds.
func (p *Personality) chunk(all int) int {
	if p.oneResponse {
		return all
	}
	return readChunk
}
