package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/p4rt"
	"github.com/gray-release/gray/sinks/xds"
)

// TraceQuery asks where a packet or a request goes.
type TraceQuery struct {
	Packet  *packets.Packet   `json:",omitempty"`
	Switch  string            `json:",omitempty"` // the switch that gets the packet; empty: the first one that has the VIP
	Request *requests.Request `json:",omitempty"`
}

// Traced says where a packet or a request goes.
type Traced struct {
	Revision string
	NotLive  string          `json:",omitempty"` // why what is live may be otherwise
	Packet   *packets.Trace  `json:",omitempty"`
	Request  *requests.Trace `json:",omitempty"`
}

// Trace follows the packet or the request of a query through a commit.
func Trace(ir *policies.IR, q TraceQuery) (*Traced, error) {
	switch on := q.Switch; {
	case q.Request != nil:
		return &Traced{Request: requests.Follow(ir, *q.Request)}, nil
	case q.Packet == nil:
		return nil, errors.New("the query is empty; want a packet or a request")
	case on != "" && ir.Switch(on) == nil:
		return nil, fmt.Errorf("there is no Switch %q", on)
	default:
		for _, gw := range ir.Gateways() {
			if on == "" && slices.Contains(gw.VIPs, q.Packet.VIP) {
				on = gw.Switches[0]
			}
		}
		return &Traced{Packet: packets.Follow(ir, on, *q.Packet)}, nil
	}
}

// handleTrace traces through the commit in force, with what the daemon knows about
// servers and endpoints.
func handleTrace(r *reconciler.Reconciler) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		var q TraceQuery
		if err := json.NewDecoder(http.MaxBytesReader(w, req.Body, maxQuery)).Decode(&q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		ir, revision, err := r.Meaning(req.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		t, err := Trace(ir, q)
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		t.Revision = revision
		target, doc := xds.Target, schema.Name{Kind: schema.KindService}
		if p := t.Packet; p != nil {
			target, doc = p4rt.TargetOf(p.Switch), schema.Name{Kind: schema.KindGateway, Name: p.Gateway}
		} else {
			doc.Name = t.Request.Service
		}
		t.NotLive, err = r.NotLive(req.Context(), target, doc)
		reply(w, t, err)
	}
}

// maxQuery bounds a query, in bytes.
const maxQuery = 1 << 20

// Trace asks the daemon where a packet or a request goes.
func (c Client) Trace(ctx context.Context, q TraceQuery) (*Traced, error) {
	t, _, err := call[Traced](ctx, c, http.MethodPost, "/v1/trace", q)
	return t, err
}
