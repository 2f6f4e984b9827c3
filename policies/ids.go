package policies

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/schema"
)

// Space is a range of numbers on a switch that names are given numbers from.
type Space uint8

// The spaces of a switch and how many numbers each has (0 is never given).
const (
	SpaceVIP     Space = iota + 1 // one a gateway, 8 bits; its hash profile has the same number
	SpacePool                     // one a version and one a blend of a gateway, 8 bits
	SpaceBackend                  // one a backend of a version: as many as the table holds
)

// size is the first number past the space.
func (s Space) size() uint32 {
	if s == SpaceBackend {
		return 4097
	}
	return 256
}

// idKey is a name on one switch.
type idKey struct {
	Switch string
	Space  Space
	Key    string
}

// IDs is which number each name has on each switch. A number stays with its
// name for as long as the name is there, over commits and restarts, and is not
// given to another name in the commit that frees it: so no entry ever changes
// its meaning under live traffic. It is part of a compilation's input, like
// the progress of a rollout.
type IDs struct {
	byName  map[idKey]uint32
	slots   map[slot]string
	changes int
}

type slot struct {
	Switch string
	Space  Space
	ID     uint32
}

// NewIDs returns an empty table.
func NewIDs() *IDs {
	return &IDs{byName: map[idKey]uint32{}, slots: map[slot]string{}}
}

// Clone returns an independent copy.
func (ids *IDs) Clone() *IDs {
	return &IDs{byName: maps.Clone(ids.byName), slots: maps.Clone(ids.slots)}
}

func (ids *IDs) get(switchName string, space Space, key string) uint32 {
	return ids.byName[idKey{switchName, space, key}]
}

// Assign gives the name a number, the one it has or the first free one from
// where its hash points; false where the space is full.
func (ids *IDs) Assign(switchName string, space Space, key string) bool {
	k := idKey{switchName, space, key}
	if ids.byName[k] != 0 {
		return true
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	n := space.size() - 1
	for i := range n {
		s := slot{switchName, space, (h.Sum32()+i)%n + 1}
		if _, used := ids.slots[s]; !used {
			ids.slots[s] = key
			ids.byName[k] = s.ID
			ids.changes++
			return true
		}
	}
	return false
}

func (ids *IDs) release(switchName string, space Space, key string) {
	k := idKey{switchName, space, key}
	if id := ids.byName[k]; id != 0 {
		ids.changes++
		delete(ids.byName, k)
		delete(ids.slots, slot{switchName, space, id})
	}
}

// idRecord is one number in its stored form.
type idRecord struct {
	Switch string
	Space  Space
	Key    string
	ID     uint32
}

// MarshalJSON gives the stored form, in no particular order.
func (ids *IDs) MarshalJSON() ([]byte, error) {
	records := make([]idRecord, 0, len(ids.byName))
	for k, id := range ids.byName {
		records = append(records, idRecord{k.Switch, k.Space, k.Key, id})
	}
	return json.Marshal(records)
}

// UnmarshalJSON reads the stored form. A table in which two names share a number
// is refused.
func (ids *IDs) UnmarshalJSON(b []byte) error {
	var records []idRecord
	if err := json.Unmarshal(b, &records); err != nil {
		return err
	}
	*ids = *NewIDs()
	for _, r := range records {
		s := slot{r.Switch, r.Space, r.ID}
		if other, taken := ids.slots[s]; taken || r.ID == 0 || r.ID >= r.Space.size() {
			return fmt.Errorf("number %d of switch %s stands for both %q and %q, or is out of range", r.ID, r.Switch, other, r.Key)
		}
		ids.slots[s] = r.Key
		ids.byName[idKey{r.Switch, r.Space, r.Key}] = r.ID
	}
	return nil
}

// numbering is what a compiler knows about the numbers that it gives.
type numbering struct {
	wanted  map[Name][]idKey // names of gateways and blends that may have none yet
	named   map[idKey]bool   // names that the documents have
	fresh   map[idKey]bool   // those that no good commit had
	freed   map[idKey]bool   // those that have gone since the last good commit
	settled bool             // a commit was good
}

func newNumbering() numbering {
	return numbering{wanted: map[Name][]idKey{}, named: map[idKey]bool{}, fresh: map[idKey]bool{}, freed: map[idKey]bool{}}
}

// wantIDs notes that the names of a unit have gone from was to now. The number
// of a name that goes stays its own until a commit without it is good.
func (c *Compiler) wantIDs(n Name, was, now []idKey) {
	stays := map[idKey]bool{}
	for _, k := range now {
		stays[k] = true
	}
	for _, k := range was {
		switch {
		case stays[k]:
			continue
		case c.num.fresh[k]:
			c.ids.release(k.Switch, k.Space, k.Key)
			delete(c.num.fresh, k)
		default:
			c.num.freed[k] = true
		}
		delete(c.num.named, k)
	}
	delete(c.errs, n)
	if c.num.wanted[n] = now; now == nil {
		delete(c.num.wanted, n)
	}
}

// number gives numbers to all names that want one. A name that finds none left
// is tried again at every commit.
func (c *Compiler) number() {
	for _, n := range slices.SortedFunc(maps.Keys(c.num.wanted), compareNames) {
		delete(c.errs, n)
		i := slices.IndexFunc(c.num.wanted[n], func(k idKey) bool { return !c.assign(k) })
		if i < 0 {
			delete(c.num.wanted, n)
			continue
		}
		k, at := c.num.wanted[n][i], c.ir.Gateway(n.Name).Origin
		if b, ok := c.ir.Get(n).(*packets.Blend); ok {
			at = b.Origin
		}
		err := &schema.Error{Position: at, Err: fmt.Errorf("switch %q has no number left for %s; use fewer gateways, versions, percentages or backends on it", k.Switch, k.Key)}
		c.errs[n] = []unitError{{n.String(), err}}
	}
}

func (c *Compiler) assign(k idKey) bool {
	delete(c.num.freed, k)
	if c.ids.byName[k] == 0 {
		if !c.ids.Assign(k.Switch, k.Space, k.Key) {
			return false
		}
		c.num.fresh[k] = true
	}
	c.num.named[k] = true
	return true
}

// settleIDs is called when a commit is good: what is gone with it gives its
// numbers back, for the next commit to give away. So does what an earlier
// process has left and no document claims.
func (c *Compiler) settleIDs() {
	if !c.num.settled {
		for k := range c.ids.byName {
			if !c.num.named[k] {
				c.num.freed[k] = true
			}
		}
		c.num.settled = true
	}
	for k := range c.num.freed {
		c.ids.release(k.Switch, k.Space, k.Key)
	}
	clear(c.num.freed)
	clear(c.num.fresh)
}
