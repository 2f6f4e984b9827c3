package policies

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// manyBlends is a policy a network, each with a share of its own.
func manyBlends(first, n int) string {
	var b strings.Builder
	for i := first; i < first+n; i++ {
		version, percent := []string{"v2", "v3"}[i%2], 1+i/2%99
		extra := ""
		if i >= 198 { // all shares of the two are in use: blend both
			percent, extra = 1+i%90, "---\n"+policyOf(fmt.Sprintf("q%d", i), "v2", 50, fmt.Sprintf("{networks: [n%d], percent: 99}", i))
			version = "v3"
		}
		fmt.Fprintf(&b, "%s---\n%s%s---\n", networkOf(fmt.Sprintf("n%d", i), i+1),
			"---\n"+policyOf(fmt.Sprintf("p%d", i), version, 100, fmt.Sprintf("{networks: [n%d], percent: %d}", i, percent)), extra)
	}
	return b.String()
}

func TestIDsRunOut(t *testing.T) {
	small := strings.Replace(percentGateway, "default: v1", "default: v1\n  hash: {buckets: 256}", 1)
	r := newRepo(t, switchDoc, small, manyBlends(0, 252)) // with v1, v2 and v3, 255 pools
	r.must()
	r.put("more.yaml", manyBlends(252, 1))
	_, _, err := r.commit()
	if err == nil || !strings.HasPrefix(err.Error(), "more.yaml:") || !strings.Contains(err.Error(), `switch "sw" has no free ID for gw/`) {
		t.Fatalf("the 256th pool: %v", err)
	}
	// The ID of a pool that is removed in the same commit is not free yet.
	r.put("2.yaml", manyBlends(0, 251))
	if _, _, err := r.commit(); err == nil {
		t.Fatal("a live ID was assigned again by the commit that frees it")
	}
	r.put("more.yaml", networkOf("other", 9999))
	r.must()
	r.put("more.yaml", manyBlends(252, 1))
	r.must()
}

// IDs that were in no good commit are free as soon as their names are gone.
func TestIDsOfBadCommitsAreNotKept(t *testing.T) {
	small := strings.Replace(percentGateway, "default: v1", "default: v1\n  hash: {buckets: 256}", 1)
	r := newRepo(t, switchDoc, small, manyBlends(0, 100))
	r.must()
	r.put("more.yaml", manyBlends(100, 153))
	if _, _, err := r.commit(); err == nil {
		t.Fatal("256 pools fit")
	}
	r.put("more.yaml", manyBlends(101, 152))
	r.must()
}

// A name that a bad commit drops and the next one has again keeps its ID.
func TestIDsOutliveBadCommits(t *testing.T) {
	r := newRepo(t, switchDoc, percentGateway, policyOf("p", "v2", 100, "{percent: 5}"))
	r.must()
	r.put("2.yaml", policyOf("p", "v9", 100, "{percent: 5}"))
	if _, _, err := r.commit(); err == nil {
		t.Fatal("a version that is not there is no error")
	}
	r.put("2.yaml", policyOf("p", "v2", 100, "{percent: 5}"))
	for range 2 {
		if ir, _ := r.must(); ir.ID("sw", SpacePool, "gw/v2=5%,v1") == 0 {
			t.Error("the pool has lost its ID")
		}
	}
}

func TestIDsOutliveTheProcess(t *testing.T) {
	r := newRepo(t, switchDoc, percentGateway, policyOf("p", "v2", 100, "{percent: 5}"))
	r.must()
	want := r.c.IDs().get("sw", SpacePool, "gw/v2=5%,v1")
	stored, _, err := r.c.UnsavedIDs()
	if err != nil {
		t.Fatal(err)
	}
	ids := NewIDs()
	for key, value := range stored {
		if err := ids.Read(key, value); err != nil {
			t.Fatal(err)
		}
	}
	// IDs of an earlier process that the first commit does not use are freed.
	ids.assign("sw", SpacePool, "gw/gone")
	again := newRepo(t, switchDoc, percentGateway, policyOf("p", "v2", 100, "{percent: 5}"))
	again.c = NewCompiler(ids, nil)
	again.must()
	if got := again.c.IDs().get("sw", SpacePool, "gw/v2=5%,v1"); got != want {
		t.Errorf("the pool's ID was %d and is %d", want, got)
	}
	if got := again.c.IDs().get("sw", SpacePool, "gw/gone"); got != 0 {
		t.Errorf("a pool that is in no document keeps the ID %d", got)
	}
}

// TestIDsAreStoredAsTheyChange holds that what is unsaved is what was assigned and
// freed since, and that an ID which goes to another name is one record.
func TestIDsAreStoredAsTheyChange(t *testing.T) {
	ids := NewIDs()
	unsaved := func(want ...string) {
		t.Helper()
		put, remove, err := ids.unsaved()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for key, value := range put {
			var r idRecord
			if err := json.Unmarshal(value, &r); err != nil {
				t.Fatal(err)
			}
			got = append(got, key+"="+r.Key)
		}
		got = append(got, remove...)
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("unsaved are %q, want %q", got, want)
		}
	}
	for i := range 255 {
		ids.assign("s", SpaceVIP, fmt.Sprint(i))
	}
	ids.saved()
	unsaved()
	last := slot{"s", SpaceVIP, ids.get("s", SpaceVIP, "7")}.record()
	ids.release("s", SpaceVIP, "7")
	unsaved(last)
	ids.assign("s", SpaceVIP, "new")
	unsaved(last + "=new")
}

// TestIDsThatClashAreRefused reads stores that no gray has written.
func TestIDsThatClashAreRefused(t *testing.T) {
	const good, table = `{"Switch":"s","Space":1,"Key":"a","ID":7}`, `[{"Switch":"s","Space":1,"Key":"b","ID":7}]`
	for _, c := range []struct{ key, value, want string }{
		{"table", table, `the record "table" gives ID 7 on switch s to both "a" and "b"`},
		{"s/1/8", strings.Replace(good, "7", "8", 1), `the record "s/1/8" gives "a" the IDs 7 and 8 on switch s`},
		{"s/1/9", strings.Replace(good, "7", "8", 1), "out of range or not that of the record"},
		{"s/1/256", `{"Switch":"s","Space":1,"Key":"b","ID":256}`, "out of range"},
		{"s/1/0", `{"Switch":"s","Space":1,"Key":"b"}`, "out of range"},
		{"s/1/8", good[:20], `the record "s/1/8": unexpected end of JSON input`},
		{"table", table[:20], `the record "table": unexpected end of JSON input`},
	} {
		ids := NewIDs()
		if err := ids.Read("s/1/7", []byte(good)); err != nil {
			t.Fatal(err)
		}
		if err := ids.Read(c.key, []byte(c.value)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s with %s: %v, want %q", c.key, c.value, err, c.want)
		}
	}
}
