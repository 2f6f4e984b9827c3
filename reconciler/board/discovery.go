package board

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/gray-release/gray/policies/requests"
)

// bucketEtcd is the bucket of what was found in etcd, by target.
const bucketEtcd = "etcd"

// Discovery is the board between the loop and whoever looks endpoints up in etcd:
// the loop writes on it which targets are wanted, the source what it found there.
// Neither waits for the other. What was found stays while etcd is away, also over a
// restart, and until no document names the target any more.
type Discovery struct {
	store *Records

	*Board[Wanted]
	number int
	found  map[string]Found
	wrong  map[string]Trouble // with single targets
	away   Trouble            // with all of them
	looked map[string]bool    // targets that this process has heard of, good or bad
}

// Records are where what has to outlive the process is kept, in buckets.
type Records struct {
	// Load calls f for every record of a bucket, sorted by key. The value is only
	// valid during the call.
	Load func(bucket string, f func(key string, value []byte) error) error
	// Write puts and removes records of a bucket, all of them or none; a key in both
	// is put. What it wrote is safe when it returns nil. A key is not empty.
	Write func(bucket string, put map[string][]byte, remove []string) error
}

// Found is what is registered under a target.
type Found struct {
	Endpoints []requests.Endpoint `json:"endpoints"` // sorted by address and port, each once; not changed any more
	Cluster   uint64              `json:"cluster"`   // of etcd, by which and by the revision its history is known again
	Revision  int64               `json:"revision"`
	Passing   bool                `json:"-"` // a later process is to start from what was found before
	Trouble   Trouble             `json:"-"` // with it
}

// Trouble is something that is wrong with endpoints; zero: nothing is.
type Trouble struct {
	Reason  string // CamelCase
	Message string // one line
}

// NewDiscovery returns a board with what the store holds; a nil store holds
// nothing, and keeps nothing.
func NewDiscovery(store *Records) (*Discovery, error) {
	d := &Discovery{
		Board: newBoard[Wanted](), store: store, found: map[string]Found{}, wrong: map[string]Trouble{}, looked: map[string]bool{},
	}
	if store == nil {
		return d, nil
	}
	err := store.Load(bucketEtcd, func(target string, v []byte) error {
		var f Found
		err := json.Unmarshal(v, &f)
		d.found[target] = f
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("the endpoints in the --state file cannot be read: %w", err)
	}
	return d, nil
}

// Wanted is a target to look at. One that was not wanted in between has another
// number: what was found there is forgotten.
type Wanted struct {
	Target string
	number int
}

// Known is what was found under a target last; false where that was never looked
// at.
func (d *Discovery) Known(target string) (Found, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, ok := d.found[target]
	return f, ok
}

// Report says what is registered under a target. An error says that it will not
// outlive the process.
func (d *Discovery) Report(w Wanted, f Found) error {
	if !d.take(w, f) || d.store == nil || f.Passing {
		return nil
	}
	b, err := json.Marshal(f)
	if err == nil {
		err = d.store.Write(bucketEtcd, map[string][]byte{w.Target: b}, nil)
	}
	if err != nil {
		return fmt.Errorf("cannot write the --state file: %w", err)
	}
	return nil
}

// take notes what was found and tells whether that is news for the store.
func (d *Discovery) take(w Wanted, f Found) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.wants(w) { // it was on its way when the last document with it went
		return false
	}
	was, known := d.found[w.Target]
	same := known && slices.Equal(was.Endpoints, f.Endpoints)
	d.found[w.Target] = f
	d.say(w.Target, f.Trouble, !same)
	return !same || was.Passing || was.Cluster != f.Cluster
}

// Fail says that a target cannot be looked at. What was found there stays.
func (d *Discovery) Fail(w Wanted, t Trouble) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wants(w) {
		d.say(w.Target, t, false)
	}
}

// say notes how a target stands and wakes the loop where that is news.
func (d *Discovery) say(target string, t Trouble, news bool) {
	if news || !d.looked[target] || d.wrong[target] != t {
		d.news()
	}
	d.looked[target] = true
	if d.wrong[target] = t; t == (Trouble{}) {
		delete(d.wrong, target)
	}
}

// Away says that no target at all can be looked at, or with the zero Trouble that
// they can again. What was found stays. It tells whether that is news.
func (d *Discovery) Away(t Trouble) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.away == t {
		return false
	}
	d.away = t
	d.news()
	return true
}

// Woken gets a value when there is news for the loop; never of a nil board.
func (d *Discovery) Woken() <-chan struct{} {
	if d == nil {
		return nil
	}
	return d.Board.Woken()
}

// Want replaces the targets to look at, which are sorted. What was found under
// others is forgotten.
func (d *Discovery) Want(targets []string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.EqualFunc(d.wanted, targets, func(w Wanted, target string) bool { return w.Target == target }) {
		numbers := make(map[string]int, len(d.wanted))
		for _, w := range d.wanted {
			numbers[w.Target] = w.number
		}
		var wanted []Wanted
		for _, target := range targets {
			n, still := numbers[target]
			if !still {
				d.number++
				n = d.number
			}
			wanted = append(wanted, Wanted{target, n})
		}
		d.want(wanted)
	}
	unwanted := func(target string) bool {
		_, ok := slices.BinarySearch(targets, target)
		return !ok
	}
	var gone []string
	for target := range d.found {
		if unwanted(target) {
			gone = append(gone, target)
			delete(d.found, target)
		}
	}
	maps.DeleteFunc(d.wrong, func(target string, _ Trouble) bool { return unwanted(target) })
	maps.DeleteFunc(d.looked, func(target string, _ bool) bool { return unwanted(target) })
	if len(gone) == 0 || d.store == nil {
		return nil
	}
	return d.store.Write(bucketEtcd, nil, gone) // where this fails, the next process forgets them
}

// Endpoints is what was found, by target.
func (d *Discovery) Endpoints() map[string][]requests.Endpoint {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make(map[string][]requests.Endpoint, len(d.found))
	for target, f := range d.found {
		all[target] = f.Endpoints
	}
	return all
}

// Trouble is what is wrong with a target, the zero Trouble where nothing is.
func (d *Discovery) Trouble(target string) Trouble {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.away != (Trouble{}) {
		return d.away
	}
	return d.wrong[target]
}

// Pending tells whether a target was not looked at yet; never of a nil board.
func (d *Discovery) Pending() bool {
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.away == (Trouble{}) && slices.ContainsFunc(d.wanted, func(w Wanted) bool { return !d.looked[w.Target] })
}
