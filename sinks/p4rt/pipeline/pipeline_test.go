package pipeline

import (
	"strconv"
	"testing"

	p4configv1 "github.com/p4lang/p4runtime/go/p4/config/v1"

	"github.com/gray-release/gray/policies"
)

// tableNamed returns the table with a name, or nil.
func tableNamed(name string) *Table {
	for _, t := range Index().Tables {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// TestIDs compares the ids in Go with the compiled P4Info.
func TestIDs(t *testing.T) {
	tables := map[string]uint32{
		"vip_v4": TableVIPv4, "vip_v6": TableVIPv6, "gray_flow_v4": TableFlowV4, "gray_flow_v6": TableFlowV6,
		"gray_vm_src_v4": TableVMSrcV4, "gray_vm_dst_v4": TableVMDstV4, "gray_vm_src_v6": TableVMSrcV6, "gray_vm_dst_v6": TableVMDstV6,
		"gray_vpc": TableVPC, "hash_profile": TableHashProfile, "resolve": TableResolve, "pool": TablePool, "bucket": TableBucket, "backend": TableBackend,
	}
	if len(V1Model().P4Info.GetTables()) != len(tables) {
		t.Errorf("the P4Info has %d tables, Go knows %d", len(V1Model().P4Info.GetTables()), len(tables))
	}
	for name, id := range tables {
		if table := tableNamed(name); table == nil || table.ID != id {
			t.Errorf("table %s: P4Info has %v, Go has %#x", name, table, id)
		}
	}
	actions := map[string]uint32{
		"set_vip": ActionSetVIP, "vpc_pool": ActionVPCPool,
		"flow_pool_v4": ActionFlowPoolV4, "src_pool_v4": ActionSrcPoolV4, "dst_pool_v4": ActionDstPoolV4,
		"flow_pool_v6": ActionFlowPoolV6, "src_pool_v6": ActionSrcPoolV6, "dst_pool_v6": ActionDstPoolV6,
		"set_masks": ActionSetMasks, "set_generation": ActionSetGeneration, "set_backend": ActionSetBackend,
		"forward_mac": ActionForwardMAC, "forward_ip_v4": ActionForwardIPv4, "forward_ip_v6": ActionForwardIPv6,
	}
	byName := map[string]*p4configv1.Action{}
	for _, a := range V1Model().P4Info.GetActions() {
		byName[a.GetPreamble().GetName()] = a
	}
	for name, id := range actions {
		if byName[name].GetPreamble().GetId() != id {
			t.Errorf("action %s: P4Info has %#x, Go has %#x", name, byName[name].GetPreamble().GetId(), id)
		}
	}
}

// TestArchitectures checks that each P4Info names its architecture.
func TestArchitectures(t *testing.T) {
	for want, program := range map[string]*Program{"v1model": V1Model(), "tna": TNA()} {
		if got := program.P4Info.GetPkgInfo().GetArch(); got != want {
			t.Errorf("the P4Info of %s is one of %s", want, got)
		}
	}
}

// TestFields checks the names and widths that the encoding relies on.
func TestFields(t *testing.T) {
	want := map[string][]string{
		"vip_v4":         {"dst:32:EXACT"},
		"gray_flow_v4":   {"vip:8:EXACT", "vni:24:TERNARY", "src:32:TERNARY", "dst:32:TERNARY", "protocol:8:TERNARY", "src_port:16:RANGE", "dst_port:16:RANGE"},
		"gray_flow_v6":   {"vip:8:EXACT", "vni:24:TERNARY", "src:128:TERNARY", "dst:128:TERNARY", "protocol:8:TERNARY", "src_port:16:RANGE", "dst_port:16:RANGE"},
		"gray_vm_src_v4": {"vip:8:EXACT", "vni:24:EXACT", "src:32:EXACT"},
		"gray_vm_dst_v6": {"vip:8:EXACT", "vni:24:EXACT", "dst:128:EXACT"},
		"gray_vpc":       {"vip:8:EXACT", "vni:24:EXACT"},
		"bucket":         {"pool:8:EXACT", "generation:1:EXACT", "hash:16:EXACT"},
		"backend":        {"backend:16:EXACT"},
	}
	for name, fields := range want {
		table := tableNamed(name)
		for i, f := range table.Fields {
			got := f.Name + ":" + strconv.Itoa(f.Width) + ":" + f.Kind.String()
			if f.ID != uint32(i+1) || i >= len(fields) || got != fields[i] {
				t.Errorf("table %s field %d: P4Info has %s, want %v", name, f.ID, got, fields)
			}
		}
	}
}

// TestSizes compares the sizes that the compiler checks with the P4Info.
func TestSizes(t *testing.T) {
	for name, size := range policies.TableSizes {
		if table := tableNamed(name); table == nil || table.Size != int64(size) {
			t.Errorf("table %s: P4Info says %+v, policies %d", name, table, size)
		}
	}
}
