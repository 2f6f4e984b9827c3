package etcd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gray-release/gray/etcdclient"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/stores/bolt"
	"github.com/gray-release/gray/stores/etcd"
	"github.com/gray-release/gray/tools/etcdtest"
)

const patience = 30 * time.Second

func TestMain(m *testing.M) {
	etcdtest.Main()
	os.Exit(m.Run())
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lease is short, and still long enough for a machine with much to do.
const lease = 3 * time.Second

// replica is one of several on an etcd.
type replica struct {
	*etcd.Replica
	t    *testing.T
	led  chan *etcd.Lead // when elected
	end  chan error      // ends the lead with an error
	lost chan *etcd.Lead // when the lead has ended
	stop context.CancelFunc
	done chan struct{}
}

// newReplica runs a replica that reaches the etcd by its URL, or by others.
func newReplica(t *testing.T, server *etcdtest.Server, name string, members ...string) *replica {
	t.Helper()
	return newLeased(t, server, name, lease, members...)
}

// newLeased runs a replica with a lease of its own.
func newLeased(t *testing.T, server *etcdtest.Server, name string, lease time.Duration, members ...string) *replica {
	t.Helper()
	if members == nil {
		members = []string{server.URL}
	}
	r := &replica{
		Replica: etcd.NewReplica(etcd.ReplicaConfig{
			Config: etcdclient.Config{Members: members, Log: slog.New(slog.DiscardHandler)},
			Prefix: "/gray/test", Name: name, Lease: lease,
		}),
		t: t, led: make(chan *etcd.Lead, 1), end: make(chan error), lost: make(chan *etcd.Lead, 1), done: make(chan struct{}),
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.stop = cancel
	go func() {
		defer close(r.done)
		r.Run(ctx, func(ctx context.Context) { <-ctx.Done() }, func(l *etcd.Lead) (err error) {
			give(ctx, r.led, l)
			select {
			case <-l.Context().Done():
			case err = <-r.end:
			}
			give(ctx, r.lost, l)
			return err
		})
	}()
	t.Cleanup(func() { cancel(); <-r.done })
	return r
}

// give hands a lead on, or drops it where the test ends: a replica may lead more often
// than its test looks.
func give(ctx context.Context, c chan<- *etcd.Lead, l *etcd.Lead) {
	select {
	case c <- l:
	case <-ctx.Done():
	}
}

// leads waits until the replica is elected.
func (r *replica) leads() *etcd.Lead {
	r.t.Helper()
	return wait(r.t, r.led, "leads")
}

func wait[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("nobody %s", what)
		panic("unreachable")
	}
}

func storeOf(t *testing.T, l *etcd.Lead) *reconciler.Store {
	t.Helper()
	s, err := l.Store()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func load(t *testing.T, s *reconciler.Store, bucket string) map[string]string {
	t.Helper()
	all, last := map[string]string{}, ""
	err := s.Load(bucket, func(k string, v []byte) error {
		if len(all) > 0 && k <= last {
			t.Errorf("%q comes after %q", k, last)
		}
		last = k
		all[k] = string(v)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestStores holds both stores to one contract.
func TestStores(t *testing.T) {
	t.Run("file", func(t *testing.T) {
		state := "file:" + filepath.Join(t.TempDir(), "state.db")
		conform(t, func(t *testing.T) (*reconciler.Store, func()) {
			s, err := bolt.Open(state)
			if err != nil {
				t.Fatal(err)
			}
			return s, func() { _ = s.Close() }
		})
	})
	t.Run("etcd", func(t *testing.T) {
		server := etcdtest.New(t)
		server.Start()
		conform(t, func(t *testing.T) (*reconciler.Store, func()) {
			r := newReplica(t, server, "one")
			return storeOf(t, r.leads()), func() { r.stop(); <-r.done }
		})
	})
}

// conform checks a store that open opens again and again, each time as another
// process would.
func conform(t *testing.T, open func(*testing.T) (*reconciler.Store, func())) {
	s, closeStore := open(t)
	write := func(bucket string, put map[string][]byte, remove ...string) {
		t.Helper()
		if err := s.Write(bucket, put, remove); err != nil {
			t.Fatal(err)
		}
	}
	odd := "a/b%2F \x00\xff ä"
	write("b/1", map[string][]byte{"x": []byte("1"), "y": []byte("2"), "z": nil, odd: []byte("odd"), "a": []byte("a")})
	write("b/1", map[string][]byte{"y": []byte("3"), "a": []byte("both")}, "x", "missing", "a")
	write("b", map[string][]byte{"y": []byte("another bucket")})
	if err := s.Write("b", map[string][]byte{"y": []byte("no"), "": []byte("no name")}, []string{"y"}); err == nil {
		t.Error("a record without a key was written")
	}
	// More than etcd takes in one transaction, by size and by number.
	large := bytes.Repeat([]byte("0123456789abcdef"), 200<<10)
	many := map[string][]byte{"large": large}
	for i := range 1000 {
		many[fmt.Sprintf("k%04d", i)] = fmt.Append(nil, i)
	}
	write("many", many, "missing")
	write("many", map[string][]byte{"large": []byte("small")}, "k0000")
	write("many", map[string][]byte{"large": large[:1<<20]}, slices.Sorted(maps.Keys(many))[:500]...)
	left := load(t, s, "many")
	if len(left["large"]) != 1<<20 || left["large"] != string(large[:1<<20]) || len(left) != 501 {
		t.Errorf("%d records are left, the large one has %d bytes", len(left), len(left["large"]))
	}
	wrong := errors.New("stop")
	if err := s.Load("b", func(string, []byte) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("the caller's error becomes %v", err)
	}
	now, last := time.Unix(1_800_000_000, 0), uint64(0)
	for _, at := range []time.Time{now, now, now.Add(-time.Hour), now.Add(time.Minute)} {
		epoch, err := s.NextEpoch(at, 0)
		if err != nil || epoch <= last || epoch < uint64(at.Unix()) {
			t.Errorf("at %s the epoch is %d after %d (%v)", at, epoch, last, err)
		}
		last = epoch
		closeStore()
		s, closeStore = open(t)
	}
	defer closeStore()
	if got, want := load(t, s, "b/1"), map[string]string{"y": "3", "z": "", odd: "odd", "a": "both"}; !maps.Equal(got, want) {
		t.Errorf("after it was opened again it holds %q, want %q", got, want)
	}
	if got, want := load(t, s, "b"), map[string]string{"y": "another bucket"}; !maps.Equal(got, want) {
		t.Errorf("another bucket holds %q, want %q", got, want)
	}
	if got := load(t, s, "many"); !maps.Equal(got, left) {
		t.Errorf("of many records %d came back, want %d", len(got), len(left))
	}
	if got := load(t, s, "other"); len(got) > 0 {
		t.Errorf("a bucket that nobody wrote holds %q", got)
	}
}

// TestStoreHoldsNoMoreThanCounts looks at the keys themselves: nothing is left of what
// was replaced or removed.
func TestStoreHoldsNoMoreThanCounts(t *testing.T) {
	server := etcdtest.New(t)
	server.Start()
	s := storeOf(t, newReplica(t, server, "one").leads())
	large := make([]byte, 3<<20)
	for _, put := range []map[string][]byte{{"x": large, "y": large}, {"x": []byte("1"), "z": []byte("2")}, {"x": []byte("3")}} {
		if err := s.Write("b", put, []string{"y"}); err != nil {
			t.Fatal(err)
		}
	}
	if keys := below(t, server, "/gray/test/data/"); len(keys) != 2 {
		t.Errorf("two records are under %q", keys)
	}
}

// below lists what is in etcd.
func below(t *testing.T, server *etcdtest.Server, prefix string) []string {
	t.Helper()
	res, err := server.Client().Get(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, kv := range res.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys
}

// TestABrokenWriteIsNone leaves a Write of several transactions at each of its steps,
// as a leader that is killed does: before the commit nothing of it counts, whatever is
// written later, after it all, and the next leader tidies.
func TestABrokenWriteIsNone(t *testing.T) {
	server := etcdtest.New(t)
	server.Start()
	client := server.Client()
	r := newReplica(t, server, "one")
	s := storeOf(t, r.leads())
	if err := s.Write("b", map[string][]byte{"x": []byte("old"), "y": []byte("old")}, nil); err != nil {
		t.Fatal(err)
	}
	committed := func() string {
		res, err := client.Get(t.Context(), "/gray/test/committed")
		if err != nil || len(res.Kvs) != 1 {
			t.Fatalf("%v, %v", res, err)
		}
		return string(res.Kvs[0].Value)
	}
	next := func() string { // the number of the next Write
		var n uint64
		if _, err := fmt.Sscanf(committed(), "%x", &n); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%016x", n+1)
	}
	put := func(key, value string) {
		if _, err := client.Put(t.Context(), "/gray/test/"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	again := func() {
		r.end <- errors.New("killed")
		wait(t, r.lost, "ends")
		s = storeOf(t, r.leads())
	}
	want := map[string]string{"x": "old", "y": "old"}
	n := next()
	put("data/b/x/"+n+"/000000", "ne")
	put("data/b/y/"+n+"/removed", "")
	if got := load(t, s, "b"); !maps.Equal(got, want) {
		t.Errorf("before the commit it holds %q", got)
	}
	again()
	if err := s.Write("c", map[string][]byte{"z": nil}, nil); err != nil { // it has the number that the broken one had
		t.Fatal(err)
	}
	if got := load(t, s, "b"); !maps.Equal(got, want) || committed() != n {
		t.Errorf("after another write it holds %q, committed %s", got, committed())
	}
	n = next()
	put("data/b/x/"+n+"/000000", "ne")
	put("data/b/x/"+n+"/000001", "w")
	put("data/b/y/"+n+"/removed", "")
	put("committed", n)
	want = map[string]string{"x": "new"}
	if got := load(t, s, "b"); !maps.Equal(got, want) {
		t.Errorf("after the commit it holds %q", got)
	}
	again()
	if got := load(t, s, "b"); !maps.Equal(got, want) {
		t.Errorf("after it was tidied it holds %q", got)
	}
	if keys := below(t, server, "/gray/test/data/b/"); len(keys) != 2 {
		t.Errorf("a record of two pieces is under %q", keys)
	}
}

// TestStoreFencesAnOldLeader holds that a leader which does not know yet that its lease
// is gone cannot write any more, and that a stranger's data is not touched.
func TestStoreFencesAnOldLeader(t *testing.T) {
	server := etcdtest.New(t)
	server.Start()
	client := server.Client()
	one := newReplica(t, server, "one")
	old := storeOf(t, one.leads())
	if err := old.Write("b", map[string][]byte{"x": []byte("1")}, nil); err != nil {
		t.Fatal(err)
	}
	keys := below(t, server, "/gray/test/leader/")
	if len(keys) != 1 {
		t.Fatalf("the leader is under %q", keys)
	}
	if _, err := client.Delete(t.Context(), keys[0]); err != nil { // what the end of a lease does
		t.Fatal(err)
	}
	large := make([]byte, 2<<20)
	for _, value := range [][]byte{[]byte("2"), large} {
		if err := old.Write("b", map[string][]byte{"x": value}, nil); !errors.Is(err, etcd.ErrNotLeader) {
			t.Errorf("without its key the leader writes %d bytes: %v", len(value), err)
		}
	}
	two := newReplica(t, server, "two")
	s := storeOf(t, two.leads())
	if err := s.Write("b", map[string][]byte{"x": []byte("3")}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := old.NextEpoch(time.Now(), 0); !errors.Is(err, etcd.ErrNotLeader) {
		t.Errorf("the old leader takes an epoch: %v", err)
	}
	if got := load(t, s, "b"); got["x"] != "3" {
		t.Errorf("it holds %q", got)
	}
	if _, err := client.Put(t.Context(), "/gray/test/version", "99"); err != nil {
		t.Fatal(err)
	}
	two.end <- errors.New("restarted")
	wait(t, two.lost, "ends")
	var next *etcd.Lead // either of them: the first stood for election again
	select {
	case next = <-one.led:
	case next = <-two.led:
	case <-time.After(patience):
		t.Fatal("nobody leads")
	}
	if _, err := next.Store(); err == nil || !strings.Contains(err.Error(), `has layout "99", this gray reads "1"`) {
		t.Errorf("another layout gives %v", err)
	}
}
