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

// The apiVersions of what is said about rollouts.
const (
	RolloutVersion  = "gray.dev/rollout/v1"  // Rollout and Done
	RolloutsVersion = "gray.dev/rollouts/v1" // Rollouts
	AuditVersion    = "gray.dev/audit/v1"    // Audit
)

// AuditPath is where the audit log is; only the daemon that leads has it.
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

// Done is the daemon's answer to POST /v1/rollouts/{policy}/{verb}: what became of
// the rollout; no events where all was so already.
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

// said is what a person says with a verb. Who is claimed, not proved.
type said struct {
	Gate string `json:"gate,omitempty"`
	Who  string `json:"who"`
	Why  string `json:"why,omitempty"`
}

// The bounds of a verb, in bytes, and of an answer about the audit log, in records.
const (
	maxSaid      = 64 << 10
	maxGate      = 1000
	maxWho       = 200
	maxWhy       = 2000
	auditDefault = 100
	auditMost    = 10_000
)

// verbs are those that the API takes.
var verbs = []string{rollout.VerbPromote, rollout.VerbPause, rollout.VerbResume, rollout.VerbAbort, rollout.VerbRetry}

// handleRollouts serves what is about rollouts.
func handleRollouts(mux *http.ServeMux, r *reconciler.Reconciler) {
	mux.HandleFunc("GET /v1/rollouts", func(w http.ResponseWriter, req *http.Request) {
		all, revision, err := r.Rollouts(req.Context(), "")
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		reply(w, Rollouts{RolloutsVersion, revision, all})
	})
	mux.HandleFunc("GET /v1/rollouts/{policy}", func(w http.ResponseWriter, req *http.Request) {
		all, revision, err := r.Rollouts(req.Context(), req.PathValue("policy"))
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		case len(all) > 0:
			reply(w, Rollout{RolloutVersion, revision, &all[0]})
		case revision == "": // it was started just now, or has never seen a good commit
			http.Error(w, "no commit is in force yet; wait, or look at gray status", http.StatusServiceUnavailable)
		default:
			http.Error(w, reconciler.ErrNoRollout.Error(), http.StatusNotFound)
		}
	})
	// A page in a browser on the daemon's host must not be able to say a verb.
	mux.Handle("POST /v1/rollouts/{policy}/{verb}", http.NewCrossOriginProtection().Handler(handleVerb(r)))
	mux.HandleFunc("GET "+AuditPath, func(w http.ResponseWriter, req *http.Request) {
		limit, err := strconv.Atoi(cmp.Or(req.URL.Query().Get("limit"), strconv.Itoa(auditDefault)))
		if err != nil || limit < 1 || limit > auditMost {
			http.Error(w, fmt.Sprintf("limit: want a number of 1 to %d", auditMost), http.StatusBadRequest)
			return
		}
		records, err := r.Audit(req.URL.Query().Get("policy"), limit)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		reply(w, Audit{AuditVersion, records})
	})
}

// handleVerb takes in what a person says about a rollout.
func handleVerb(r *reconciler.Reconciler) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		policy, verb := req.PathValue("policy"), req.PathValue("verb")
		if !slices.Contains(verbs, verb) {
			http.Error(w, fmt.Sprintf("unknown verb %q; want one of %s", verb, strings.Join(verbs, ", ")), http.StatusBadRequest)
			return
		}
		var s said
		dec := json.NewDecoder(http.MaxBytesReader(w, req.Body, maxSaid))
		dec.DisallowUnknownFields()
		if err := cmp.Or(dec.Decode(&s), s.check(verb)); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		events, err := r.Do(req.Context(), policy, rollout.Verb{Verb: verb, Gate: s.Gate, Who: s.Who, Why: s.Why})
		switch {
		case errors.Is(err, reconciler.ErrNoRollout):
			http.Error(w, err.Error(), http.StatusNotFound)
		case errors.Is(err, reconciler.ErrNotNow):
			http.Error(w, err.Error(), http.StatusConflict)
		case err != nil:
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		default:
			reply(w, Done{RolloutVersion, policy, append([]rollout.Event{}, events...)})
		}
	}
}

// check refuses what could not stand in a log or on a terminal as one line.
func (s *said) check(verb string) error {
	if s.Who == "" {
		return errors.New("who: says nothing; the audit log needs a name")
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
			return fmt.Errorf("%s: want one line of text that can be printed", f.name)
		}
	}
	return nil
}

// Rollout asks how the rollout of a policy stands; the answer is the JSON too. The
// error is reconciler.ErrNoRollout where there is none.
func (c Client) Rollout(ctx context.Context, policy string) (*Rollout, []byte, error) {
	b, err := c.do(ctx, http.MethodGet, "/v1/rollouts/"+url.PathEscape(policy), nil)
	if err != nil {
		return nil, nil, meant(err)
	}
	r := new(Rollout)
	return r, b, json.Unmarshal(b, r)
}

// Rollouts asks how all rollouts stand; the answer is the JSON too.
func (c Client) Rollouts(ctx context.Context) (*Rollouts, []byte, error) {
	b, err := c.do(ctx, http.MethodGet, "/v1/rollouts", nil)
	if err != nil {
		return nil, nil, err
	}
	r := new(Rollouts)
	return r, b, json.Unmarshal(b, r)
}

// Do says a verb about the rollout of a policy. The error is reconciler.ErrNoRollout
// where there is none, and wraps reconciler.ErrNotNow where the verb does not apply.
func (c Client) Do(ctx context.Context, policy string, v rollout.Verb) (*Done, error) {
	body, err := json.Marshal(said{v.Gate, v.Who, v.Why})
	if err != nil {
		return nil, err
	}
	b, err := c.do(ctx, http.MethodPost, "/v1/rollouts/"+url.PathEscape(policy)+"/"+v.Verb, body)
	if err != nil {
		return nil, meant(err)
	}
	d := new(Done)
	return d, json.Unmarshal(b, d)
}

// Audit asks for the newest records of the audit log, of a policy or with an empty
// name of all; the answer is the JSON too.
func (c Client) Audit(ctx context.Context, policy string, most int) (*Audit, []byte, error) {
	query := url.Values{"policy": {policy}, "limit": {strconv.Itoa(most)}}
	b, err := c.do(ctx, http.MethodGet, AuditPath+"?"+query.Encode(), nil)
	if err != nil {
		return nil, nil, err
	}
	a := new(Audit)
	return a, b, json.Unmarshal(b, a)
}

// refused is an answer of the daemon that is no.
type refused struct {
	address string
	code    int // of HTTP
	text    string
}

func (r *refused) Error() string { return fmt.Sprintf("the daemon at %s: %s", r.address, r.text) }

// meant is an error about a rollout as the daemon had it.
func meant(err error) error {
	r, is := errors.AsType[*refused](err)
	switch {
	case is && r.code == http.StatusNotFound && r.text == reconciler.ErrNoRollout.Error():
		return reconciler.ErrNoRollout
	case is && r.code == http.StatusConflict:
		return fmt.Errorf("%w: %s", reconciler.ErrNotNow, strings.TrimPrefix(r.text, reconciler.ErrNotNow.Error()+": "))
	}
	return err
}
