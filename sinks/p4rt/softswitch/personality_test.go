package softswitch

import (
	"errors"
	"io"
	"strings"
	"testing"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// like makes a rig with a personality, a primary and the gray pipeline.
func like(t *testing.T, name string) *rig {
	t.Helper()
	p, err := PersonalityOf(name)
	if err != nil {
		t.Fatal(err)
	}
	r := ready(t)
	r.sw.mu.Lock()
	r.sw.personality = p
	r.sw.mu.Unlock()
	return r
}

// codesOf is the code of each update of a failed batch.
func codesOf(t *testing.T, err error) string {
	t.Helper()
	var all []string
	for _, e := range perUpdate(t, err) {
		all = append(all, codes.Code(e.GetCanonicalCode()).String())
	}
	return strings.Join(all, " ")
}

// TestPersonalities checks how the personalities differ, and what they have in common.
func TestPersonalities(t *testing.T) {
	for name, want := range map[string]struct {
		message, mixed, twice, full string // of a failed Write; the codes of its updates
		flows, responses            int    // that a Read of priority 7, and of 1,500 entries, gives
	}{
		"strict":  {"some updates failed", "OK AlreadyExists OK NotFound", "", "ResourceExhausted", 1, 2},
		"bmv2":    {"", "OK AlreadyExists OK NotFound", "", "Unknown", 2, 1},
		"stratum": {"One or more write operations failed.", "OK AlreadyExists OK NotFound", "", "ResourceExhausted", 1, 2},
		"pins":    {"some updates failed", "OK AlreadyExists Aborted Aborted", "OK InvalidArgument Aborted", "ResourceExhausted", 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			r := like(t, name)
			r.mustWrite(insert(vpc(1, 1, 2)), insert(flow(7, 1, 2)), insert(flow(8, 1, 2)))
			err := r.write(insert(vpc(1, 2, 2)), insert(vpc(1, 1, 2)), insert(vpc(1, 3, 2)), modify(vpc(1, 4, 2)))
			wantCode(t, "a batch with errors", err, codes.Unknown)
			if m := status.Convert(err).Message(); m != want.message {
				t.Errorf("the message is %q, want %q", m, want.message)
			}
			if got := codesOf(t, err); got != want.mixed {
				t.Errorf("the updates have %s, want %s", got, want.mixed)
			}
			if got := codesOf(t, r.write(insert(vpc(1, 50, 2)), modify(vpc(1, 50, 3)), insert(vpc(1, 51, 2)))); got != want.twice {
				t.Errorf("a key twice gives %q, want %q", got, want.twice)
			}
			found, err := r.read(asked(&p4v1.TableEntry{TableId: pipeline.TableFlowV4, Priority: 7}))
			if err != nil || len(found) != want.flows {
				t.Errorf("a Read of priority 7 gives %d, error %v; want %d", len(found), err, want.flows)
			}
			for _, e := range found {
				if n := len(e.GetTableEntry().GetMatch()); n != 1 {
					t.Errorf("a flow rule over the VIP alone is read with %d fields", n)
				}
			}
			r.alike(t)
			if n := r.responses(t); n != want.responses {
				t.Errorf("1,500 entries come in %d responses, want %d", n, want.responses)
			}
			r.sw.mu.Lock()
			r.sw.live.tables[pipeline.TableVPC].info.Size = 0
			r.sw.mu.Unlock()
			if got := codesOf(t, r.write(insert(vpc(9, 9, 2)))); got != want.full {
				t.Errorf("a full table gives %s, want %s", got, want.full)
			}
		})
	}
	if _, err := PersonalityOf("onos"); err == nil || !strings.Contains(err.Error(), `"onos"; want strict, bmv2, stratum, pins`) {
		t.Errorf("a personality that there is not: %v", err)
	}
}

// alike checks what all personalities have in common.
func (r *rig) alike(t *testing.T) {
	t.Helper()
	for _, a := range []p4v1.WriteRequest_Atomicity{p4v1.WriteRequest_ROLLBACK_ON_ERROR, p4v1.WriteRequest_DATAPLANE_ATOMIC} {
		_, err := r.client.Write(t.Context(), &p4v1.WriteRequest{DeviceId: device, ElectionId: id(1), Atomicity: a, Updates: []*p4v1.Update{insert(vpc(1, 77, 2))}})
		wantCode(t, a.String(), err, codes.Unimplemented)
	}
	r.push(proto.CloneOf(pipeline.V1Model().P4Info))
	if found, err := r.read(asked(&p4v1.TableEntry{})); err != nil || len(found) != 0 {
		t.Errorf("after the same pipeline was loaded again %d entries are there, error %v", len(found), err)
	}
}

// responses writes 1,500 entries and counts in how many messages they are read.
func (r *rig) responses(t *testing.T) int {
	t.Helper()
	var all []*p4v1.Update
	for i := range uint64(1500) {
		all = append(all, insert(vpc(1, i, 2)))
	}
	r.mustWrite(all...)
	s, err := r.client.Read(t.Context(), &p4v1.ReadRequest{DeviceId: device, Entities: []*p4v1.Entity{asked(&p4v1.TableEntry{TableId: pipeline.TableVPC})}})
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		if _, err := s.Recv(); errors.Is(err, io.EOF) {
			return n
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
