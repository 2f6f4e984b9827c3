package p4rt

import (
	"cmp"
	"context"
	"net"
	"os"
	"slices"
	"strconv"
	"testing"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// TestTarget runs the target suite against the switch at the address TARGET, as
// `make test-target` does, and against the software gateway where it is unset;
// TARGET_DEVICE_ID is its device id, 1 where it is unset, and TARGET_PIPELINE the
// pipeline as in a Switch document, v1model where it is.
func TestTarget(t *testing.T) {
	address := os.Getenv("TARGET")
	if address == "" {
		address = newLab(t).address
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		t.Fatalf("TARGET=%s is not host:port", address)
	}
	device := uint64(1)
	if s := os.Getenv("TARGET_DEVICE_ID"); s != "" {
		var err error
		if device, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("TARGET_DEVICE_ID=%s is no number", s)
		}
	}
	name := cmp.Or(os.Getenv("TARGET_PIPELINE"), schema.PipelineV1Model)
	if name != schema.PipelineV1Model && name != schema.PipelineTNA {
		t.Fatalf("TARGET_PIPELINE=%s is not known; want %s or %s", name, schema.PipelineV1Model, schema.PipelineTNA)
	}
	runTarget(t, address, device, name)
}

// TestTargetTNA runs it against a switch on which somebody else has loaded the pipeline
// for Tofino, with another cookie.
func TestTargetTNA(t *testing.T) {
	l := newLab(t)
	o := newOther(t, l.client(), "", &p4v1.Uint128{Low: 1})
	_, err := o.client.SetForwardingPipelineConfig(t.Context(), &p4v1.SetForwardingPipelineConfigRequest{
		DeviceId: 1, ElectionId: o.id, Action: p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_COMMIT,
		Config: &p4v1.ForwardingPipelineConfig{P4Info: pipeline.TNA().P4Info, Cookie: &p4v1.ForwardingPipelineConfig_Cookie{Cookie: 0xabc}},
	})
	if err != nil {
		t.Fatal(err)
	}
	o.close()
	runTarget(t, l.address, 1, schema.PipelineTNA)
}

// targetRig is a switch of whatever kind and everything that the suite has
// written to it.
type targetRig struct {
	*testing.T
	d       *device
	id      election
	close   context.CancelFunc          // ends the stream on which the suite is primary
	written map[string]*p4v1.TableEntry // by table and match
	self    *reconciler.Resource        // as a Switch document says it
}

// runTarget runs the suite. Its parts build on each other. What they wrote is deleted at
// the end, also after a failure.
func runTarget(t *testing.T, address string, deviceID uint64, name string) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithMaxHeaderListSize(maxHeaderList), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceive)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	self := switchOf(&policies.Switch{Name: "gw-a", Address: address, DeviceID: deviceID, Pipeline: name, Push: "ifDifferent"})
	d := &device{spec: targetBody{address: address, deviceID: deviceID}, client: p4v1.NewP4RuntimeClient(conn), known: newKnown()}
	d.setProgram(self.Body.(*targetBody).program)
	r := &targetRig{T: t, d: d, self: self, written: map[string]*p4v1.TableEntry{}}
	t.Cleanup(r.clean)
	for _, p := range []struct {
		name string
		run  func(*targetRig)
	}{
		{"Arbitration", targetArbitration},
		{"Pipeline", targetPipeline},
		{"EveryTable", targetEveryTable},
		{"Flows", targetFlows},
		{"VMs", targetVMs},
		{"Buckets", targetBuckets},
		{"Modify", targetModify},
		{"Errors", targetErrors},
		{"Priorities", targetPriorities},
		{"ByKey", targetByKey},
		{"Delete", targetDelete},
		{"Sink", targetSink},
	} {
		ok := t.Run(p.name, func(t *testing.T) {
			part := *r
			part.T = t
			defer func() { r.id, r.close = part.id, part.close }()
			p.run(&part)
		})
		if !ok {
			return
		}
	}
}

// write makes updates that must succeed, in one batch or more.
func (r *targetRig) write(kind p4v1.Update_Type, entries ...*p4v1.TableEntry) {
	r.Helper()
	w := newWriter(r.d, New(Config{}).limits, r.id.proto())
	var updates []update
	for _, e := range entries {
		updates = append(updates, update{key: reconciler.Key{Name: rawText(e)}, proto: updateOf(kind, e), again: true})
	}
	err := w.write(context.Background(), updates)
	if err != nil || w.failed != nil {
		r.Fatalf("%s: %v%v", kind, reason(err), w.failed.Or())
	}
	for _, e := range entries {
		r.noted(kind, e)
	}
}

// noted keeps what the switch holds now.
func (r *targetRig) noted(kind p4v1.Update_Type, e *p4v1.TableEntry) {
	if kind == p4v1.Update_DELETE {
		delete(r.written, rawName(normal(e)))
		return
	}
	r.written[rawName(normal(e))] = e
}

// send makes one Write and returns the code of each update.
func (r *targetRig) send(updates ...*p4v1.Update) []codes.Code {
	r.Helper()
	w := newWriter(r.d, New(Config{}).limits, r.id.proto())
	var batch []update
	for _, u := range updates {
		batch = append(batch, update{proto: u})
	}
	errs, err := w.send(context.Background(), batch)
	if err != nil {
		r.Fatalf("a Write of which parts are refused: %v; want UNKNOWN with one error an update", err)
	}
	got := make([]codes.Code, len(updates))
	for i, e := range errs {
		got[i] = codes.Code(e.GetCanonicalCode())
	}
	return got
}

// readAll reads tables whole, all where none is named, in normal form.
func (r *targetRig) readAll(tables ...uint32) map[string]*p4v1.TableEntry {
	r.Helper()
	all := map[string]*p4v1.TableEntry{}
	for id, table := range pipeline.Index().Tables {
		if table.Const || len(tables) > 0 && !slices.Contains(tables, id) {
			continue
		}
		err := r.d.readTable(context.Background(), table, func(e *p4v1.TableEntry) {
			n := normal(e)
			all[rawName(n)] = n
		})
		if err != nil {
			r.Fatalf("cannot read table %s: %v", table.Name, reason(err))
		}
	}
	return all
}

// clean deletes what was written and is left, pointers before what they point to.
func (r *targetRig) clean() {
	for rank := rankRule; rank > rankTarget && r.close != nil; rank-- {
		var left []*p4v1.Update
		for _, e := range r.written {
			if rankOf(e.GetTableId()) == rank {
				left = append(left, updateOf(p4v1.Update_DELETE, e))
			}
		}
		for batch := range slices.Chunk(left, batchFirst) {
			r.send(batch...)
		}
	}
	if r.close != nil {
		r.close()
	}
}

// check checks that tables, all if none is named, have what was written and nothing else.
func (r *targetRig) check(tables ...uint32) {
	r.Helper()
	got := r.readAll(tables...)
	for k, want := range r.written {
		if len(tables) > 0 && !slices.Contains(tables, want.GetTableId()) {
			continue
		}
		if e := got[k]; e == nil {
			r.Errorf("table %s: not there: %s", tableKinds[want.GetTableId()], rawText(want))
		} else if !proto.Equal(e, want) {
			r.Errorf("table %s: reads back as %s, want %s", tableKinds[want.GetTableId()], rawText(e), rawText(want))
		}
		delete(got, k)
	}
	for _, e := range got {
		r.Errorf("table %s: nobody wrote %s", tableKinds[e.GetTableId()], rawText(e))
	}
}
