package policies

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/schema"
)

// routesOf is a Network of VNI 1 with a route a VM.
func routesOf(vms ...string) string {
	var b strings.Builder
	b.WriteString("apiVersion: gray.dev/v1alpha1\nkind: Network\nmetadata: {name: n1}\nspec:\n  vni: 1\n  account: x\n  routes:\n")
	b.WriteString("  - {vm: router, prefix: 10.9.0.0/16, mac: \"02:00:00:00:00:01\", vtep: 192.0.2.1}\n")
	for _, a := range vms {
		fmt.Fprintf(&b, "  - {vm: x, prefix: %q, mac: \"02:00:00:00:00:01\", vtep: 192.0.2.1}\n", a)
	}
	return b.String()
}

func vmsOf(vms ...string) string {
	return fmt.Sprintf(`{vms: [{network: n1, addresses: ["%s"]}]}`, strings.Join(vms, `", "`))
}

// describeCell is the rules of VNI 1, one a line.
func describeCell(ir *IR) string {
	cell, _ := ir.Get(Name{schema.KindGateway, "gw", "vni/1"}).(*packets.Cell)
	var lines []string
	for i := 0; cell != nil && i < len(cell.Rules); i++ {
		r := &cell.Rules[i]
		lines = append(lines, fmt.Sprintf("%s %s -> %s by %s", r.TableName(), strings.TrimPrefix(r.Match.String(), "VNI 1, "), r.Pool, r.Policy))
	}
	return strings.Join(lines, "\n")
}

func TestVPCStandsForItsVMs(t *testing.T) {
	const a, b, c = "10.0.0.1", "10.0.0.2", "10.0.0.3"
	whole := "gray_vpc VNI 1 -> v2 by p"
	open := func(vms ...string) string {
		var lines []string
		for _, side := range []string{"gray_vm_src_v4 source ", "gray_vm_dst_v4 destination "} {
			for _, vm := range vms {
				lines = append(lines, side+vm+"/32 -> v2 by p")
			}
		}
		return strings.Join(lines, "\n")
	}
	r := newRepo(t, switchDoc, percentGateway)
	for _, step := range []struct{ what, routes, policy, other, want string }{
		{"all VMs", routesOf(a, b, c), policyOf("p", "v2", 100, vmsOf(a, b, c)), "", whole},
		{"one leaves", "", policyOf("p", "v2", 100, vmsOf(a, c)), "", open(a, c)},
		{"and comes back", "", policyOf("p", "v2", 100, vmsOf(a, b, c)), "", whole},
		{"a VM is born", routesOf(a, b, c, "10.0.0.4"), "", "", open(a, b, c)},
		{"and dies", routesOf(a, b, c), "", "", whole},
		{
			"one is excluded", "", policyOf("p", "v2", 100, vmsOf(a, b, c)+"\n  exclude:\n  - "+vmsOf(b)), "",
			"gray_flow_v4 destination 10.0.0.2/32 -> v1 by p\ngray_vm_src_v4 source 10.0.0.1/32 -> v2 by p\n" +
				"gray_vm_src_v4 source 10.0.0.2/32 -> v1 by p\ngray_vm_src_v4 source 10.0.0.3/32 -> v2 by p\n" +
				"gray_vm_dst_v4 destination 10.0.0.1/32 -> v2 by p\ngray_vm_dst_v4 destination 10.0.0.3/32 -> v2 by p",
		},
		{"half by another policy", "", policyOf("p", "v2", 100, vmsOf(a)), policyOf("q", "v2", 50, vmsOf(b, c)), "gray_vpc VNI 1 -> v2 by q"},
		{"which wants another version", "", "", policyOf("q", "v3", 50, vmsOf(b, c)), "*"},
		{"some by a prefix", "", "", policyOf("q", "v2", 50, "{flow: {vni: 1, src: 10.0.0.2/31}}\n  - {flow: {vni: 1, dst: 10.0.0.0/24}}"), "gray_vpc VNI 1 -> v2 by q"},
		{"as source alone", "", "", policyOf("q", "v2", 50, "{flow: {vni: 1, src: 10.0.0.2/31}}"), "*"},
		{"above a flow of another version", "", policyOf("p", "v2", 100, vmsOf(a, b, c)), policyOf("q", "v3", 50, "{flow: {vni: 1, dst: 10.0.0.1, dstPort: 80}}"), whole},
		{
			"below a flow of another version", "", "", policyOf("q", "v3", 150, "{flow: {vni: 1, dst: 10.0.0.1, dstPort: 80}}"),
			"gray_flow_v4 destination 10.0.0.1/32, destination port 80 -> v3 by q\n" + whole,
		},
		{
			"on both sides of one", "", policyOf("p", "v2", 100, vmsOf(b, c)), policyOf("q", "v3", 90, "{flow: {vni: 1, dstPort: 80}}") + "---\n" + policyOf("r", "v2", 80, vmsOf(a)),
			"gray_flow_v4 source 10.0.0.2/31 -> v2 by p\ngray_flow_v4 destination 10.0.0.2/31 -> v2 by p\n" +
				"gray_flow_v4 destination port 80 -> v3 by q\ngray_flow_v6 destination port 80 -> v3 by q\ngray_vpc VNI 1 -> v2 by r",
		},
		{"with all else", "", policyOf("p", "v2", 100, vmsOf(a, b, c)), policyOf("q", "v3", 50, "{networks: [n1]}"), whole},
		{"to the default", "", policyOf("p", "v1", 100, vmsOf(a, b, c)), "", "gray_vpc VNI 1 -> v3 by q"},
		{"to a share", "", policyOf("p", "v2", 100, strings.Replace(vmsOf(a, b, c), "{", "{percent: 10, ", 1)), policyOf("q", "v2", 50, "{percent: 0}"), "gray_vpc VNI 1 -> v2=10%,v1 by p"},
		{"no route table", routesOf(), policyOf("p", "v2", 100, vmsOf(a, b, c)), "", open(a, b, c)},
	} {
		for file, text := range map[string]string{"net.yaml": step.routes, "p.yaml": step.policy, "q.yaml": step.other} {
			if text != "" {
				r.put(file, text)
			}
		}
		ir, _ := r.must()
		got := describeCell(ir)
		if step.want == "*" {
			if strings.Contains(got, "gray_vpc") {
				t.Errorf("%s:\n%s", step.what, got)
			}
		} else if step.what == "to the default" {
			if !strings.Contains(got, step.want) || !strings.Contains(got, "gray_vm_src_v4 source "+a+"/32 -> v1 by p") {
				t.Errorf("%s:\n%s", step.what, got)
			}
		} else if got != step.want {
			t.Errorf("%s:\n%s\nwant\n%s", step.what, got, step.want)
		}
	}
}

func TestVPCOfRoutesFromAFile(t *testing.T) {
	r := newRepo(t, switchDoc, strings.Replace(percentGateway, "[203.0.113.10]", "[203.0.113.10, \"2001:db8:ffff::1\"]", 1),
		"apiVersion: gray.dev/v1alpha1\nkind: Network\nmetadata: {name: n1}\nspec: {vni: 1, account: x, routesFrom: n1.csv}\n",
		policyOf("p", "v2", 100, vmsOf("10.0.0.1", "2001:db8::1")))
	const header = "vm,prefix,mac,vtep\n"
	const a, b, c = "a,10.0.0.1/32,02:00:00:00:00:01,192.0.2.1\n", "b,2001:db8::1/128,02:00:00:00:00:02,192.0.2.2\n", "c,10.0.0.3/32,02:00:00:00:00:03,192.0.2.3\n"
	for _, step := range []struct {
		csv   string
		rules int
	}{{header + a + b, 1}, {header + a + b + c, 4}, {header + b + a, 1}} {
		r.put("n1.csv", step.csv)
		ir, units := r.must()
		if cell := ir.Get(Name{schema.KindGateway, "gw", "vni/1"}).(*packets.Cell); len(cell.Rules) != step.rules {
			t.Errorf("%s: %d rules, want %d\n%s", step.csv, len(cell.Rules), step.rules, describeCell(ir))
		}
		if len(units) == 0 {
			t.Errorf("%s: nothing changed", step.csv)
		}
	}
}

// One VM that comes or goes changes its two entries and no other.
func TestOneVMIsTwoEntries(t *testing.T) {
	var addresses []string
	for i := range 1000 {
		addresses = append(addresses, fmt.Sprintf("10.0.%d.%d", i/250, i%250))
	}
	r := newRepo(t, switchDoc, percentGateway, routesOf(append(addresses, "10.1.0.1")...), networkOf("n2", 2),
		policyOf("p", "v2", 100, vmsOf(addresses[:999]...)), policyOf("q", "v2", 50, "{networks: [n2]}"),
		policyOf("flows", "v3", 200, "{flow: {vni: 1, src: 10.0.1.0/24, dstPort: 443}}"))
	ir, _ := r.must()
	cell := Name{schema.KindGateway, "gw", "vni/1"}
	before := ir.Get(cell).(*packets.Cell).Rules
	r.put("4.yaml", policyOf("p", "v2", 100, vmsOf(addresses...)))
	ir, units := r.must()
	if !slices.Equal(units, []Name{cell}) {
		t.Errorf("%v changed", units)
	}
	now := ir.Get(cell).(*packets.Cell).Rules
	var fresh []string
	for _, rule := range now {
		if !slices.Contains(before, rule) {
			fresh = append(fresh, rule.TableName()+" "+rule.Match.String())
		}
	}
	want := []string{"gray_vm_src_v4 VNI 1, source 10.0.3.249/32", "gray_vm_dst_v4 VNI 1, destination 10.0.3.249/32"}
	if !slices.Equal(fresh, want) || len(now) != len(before)+2 {
		t.Errorf("%d entries became %d, with %v; want %v", len(before), len(now), fresh, want)
	}
}

// benchmarkCell is a VPC of 65,536 VMs and 2,048 flows.
func benchmarkCell() *workbench {
	b := newWorkbench()
	var vms, flows []entry
	for i := range 1 << 16 {
		for side := range 2 {
			m := packets.VNIMatch(1)
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
			*[]*netip.Prefix{&m.Src, &m.Dst}[side] = p
			vms = append(vms, entry{box: m, percent: 100})
		}
	}
	for i := range 2048 {
		m := packets.VNIMatch(1)
		m.Src = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 4), byte(i << 4), 0}), 24)
		m.DstPort = packets.PortRange{uint16(i), uint16(i)}
		flows = append(flows, entry{box: m, percent: 100})
	}
	b.policy("v3", 9, 0, flows[:1024]...)
	b.policy("v2", 8, 0, flows[1024:]...)
	b.policy("v2", 5, 0, vms...)
	return b
}

func BenchmarkCell(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if w := benchmarkCell(); !w.compile() {
			b.Fatal(w.c.errs)
		}
	}
}

// BenchmarkOneVM adds and removes a VM of one VPC of 1,024, with nothing else
// there and with 65,536 VMs and 2,048 flows in other VPCs.
func BenchmarkOneVM(b *testing.B) {
	for _, vpcs := range []int{1, 64} {
		b.Run(fmt.Sprintf("vms=%d", vpcs*1024), func(b *testing.B) {
			files := []*schema.File{fileOf("sw.yaml", switchDoc), fileOf("gw.yaml", percentGateway)}
			for v := range vpcs {
				files = append(files, fileOf(fmt.Sprintf("net%d.yaml", v), networkOf(fmt.Sprintf("n%d", v), v+1)), fileOf(fmt.Sprintf("vms%d.yaml", v), manyVMs(v, 1024)))
				if v > 0 {
					files = append(files, fileOf(fmt.Sprintf("flows%d.yaml", v), manyFlows(v, 32)))
				}
			}
			set, c := schema.NewSet(), NewCompiler(NewIDs(), nil)
			commit := func(files schema.Files) []Name {
				_, units, err := c.Compile(set, set.Update(&schema.Snapshot{Files: files}), Facts{})
				if err != nil {
					b.Fatal(err)
				}
				return units
			}
			all := schema.NewFiles(files...)
			commit(all)
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				all = all.With([]*schema.File{fileOf("vms0.yaml", manyVMs(0, 1023+n%2))}, nil)
				if units := commit(all); len(units) > 1 {
					b.Fatalf("%v changed", units)
				}
			}
		})
	}
}

func manyVMs(vpc, n int) string {
	addresses := make([]string, n)
	for i := range addresses {
		addresses[i] = fmt.Sprintf("10.0.%d.%d", i/256, i%256)
	}
	return policyOf(fmt.Sprintf("vms%d", vpc), "v2", 100, strings.Replace(vmsOf(addresses...), "n1", fmt.Sprintf("n%d", vpc), 1))
}

func manyFlows(vpc, n int) string {
	var b strings.Builder
	b.WriteString(strings.TrimSuffix(policyOf(fmt.Sprintf("flows%d", vpc), "v3", 200, ""), "  - \n"))
	for i := range n {
		fmt.Fprintf(&b, "  - {flow: {vni: %d, src: 10.0.%d.0/24, dstPort: %d}}\n", vpc+1, i, 2*i)
	}
	return b.String()
}
