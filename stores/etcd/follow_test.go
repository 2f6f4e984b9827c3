package etcd_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gray-release/gray/etcdclient"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/stores/etcd"
	"github.com/gray-release/gray/tools/etcdtest"
)

// follower is a replica that follows the rollouts and never leads.
type follower struct {
	t    *testing.T
	told chan map[string]string // every call, in order
	said chan string            // every line of the log
}

// follow runs one that looks after etcd so often, and reaches it by its URL or another.
func follow(t *testing.T, pulse time.Duration, url string) *follower {
	t.Helper()
	f := &follower{t: t, told: make(chan map[string]string, 1000), said: make(chan string, 1000)}
	r := etcd.NewReplica(etcd.ReplicaConfig{
		Config: etcdclient.Config{Members: []string{url}, Pulse: pulse, Log: slog.New(slog.NewTextHandler(f, nil))},
		Prefix: "/gray/test", Name: "follower", Lease: lease,
	})
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		r.Follow(ctx, "rollouts", "state/", func(records map[string][]byte) {
			told := map[string]string{}
			for k, v := range records {
				told[k] = string(v)
			}
			f.told <- told
		})
	})
	t.Cleanup(func() { cancel(); done.Wait() })
	return f
}

func (f *follower) Write(line []byte) (int, error) {
	f.said <- string(line)
	return len(line), nil
}

// next wants the next call to be with these records.
func (f *follower) next(want map[string]string) {
	f.t.Helper()
	if got := wait(f.t, f.told, "tells of the records"); !maps.Equal(got, want) {
		f.t.Fatalf("the follower knows %.200q, want %.200q", got, want)
	}
}

// logs waits for a line of the log.
func (f *follower) logs(want string) {
	f.t.Helper()
	for !strings.Contains(wait(f.t, f.said, "logs "+want), want) {
	}
}

// quiet wants that there was no call.
func (f *follower) quiet(when string) {
	f.t.Helper()
	select {
	case got := <-f.told:
		f.t.Errorf("%s the follower is told of %.200q", when, got)
	default:
	}
}

func write(t *testing.T, s *reconciler.Store, bucket string, put map[string]string, remove ...string) {
	t.Helper()
	values := map[string][]byte{}
	for k, v := range put {
		values[k] = []byte(v)
	}
	if err := s.Write(bucket, values, remove); err != nil {
		t.Fatal(err)
	}
}

// steady is a lease that no load of the machine takes away.
const steady = time.Minute

// onlyWatch is a pulse that does not come.
const onlyWatch = time.Hour

// TestFollow has a follower know what the leaders store, by the watch alone, by the
// pulse alone, and by both: at first, when it changes, when it goes, and from one
// leader to the next. Of other records it hears nothing.
func TestFollow(t *testing.T) {
	server := etcdtest.New(t)
	server.Start()
	early := follow(t, onlyWatch, server.URL)
	early.next(map[string]string{}) // nothing is stored yet
	one := newLeased(t, server, "one", steady)
	s := storeOf(t, one.leads())
	write(t, s, "rollouts", map[string]string{"state/a": "1", "state/ä/%2F": "odd", "audit/1": "no", "stat": "no", "state": "no"})
	early.next(map[string]string{"state/a": "1", "state/ä/%2F": "odd"})
	late := follow(t, 50*time.Millisecond, server.URL)
	late.next(map[string]string{"state/a": "1", "state/ä/%2F": "odd"})
	both := []*follower{early, late}
	write(t, s, "rollouts", map[string]string{"audit/2": "no"})
	write(t, s, "other", map[string]string{"state/a": "no"})
	write(t, s, "rollouts", map[string]string{"state/a": "1"}) // as it was
	write(t, s, "rollouts", map[string]string{"state/b": "", "audit/3": "no"}, "state/ä/%2F", "audit/1")
	for _, f := range both {
		f.next(map[string]string{"state/a": "1", "state/b": ""})
	}
	two := newLeased(t, server, "two", steady)
	one.stop()
	<-one.done
	s = storeOf(t, two.leads())
	write(t, s, "rollouts", nil, "state/b", "state/a")
	for _, f := range both {
		f.next(map[string]string{})
	}
	write(t, s, "rollouts", map[string]string{"state/c": "3"})
	for _, f := range both {
		f.next(map[string]string{"state/c": "3"})
	}
}

// TestFollowTellsWholeWrites writes again and again what needs many transactions,
// which are tidied while followers read: all records that they are told of are of one
// Write. One that was left unfinished does not count.
func TestFollowTellsWholeWrites(t *testing.T) {
	server := etcdtest.New(t)
	server.Start()
	s := storeOf(t, newLeased(t, server, "one", steady).leads())
	followers := []*follower{follow(t, onlyWatch, server.URL), follow(t, time.Millisecond, server.URL)}
	for _, f := range followers {
		f.next(map[string]string{})
	}
	const rounds, records = 8, 300
	last := map[string]string{}
	for round := range rounds {
		large := bytes.Repeat(fmt.Appendf(nil, "%04d", round), 100<<10)
		for i := range records {
			last[fmt.Sprintf("state/%03d", i)] = fmt.Sprintf("%04d", round)
		}
		last["state/large"] = string(large)
		var gone []string
		if round%2 == 1 { // and a record that comes and goes with them
			delete(last, "state/even")
			gone = append(gone, "state/even")
		} else {
			last["state/even"] = fmt.Sprintf("%04d", round)
		}
		write(t, s, "rollouts", last, gone...)
	}
	for _, f := range followers {
		seen := 0
		for got := map[string]string(nil); !maps.Equal(got, last); seen++ {
			got = wait(t, f.told, "tells of the last Write")
			round := got["state/000"]
			even := "even"
			if _, has := got["state/even"]; !has {
				even = "odd"
			}
			if want := []string{"even", "odd"}[(round[3]-'0')%2]; even != want {
				t.Fatalf("in round %s the record of even ones says %s", round, even)
			}
			if len(got["state/large"]) != 400<<10 {
				t.Fatalf("the large record has %d bytes", len(got["state/large"]))
			}
			for k, v := range got {
				if v[:4] != round || v[len(v)-4:] != round {
					t.Fatalf("%s is of round %s, others of %s", k, v[:4], round)
				}
			}
		}
		t.Logf("%d of %d Writes were told", seen, rounds)
	}
	client := server.Client()
	put := func(key, value string) {
		if _, err := client.Put(t.Context(), "/gray/test/"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	n := fmt.Sprintf("%016x", rounds+1)
	put("data/rollouts/state%2F000/"+n+"/000000", "half")
	put("data/rollouts/state%2F001/"+n+"/removed", "")
	follow(t, onlyWatch, server.URL).next(last)
	put("committed", n)
	last["state/000"] = "half"
	delete(last, "state/001")
	for _, f := range followers {
		f.next(last)
	}
}

// TestFollowReadsOneRevision writes without a pause while a follower reads page by page:
// what is replaced and tidied before it comes to it is there all the same.
func TestFollowReadsOneRevision(t *testing.T) {
	server := etcdtest.New(t)
	server.Start()
	s := storeOf(t, newLeased(t, server, "one", steady).leads())
	many := map[string]string{"state/z": "first"}
	for i := range 500 {
		many[fmt.Sprintf("state/%03d", i)] = "stays"
	}
	write(t, s, "rollouts", many)
	f := follow(t, time.Millisecond, server.URL)
	f.next(many)
	for reads, n := 0, 0; reads < 5; n++ {
		write(t, s, "rollouts", map[string]string{"state/z": fmt.Sprint(n)})
		select {
		case got := <-f.told:
			if reads++; len(got) != len(many) {
				t.Fatalf("of %d records the follower was told of %d", len(many), len(got))
			}
		default:
		}
	}
}

// TestFollowReadsNoAudit holds that a change costs what follows, not what else lies in
// the bucket.
func TestFollowReadsNoAudit(t *testing.T) {
	server := etcdtest.New(t)
	server.Start()
	s := storeOf(t, newLeased(t, server, "one", steady).leads())
	audit := map[string]string{}
	for i := range 100 {
		audit[fmt.Sprintf("audit/%03d", i)] = strings.Repeat("a", 10<<10)
	}
	write(t, s, "rollouts", audit)
	w := newWire(t, strings.TrimPrefix(server.URL, "http://"))
	f := follow(t, onlyWatch, "http://"+w.address)
	f.next(map[string]string{})
	for i := range 10 {
		value := fmt.Sprint(i)
		write(t, s, "rollouts", map[string]string{"state/a": value, "audit/000": strings.Repeat(value, 10<<10)})
		f.next(map[string]string{"state/a": value})
	}
	if n := w.passed.Load(); n > 50<<10 {
		t.Errorf("the follower read %d bytes for 10 changes of one", n)
	}
}

// TestFollowAfterCompaction compacts what a watch missed: etcd is moved away with its
// data, changed, compacted, and moved back.
func TestFollowAfterCompaction(t *testing.T) {
	t.Parallel()
	server := etcdtest.New(t)
	server.Start()
	one := newReplica(t, server, "one")
	write(t, storeOf(t, one.leads()), "rollouts", map[string]string{"state/a": "1"})
	f := follow(t, onlyWatch, server.URL)
	f.next(map[string]string{"state/a": "1"})
	one.stop()
	<-one.done
	server.Kill()
	moved := server.Moved()
	moved.Start()
	other := newReplica(t, moved, "other")
	write(t, storeOf(t, other.leads()), "rollouts", map[string]string{"state/a": "2"})
	client := moved.Client()
	res, err := client.Put(t.Context(), "later", "")
	ok(t, err)
	_, err = client.Compact(t.Context(), res.Header.GetRevision(), clientv3.WithCompactPhysical())
	ok(t, err)
	other.stop()
	<-other.done
	moved.Kill()
	server.Start()
	f.logs("required revision has been compacted")
	f.next(map[string]string{"state/a": "2"})
	write(t, storeOf(t, newReplica(t, server, "one").leads()), "rollouts", map[string]string{"state/a": "3"})
	f.next(map[string]string{"state/a": "3"})
}

// TestFollowWithoutEtcd holds that what was read last stays while etcd is away, frozen
// or emptied, and that one which starts then waits for it.
func TestFollowWithoutEtcd(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]func(*etcdtest.Server) (back func()){
		"killed": func(s *etcdtest.Server) func() { s.Kill(); return s.Start },
		"frozen": func(s *etcdtest.Server) func() { s.Freeze(); return s.Thaw },
		"wiped":  func(s *etcdtest.Server) func() { s.Kill(); s.Wipe(); return s.Start },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := etcdtest.New(t)
			server.Start()
			one := newReplica(t, server, "one")
			write(t, storeOf(t, one.leads()), "rollouts", map[string]string{"state/a": "1", "state/b": "2"})
			f := follow(t, 50*time.Millisecond, server.URL)
			f.next(map[string]string{"state/a": "1", "state/b": "2"})
			back := away(server)
			f.logs("what was read last stays")
			wait(t, one.lost, "ends")
			late := follow(t, 50*time.Millisecond, server.URL)
			late.logs("cannot read the leader's records")
			late.quiet("without etcd")
			back()
			f.logs("can be read again")
			f.quiet("with etcd back")
			if name == "wiped" {
				late.next(map[string]string{}) // it never knew of anything
			} else {
				late.next(map[string]string{"state/a": "1", "state/b": "2"})
			}
			write(t, storeOf(t, one.leads()), "rollouts", map[string]string{"state/a": "3"}, "state/b")
			f.next(map[string]string{"state/a": "3"})
			late.next(map[string]string{"state/a": "3"})
		})
	}
}

// TestFollowSeesThatEtcdIsAnother has etcd come back without its data between two
// pulses, where a watch waits until it has come as far as the old one.
func TestFollowSeesThatEtcdIsAnother(t *testing.T) {
	t.Parallel()
	server := etcdtest.New(t)
	server.Start()
	client := server.Client()
	for range 200 {
		_, err := client.Put(t.Context(), "history", "")
		ok(t, err)
	}
	one := newReplica(t, server, "one")
	write(t, storeOf(t, one.leads()), "rollouts", map[string]string{"state/a": "1"})
	f := follow(t, 2*time.Second, server.URL)
	f.next(map[string]string{"state/a": "1"})
	server.Kill()
	server.Wipe()
	server.Start()
	write(t, storeOf(t, func() *etcd.Lead { wait(t, one.lost, "ends"); return one.leads() }()), "rollouts", map[string]string{"state/a": "2"})
	f.next(map[string]string{"state/a": "2"})
}

// TestFollowKeepsWhatIsTakenAway empties etcd while it runs: that nothing is stored
// counts when a leader has begun anew.
func TestFollowKeepsWhatIsTakenAway(t *testing.T) {
	server := etcdtest.New(t)
	server.Start()
	one := newReplica(t, server, "one")
	write(t, storeOf(t, one.leads()), "rollouts", map[string]string{"state/a": "1"})
	f := follow(t, time.Millisecond, server.URL)
	f.next(map[string]string{"state/a": "1"})
	_, err := server.Client().Delete(t.Context(), "/gray/test/", clientv3.WithPrefix())
	ok(t, err)
	wait(t, one.lost, "ends")
	s := storeOf(t, one.leads())
	f.quiet("of an empty etcd")
	write(t, s, "other", map[string]string{"x": ""})
	f.next(map[string]string{})
}

// TestFollowRefusesAnotherLayout leaves what is known where a later gray has written.
func TestFollowRefusesAnotherLayout(t *testing.T) {
	server := etcdtest.New(t)
	server.Start()
	s := storeOf(t, newLeased(t, server, "one", steady).leads())
	write(t, s, "rollouts", map[string]string{"state/a": "1"})
	f := follow(t, onlyWatch, server.URL)
	f.next(map[string]string{"state/a": "1"})
	_, err := server.Client().Put(t.Context(), "/gray/test/version", "99")
	ok(t, err)
	write(t, s, "rollouts", map[string]string{"state/a": "2"})
	f.logs(`has layout \"99\", this gray reads \"1\"`)
	f.quiet("of another layout")
	_, err = server.Client().Put(t.Context(), "/gray/test/version", "1")
	ok(t, err)
	f.next(map[string]string{"state/a": "2"})
}
