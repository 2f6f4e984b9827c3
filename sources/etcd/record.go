package etcd

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/schema"
)

// Bounds of what is read from etcd.
const (
	maxRecords = 10_000  // records of a target
	maxRecord  = 4 << 10 // bytes of a value
	maxKey     = 1 << 10 // bytes of a key
	maxShown   = 64      // bytes of a text in a message
)

// record is an endpoint as etcd's package naming/endpoints and the resolver of old gRPC
// (up to 1.29) write it: with the same fields, but different keys. Op is 0, for add, in
// stored records. Metadata belongs to the service and is ignored.
type record struct {
	Op   int
	Addr string
}

// entry is the meaning of a record: an endpoint, or why it is not one.
type entry struct {
	endpoint netip.AddrPort
	wrong    string
}

// put adds a record.
func put(records map[string]entry, key, value []byte) {
	e := parse(value)
	if len(key) > maxKey {
		e = entry{wrong: fmt.Sprintf("has a key with more than %d bytes", maxKey)}
	}
	records[keyOf(key)] = e
}

// keyOf is the key of a record in memory.
func keyOf(key []byte) string { return string(key[:min(len(key), maxKey+1)]) }

// parse reads a record.
func parse(value []byte) entry {
	if len(value) > maxRecord {
		return entry{wrong: fmt.Sprintf("has %d bytes, more than %d", len(value), maxRecord)}
	}
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		return entry{wrong: `is not JSON like {"Op":0,"Addr":"10.0.0.1:8080"}`}
	}
	if r.Op != 0 {
		return entry{wrong: fmt.Sprintf("has Op %d, want 0", r.Op)}
	}
	at, err := netip.ParseAddrPort(r.Addr)
	a := at.Addr().Unmap()
	if err != nil || at.Port() == 0 || a.Zone() != "" {
		return entry{wrong: fmt.Sprintf("has the address %q, want IP:port", schema.Clip(r.Addr, maxShown))}
	}
	if a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() {
		return entry{wrong: fmt.Sprintf("has the address %s, which cannot be a server's", at)}
	}
	return entry{endpoint: netip.AddrPortFrom(a, at.Port())}
}

// endpointsOf returns the endpoints of records, sorted, as policies needs them.
func endpointsOf(records map[string]entry) []requests.Endpoint {
	all := make([]requests.Endpoint, 0, len(records))
	for _, e := range records {
		if e.wrong == "" {
			all = append(all, requests.Endpoint{Address: e.endpoint.Addr(), Port: e.endpoint.Port(), Weight: 1})
		}
	}
	return sorted(all)
}

func sorted(all []requests.Endpoint) []requests.Endpoint {
	slices.SortFunc(all, func(a, b requests.Endpoint) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
	})
	return slices.Compact(all)
}

// leftOut says which records are not endpoints; empty if all are.
func leftOut(records map[string]entry) string {
	const most = 3
	var words []string
	count := 0
	for _, key := range slices.Sorted(maps.Keys(records)) {
		if e := records[key]; e.wrong != "" {
			if count++; count <= most {
				words = append(words, fmt.Sprintf("%q %s", schema.Clip(key, maxShown), e.wrong))
			}
		}
	}
	if count == 0 {
		return ""
	}
	if count > most {
		words = append(words, fmt.Sprintf("and %d more", count-most))
	}
	return fmt.Sprintf("%d of %d records are left out: %s", count, len(records), strings.Join(words, "; "))
}
