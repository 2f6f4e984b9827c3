package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/sources/dir"
	"github.com/gray-release/gray/stores/bolt"
)

// shard is two accounts of a Service that wait for approval, batch by batch.
const shard = `apiVersion: gray.dev/v1alpha1
kind: Service
metadata: {name: api}
spec:
  hosts: [api.internal]
  default: v1
  versions:
  - {name: v1, endpoints: [{address: 192.0.2.51, port: 80}]}
  - {name: v2, endpoints: [{address: 192.0.2.52, port: 80}]}
---
apiVersion: gray.dev/v1alpha1
kind: Network
metadata: {name: n1, labels: {shard: s1}}
spec:
  vni: 1
  account: "10"
  routes:
  - {vm: a, prefix: 10.0.0.1/32, mac: "02:00:00:00:00:01", vtep: 192.0.2.100}
  - {vm: b, prefix: 10.0.0.2/32, mac: "02:00:00:00:00:02", vtep: 192.0.2.100}
---
apiVersion: gray.dev/v1alpha1
kind: GrayPolicy
metadata: {name: p}
spec:
  targets: [{kind: Service, name: api}]
  version: v2
  rollout: {networkSelector: {shard: s1}, batches: [1, 100%], approval: batch}
`

// startAPI serves the API of a reconciler that keeps a folder's documents.
func startAPI(t *testing.T, documents string) Client {
	t.Helper()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "all.yaml"), []byte(documents), 0o644); err != nil {
		t.Fatal(err)
	}
	source, err := dir.New(folder)
	if err != nil {
		t.Fatal(err)
	}
	store, err := bolt.Open("file:" + filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := reconciler.New(reconciler.Config{Source: source, Store: store, Hints: board.NewHints(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	server := httptest.NewServer(Handler(r, func() Peers { return Peers{} }))
	t.Cleanup(func() {
		server.Close()
		cancel()
		<-done
		if err := errors.Join(source.Close(), store.Close()); err != nil {
			t.Error(err)
		}
	})
	return Client{Address: strings.TrimPrefix(server.URL, "http://")}
}

// reach waits until policy p has a phase and so many VMs have moved.
func reach(t *testing.T, c Client, phase rollout.Phase, moved int) *Rollout {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		r, _, err := c.Rollout(ctx, "p")
		if err == nil && r.Phase == phase && r.Moved == moved {
			return r
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it does not come to %s with %d VMs: %+v, %v", phase, moved, r, err)
		}
	}
}

func TestRolloutByTheAPI(t *testing.T) {
	c := startAPI(t, shard)
	ctx := t.Context()
	r := reach(t, c, rollout.PhasePaused, 0)
	want := []rollout.Gate{{ID: "1/n1/1", Network: "n1", Batch: 1, Reason: "ApprovalRequired"}}
	if diff := cmp.Diff(want, r.Gates); diff != "" || r.APIVersion != RolloutVersion || r.Revision == "" {
		t.Fatalf("%+v, gates (-want +got):\n%s", r, diff)
	}

	done, err := c.Do(ctx, "p", rollout.Verb{Verb: rollout.VerbPromote, Gate: "1/n1/1", Who: "ann@desk", Why: "tried on one"})
	if err != nil || done.Policy != "p" || len(done.Events) != 1 || done.Events[0].Reason != "Promoted" {
		t.Fatalf("promote answers %+v, %v", done, err)
	}
	reach(t, c, rollout.PhasePaused, 1)

	// The gate of a step that was made already lets no other step go.
	done, err = c.Do(ctx, "p", rollout.Verb{Verb: rollout.VerbPromote, Gate: "1/n1/1", Who: "bob@desk"})
	if err != nil || len(done.Events) != 0 {
		t.Errorf("the same promote again answers %+v, %v", done, err)
	}
	reach(t, c, rollout.PhasePaused, 1)

	_, err = c.Do(ctx, "p", rollout.Verb{Verb: rollout.VerbRetry, Who: "ann@desk"})
	if !errors.Is(err, reconciler.ErrNotNow) || err.Error() != "not now: nothing has failed; see gray rollout status" {
		t.Errorf("retry: %v", err)
	}
	for _, err := range []error{
		second(c.Do(ctx, "q", rollout.Verb{Verb: rollout.VerbPause, Who: "ann@desk"})),
		third(c.Rollout(ctx, "q")), third(c.Rollout(ctx, "a/b c")),
	} {
		if !errors.Is(err, reconciler.ErrNoRollout) {
			t.Errorf("of a policy that is not there: %v", err)
		}
	}
	if _, err := c.Do(ctx, "p", rollout.Verb{Verb: rollout.VerbAbort, Who: "ann@desk", Why: "enough"}); err != nil {
		t.Fatal(err)
	}
	r = reach(t, c, rollout.PhaseRolledBack, 0)
	if r.Failure == nil || r.Failure.Who != "ann@desk" || len(r.Overrides) != 1 {
		t.Errorf("after abort: %+v", r)
	}
	all, raw, err := c.Rollouts(ctx)
	if err != nil || all.APIVersion != RolloutsVersion || len(all.Rollouts) != 1 || !json.Valid(raw) {
		t.Errorf("all rollouts: %s, %v", raw, err)
	}
	a, _, err := c.Audit(ctx, "p", 1000)
	if err != nil {
		t.Fatal(err)
	}
	var people []string
	for i, rec := range a.Records {
		if rec.Number != uint64(i)+1 {
			t.Errorf("record %d has the number %d", i+1, rec.Number)
		}
		if rec.Verb != "" {
			people = append(people, rec.Verb+" by "+rec.Who+": "+rec.Why)
		}
	}
	if diff := cmp.Diff([]string{"promote by ann@desk: tried on one", "abort by ann@desk: enough"}, people); diff != "" {
		t.Errorf("the audit log (-want +got):\n%s", diff)
	}
	last, _, err := c.Audit(ctx, "", 1)
	if err != nil || len(last.Records) != 1 || last.Records[0].Number != a.Records[len(a.Records)-1].Number {
		t.Errorf("the newest record: %+v, %v", last, err)
	}
	if none, raw, err := c.Audit(ctx, "q", 1); err != nil || len(none.Records) != 0 || !strings.Contains(string(raw), `"records":[]`) {
		t.Errorf("the records of a policy that is not there: %s, %v", raw, err)
	}
}

func second[A any](_ A, err error) error        { return err }
func third[A, B any](_ A, _ B, err error) error { return err }

func TestVerbsAreChecked(t *testing.T) {
	c := startAPI(t, shard)
	reach(t, c, rollout.PhasePaused, 0)
	for _, test := range []struct {
		path, body, site string
		code             int
		want             string
	}{
		{"p/undo", `{"who":"a"}`, "", 400, `"undo" is not a verb; want one of promote, pause, resume, abort, retry`},
		{"p/pause", `{}`, "", 400, "who: is empty; the audit log needs a name"},
		{"p/pause", `{"who":"a","gate":"1/n1/1"}`, "", 400, "gate: belongs to promote, not to pause"},
		{"p/pause", `{"who":"a\nb"}`, "", 400, "who: want one line of printable text"},
		{"p/pause", `{"who":"a","why":"\u001b[2J"}`, "", 400, "why: want one line of printable text"},
		{"p/pause", `{"who":"a","why":"` + strings.Repeat("x", 2001) + `"}`, "", 400, "why: has 2001 bytes; want up to 2000"},
		{"p/pause", `{"who":"a","why":"` + strings.Repeat("x", 1<<20) + `"}`, "", 400, "http: request body too large"},
		{"p/pause", `{"who":"a","force":true}`, "", 400, `json: unknown field "force"`},
		{"p/pause", `who=a`, "", 400, "invalid character 'w' looking for beginning of value"},
		{"p/pause", `{"who":"a"}`, "cross-site", 403, "cross-origin request detected from Sec-Fetch-Site header"},
		{"p/promote", `{"who":"a","gate":"1/n1/2"}`, "", 409, "not now: gate 1/n1/2 is not waiting, or was passed before; see gray rollout status"},
		{"q/pause", `{"who":"a"}`, "", 404, "no policy of that name has a rollout; see gray status"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+c.Address+"/v1/rollouts/"+test.path, strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Sec-Fetch-Site", test.site)
		code, text := ask(t, req)
		if code != test.code || text != test.want {
			t.Errorf("%s %.60s: %d %q, want %d %q", test.path, test.body, code, text, test.code, test.want)
		}
	}
	for _, limit := range []string{"0", "-1", "10001", "many"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+c.Address+"/v1/audit?limit="+limit, nil)
		if err != nil {
			t.Fatal(err)
		}
		if code, text := ask(t, req); code != 400 || text != "limit: want a number from 1 to 10000" {
			t.Errorf("limit %s: %d %q", limit, code, text)
		}
	}
	reach(t, c, rollout.PhasePaused, 0) // and nothing of it was done
	a, _, err := c.Audit(t.Context(), "", 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range a.Records {
		if rec.Verb != "" {
			t.Errorf("what was refused is in the audit log: %+v", rec)
		}
	}
}

func ask(t *testing.T, req *http.Request) (int, string) {
	t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, strings.TrimSpace(string(b))
}

// Until a daemon has read a commit it does not know which rollouts there are.
func TestRolloutBeforeTheFirstCommit(t *testing.T) {
	c := startAPI(t, "kind: nonsense\n")
	_, _, err := c.Rollout(t.Context(), "p")
	if err == nil || errors.Is(err, reconciler.ErrNoRollout) || !strings.HasSuffix(err.Error(), "no commit is in force yet; wait, or look at gray status") {
		t.Errorf("before the first commit: %v", err)
	}
}
