package softswitch

import (
	"strings"
	"testing"

	p4configv1 "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// TestRequests sends requests that are refused as a whole, before their entities are
// checked.
func TestRequests(t *testing.T) {
	r := ready(t)
	backup := r.stream()
	backup.arbitrate("", &p4v1.Uint128{})
	backup.wants("AlreadyExists 0/1")
	other := r.stream()
	other.arbitrate("other", id(9))
	other.wants("OK 0/9 role other")
	bad := insert(with(vpc(1, 1002, 2), func(e *p4v1.TableEntry) { e.TableId = 1 }))
	writes := []struct {
		name string
		req  *p4v1.WriteRequest
		code codes.Code
	}{
		{"another device", &p4v1.WriteRequest{DeviceId: 8, ElectionId: id(1)}, codes.NotFound},
		{"no device", &p4v1.WriteRequest{ElectionId: id(1)}, codes.NotFound},
		{"another device comes before the role", &p4v1.WriteRequest{DeviceId: 8, Role: "nobody"}, codes.NotFound},
		{"unknown role", &p4v1.WriteRequest{DeviceId: device, Role: "nobody", ElectionId: id(1)}, codes.NotFound},
		{"no election id", &p4v1.WriteRequest{DeviceId: device}, codes.PermissionDenied},
		{"election id of a backup", &p4v1.WriteRequest{DeviceId: device, ElectionId: &p4v1.Uint128{}}, codes.PermissionDenied},
		{"higher election id", &p4v1.WriteRequest{DeviceId: device, ElectionId: id(2)}, codes.PermissionDenied},
		{"high half of the election id", &p4v1.WriteRequest{DeviceId: device, ElectionId: &p4v1.Uint128{High: 1, Low: 1}}, codes.PermissionDenied},
		{"primary of another role", &p4v1.WriteRequest{DeviceId: device, ElectionId: id(9)}, codes.PermissionDenied},
		{"role of another primary", &p4v1.WriteRequest{DeviceId: device, Role: "other", ElectionId: id(1)}, codes.PermissionDenied},
		{"rollback", &p4v1.WriteRequest{DeviceId: device, ElectionId: id(1), Atomicity: p4v1.WriteRequest_ROLLBACK_ON_ERROR}, codes.Unimplemented},
		{"data plane atomic", &p4v1.WriteRequest{DeviceId: device, ElectionId: id(1), Atomicity: p4v1.WriteRequest_DATAPLANE_ATOMIC}, codes.Unimplemented},
	}
	for _, c := range writes {
		c.req.Updates = []*p4v1.Update{bad, insert(vpc(1, 1002, 2))}
		_, err := r.client.Write(t.Context(), c.req)
		wantCode(t, "write, "+c.name, err, c.code)
		if n := len(perUpdate(t, err)); n != 0 {
			t.Errorf("write, %s: %d errors of updates, want none", c.name, n)
		}
	}
	if all, _ := r.read(asked(&p4v1.TableEntry{})); len(all) != 0 {
		t.Errorf("a refused request was carried out: %v", all)
	}
	_, err := r.client.Write(t.Context(), &p4v1.WriteRequest{DeviceId: device, Role: "other", ElectionId: id(9), Updates: []*p4v1.Update{insert(vpc(1, 1002, 2))}})
	wantCode(t, "write by the primary of the other role", err, codes.OK)
	wantCode(t, "an empty write", r.write(), codes.OK)

	_, err = r.client.GetForwardingPipelineConfig(t.Context(), &p4v1.GetForwardingPipelineConfigRequest{DeviceId: 8})
	wantCode(t, "pipeline of another device", err, codes.NotFound)
	_, err = r.client.GetForwardingPipelineConfig(t.Context(), &p4v1.GetForwardingPipelineConfigRequest{DeviceId: device, ResponseType: 9})
	wantCode(t, "unknown part of the pipeline", err, codes.InvalidArgument)
	s, err := r.client.Read(t.Context(), &p4v1.ReadRequest{DeviceId: 8})
	wantCode(t, "read of another device", err, codes.OK)
	_, err = s.Recv()
	wantCode(t, "read of another device", err, codes.NotFound)
	_, err = r.client.Capabilities(t.Context(), &p4v1.CapabilitiesRequest{DeviceId: 8})
	wantCode(t, "capabilities of another device", err, codes.NotFound)
	c, err := r.client.Capabilities(t.Context(), &p4v1.CapabilitiesRequest{DeviceId: device})
	if err != nil || !strings.HasPrefix(c.GetP4RuntimeApiVersion(), "1.") {
		t.Errorf("capabilities %v, error %v", c, err)
	}
}

// TestNoArbitration refuses writes and pipelines while nobody is primary.
func TestNoArbitration(t *testing.T) {
	r := newRig(t)
	wantCode(t, "write", r.write(), codes.PermissionDenied)
	wantCode(t, "pipeline", r.set(setConfig(commitNow, nil)), codes.PermissionDenied)
	c := r.stream()
	c.arbitrate("", nil)
	c.wants("NotFound")
	_, err := r.client.Write(t.Context(), &p4v1.WriteRequest{DeviceId: device})
	wantCode(t, "write without election id by one without", err, codes.PermissionDenied)
}

// TestNoPipeline refuses entries before there is a pipeline.
func TestNoPipeline(t *testing.T) {
	r := newRig(t)
	c := r.stream()
	c.arbitrate("", id(1))
	c.wants("OK 0/1")
	wantCode(t, "write", r.write(insert(vpc(1, 1, 1))), codes.FailedPrecondition)
	_, err := r.read(asked(&p4v1.TableEntry{}))
	wantCode(t, "read", err, codes.FailedPrecondition)
	res, err := r.client.GetForwardingPipelineConfig(t.Context(), &p4v1.GetForwardingPipelineConfigRequest{DeviceId: device})
	if err != nil || res.GetConfig() != nil {
		t.Errorf("pipeline %v, error %v; want neither", res, err)
	}
	if r.sw.Inject(make([]byte, 64)) || r.sw.Stats().Dropped["no VIP"] != 1 {
		t.Errorf("a packet without pipeline: %v", r.sw.Stats())
	}
}

// TestKeysAlone deletes by the key alone, whatever else is in the entry, and keeps the
// action if a MODIFY omits it.
func TestKeysAlone(t *testing.T) {
	r := ready(t)
	r.mustWrite(insert(vpc(1, 1001, 2)), insert(flow(10, 1, 2, between(6, num(5), num(9)), ternary(3, num(0x0a000000), num(0xff000000)))))
	r.mustWrite(modify(with(vpc(1, 1001, 2), func(e *p4v1.TableEntry) { e.Action, e.Metadata = nil, []byte("mine") })))
	all, err := r.read(asked(&p4v1.TableEntry{TableId: pipeline.TableVPC}))
	want := with(vpc(1, 1001, 2), func(e *p4v1.TableEntry) { e.Metadata = []byte("mine") })
	if err != nil || len(all) != 1 || !proto.Equal(all[0].GetTableEntry(), want) {
		t.Errorf("read %v, error %v; want %v", all, err, want)
	}
	r.mustWrite(
		remove(with(vpc(1, 1001, 2), func(e *p4v1.TableEntry) {
			e.Action, e.MeterConfig, e.IdleTimeoutNs = action(7, nil, nil), &p4v1.MeterConfig{}, 5
		})),
		// The order of the fields is free.
		remove(flow(10, 1, 0, ternary(3, num(0x0a000000), num(0xff000000)), between(6, num(5), num(9)))),
	)
	if all, err := r.read(asked(&p4v1.TableEntry{})); err != nil || len(all) != 0 {
		t.Errorf("read %v, error %v; want nothing", all, err)
	}
}

// TestFull fills a table to its size, and not beyond.
func TestFull(t *testing.T) {
	r := ready(t)
	size := int(pipeline.Index().Tables[pipeline.TablePool].Size)
	entry := func(pool int) *p4v1.TableEntry {
		return tableEntry(pipeline.TablePool, action(pipeline.ActionSetGeneration, num(0), num(255)), exact(1, num(uint64(pool))))
	}
	var all []*p4v1.Update
	for i := range size {
		all = append(all, insert(entry(i)))
	}
	r.mustWrite(all...)
	small := proto.CloneOf(pipeline.V1Model().P4Info)
	for _, info := range small.GetTables() {
		if info.GetPreamble().GetId() == pipeline.TablePool {
			info.Size = 2
		}
	}
	r.push(small)
	err := r.write(insert(entry(1)), insert(entry(2)), insert(entry(3)), modify(entry(2)), remove(entry(1)), insert(entry(4)), insert(entry(5)))
	var got []codes.Code
	for _, e := range perUpdate(t, err) {
		got = append(got, codes.Code(e.GetCanonicalCode()))
	}
	want := []codes.Code{0, 0, codes.ResourceExhausted, 0, 0, 0, codes.ResourceExhausted}
	if len(got) != len(want) {
		t.Fatalf("codes %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("codes %v, want %v", got, want)
			break
		}
	}
}

const (
	verifyOnly = p4v1.SetForwardingPipelineConfigRequest_VERIFY
	saveOnly   = p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_SAVE
	commitNow  = p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_COMMIT
	commitOnly = p4v1.SetForwardingPipelineConfigRequest_COMMIT
	reconcile  = p4v1.SetForwardingPipelineConfigRequest_RECONCILE_AND_COMMIT
)

func configOf(cookie uint64, info *p4configv1.P4Info) *p4v1.ForwardingPipelineConfig {
	return &p4v1.ForwardingPipelineConfig{P4Info: info, P4DeviceConfig: []byte("blob"), Cookie: &p4v1.ForwardingPipelineConfig_Cookie{Cookie: cookie}}
}

// TestConfigRefusals sets pipelines that are invalid, or with invalid requests.
func TestConfigRefusals(t *testing.T) {
	r := newRig(t)
	c := r.stream()
	c.arbitrate("", id(1))
	c.wants("OK 0/1")
	gray := pipeline.V1Model().P4Info
	zero, twice := proto.CloneOf(gray), proto.CloneOf(gray)
	zero.Tables[0].Preamble.Id = 0
	twice.Tables[1].Preamble.Id = twice.Tables[0].Preamble.Id
	for _, a := range []p4v1.SetForwardingPipelineConfigRequest_Action{verifyOnly, saveOnly, commitNow} {
		wantCode(t, a.String()+" without config", r.set(setConfig(a, nil)), codes.InvalidArgument)
		wantCode(t, a.String()+" without P4Info", r.set(setConfig(a, configOf(1, nil))), codes.InvalidArgument)
		wantCode(t, a.String()+" of a table 0", r.set(setConfig(a, configOf(1, zero))), codes.InvalidArgument)
		wantCode(t, a.String()+" of a table twice", r.set(setConfig(a, configOf(1, twice))), codes.InvalidArgument)
	}
	wantCode(t, "commit of nothing", r.set(setConfig(commitOnly, nil)), codes.NotFound)
	wantCode(t, "commit with a config", r.set(setConfig(commitOnly, configOf(1, gray))), codes.InvalidArgument)
	wantCode(t, "reconcile", r.set(setConfig(reconcile, configOf(1, gray))), codes.Unimplemented)
	wantCode(t, "no action", r.set(setConfig(0, configOf(1, gray))), codes.InvalidArgument)
	for _, c := range []struct {
		name string
		req  *p4v1.SetForwardingPipelineConfigRequest
		code codes.Code
	}{
		{"another device", &p4v1.SetForwardingPipelineConfigRequest{DeviceId: 8, ElectionId: id(1)}, codes.NotFound},
		{"unknown role", &p4v1.SetForwardingPipelineConfigRequest{DeviceId: device, ElectionId: id(1), Role: "nobody"}, codes.NotFound},
		{"another primary", &p4v1.SetForwardingPipelineConfigRequest{DeviceId: device, ElectionId: id(2)}, codes.PermissionDenied},
		{"no election id", &p4v1.SetForwardingPipelineConfigRequest{DeviceId: device}, codes.PermissionDenied},
		{"the primary", &p4v1.SetForwardingPipelineConfigRequest{DeviceId: device, ElectionId: id(1)}, codes.OK},
	} {
		c.req.Action, c.req.Config = verifyOnly, configOf(1, gray)
		wantCode(t, c.name, r.set(c.req), c.code)
	}
	if n := r.sw.Stats().Pushes; n != 0 {
		t.Errorf("%d pipelines were committed, want 0", n)
	}
}

// TestConfigActions saves and commits: writes are for the saved pipeline, and packets use
// it from the commit on.
func TestConfigActions(t *testing.T) {
	r := ready(t)
	gray := pipeline.V1Model().P4Info
	r.mustWrite(insert(vpc(1, 1001, 2)))
	wantCode(t, "save", r.set(setConfig(saveOnly, configOf(2, gray))), codes.OK)
	if all, _ := r.read(asked(&p4v1.TableEntry{})); len(all) != 0 {
		t.Errorf("the saved pipeline begins with %v", all)
	}
	before := r.sw.plane.Load()
	r.mustWrite(insert(vpc(1, 1003, 2)), insert(vpc(1, 1004, 2)))
	if now := r.sw.plane.Load(); now != before || len(now.vpcs) != 1 {
		t.Error("packets see the saved pipeline before the commit")
	}
	wantCode(t, "commit", r.set(setConfig(commitOnly, nil)), codes.OK)
	if now := r.sw.plane.Load(); now == before || len(now.vpcs) != 2 {
		t.Error("packets do not see the pipeline that was committed")
	}
	wantCode(t, "commit again", r.set(setConfig(commitOnly, nil)), codes.NotFound)
	for part, want := range map[p4v1.GetForwardingPipelineConfigRequest_ResponseType]*p4v1.ForwardingPipelineConfig{
		p4v1.GetForwardingPipelineConfigRequest_ALL:                      configOf(2, gray),
		p4v1.GetForwardingPipelineConfigRequest_COOKIE_ONLY:              {Cookie: configOf(2, nil).Cookie},
		p4v1.GetForwardingPipelineConfigRequest_P4INFO_AND_COOKIE:        {P4Info: gray, Cookie: configOf(2, nil).Cookie},
		p4v1.GetForwardingPipelineConfigRequest_DEVICE_CONFIG_AND_COOKIE: {P4DeviceConfig: []byte("blob"), Cookie: configOf(2, nil).Cookie},
	} {
		res, err := r.client.GetForwardingPipelineConfig(t.Context(), &p4v1.GetForwardingPipelineConfigRequest{DeviceId: device, ResponseType: part})
		if err != nil || !proto.Equal(res.GetConfig(), want) {
			t.Errorf("%s: error %v, or not what was set", part, err)
		}
	}
	r.push(gray)
	if all, err := r.read(asked(&p4v1.TableEntry{})); err != nil || len(all) != 0 {
		t.Errorf("after a push: %d entries, error %v; want an empty switch", len(all), err)
	}
}
