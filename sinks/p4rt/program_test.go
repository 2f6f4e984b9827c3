package p4rt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	p4configv1 "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
	"github.com/gray-release/gray/tools/testnet"
)

// altered is gray's P4Info after a change.
func altered(change func(tables map[string]*p4configv1.Table, info *p4configv1.P4Info)) *p4configv1.P4Info {
	info := proto.CloneOf(pipeline.V1Model().P4Info)
	tables := map[string]*p4configv1.Table{}
	for _, t := range info.Tables {
		tables[t.GetPreamble().GetName()] = t
	}
	change(tables, info)
	return info
}

func textOf(t testing.TB, info *p4configv1.P4Info) []byte {
	t.Helper()
	b, err := prototext.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestForeignPrograms lowers switches whose P4Info fits gray's entries or does not: the
// errors list all that it lacks, at the document's line.
func TestForeignPrograms(t *testing.T) {
	type tables = map[string]*p4configv1.Table
	lower := func(text []byte) error {
		_, err := lowerSwitch(&policies.Switch{Name: "sw", Pipeline: "p", Program: &policies.Program{
			P4Info: text, Cookie: 1, Origin: schema.Position{Path: "sw.yaml", Line: 7},
		}})
		return err
	}
	for _, c := range []struct {
		what   string
		change func(tables, *p4configv1.P4Info)
		want   string // all but what stands before it in each line
	}{
		{"as it is", func(tables, *p4configv1.P4Info) {}, ""},
		{"other sizes, a table and an action more", func(t tables, info *p4configv1.P4Info) {
			t["bucket"].Size, t["gray_vpc"].Size = 1, 1<<20
			info.Tables = append(info.Tables, &p4configv1.Table{Preamble: &p4configv1.Preamble{Id: 0x02000099, Name: "acl"}})
			t["gray_vpc"].ActionRefs = append(t["gray_vpc"].ActionRefs, &p4configv1.ActionRef{Id: pipeline.ActionSetBackend})
			info.PkgInfo.Arch = "tna"
		}, ""},
		{"tables gone", func(_ tables, info *p4configv1.P4Info) {
			info.Tables = slices.DeleteFunc(info.Tables, func(t *p4configv1.Table) bool {
				return strings.HasPrefix(t.GetPreamble().GetName(), "gray_vm_src")
			})
		}, "it has no table gray_vm_src_v4 with id 0x2000005\nit has no table gray_vm_src_v6 with id 0x2000007"},
		{"a table of another name", func(t tables, _ *p4configv1.P4Info) { t["pool"].Preamble.Name = "group" }, "table pool is named group"},
		{"no size", func(t tables, _ *p4configv1.P4Info) { t["pool"].Size = 0 }, "table pool has no size"},
		{"a field gone", func(t tables, _ *p4configv1.P4Info) { t["bucket"].MatchFields = t["bucket"].MatchFields[:2] }, "table bucket has no field hash:16:EXACT (id 3)"},
		{"a field more", func(t tables, _ *p4configv1.P4Info) {
			t["gray_vpc"].MatchFields = append(t["gray_vpc"].MatchFields, &p4configv1.MatchField{Id: 9, Name: "x", Bitwidth: 1, Match: &p4configv1.MatchField_MatchType_{MatchType: p4configv1.MatchField_EXACT}})
		}, "table gray_vpc has an extra field x:1:EXACT (id 9)"},
		{"a narrow field", func(t tables, _ *p4configv1.P4Info) { t["bucket"].MatchFields[2].Bitwidth = 14 }, "table bucket has the field hash:14:EXACT (id 3), want hash:16:EXACT (id 3)"},
		{"LPM for ternary", func(t tables, _ *p4configv1.P4Info) {
			t["gray_flow_v4"].MatchFields[2].Match = &p4configv1.MatchField_MatchType_{MatchType: p4configv1.MatchField_LPM}
		}, "table gray_flow_v4 has the field src:32:LPM (id 3), want src:32:TERNARY (id 3)"},
		{"an action gone", func(t tables, _ *p4configv1.P4Info) {
			t["backend"].ActionRefs = slices.DeleteFunc(t["backend"].ActionRefs, func(r *p4configv1.ActionRef) bool { return r.GetId() == pipeline.ActionForwardIPv6 })
		}, "table backend has no action forward_ip_v6 with id 0x100000b"},
		{"a narrow parameter", func(_ tables, info *p4configv1.P4Info) {
			for _, a := range info.Actions {
				if a.GetPreamble().GetId() == pipeline.ActionVPCPool {
					a.Params[0].Bitwidth = 4
				}
			}
		}, "table gray_vpc has the action vpc_pool with parameters [{1 pool 4}], want [{1 pool 8}]"},
		{"an action for defaults only", func(t tables, _ *p4configv1.P4Info) {
			t["gray_vpc"].ActionRefs[0].Scope = p4configv1.ActionRef_DEFAULT_ONLY
		}, "table gray_vpc has the action vpc_pool in another scope"},
		{"another default", func(t tables, _ *p4configv1.P4Info) { t["pool"].ConstDefaultActionId = pipeline.ActionSetGeneration }, "table pool has the constant default action 0x1000007, want 0x100000c"},
		{"constant entries", func(t tables, _ *p4configv1.P4Info) { t["pool"].IsConstTable = true }, "table pool differs in whether its entries are constant"},
	} {
		err := lower(textOf(t, altered(c.change)))
		var want string
		for line := range strings.Lines(c.want) {
			want += "sw.yaml:7: spec.pipeline: the P4Info in p does not fit gray: " + line
		}
		if want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%s: error\n%v\nwant\n%s", c.what, err, want)
		}
		if _, ok := errors.AsType[schema.Errors](err); want != "" && !ok {
			t.Errorf("%s: a %T is no error of the documents", c.what, err)
		}
	}
	if err := lower([]byte("tables { match_fields { frob: 1 } }")); err == nil || !strings.HasPrefix(err.Error(), "sw.yaml:7: spec.pipeline: p4info.txtpb in p is not a P4Info of P4Runtime 1: ") {
		t.Errorf("nonsense: %v", err)
	}
}

// TestRememberedProgram stores a switch as the --state file does, so that it can be
// emptied when its document is deleted: the pipeline is the same, and the device config
// is not stored.
func TestRememberedProgram(t *testing.T) {
	config := bytes.Repeat([]byte("config "), 10_000)
	before := &policies.Switch{Name: "sw", Pipeline: "p", Push: "ifDifferent", Program: &policies.Program{
		P4Info: textOf(t, pipeline.V1Model().P4Info), DeviceConfig: config, Loads: true, Cookie: 77,
	}}
	kept, err := json.Marshal(before)
	if err != nil || len(kept) > 40_000 {
		t.Fatalf("%d bytes are kept, error %v", len(kept), err)
	}
	after := new(policies.Switch)
	if err := json.Unmarshal(kept, after); err != nil {
		t.Fatal(err)
	}
	self, again := switchOf(before), switchOf(after)
	if !self.Body.Equal(again.Body) || !again.Body.(*targetBody).program.Loads {
		t.Errorf("%s is remembered as %s", self.Body, again.Body)
	}
}

// sends checks that the switch sends a packet of VNI 1, which a policy moves, to the one
// server of v2.
func sends(t *testing.T, sw *lab) {
	t.Helper()
	p := packets.Packet{
		VIP: netip.MustParseAddr("203.0.113.10"), VNI: 1, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"),
		Protocol: 6, SrcPort: 1, DstPort: 2,
	}
	if port, _, ok := sw.sw.Process(frameOf(p)); !ok || port != 3 {
		t.Errorf("a packet of VNI 1 leaves: %t, by port %d; want port 3", ok, port)
	}
}

// TestFolderPipeline runs the loop with a switch on a pipeline of the repository:
// it is loaded as it is there, packets run through it, its sizes count, and
// another device config has it loaded again.
func TestFolderPipeline(t *testing.T) {
	sw := newLab(t)
	small := altered(func(tables map[string]*p4configv1.Table, _ *p4configv1.P4Info) { tables["gray_vpc"].Size = 2 })
	files := func(info *p4configv1.P4Info, config string) []*schema.File {
		text := textOf(t, info)
		return []*schema.File{{Path: "p/p4info.txtpb", ID: string(text), Data: text}, {Path: "p/device_config.bin", ID: config, Data: []byte(config)}}
	}
	document := strings.Replace(switchDoc("sw", sw.address), "spec: {", "spec: {pipeline: p, ", 1)
	documents := []string{document, gatewayDoc("sw"), networkDoc(1), networkDoc(2), networkDoc(3), vpcDoc(1), vpcDoc(2)}
	l := newLoopWith(t, files(small, "one"), documents...)
	l.settle()
	loaded := func() *p4v1.ForwardingPipelineConfig {
		res, err := sw.client().GetForwardingPipelineConfig(t.Context(), &p4v1.GetForwardingPipelineConfigRequest{DeviceId: 1})
		if err != nil {
			t.Fatal(err)
		}
		return res.GetConfig()
	}
	first := loaded()
	if !proto.Equal(first.GetP4Info(), small) || string(first.GetP4DeviceConfig()) != "one" || first.GetCookie().GetCookie() == pipeline.V1Model().Cookie {
		t.Errorf("the switch runs %v with config %q", first.GetCookie(), first.GetP4DeviceConfig())
	}
	sends(t, sw)
	l.look()
	if found := l.log.found(t); len(found) > 0 {
		t.Errorf("drift was found: %v", found)
	}

	// The table holds no third VPC: the commit is refused.
	l.set(append(slices.Clone(documents), vpcDoc(3)))
	testnet.Eventually(t, l.log.String, func() bool {
		return strings.Contains(l.log.String(), "table gray_vpc of switch sw would hold 3 entries, its size is 2")
	})

	pushes := sw.sw.Stats().Pushes
	l.files = files(small, "two")
	l.adopt(documents...)
	l.settle()
	if now := loaded(); string(now.GetP4DeviceConfig()) != "two" || now.GetCookie().GetCookie() == first.GetCookie().GetCookie() {
		t.Errorf("the switch runs %v with config %q, and ran %v", now.GetCookie(), now.GetP4DeviceConfig(), first.GetCookie())
	}
	if n := sw.sw.Stats().Pushes; n != pushes+1 {
		t.Errorf("%d pipelines were loaded, want one more than %d", n, pushes)
	}
	sends(t, sw)
}

// TestLoadedByOthers has a switch for which gray has no device config: whatever its
// cookie, it is programmed if its P4Info fits, and else left alone.
func TestLoadedByOthers(t *testing.T) {
	sw := newLab(t)
	o := newOther(t, sw.client(), "other", &p4v1.Uint128{Low: 1})
	push := func(info *p4configv1.P4Info) {
		t.Helper()
		_, err := o.client.SetForwardingPipelineConfig(t.Context(), &p4v1.SetForwardingPipelineConfigRequest{
			DeviceId: 1, Role: "other", ElectionId: o.id, Action: p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_COMMIT,
			Config: &p4v1.ForwardingPipelineConfig{P4Info: info, Cookie: &p4v1.ForwardingPipelineConfig_Cookie{Cookie: 0xabc}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	document := strings.Replace(switchDoc("sw", sw.address), "spec: {", "spec: {pipeline: tna, pushPipeline: never, ", 1)
	documents := []string{document, gatewayDoc("sw"), networkDoc(1), vpcDoc(1)}
	l := newLoop(t, documents...)
	var status string
	stalled := func(want string) {
		t.Helper()
		testnet.Eventually(t, func() string { return status }, func() bool {
			s, err := l.Status(t.Context())
			status = fmt.Sprintf("%+v, error %v", s, err)
			return strings.Contains(status, want)
		})
	}
	again := func() {
		t.Helper()
		if err := l.ObserveAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.adopt(documents...) // a commit ends all waiting
	}
	stalled("the switch runs no pipeline, gray wants gray/tna and has no device config to load; load it by other means")
	push(altered(func(_ map[string]*p4configv1.Table, info *p4configv1.P4Info) { info.Tables = info.Tables[1:] }))
	again()
	stalled("the switch runs another pipeline than gray/tna: it has no table vip_v4 with id 0x2000001; load that by other means")
	push(altered(func(tables map[string]*p4configv1.Table, _ *p4configv1.P4Info) { tables["bucket"].Size = 1000 }))
	again()
	stalled("the switch runs another pipeline than gray/tna: table bucket has room for 1000 entries, want 524288; load that")
	push(altered(func(tables map[string]*p4configv1.Table, _ *p4configv1.P4Info) { tables["bucket"].Size = 1 << 20 }))
	l.look()
	sends(t, sw)
	if n := sw.sw.Stats().Pushes; n != 3 {
		t.Errorf("%d pipelines were loaded, want the three of the other controller", n)
	}
}
