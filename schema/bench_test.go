package schema

import (
	"fmt"
	"runtime"
	"testing"
)

// manyPolicies is a repository of n GrayPolicies, one a file, as a tool that
// writes them would lay them out.
func manyPolicies(n int) []*File {
	files := make([]*File, n)
	for i := range files {
		files[i] = policyFile(i, i)
	}
	return files
}

// policyFile is the i-th of them; account is what an edit changes.
func policyFile(i, account int) *File {
	text := fmt.Sprintf(`apiVersion: gray.dev/v1alpha1
kind: GrayPolicy
metadata:
  name: policy-%d
spec:
  targets:
  - {kind: Gateway, name: vpc-gw}
  - {kind: Service, name: vpc-api}
  version: v2
  priority: 100
  match:
  - accounts: ["%d"]
  - flow:
      vni: %d
      src: 10.0.0.0/24
      protocol: tcp
      dstPort: 443
`, i, account, i)
	return &File{Path: fmt.Sprintf("policies/%03d/policy-%d.yaml", i%500, i), ID: fmt.Sprint(i, account), Data: []byte(text)}
}

// BenchmarkParse reads a whole repository of GrayPolicies. retained-B/doc is
// what the set keeps of each document, without the text that the snapshot holds.
func BenchmarkParse(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			snap := &Snapshot{Files: NewFiles(manyPolicies(n)...)}
			before := heap()
			var set *Set
			b.ReportAllocs()
			for b.Loop() {
				var err error
				if set, err = Parse(snap); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/doc")
			b.ReportMetric(float64(heap()-before)/float64(n), "retained-B/doc")
			runtime.KeepAlive(set)
			runtime.KeepAlive(snap)
		})
	}
}

// BenchmarkUpdate reads one changed document among many.
func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			files := NewFiles(manyPolicies(n)...)
			set, err := Parse(&Snapshot{Files: files})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				files = files.With([]*File{policyFile(n/2, n+i)}, nil)
				if changed := set.Update(&Snapshot{Files: files}); len(changed) != 1 {
					b.Fatalf("%d documents changed, want 1", len(changed))
				}
				if err := set.Err(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
