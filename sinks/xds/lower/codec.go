package lower

import (
	"encoding/json"
	"fmt"
	"strings"
	"unique"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
)

// record is a resource in its stored form. Rank and references follow from the
// key and the body.
type record struct {
	Body   json.RawMessage `json:"body"`
	Origin schema.Position `json:"origin"`
}

// Encode makes the stored form of a resource, without its key.
func Encode(r *reconciler.Resource) ([]byte, error) {
	body, err := json.Marshal(r.Body)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be encoded: %w", r.Key, err)
	}
	return json.Marshal(record{body, r.Origin})
}

// Decode reads what Encode wrote.
func Decode(k reconciler.Key, b []byte) (*reconciler.Resource, error) {
	body := newBody(k)
	if body == nil {
		return nil, fmt.Errorf("%s is not a resource of target %s", k, Target)
	}
	var rec record
	err := json.Unmarshal(b, &rec)
	if err == nil {
		err = json.Unmarshal(rec.Body, body)
	}
	if err != nil {
		return nil, fmt.Errorf("%s cannot be decoded: %w", k, err)
	}
	rec.Origin.Path = unique.Make(rec.Origin.Path).Value()
	return resource(k.Kind, k.Name, body, rec.Origin), nil
}

// newBody is an empty body for a key, nil where the key is not of this target.
func newBody(k reconciler.Key) reconciler.Body {
	if k.Target != Target {
		return nil
	}
	halves := strings.Contains(k.Name, "/")
	switch {
	case k.Kind == KindCluster && halves:
		return new(Cluster)
	case k.Kind == KindEndpoints && halves:
		return new(Endpoints)
	case k.Kind == KindVirtualHost:
		return new(VirtualHost)
	case k.Kind == KindRule && halves:
		return new(Rule)
	case k.Kind == KindAccount && halves:
		return &Account{name: k.Name}
	case k.Kind == KindListener:
		return new(Listener)
	}
	return nil
}
