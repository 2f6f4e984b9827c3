package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
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
	Text       string            `json:"text"` // the plan as text, as the daemon logs it
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
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		reply(w, Status{s, peers()})
	})
	mux.HandleFunc("GET /v1/proxies", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, Proxies{ProxiesVersion, peers().Proxies})
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
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		p, err := r.DryRun(req.Context(), u.snapshot())
		if invalid, ok := errors.AsType[schema.Errors](err); ok {
			http.Error(w, invalid.Error(), http.StatusUnprocessableEntity)
			return
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		reply(w, NewDiff("live", p))
	})
	return mux
}

func reply(w http.ResponseWriter, v any) {
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
	b, err := c.do(ctx, http.MethodGet, "/v1/status", nil)
	if err != nil {
		return nil, nil, err
	}
	s := new(Status)
	return s, b, json.Unmarshal(b, s)
}

// Proxies gets the clients of xDS.
func (c Client) Proxies(ctx context.Context) (*Proxies, error) {
	b, err := c.do(ctx, http.MethodGet, "/v1/proxies", nil)
	if err != nil {
		return nil, err
	}
	p := new(Proxies)
	return p, json.Unmarshal(b, p)
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
	body, err := json.Marshal(u)
	if err != nil {
		return nil, err
	}
	b, err := c.do(ctx, http.MethodPost, "/v1/diff", body)
	if err != nil {
		return nil, err
	}
	d := new(Diff)
	return d, json.Unmarshal(b, d)
}

func (c Client) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+c.Address+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the daemon at %s: %w; start it, or give --admin-listen", c.Address, errors.Unwrap(err))
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxUpload))
	if err == nil && res.StatusCode != http.StatusOK {
		err = &refused{c.Address, res.StatusCode, string(bytes.TrimSpace(b))}
	}
	return b, err
}
