package schema

import (
	"embed"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// formatDocs are the documents that the page of the format shows, as they are
// written there.
//
//go:embed testdata/format
var formatDocs embed.FS

func formatDoc(t *testing.T, kind string) string {
	t.Helper()
	text, err := formatDocs.ReadFile("testdata/format/" + strings.ToLower(kind) + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestFormatParses holds that every document of the page parses as written.
func TestFormatParses(t *testing.T) {
	for _, kind := range Kinds() {
		t.Run(kind, func(t *testing.T) {
			set, err := Parse(snapshot("doc.yaml", formatDoc(t, kind)))
			if err != nil {
				t.Fatal(err)
			}
			if set.Len() != 1 || set.Names()[0].Kind != kind {
				t.Errorf("got %v, want one %s", set.Names(), kind)
			}
		})
	}
}

// TestDocsParse holds the same for the documents in this repository's pages.
func TestDocsParse(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("there are no pages: %v", err)
	}
	for _, page := range append(pages, "../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, doc := range yamlBlocks(string(text)) {
			if _, err := Parse(snapshot(filepath.Base(page)+".yaml", doc)); err != nil {
				t.Errorf("%s shows a document that does not parse:\n%s\n%v", page, doc, err)
			}
		}
	}
	if got := yamlBlocks("a\n\n```yaml\nkind: Node\n```\n\n```sh\nkind: x\n```\n"); len(got) != 1 || got[0] != "kind: Node\n" {
		t.Errorf("blocks of a page: %q", got)
	}
}

// yamlBlocks are the documents in a page's fenced blocks.
func yamlBlocks(page string) []string {
	var docs []string
	for _, m := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```").FindAllStringSubmatch(page, -1) {
		if regexp.MustCompile("(?m)^kind:").MatchString(m[1]) {
			docs = append(docs, m[1])
		}
	}
	return docs
}

// TestFormatWhole holds what each document of the page is read as, field by
// field, also the fields that are not acted on yet.
func TestFormatWhole(t *testing.T) {
	for kind, want := range map[string]any{
		KindPolicy: wantPolicy(), KindService: wantService(), KindGateway: wantGateway(),
		KindSwitch: wantSwitch(), KindNetwork: wantNetwork(), KindNode: wantNode(),
	} {
		t.Run(kind, func(t *testing.T) {
			set, err := Parse(snapshot("doc.yaml", formatDoc(t, kind)))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, set.Get(set.Names()[0]).Spec, byValue); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
		})
	}
}

func wantPolicy() *PolicySpec {
	return &PolicySpec{
		Targets:  []TargetRef{{KindGateway, "vpc-gw"}, {KindService, "vpc-api"}},
		Version:  "v2",
		Priority: 100,
		Match: []Match{
			{Line: 13, Accounts: []string{"50002001"}},
			{Line: 14, Headers: []HeaderMatch{{Name: "x-env", Exact: to("canary")}}},
			{Line: 15, Networks: []string{"vpc-1001"}},
			{Line: 16, VMs: []VMMatch{{"vpc-1001", []Addr{addr("10.0.0.5"), addr("10.0.0.6")}}}},
			{Line: 17, Flow: &Flow{
				VNI: to(VNI(1001)), Src: to(prefix("10.0.0.0/24")), Dst: to(prefix("10.1.0.7/32")),
				Protocol: to(Protocol(6)), SrcPort: &PortRange{40000, 40999}, DstPort: &PortRange{443, 443},
			}},
			{Line: 24, Percent: to(5)},
		},
		Exclude: []Match{{Line: 26, Accounts: []string{"50002099"}}},
		Rollout: &Rollout{
			NetworkSelector: map[string]string{"shard": "s1"},
			Order:           []string{"vpc-1001", "vpc-1002"},
			Batches:         []Batch{{N: 1}, {N: 5}, {N: 25, IsPercent: true}, {N: 100, IsPercent: true}},
			Parallel:        1,
			Bake:            Duration(30 * time.Second),
			Approval:        "none",
			Through:         &Through{"vpc-1001", 2},
			Verify: &Verify{
				Ping:    &PingProbe{Count: 3, Timeout: Duration(time.Second), Peers: 8, Source: "overlay"},
				TCP:     &TCPProbe{22, Duration(time.Second)},
				HTTP:    &HTTPProbe{"http://vpc-api.internal/healthz", 200},
				Exec:    &ExecProbe{[]string{"check-vpc", "--quick"}, Duration(time.Minute)},
				Retries: 2,
			},
			Deadline:  Duration(2 * time.Hour),
			OnFailure: "rollback",
		},
	}
}

func wantService() *ServiceSpec {
	return &ServiceSpec{
		Hosts:    []string{"vpc-api.internal"},
		Protocol: "http",
		RouteBy:  &RouteBy{"x-ucloud-routeby", "account_id"},
		Default:  "v1",
		Versions: []ServiceVersion{
			{
				Line: 9, Name: "v1", Image: "registry.internal/vpc-api:1.8.2",
				Compose:   map[string]any{"environment": map[string]any{"LOG": "info"}, "volumes": []any{"/etc/vpc:/etc/vpc:ro"}},
				Endpoints: []Endpoint{{addr("10.9.1.11"), 8080, 1}, {addr("10.9.1.12"), 8080, 2}},
			},
			{Line: 13, Name: "v2", Etcd: &EtcdTarget{"/services/vpc-api/v2"}},
		},
		HealthCheck: &HealthCheck{HTTP: &HTTPCheck{Path: "/healthz"}, Interval: Duration(5 * time.Second), Timeout: Duration(time.Second), Rise: 2, Fall: 3},
		Timeout:     to(Duration(15 * time.Second)),
		Retries:     1,
	}
}

func wantGateway() *GatewaySpec {
	return &GatewaySpec{
		VIPs:     []Addr{addr("203.0.113.10"), addr("2001:db8::10")},
		Switches: []string{"gw-a", "gw-b"},
		Hash:     &HashSpec{[]string{"vni", "src", "dst", "protocol", "srcPort", "dstPort"}, "maglev", 16384},
		Forward:  "mac",
		Default:  "v1",
		Versions: []GatewayVersion{
			{Line: 13, Name: "v1", Backends: []Backend{
				{Line: 15, Name: "gw1", Address: addr("192.0.2.11"), MAC: &MAC{2, 0, 0, 0, 0, 0x11}, Port: to(1), Weight: 1},
				{Line: 16, Name: "gw2", Address: addr("192.0.2.12"), MAC: &MAC{2, 0, 0, 0, 0, 0x12}, Ports: map[string]int{"gw-a": 2, "gw-b": 7}, Weight: 1},
			}},
			{Line: 17, Name: "v2", Backends: []Backend{
				{Line: 18, Name: "gw9", Address: addr("192.0.2.19"), MAC: &MAC{2, 0, 0, 0, 0, 0x19}, Port: to(9), Weight: 1},
			}},
		},
		HealthCheck: &HealthCheck{ICMP: &struct{}{}, Interval: Duration(2 * time.Second), Timeout: Duration(time.Second), Rise: 2, Fall: 3},
	}
}

func wantSwitch() *SwitchSpec {
	return &SwitchSpec{
		Address: "127.0.0.1:9559", DeviceID: 1, MAC: &MAC{2, 0, 0, 0, 0, 1}, Pipeline: "v1model", PushPipeline: "ifDifferent",
		TLS: &TLS{"/etc/gray/ca.pem", "/etc/gray/gray.pem", "/etc/gray/gray-key.pem"},
		BGP: &BGPSpec{
			ASN: 64512, RouterID: addr("192.0.2.1"), NextHop: addr("192.0.2.1"),
			Neighbors:   []BGPNeighbor{{addr("192.0.2.254"), 64500, "/etc/gray/bgp"}},
			Communities: []Community{64512<<16 | 100},
		},
	}
}

func wantNetwork() *NetworkSpec {
	return &NetworkSpec{
		VNI: to(VNI(1001)), Account: "50002001",
		Monitor: &Monitor{addr("10.0.255.254"), MAC{2, 0xaa, 0, 0, 0, 0xfe}, addr("192.0.2.200")},
		Routes: []Route{
			{"web-1", prefix("10.0.0.5/32"), MAC{2, 0xaa, 0, 0, 0, 5}, addr("192.0.2.101")},
			{"web-2", prefix("10.0.0.6/32"), MAC{2, 0xaa, 0, 0, 0, 6}, addr("192.0.2.102")},
		},
	}
}

func wantNode() *NodeSpec {
	return &NodeSpec{
		Address:  addr("10.9.1.11"),
		Proxy:    &Proxy{Port: 15001, Bind: to(addr("127.0.0.1")), AdminPort: 15000, Image: "envoyproxy/envoy:v1.40.0"},
		Services: []NodeService{{"vpc-api", "v1"}},
	}
}

// TestFree holds what values of no fixed type are read as.
func TestFree(t *testing.T) {
	set, err := Parse(snapshot("a.yaml", `kind: Service
metadata: {name: api}
spec:
  hosts: [api]
  default: v1
  versions:
  - name: v1
    image: api:1
    compose: {x-free: {word: a, date: 2026-01-01, int: 5, float: 1.5, yes: true, none: ~, list: [a, ~, {b: []}]}}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"word": "a", "date": "2026-01-01", "int": 5, "float": 1.5, "yes": true, "none": nil, "list": []any{"a", nil, map[string]any{"b": []any{}}}}
	if diff := cmp.Diff(want, set.Get(Name{KindService, "api"}).Spec.(*ServiceSpec).Versions[0].Compose["x-free"]); diff != "" {
		t.Errorf("compose (-want +got):\n%s", diff)
	}
}
