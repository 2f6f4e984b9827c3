package main

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/policies/rollout"
)

// Two people promote at once: both have seen that batch 1 waits, and the second one's
// word arrives when batch 1 has passed and batch 2 waits. It does not let batch 2 go.
func TestPromoteOpensOnlyWhatItSaw(t *testing.T) {
	l := newLab(t)
	file := filepath.Join(l.Repo, "policies", "shard.yaml")
	l.ok(os.MkdirAll(filepath.Dir(file), 0o700))
	l.ok(os.WriteFile(file, []byte(`apiVersion: gray.dev/v1alpha1
kind: GrayPolicy
metadata: {name: shard}
spec:
  targets: [{kind: Gateway, name: vpc-gw}]
  version: v2
  rollout: {networkSelector: {shard: s1}, batches: [1, 50%, 100%], approval: batch}
`), 0o600))
	l.ok(l.Commit(t.Context(), "shard"))
	l.startDaemon()
	waits := func(batch, moved int) {
		l.until("a batch waits", func(s *admin.Status) bool {
			if len(s.Rollouts) == 0 {
				return false
			}
			r := &s.Rollouts[0]
			return r.Phase == rollout.PhasePaused && len(r.Gates) == 1 && r.Gates[0].Batch == batch && r.Moved == moved
		})
	}
	waits(1, 0)

	var once sync.Once
	daemon := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: l.Address("18001")})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPost {
			once.Do(func() {
				_, err := admin.Client{Address: l.Address("18001")}.Do(t.Context(), "shard", rollout.Verb{Verb: rollout.VerbPromote, Who: "ann"})
				if err != nil {
					t.Error(err)
				}
				waits(2, 1)
			})
		}
		daemon.ServeHTTP(w, req)
	}))
	t.Cleanup(slow.Close)
	var out strings.Builder
	cmd := newRoot()
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"rollout", "promote", "shard", "--who", "bob", "--admin-listen", strings.TrimPrefix(slow.URL, "http://")})
	l.ok(cmd.ExecuteContext(t.Context()))
	if want := "gate 1/vpc-1001/1: batch 1 of Network vpc-1001 needs approval\nshard: nothing to do\n"; out.String() != want {
		t.Errorf("it prints\n%swant\n%s", out.String(), want)
	}
	waits(2, 1)
	a, _, err := admin.Client{Address: l.Address("18001")}.Audit(t.Context(), "shard", 100)
	l.ok(err)
	var who []string
	for _, r := range a.Records {
		if r.Verb == rollout.VerbPromote {
			who = append(who, r.Who)
		}
	}
	if strings.Join(who, " ") != "ann" {
		t.Errorf("gates were opened by %q, want ann alone", who)
	}
}
