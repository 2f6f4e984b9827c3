package policies

import (
	"encoding/json"
	"fmt"
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

func TestNumbersRunOut(t *testing.T) {
	small := strings.Replace(percentGateway, "default: v1", "default: v1\n  hash: {buckets: 256}", 1)
	r := newRepo(t, switchDoc, small, manyBlends(0, 252)) // with v1, v2 and v3 one a number
	r.must()
	r.put("more.yaml", manyBlends(252, 1))
	_, _, err := r.commit()
	if err == nil || !strings.HasPrefix(err.Error(), "more.yaml:") || !strings.Contains(err.Error(), `switch "sw" has no number left for gw/`) {
		t.Fatalf("the 256th pool: %v", err)
	}
	// A pool that gives way in the same commit does not give its number.
	r.put("2.yaml", manyBlends(0, 251))
	if _, _, err := r.commit(); err == nil {
		t.Fatal("a number that is live was given away by the commit that frees it")
	}
	r.put("more.yaml", networkOf("other", 9999))
	r.must()
	r.put("more.yaml", manyBlends(252, 1))
	r.must()
}

// What no good commit ever had is free as soon as it is gone.
func TestNumbersOfBadCommitsAreNotKept(t *testing.T) {
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

// What a bad commit drops and the next one has again keeps its number.
func TestNumbersOutliveBadCommits(t *testing.T) {
	r := newRepo(t, switchDoc, percentGateway, policyOf("p", "v2", 100, "{percent: 5}"))
	r.must()
	r.put("2.yaml", policyOf("p", "v9", 100, "{percent: 5}"))
	if _, _, err := r.commit(); err == nil {
		t.Fatal("a version that is not there is no error")
	}
	r.put("2.yaml", policyOf("p", "v2", 100, "{percent: 5}"))
	for range 2 {
		if ir, _ := r.must(); ir.ID("sw", SpacePool, "gw/v2=5%,v1") == 0 {
			t.Error("the pool has lost its number")
		}
	}
}

func TestNumbersOutliveTheProcess(t *testing.T) {
	r := newRepo(t, switchDoc, percentGateway, policyOf("p", "v2", 100, "{percent: 5}"))
	r.must()
	want := r.c.IDs().get("sw", SpacePool, "gw/v2=5%,v1")
	stored, err := json.Marshal(r.c.IDs())
	if err != nil {
		t.Fatal(err)
	}
	ids := NewIDs()
	if err := json.Unmarshal(stored, ids); err != nil {
		t.Fatal(err)
	}
	// What the earlier process named and the first commit does not is given back.
	ids.Assign("sw", SpacePool, "gw/gone")
	again := newRepo(t, switchDoc, percentGateway, policyOf("p", "v2", 100, "{percent: 5}"))
	again.c = NewCompiler(ids)
	again.must()
	if got := again.c.IDs().get("sw", SpacePool, "gw/v2=5%,v1"); got != want {
		t.Errorf("the pool's number was %d and is %d", want, got)
	}
	if got := again.c.IDs().get("sw", SpacePool, "gw/gone"); got != 0 {
		t.Errorf("a pool that is in no document keeps the number %d", got)
	}
}
