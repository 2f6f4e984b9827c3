package reconciler_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/p4rt"
	"github.com/gray-release/gray/sinks/xds"
)

// The repository of the benchmarks: policies beside 100 services and 8 gateways
// on a switch each. Even policies move an account of a service, odd ones a VPC of
// a gateway.
const (
	services = 100
	gateways = 8
)

const api = "apiVersion: gray.dev/v1alpha1\n"

func repository(policies int) schema.Files {
	var all []*schema.File
	add := func(path, text string) { all = append(all, file(path, text)) }
	for i := range services {
		add(fmt.Sprintf("services/s%d.yaml", i), fmt.Sprintf(api+`kind: Service
metadata: {name: s%d}
spec:
  hosts: [s%d.internal]
  protocol: http
  default: v1
  versions:
  - {name: v1, endpoints: [{address: 10.9.1.11, port: 8080}]}
  - {name: v2, endpoints: [{address: 10.9.1.12, port: 8080}]}
`, i, i))
	}
	for i := range gateways {
		add(fmt.Sprintf("gateways/g%d.yaml", i), fmt.Sprintf(api+`kind: Switch
metadata: {name: sw%d}
spec: {address: "192.0.2.%d:9559", insecure: true}
---
`+api+`kind: Gateway
metadata: {name: g%d}
spec:
  vips: [203.0.113.%d]
  switches: [sw%d]
  default: v1
  versions:
  - {name: v1, backends: [{name: a, address: 192.0.2.1, mac: "02:00:00:00:00:01", port: 1}]}
  - {name: v2, backends: [{name: b, address: 192.0.2.2, mac: "02:00:00:00:00:02", port: 2}]}
`, i, i+1, i, i+1, i))
	}
	for i := range policies {
		all = append(all, policy(i, 0))
	}
	return schema.NewFiles(all...)
}

func file(path, text string) *schema.File {
	return &schema.File{Path: path, ID: path + strconv.Itoa(len(text)) + text[max(0, len(text)-40):], Data: []byte(text)}
}

// policy is policy number i in one of several variants that concern different
// accounts or VPCs.
func policy(i, variant int) *schema.File {
	target, match := fmt.Sprintf("{kind: Service, name: s%d}", i/2%services), fmt.Sprintf("accounts: [\"%d\"]", 50_000_000+i*10+variant)
	if i%2 == 1 {
		target, match = fmt.Sprintf("{kind: Gateway, name: g%d}", i/2%gateways), fmt.Sprintf("flow: {vni: %d}", 1+i*10+variant)
	}
	text := fmt.Sprintf(api+"kind: GrayPolicy\nmetadata: {name: p%d}\nspec:\n  targets: [%s]\n  version: v2\n  priority: 200\n  match:\n  - %s\n", i, target, match)
	return file(fmt.Sprintf("policies/%03d/p%d.yaml", i/1000, i), text)
}

func sinks(b *testing.B) []reconciler.Sink {
	b.Helper()
	x, err := xds.New(xds.Config{})
	if err != nil {
		b.Fatal(err)
	}
	return []reconciler.Sink{x, p4rt.New(p4rt.Config{ReadOnly: true})}
}

func follow(b *testing.B, loop *reconciler.Bench, revision int, files schema.Files) []reconciler.Change {
	b.Helper()
	if err := loop.Follow(&schema.Snapshot{Revision: strconv.Itoa(revision), Files: files}); err != nil {
		b.Fatal(err)
	}
	return loop.Plan()
}

// BenchmarkOneDocument is all that the loop does, its I/O apart, about a commit
// that changes one of many policies: parse, compile, lower, diff.
func BenchmarkOneDocument(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		b.Run(fmt.Sprintf("among=%d", n), func(b *testing.B) {
			files := repository(n)
			loop, err := reconciler.NewBench(sinks(b))
			if err != nil {
				b.Fatal(err)
			}
			loop.Done(follow(b, loop, 0, files))
			b.ReportAllocs()
			b.ResetTimer()
			for i := 1; i <= b.N; i++ {
				b.StopTimer()
				files = files.With([]*schema.File{policy(i*7919%n, i%9+1)}, nil)
				b.StartTimer()
				changes := follow(b, loop, i, files)
				b.StopTimer()
				if len(changes) != 2 { // one comes, one goes
					b.Fatalf("one document makes %d changes", len(changes))
				}
				loop.Done(changes)
				b.StartTimer()
			}
		})
	}
}

// BenchmarkFullPass is the same about a first commit of 100,000 policies.
func BenchmarkFullPass(b *testing.B) {
	const n = 100_000
	files := repository(n)
	resetPeak(b)
	b.ReportAllocs()
	for b.Loop() {
		loop, err := reconciler.NewBench(sinks(b))
		if err != nil {
			b.Fatal(err)
		}
		changes := follow(b, loop, 0, files)
		if len(changes) < n {
			b.Fatalf("%d documents make %d changes", n, len(changes))
		}
	}
	b.ReportMetric(peak(b), "peak-MiB")
}

// BenchmarkStatus is the time that a Status of 100,000 documents takes of the
// loop, and of its caller.
func BenchmarkStatus(b *testing.B) {
	loop, err := reconciler.NewBench(sinks(b))
	if err != nil {
		b.Fatal(err)
	}
	changes := follow(b, loop, 0, repository(100_000))
	for _, state := range []string{"pending", "live"} {
		if state == "live" {
			loop.Done(changes)
		}
		b.Run(state+"/loop", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				loop.View()
			}
		})
		b.Run(state+"/caller", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if all := loop.View()(); len(all) < 100_000 {
					b.Fatalf("%d documents", len(all))
				}
			}
		})
	}
}

// resetPeak has the kernel measure the most memory anew; it can on Linux.
func resetPeak(b *testing.B) {
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		b.Logf("the peak is that of the whole process: %v", err)
	}
}

// peak is the most memory that the process had resident, in MiB.
func peak(b *testing.B) float64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Skip("the peak is read from /proc/self/status")
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib / 1024
		}
	}
	b.Fatal("/proc/self/status does not tell VmHWM")
	return 0
}
