package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/bgp"
	"github.com/gray-release/gray/sinks/xds"
	"github.com/gray-release/gray/stores/etcd"
)

// maxUpload bounds the documents of a dry run, in bytes of JSON.
const maxUpload = 512 << 20

// Status is the daemon's answer to GET /v1/status.
type Status struct {
	*reconciler.Status
	Peers
}

// Peers is the state of everything that a daemon talks to, except switches.
type Peers struct {
	Proxies   []xds.Proxy     `json:"proxies"`           // Envoys
	Neighbors []bgp.Neighbor  `json:"neighbors"`         // BGP sessions
	Replica   *etcd.Status    `json:"replica,omitempty"` // nil for a daemon that runs alone
	Webhooks  []WebhookStatus `json:"webhooks,omitempty"`
}

// ProxiesVersion is the apiVersion of Proxies.
const ProxiesVersion = "gray.dev/proxies/v1"

// Proxies is the daemon's answer to GET /v1/proxies: the clients of xDS.
type Proxies struct {
	APIVersion string      `json:"apiVersion"`
	Proxies    []xds.Proxy `json:"proxies"`
}

// Diff is the daemon's answer to POST /v1/diff, and the JSON form of a plan.
type Diff struct {
	APIVersion string            `json:"apiVersion"`
	Base       string            `json:"base"` // what is live, or a revision
	Head       string            `json:"head"`
	Counts     reconciler.Counts `json:"counts"`
	Changes    []Change          `json:"changes"`
	Waiting    []Waiting         `json:"waiting"`  // changes that cannot be made yet, in the order of changes
	Refused    []Refused         `json:"refused"`  // why the daemon refuses the commit, for all targets
	Rollouts   []string          `json:"rollouts"` // changes of rollouts, a line each
	Warnings   []string          `json:"warnings"`
	Unknown    []Unknown         `json:"unknown,omitempty"` // targets that are away
	Text       string            `json:"text"`              // the plan as text, as the daemon logs it
}

// Change is one change of a plan.
type Change struct {
	Op     string           `json:"op"` // create, update or delete
	Target string           `json:"target"`
	Kind   string           `json:"kind"`
	Name   string           `json:"name"`
	Old    string           `json:"old,omitempty"`
	New    string           `json:"new,omitempty"`
	Origin *schema.Position `json:"origin,omitempty"` // the document that causes it
}

// Waiting is a change that cannot be made yet.
type Waiting struct {
	Target  string `json:"target"`
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	For     string `json:"for,omitempty"` // "TARGET KIND NAME" of what it waits for
	Message string `json:"message"`       // all of it on one line
}

// Refused is a target at which a commit deletes too much.
type Refused struct {
	Target  string `json:"target"`
	Deletes int    `json:"deletes"` // of what the commit in force has live there
	Live    int    `json:"live"`
	Limit   int    `json:"limit"` // per cent
	Message string `json:"message"`
}

// Unknown is a target that is away, so that nobody knows what is there.
type Unknown struct {
	Target  string    `json:"target"`
	Read    time.Time `json:"read"` // when it was read last, which is compared
	Message string    `json:"message"`
}

// DiffVersion is the apiVersion of a Diff.
const DiffVersion = "gray.dev/plan/v1"

// NewDiff makes the JSON form of a plan.
func NewDiff(base string, p *reconciler.Plan) *Diff {
	d := &Diff{APIVersion: DiffVersion, Base: base, Head: p.Revision, Counts: p.Counts(), Changes: []Change{}, Waiting: []Waiting{}, Refused: []Refused{}, Rollouts: p.Rollouts, Warnings: []string{}, Text: p.String()}
	if d.Rollouts == nil {
		d.Rollouts = []string{}
	}
	for _, w := range p.Waiting {
		out := Waiting{Target: w.Key.Target, Kind: w.Key.Kind, Name: w.Key.Name, Message: w.String()}
		if w.For != (reconciler.Key{}) {
			out.For = w.For.String()
		}
		d.Waiting = append(d.Waiting, out)
	}
	for _, u := range p.Unknown {
		d.Unknown = append(d.Unknown, Unknown{u.Target, u.Read, u.String()})
	}
	for _, r := range p.Refused {
		d.Refused = append(d.Refused, Refused{r.Target, r.Deletes, r.Live, r.Limit, r.String()})
	}
	ops := map[reconciler.Op]string{reconciler.Create: "create", reconciler.Update: "update", reconciler.Delete: "delete"}
	for _, c := range p.Changes {
		k := c.Key()
		out := Change{Op: ops[c.Op()], Target: k.Target, Kind: k.Kind, Name: k.Name}
		if c.Old != nil {
			out.Old = c.Old.Body.String()
		}
		if c.New != nil {
			out.New = c.New.Body.String()
		}
		if o := c.Origin(); o.Path != "" {
			out.Origin = &o
		}
		d.Changes = append(d.Changes, out)
	}
	return d
}

// upload is a snapshot on its way to the daemon.
type upload struct {
	Revision string
	Fresh    bool // read every target again first
	Files    []file
}

type file struct {
	Path string
	Data []byte
	Err  string `json:",omitempty"`
}

// Handler serves the API.
func Handler(r *reconciler.Reconciler, peers func() Peers) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, req *http.Request) {
		s, err := r.Status(req.Context())
		reply(w, Status{s, peers()}, err)
	})
	mux.HandleFunc("GET /v1/proxies", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, Proxies{ProxiesVersion, peers().Proxies}, nil)
	})
	mux.HandleFunc("POST /v1/trace", handleTrace(r))
	handleRollouts(mux, r)
	mux.HandleFunc("POST /v1/diff", func(w http.ResponseWriter, req *http.Request) {
		var u upload
		if err := json.NewDecoder(http.MaxBytesReader(w, req.Body, maxUpload)).Decode(&u); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if u.Fresh {
			if err := r.ObserveAll(req.Context()); err != nil {
				reply(w, nil, err)
				return
			}
		}
		p, err := r.DryRun(req.Context(), u.snapshot())
		if err != nil {
			reply(w, nil, err)
			return
		}
		reply(w, NewDiff("live", p), nil)
	})
	return mux
}

// reply answers with v or with an error, whose kind decides the status.
func reply(w http.ResponseWriter, v any, err error) {
	invalid, isInvalid := errors.AsType[schema.Errors](err)
	switch {
	case isInvalid:
		http.Error(w, invalid.Error(), http.StatusUnprocessableEntity)
		return
	case errors.Is(err, reconciler.ErrNoRollout):
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	case errors.Is(err, reconciler.ErrNotNow):
		http.Error(w, err.Error(), http.StatusConflict)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // fails only if the client went away
}

func (u *upload) snapshot() *schema.Snapshot {
	var files []*schema.File
	for _, f := range u.Files {
		out := &schema.File{Path: f.Path, ID: f.Path, Data: f.Data}
		if f.Err != "" {
			out.Err = errors.New(f.Err)
		}
		files = append(files, out)
	}
	return &schema.Snapshot{Revision: u.Revision, Files: schema.NewFiles(files...)}
}

// Client talks to a daemon.
type Client struct{ Address string }

// Status gets the status, also as the JSON that the daemon sent.
func (c Client) Status(ctx context.Context) (*Status, []byte, error) {
	return call[Status](ctx, c, http.MethodGet, "/v1/status", nil)
}

// Proxies gets the clients of xDS.
func (c Client) Proxies(ctx context.Context) (*Proxies, error) {
	p, _, err := call[Proxies](ctx, c, http.MethodGet, "/v1/proxies", nil)
	return p, err
}

// Diff asks what the daemon would change if it adopted a snapshot. With fresh, the
// daemon reads every target again first.
func (c Client) Diff(ctx context.Context, s *schema.Snapshot, fresh bool) (*Diff, error) {
	u := upload{Revision: s.Revision, Fresh: fresh}
	for f := range s.Files.All() {
		out := file{Path: f.Path, Data: f.Data}
		if f.Err != nil {
			out.Err = f.Err.Error()
		}
		u.Files = append(u.Files, out)
	}
	d, _, err := call[Diff](ctx, c, http.MethodPost, "/v1/diff", u)
	return d, err
}

// call sends a question, or none if it is nil, and returns the answer, also as the JSON
// that the daemon sent. It turns an answer about a rollout back into the error that the
// daemon had.
func call[T any](ctx context.Context, c Client, method, path string, question any) (*T, []byte, error) {
	var body []byte
	if question != nil {
		var err error
		if body, err = json.Marshal(question); err != nil {
			return nil, nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+c.Address+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot reach the daemon at %s: %w; start it, or give --admin-listen", c.Address, errors.Unwrap(err))
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxUpload))
	switch text := string(bytes.TrimSpace(b)); {
	case err != nil:
		return nil, nil, err
	case res.StatusCode == http.StatusNotFound && text == reconciler.ErrNoRollout.Error():
		return nil, nil, reconciler.ErrNoRollout
	case res.StatusCode == http.StatusConflict:
		return nil, nil, fmt.Errorf("%w: %s", reconciler.ErrNotNow, strings.TrimPrefix(text, reconciler.ErrNotNow.Error()+": "))
	case res.StatusCode != http.StatusOK:
		return nil, nil, fmt.Errorf("the daemon at %s: %s", c.Address, text)
	}
	answer := new(T)
	return answer, b, json.Unmarshal(b, answer)
}
