package policies

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/schema"
)

const requestService = `
kind: Service
metadata: {name: api}
spec: {hosts: [api.internal, "*.w.internal"], default: v1, versions: [{name: v1}, {name: v2}, {name: v3}]}
`

var (
	requestAccounts = []string{"", "1", "2", "50002001"}
	requestLines    = [][]string{nil, {""}, {"canary"}, {"can"}, {"beta"}, {"canary", "beta"}}
)

// worldRequests is every request of a small world.
func worldRequests() []requests.Request {
	var all []requests.Request
	for _, account := range requestAccounts {
		for _, env := range requestLines {
			for _, ver := range requestLines {
				r := requests.Request{Host: "api.internal", Path: "/", Headers: map[string][]string{"x-env": env, "x-ver": ver}}
				if account != "" {
					r.Headers["x-ucloud-routeby"] = []string{"region=x; account_id=" + account}
				}
				all = append(all, r)
			}
		}
	}
	return all
}

func randomRequestEntry(r *rand.Rand) string {
	var fields []string
	if r.IntN(2) == 0 {
		fields = append(fields, "accounts: [\""+strings.Join(some(r, requestAccounts[1:]), `", "`)+"\"]")
	}
	if r.IntN(2) == 0 {
		var tests []string
		for range 1 + r.IntN(2) {
			tests = append(tests, fmt.Sprintf("{name: %s, %s, invert: %t}", pick(r, "x-env", "x-ver"),
				pick(r, "exact: canary", "exact: beta", "prefix: can", "prefix: b", "suffix: ary", "regex: '.*'", "regex: 'c.+'", "present: true", "present: false"), r.IntN(3) == 0))
		}
		fields = append(fields, "headers: ["+strings.Join(tests, ", ")+"]")
	}
	if len(fields) == 0 || r.IntN(4) == 0 {
		fields = append(fields, fmt.Sprintf("percent: %d", pick(r, 0, 1, 26, 27, 50, 99, 100)))
	}
	return strings.Join(fields, ", ")
}

func randomRequestPolicy(r *rand.Rand, name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "kind: GrayPolicy\nmetadata: {name: %s}\nspec:\n  targets: [{kind: Service, name: api}]\n  version: %s\n  priority: %d\n  match:\n",
		name, pick(r, "v1", "v2", "v3"), pick(r, 1, 5, 9, 1000))
	for range 1 + r.IntN(3) {
		fmt.Fprintf(&b, "  - {%s}\n", randomRequestEntry(r))
	}
	if r.IntN(2) == 0 {
		b.WriteString("  exclude:\n")
		for range 1 + r.IntN(2) {
			fmt.Fprintf(&b, "  - {%s}\n", randomRequestEntry(r))
		}
	}
	return b.String()
}

// saysOf tells whether a policy takes a request, by the letter of its document. who
// is the trace of the request through any service.
func saysOf(spec *schema.PolicySpec, r requests.Request, who *requests.Trace) bool {
	holds := func(m schema.Match) bool {
		if m.Accounts != nil && !slices.Contains(m.Accounts, who.Account) {
			return false
		}
		for _, h := range m.Headers {
			passes := slices.ContainsFunc(r.Headers[h.Name], func(line string) bool {
				switch {
				case h.Exact != nil:
					return line == *h.Exact
				case h.Prefix != nil:
					return strings.HasPrefix(line, *h.Prefix)
				case h.Suffix != nil:
					return strings.HasSuffix(line, *h.Suffix)
				case h.Regex != nil:
					return regexp.MustCompile(`\A(?:` + *h.Regex + `)\z`).MatchString(line)
				}
				return true
			})
			if h.Present != nil {
				passes = passes == *h.Present
			}
			if passes == h.Invert {
				return false
			}
		}
		return m.Percent == nil || who.Slot < *m.Percent
	}
	return slices.ContainsFunc(spec.Match, holds) && !slices.ContainsFunc(spec.Exclude, holds)
}

// TestRequestsByTheLetter tries every request of a small world against random
// policies, which come, change and go: each goes where the documents say, commits in
// conflict are those where two of them say different things, and following the
// commits leads where reading the last one does.
func TestRequestsByTheLetter(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector finds nothing in it: one goroutine does all")
	}
	conflicts, moved := 0, 0
	plain, _ := newRepo(t, requestService).must()
	for seed := range uint64(400) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		r := newRepo(t, requestService)
		r.must()
		for step := range 5 {
			name := fmt.Sprintf("p%d", rnd.IntN(4))
			r.put(name+".yaml", pick(rnd, randomRequestPolicy(rnd, name), randomRequestPolicy(rnd, name), randomRequestPolicy(rnd, name), ""))
			ir, _, err := r.commit()
			if err != nil && !strings.Contains(err.Error(), "is also the priority") {
				t.Fatal(err)
			}
			full := newRepo(t)
			full.files = r.files
			want, _, fullErr := full.commit()
			if errText(err) != errText(fullErr) {
				t.Fatalf("seed %d step %d: followed: %v\nread whole: %v", seed, step, err, fullErr)
			}
			disagree := checkRequests(t, r, ir, err == nil, plain, &moved)
			if err != nil {
				conflicts++
				continue
			}
			if disagree != "" {
				t.Fatalf("seed %d step %d: not refused, but %s", seed, step, disagree)
			}
			if diff := cmp.Diff(want.units, ir.units, cmpopts.IgnoreUnexported(requests.Service{})); diff != "" {
				t.Fatalf("seed %d step %d: followed, against read whole:\n%s", seed, step, diff)
			}
		}
	}
	if conflicts < 100 || moved < 1000 {
		t.Errorf("%d conflicts, %d requests moved: too few to tell anything", conflicts, moved)
	}
}

// checkRequests tries all requests. It returns one of a single line a header of
// which two policies of one priority say different things, if it is about that.
func checkRequests(t *testing.T, r *repo, ir *IR, valid bool, plain *IR, moved *int) (disagree string) {
	t.Helper()
	var specs []*schema.PolicySpec
	for _, name := range r.set.Names() {
		if spec, ok := r.set.Get(name).Spec.(*schema.PolicySpec); ok {
			specs = append(specs, spec)
		}
	}
	for _, req := range worldRequests() {
		best, version, two := 0, "v1", false
		who := requests.Follow(plain, req)
		for _, spec := range specs {
			switch {
			case spec.Priority < best || !saysOf(spec, req, who):
			case spec.Priority > best:
				best, version, two = spec.Priority, spec.Version, false
			case spec.Version != version:
				two = true
				version = min(version, spec.Version)
			}
		}
		if two && len(req.Headers["x-env"]) < 2 && len(req.Headers["x-ver"]) < 2 {
			disagree = fmt.Sprintf("%v is said to be %s and another", req, version)
		}
		if !valid {
			continue
		}
		if version != "v1" {
			*moved++
		}
		if got := requests.Follow(ir, req); got.Version != version {
			t.Fatalf("%v goes to %s, want %s; %+v", req, got.Version, version, got.Steps)
		}
	}
	return disagree
}

// TestTooManySets refuses what would be too many routes.
func TestTooManySets(t *testing.T) {
	var entries, exclude strings.Builder
	for i := range 9 {
		fmt.Fprintf(&entries, "  - {headers: [{name: x-a, exact: a%d}]}\n", i)
		fmt.Fprintf(&exclude, "  - {headers: [{name: x-b, exact: b%d}, {name: x-c, exact: c%d}]}\n", i, i)
	}
	policy := "kind: GrayPolicy\nmetadata: {name: p}\nspec:\n  targets: [{kind: Service, name: api}]\n  version: v2\n  match:\n" + entries.String() + "  exclude:\n" + exclude.String()
	r := newRepo(t, requestService, policy)
	_, _, err := r.commit()
	if want := "1.yaml:16: spec.exclude: match and exclude need more than 64 routes for Service api; match or exclude less"; errText(err) != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	var docs []string
	for p := range 5 {
		entries.Reset()
		for i := range 60 {
			fmt.Fprintf(&entries, "  - {headers: [{name: x-a, exact: a%d-%d}]}\n", p, i)
		}
		docs = append(docs, fmt.Sprintf("kind: GrayPolicy\nmetadata: {name: p%d}\nspec:\n  targets: [{kind: Service, name: api}]\n  version: v2\n  match:\n%s", p, entries.String()))
	}
	r = newRepo(t, append([]string{requestService}, docs...)...)
	_, _, err = r.commit()
	if want := "5.yaml:6: spec.match: needs more than 256 routes for Service api, with the policies that precede it; match less"; errText(err) != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}
