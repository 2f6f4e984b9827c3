package requests

import (
	"fmt"
	"runtime"
	"testing"
)

// TestMemoryOfExpressions holds that expressions which no policy has any more take
// no memory.
func TestMemoryOfExpressions(t *testing.T) {
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for i := range 100_000 {
		test := HeaderTest{Name: "x-env", Kind: "regex", Value: fmt.Sprint("v", i)}
		if !test.Holds([]string{fmt.Sprint("v", i)}) {
			t.Fatal(test)
		}
	}
	if grown := heap() - before; grown > 16<<20 {
		t.Errorf("100,000 expressions that are gone take %d MiB", grown>>20)
	}
}
