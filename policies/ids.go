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

// Space is a range of IDs on a switch.
type Space uint8

// The spaces of a switch. ID 0 is never assigned.
const (
	SpaceVIP     Space = iota + 1 // one per gateway, 8 bits; its hash profile has the same ID
	SpacePool                     // one per version and per blend of a gateway, 8 bits
	SpaceBackend                  // one per backend of a version, as many as the table holds
)

// size is the first ID past the space.
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

// IDs is the table of the IDs that names have on each switch. A name keeps its ID over
// commits and restarts. An ID is not assigned to another name in the commit that frees
// it, so no entry changes its meaning under live traffic. The table is an input of the
// compiler, like the facts.
type IDs struct {
	byName  map[idKey]uint32
	slots   map[slot]string
	changed map[string]slot // by key of the record: what the store does not have yet
}

type slot struct {
	Switch string
	Space  Space
	ID     uint32
}

// record is the key of an ID's record in the store. It is made of the ID and not of the
// name, so that two names cannot be stored with one ID.
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

// assign makes sure that a name has an ID. A new ID is the first free one, starting at
// the name's hash. It returns false if the space is full.
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

// idRecord is the stored form of one ID, which is JSON.
type idRecord struct {
	Switch string
	Space  Space
	Key    string
	ID     uint32
}

// idTable is the key of the single record that earlier versions of gray wrote: a list
// of all IDs.
const idTable = "table"

// unsaved returns the records that changed since the last call of saved. They must be
// put and removed together.
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

// saved tells that the store has what unsaved returned.
func (ids *IDs) saved() { clear(ids.changed) }

// Read adds a stored record. It refuses a record that is damaged, or that gives an ID
// to two names or a name two IDs. After the table of an earlier gray was read, unsaved
// returns the records that replace it.
func (ids *IDs) Read(key string, value []byte) error {
	records := make([]idRecord, 1)
	if key == idTable {
		ids.changed[key] = slot{} // without a name, so it is removed
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
			return fmt.Errorf("the record %q gives %q the ID %d on switch %s, which is out of range or not that of the record", key, r.Key, r.ID, r.Switch)
		case taken:
			return fmt.Errorf("the record %q gives ID %d on switch %s to both %q and %q", key, r.ID, r.Switch, other, r.Key)
		case ids.byName[k] != 0:
			return fmt.Errorf("the record %q gives %q the IDs %d and %d on switch %s", key, r.Key, ids.byName[k], r.ID, r.Switch)
		case key == idTable:
			ids.changed[s.record()] = s
		}
		ids.slots[s], ids.byName[k] = r.Key, r.ID
	}
	return nil
}

// idAssignment is the table of IDs and what the commit at hand does to it.
type idAssignment struct {
	table   *IDs
	wanted  map[Name][]idKey // by gateway or blend: names that may not have an ID yet
	named   map[idKey]bool   // names in the documents
	fresh   map[idKey]bool   // those that were in no good commit
	freed   map[idKey]bool   // names that were removed since the last good commit
	settled bool             // a commit was good
}

func newIDAssignment(ids *IDs) idAssignment {
	return idAssignment{table: ids, wanted: map[Name][]idKey{}, named: map[idKey]bool{}, fresh: map[idKey]bool{}, freed: map[idKey]bool{}}
}

// wantIDs changes the names of a unit from was to now. A name that is removed keeps
// its ID until a commit without it is good.
func (c *Compiler) wantIDs(n Name, was, now []idKey) {
	stays := map[idKey]bool{}
	for _, k := range now {
		stays[k] = true
	}
	for _, k := range was {
		switch {
		case stays[k]:
			continue
		case c.ids.fresh[k]:
			c.ids.table.release(k.Switch, k.Space, k.Key)
			delete(c.ids.fresh, k)
		default:
			c.ids.freed[k] = true
		}
		delete(c.ids.named, k)
	}
	delete(c.errs, n)
	if c.ids.wanted[n] = now; now == nil {
		delete(c.ids.wanted, n)
	}
}

// assignIDs assigns IDs to all names that want one. A name for which none is left is
// tried again with every commit.
func (c *Compiler) assignIDs() {
	for _, n := range slices.SortedFunc(maps.Keys(c.ids.wanted), Name.Compare) {
		delete(c.errs, n)
		i := slices.IndexFunc(c.ids.wanted[n], func(k idKey) bool { return !c.assignID(k) })
		if i < 0 {
			delete(c.ids.wanted, n)
			continue
		}
		k, at := c.ids.wanted[n][i], c.ir.Gateway(n.Name).Origin
		if b, ok := c.ir.Get(n).(*packets.Blend); ok {
			at = b.Origin
		}
		err := &schema.Error{Position: at, Err: fmt.Errorf("switch %q has no free ID for %s; use fewer gateways, versions, percentages or backends on it", k.Switch, k.Key)}
		c.errs[n] = []unitError{{n.String(), err}}
	}
}

func (c *Compiler) assignID(k idKey) bool {
	delete(c.ids.freed, k)
	if c.ids.table.byName[k] == 0 {
		if !c.ids.table.assign(k.Switch, k.Space, k.Key) {
			return false
		}
		c.ids.fresh[k] = true
	}
	c.ids.named[k] = true
	return true
}

// releaseIDs is called when a commit is good. It frees the IDs of removed names for
// the next commit, and those of an earlier process that no document uses.
func (c *Compiler) releaseIDs() {
	if !c.ids.settled {
		for k := range c.ids.table.byName {
			if !c.ids.named[k] {
				c.ids.freed[k] = true
			}
		}
		c.ids.settled = true
	}
	for k := range c.ids.freed {
		c.ids.table.release(k.Switch, k.Space, k.Key)
	}
	clear(c.ids.freed)
	clear(c.ids.fresh)
}
