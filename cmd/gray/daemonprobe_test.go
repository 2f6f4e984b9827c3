package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/sources/probe"
)

// verifiedPolicy moves VPC 1002 in two batches and has a program say whether it may.
const verifiedPolicy = `apiVersion: gray.dev/v1alpha1
kind: GrayPolicy
metadata: {name: gw-v2}
spec:
  targets: [{kind: Gateway, name: vpc-gw}]
  version: v2
  rollout: {networks: [vpc-1002], batches: [1, 100%], verify: {exec: {command: [vpc, --strict]}}}
`

// received is what came to a webhook, by the kind of the event.
type received struct {
	json  chan admin.Event
	slack chan string
}

// ServeHTTP takes an event.
func (r *received) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	b, _ := io.ReadAll(req.Body)
	if strings.HasPrefix(req.URL.Path, "/slack/") {
		r.slack <- string(b)
		return
	}
	var e admin.Event
	if err := json.Unmarshal(b, &e); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.json <- e
}

// event waits for the JSON of an event.
func (r *received) event(t *testing.T, kind string) admin.Event {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		select {
		case e := <-r.json:
			if e.Kind == kind {
				return e
			}
		case <-limit:
			t.Fatalf("no %s came", kind)
		}
	}
}

// TestDaemonVerifiesAndTells runs a rollout in a daemon whose program of --exec-dir
// refuses the second batch: it goes back, and webhooks are told with the evidence.
func TestDaemonVerifiesAndTells(t *testing.T) {
	r := &received{json: make(chan admin.Event, 1000), slack: make(chan string, 1000)}
	web := httptest.NewServer(r)
	defer web.Close()
	l := newLab(t)
	secrets, programs := filepath.Join(l.Dir, "secrets"), filepath.Join(l.Dir, "programs")
	l.ok(os.Mkdir(secrets, 0o700))
	l.ok(os.Mkdir(programs, 0o700))
	const token = "/hushhushhush"
	hooks := fmt.Sprintf("- {url: %q, format: json}\n- {url: %q, format: slack}\n- {url: %q, format: json}\n",
		web.URL+"/json"+token, web.URL+"/slack"+token, "http://"+l.Address("15001")+token) // where nobody listens
	l.ok(os.WriteFile(filepath.Join(secrets, "webhooks.yaml"), []byte(hooks), 0o600))
	l.ok(os.WriteFile(filepath.Join(programs, "vpc"), []byte(`#!/bin/sh
read -r kind address rest
echo "$kind $address of $GRAY_NETWORK at $GRAY_BATCH, $1"
[ "$GRAY_BATCH" != "2 of 2" ]
`), 0o700))
	l.ok(os.MkdirAll(filepath.Join(l.Repo, "policies"), 0o755))
	l.ok(os.WriteFile(filepath.Join(l.Repo, "policies", "gw-v2.yaml"), []byte(verifiedPolicy), 0o644))
	l.ok(l.Commit(t.Context(), "rollout"))
	l.startDaemon("--secrets-dir", secrets, "--webhooks", "webhooks.yaml", "--exec-dir", programs, "--probe-allow", "10.9.0.0/16")

	if e := r.event(t, "BatchPassed"); e.Batch != "1 of 2" || e.Commit != l.head() || e.Warning || e.Evidence.Verdict != probe.Passed {
		t.Errorf("%+v", e)
	}
	e := r.event(t, "VerificationFailed")
	if e.Policy != "gw-v2" || e.Network != "vpc-1002" || e.Batch != "2 of 2" || e.Commit != l.head() || !e.Warning {
		t.Errorf("%+v", e)
	}
	wrote := "moved 10.0.0.5 of vpc-1002 at 2 of 2, --strict"
	other := strings.Replace(wrote, "10.0.0.5", "10.0.0.9", 1)
	if c := e.Evidence.Tests[0]; c.Test != "exec vpc --strict" || c.Output != wrote+"\n" && c.Output != other+"\n" || c.Answers[0].Error != "exit status 1" {
		t.Errorf("%+v", c)
	}
	for text := ""; !strings.Contains(text, "*VerificationFailed* of `gw-v2`"); {
		select {
		case text = <-r.slack:
		case <-time.After(30 * time.Second):
			t.Fatal("Slack was not told")
		}
		if strings.Contains(text, "*VerificationFailed*") && !strings.Contains(text, `exec vpc --strict: answered 0 of 1, lost 100%, 0% before: exit status 1, after`) {
			t.Errorf("Slack was told %s", text)
		}
	}
	s := l.until("all is told that can be", func(s *admin.Status) bool {
		w := s.Webhooks
		return len(s.Rollouts) == 1 && s.Rollouts[0].Phase == rollout.PhaseRolledBack && len(w) == 3 &&
			w[0].Queued == 0 && w[1].Queued == 0 && w[2].Error != ""
	})
	if f := s.Rollouts[0].Failure; f.Batch != 2 || !strings.Contains(f.Evidence[0], "exit status 1") {
		t.Errorf("%+v", f)
	}
	_, raw, err := (admin.Client{Address: l.Address("18001")}).Status(t.Context())
	l.ok(err)
	l.kill()
	log, err := os.ReadFile(l.log)
	l.ok(err)
	if all := string(raw) + string(log); strings.Contains(all, "hushhush") || !strings.Contains(all, "cannot deliver an event") {
		t.Errorf("the status is %s, the log\n%s", raw, log)
	}
}
