package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler"
)

// The apiVersions of answers about rollouts.
const (
	RolloutVersion  = "gray.dev/rollout/v1"  // Rollout and Done
	RolloutsVersion = "gray.dev/rollouts/v1" // Rollouts
	AuditVersion    = "gray.dev/audit/v1"    // Audit
)

// AuditPath is the path of the audit log, which only the leader has.
const AuditPath = "/v1/audit"

// Rollout is the daemon's answer to GET /v1/rollouts/{policy}.
type Rollout struct {
	APIVersion string `json:"apiVersion"`
	Revision   string `json:"revision"` // the commit in force
	*reconciler.RolloutStatus
}

// Rollouts is the daemon's answer to GET /v1/rollouts.
type Rollouts struct {
	APIVersion string                     `json:"apiVersion"`
	Revision   string                     `json:"revision"` // the commit in force
	Rollouts   []reconciler.RolloutStatus `json:"rollouts"` // sorted by policy
}

// Done is the daemon's answer to POST /v1/rollouts/{policy}/{verb}: what the verb did.
// It has no events if there was nothing to do.
type Done struct {
	APIVersion string          `json:"apiVersion"`
	Policy     string          `json:"policy"`
	Events     []rollout.Event `json:"events"`
}

// Audit is the daemon's answer to GET /v1/audit.
type Audit struct {
	APIVersion string                   `json:"apiVersion"`
	Records    []reconciler.AuditRecord `json:"records"` // oldest first
}

// command is the body of a verb. Nobody verifies Who.
type command struct {
	Gate string `json:"gate,omitempty"`
	Who  string `json:"who"`
	Why  string `json:"why,omitempty"`
}

// The bounds of a verb, in bytes, and of an answer about the audit log, in records.
const (
	maxCommand   = 64 << 10
	maxGate      = 1000
	maxWho       = 200
	maxWhy       = 2000
	auditDefault = 100
	auditMost    = 10_000
)

// verbs are the verbs that the API accepts.
var verbs = []string{rollout.VerbPromote, rollout.VerbPause, rollout.VerbResume, rollout.VerbAbort, rollout.VerbRetry}

// handleRollouts serves everything about rollouts.
func handleRollouts(mux *http.ServeMux, r *reconciler.Reconciler) {
	mux.HandleFunc("GET /v1/rollouts", func(w http.ResponseWriter, req *http.Request) {
		all, revision, err := r.Rollouts(req.Context(), "")
		reply(w, Rollouts{RolloutsVersion, revision, all}, err)
	})
	mux.HandleFunc("GET /v1/rollouts/{policy}", func(w http.ResponseWriter, req *http.Request) {
		all, revision, err := r.Rollouts(req.Context(), req.PathValue("policy"))
		switch {
		case len(all) > 0:
			reply(w, Rollout{RolloutVersion, revision, &all[0]}, err)
		case err == nil && revision == "": // the daemon has just started, or never seen a valid commit
			http.Error(w, "no commit is in force yet; wait, or look at gray status", http.StatusServiceUnavailable)
		default:
			reply(w, nil, cmp.Or(err, reconciler.ErrNoRollout))
		}
	})
	// A web page in a browser on the daemon's host must not be able to send a verb.
	mux.Handle("POST /v1/rollouts/{policy}/{verb}", http.NewCrossOriginProtection().Handler(handleVerb(r)))
	mux.HandleFunc("GET "+AuditPath, func(w http.ResponseWriter, req *http.Request) {
		limit, err := strconv.Atoi(cmp.Or(req.URL.Query().Get("limit"), strconv.Itoa(auditDefault)))
		if err != nil || limit < 1 || limit > auditMost {
			http.Error(w, fmt.Sprintf("limit: want a number from 1 to %d", auditMost), http.StatusBadRequest)
			return
		}
		records, err := r.Audit(req.URL.Query().Get("policy"), limit)
		reply(w, Audit{AuditVersion, records}, err)
	})
}

// handleVerb carries out a verb on a rollout.
func handleVerb(r *reconciler.Reconciler) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		policy, verb := req.PathValue("policy"), req.PathValue("verb")
		if !slices.Contains(verbs, verb) {
			http.Error(w, fmt.Sprintf("%q is not a verb; want one of %s", verb, strings.Join(verbs, ", ")), http.StatusBadRequest)
			return
		}
		var s command
		dec := json.NewDecoder(http.MaxBytesReader(w, req.Body, maxCommand))
		dec.DisallowUnknownFields()
		if err := cmp.Or(dec.Decode(&s), s.check(verb)); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		events, err := r.Do(req.Context(), policy, rollout.Verb{Verb: verb, Gate: s.Gate, Who: s.Who, Why: s.Why})
		reply(w, Done{RolloutVersion, policy, append([]rollout.Event{}, events...)}, err)
	}
}

// check refuses what does not fit on one line of a log or a terminal.
func (s *command) check(verb string) error {
	if s.Who == "" {
		return errors.New("who: is empty; the audit log needs a name")
	}
	if s.Gate != "" && verb != rollout.VerbPromote {
		return fmt.Errorf("gate: belongs to promote, not to %s", verb)
	}
	for _, f := range []struct {
		name, text string
		most       int
	}{{"gate", s.Gate, maxGate}, {"who", s.Who, maxWho}, {"why", s.Why, maxWhy}} {
		if len(f.text) > f.most {
			return fmt.Errorf("%s: has %d bytes; want up to %d", f.name, len(f.text), f.most)
		}
		if strings.ContainsFunc(f.text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return fmt.Errorf("%s: want one line of printable text", f.name)
		}
	}
	return nil
}

// Rollout gets the rollout of a policy, also as the JSON that the daemon sent. The
// error is reconciler.ErrNoRollout if there is none.
func (c Client) Rollout(ctx context.Context, policy string) (*Rollout, []byte, error) {
	return call[Rollout](ctx, c, http.MethodGet, "/v1/rollouts/"+url.PathEscape(policy), nil)
}

// Rollouts gets all rollouts, also as the JSON that the daemon sent.
func (c Client) Rollouts(ctx context.Context) (*Rollouts, []byte, error) {
	return call[Rollouts](ctx, c, http.MethodGet, "/v1/rollouts", nil)
}

// Do carries out a verb on the rollout of a policy. The error is
// reconciler.ErrNoRollout if there is none, and wraps reconciler.ErrNotNow if the verb
// does not apply now.
func (c Client) Do(ctx context.Context, policy string, v rollout.Verb) (*Done, error) {
	d, _, err := call[Done](ctx, c, http.MethodPost, "/v1/rollouts/"+url.PathEscape(policy)+"/"+v.Verb, command{v.Gate, v.Who, v.Why})
	return d, err
}

// Audit gets the newest records of the audit log, also as the JSON that the daemon
// sent; those of one policy, or of all if its name is empty.
func (c Client) Audit(ctx context.Context, policy string, most int) (*Audit, []byte, error) {
	query := url.Values{"policy": {policy}, "limit": {strconv.Itoa(most)}}
	return call[Audit](ctx, c, http.MethodGet, AuditPath+"?"+query.Encode(), nil)
}
