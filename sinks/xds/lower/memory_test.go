package lower

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/schema"
)

// TestMemory lowers accounts of services and versions that are gone afterwards: no
// cache goes on growing.
func TestMemory(t *testing.T) {
	ids := policies.NewIDs()
	lower := func(from, to int) int64 {
		for i := from; i < to; i++ {
			ir, n := policies.NewIR(ids), policies.Name{Kind: schema.KindService, Name: fmt.Sprint("s", i), Part: "account/1"}
			general := []requests.Match{{Hi: requests.Slots}}
			some := []requests.Match{{Lo: i % requests.Slots, Hi: requests.Slots}}
			if i%2 == 0 {
				some = general
			}
			ir.Put(n, &requests.AccountRoute{Service: n.Name, Account: "1", Rules: []requests.Rule{
				{Priority: i, Version: fmt.Sprint("v", i), Match: some},
			}})
			if all := Unit(ir, n); len(all) != 1 || len(all[0].Refs) != 3 {
				t.Fatalf("%+v", all)
			}
		}
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // takes what only unique still has
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := lower(0, 20_000)
	if grown := lower(20_000, 120_000) - before; grown > 8<<20 {
		t.Errorf("100,000 accounts of as many versions that are gone take %d MiB", grown>>20)
	}
}
