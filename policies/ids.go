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
	changed map[string]slot // by key of a record that the store has otherwise
}

type slot struct {
	Switch string
	Space  Space
	ID     uint32
}

// record is the key of a number's record in the store. It names the number and not
// the name that has it, so that no two names can be stored with one number.
func (s slot) record() string { return fmt.Sprintf("%s/%d/%d", s.Switch, s.Space, s.ID) }

// NewIDs returns an empty table.
func NewIDs() *IDs {
	return &IDs{byName: map[idKey]uint32{}, slots: map[slot]string{}, changed: map[string]slot{}}
}

// Clone returns an independent copy.
func (ids *IDs) Clone() *IDs {
	return &IDs{byName: maps.Clone(ids.byName), slots: maps.Clone(ids.slots), changed: maps.Clone(ids.changed)}
}

func (ids *IDs) get(switchName string, space Space, key string) uint32 {
	return ids.byName[idKey{switchName, space, key}]
}

// assign gives the name a number, the one it has or the first free one from
// where its hash points; false where the space is full.
func (ids *IDs) assign(switchName string, space Space, key string) bool {
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
			ids.changed[s.record()] = s
			return true
		}
	}
	return false
}

func (ids *IDs) release(switchName string, space Space, key string) {
	k := idKey{switchName, space, key}
	if id := ids.byName[k]; id != 0 {
		s := slot{switchName, space, id}
		ids.changed[s.record()] = s
		delete(ids.byName, k)
		delete(ids.slots, s)
	}
}

// idRecord is one number in its stored form, which is JSON.
type idRecord struct {
	Switch string
	Space  Space
	Key    string
	ID     uint32
}

// idTable is the key of the one record that earlier versions of gray wrote, a list of
// all numbers.
const idTable = "table"

// unsaved is what the store lacks: the records that changed since saved was called
// last, to be put and removed together.
func (ids *IDs) unsaved() (put map[string][]byte, remove []string, err error) {
	put = map[string][]byte{}
	for key, s := range ids.changed {
		name, used := ids.slots[s]
		if !used {
			remove = append(remove, key)
			continue
		}
		if put[key], err = json.Marshal(idRecord{s.Switch, s.Space, name, s.ID}); err != nil {
			return nil, nil, err
		}
	}
	return put, remove, nil
}

// saved says that the store has what unsaved returned.
func (ids *IDs) saved() { clear(ids.changed) }

// Read takes in a stored record. One that is damaged, or would give a number to two
// names or a name two numbers, is refused. The table of an earlier gray is unsaved
// afterwards, as the records that take its place.
func (ids *IDs) Read(key string, value []byte) error {
	records := make([]idRecord, 1)
	if key == idTable {
		ids.changed[key] = slot{} // has no name, so that it is removed
		if err := json.Unmarshal(value, &records); err != nil {
			return fmt.Errorf("the record %q: %w", key, err)
		}
	} else if err := json.Unmarshal(value, &records[0]); err != nil {
		return fmt.Errorf("the record %q: %w", key, err)
	}
	for _, r := range records {
		s, k := slot{r.Switch, r.Space, r.ID}, idKey{r.Switch, r.Space, r.Key}
		other, taken := ids.slots[s]
		switch {
		case r.ID == 0 || r.ID >= r.Space.size() || key != idTable && key != s.record():
			return fmt.Errorf("the record %q gives %q the number %d of switch %s, which is out of range or not the record's", key, r.Key, r.ID, r.Switch)
		case taken:
			return fmt.Errorf("the record %q gives number %d of switch %s to both %q and %q", key, r.ID, r.Switch, other, r.Key)
		case ids.byName[k] != 0:
			return fmt.Errorf("the record %q gives %q the numbers %d and %d of switch %s", key, r.Key, ids.byName[k], r.ID, r.Switch)
		case key == idTable:
			ids.changed[s.record()] = s
		}
		ids.slots[s], ids.byName[k] = r.Key, r.ID
	}
	return nil
}

// numbering is what a compiler knows about the numbers that it gives.
type numbering struct {
	ids     *IDs
	wanted  map[Name][]idKey // names of gateways and blends that may have none yet
	named   map[idKey]bool   // names that the documents have
	fresh   map[idKey]bool   // those that no good commit had
	freed   map[idKey]bool   // those that have gone since the last good commit
	settled bool             // a commit was good
}

func newNumbering(ids *IDs) numbering {
	return numbering{ids: ids, wanted: map[Name][]idKey{}, named: map[idKey]bool{}, fresh: map[idKey]bool{}, freed: map[idKey]bool{}}
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
			c.num.ids.release(k.Switch, k.Space, k.Key)
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
	for _, n := range slices.SortedFunc(maps.Keys(c.num.wanted), Name.Compare) {
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
	if c.num.ids.byName[k] == 0 {
		if !c.num.ids.assign(k.Switch, k.Space, k.Key) {
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
		for k := range c.num.ids.byName {
			if !c.num.named[k] {
				c.num.freed[k] = true
			}
		}
		c.num.settled = true
	}
	for k := range c.num.freed {
		c.num.ids.release(k.Switch, k.Space, k.Key)
	}
	clear(c.num.freed)
	clear(c.num.fresh)
}
