package policies

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/schema"
)

// TableSizes is the sizes of the tables in gray's own pipelines, in entries, by name.
// The bucket table holds two generations of every pool.
var TableSizes = map[string]int{
	"vip_v4": 1024, "vip_v6": 1024,
	"gray_flow_v4": 2048, "gray_flow_v6": 1024,
	"gray_vm_src_v4": 65536, "gray_vm_dst_v4": 65536,
	"gray_vm_src_v6": 16384, "gray_vm_dst_v6": 16384,
	"gray_vpc": 16384, "hash_profile": 256, "pool": 256, "bucket": 524288, "backend": 4096,
}

// usage counts the rules of a gateway by table.
type usage struct {
	cells map[Name]map[string]int
	total map[string]int
}

// count records the number of rules of a cell.
func (c *Compiler) count(n Name, cell *packets.Cell) {
	u := c.usage[n.Name]
	if u == nil {
		u = &usage{cells: map[Name]map[string]int{}, total: map[string]int{}}
		c.usage[n.Name] = u
	}
	for table, k := range u.cells[n] {
		u.total[table] -= k
	}
	delete(u.cells, n)
	if cell == nil {
		return
	}
	counts := map[string]int{}
	for i := range cell.Rules {
		counts[cell.Rules[i].TableName()]++
	}
	u.cells[n] = counts
	for table, k := range counts {
		u.total[table] += k
	}
}

// overflows reports tables that would need more entries than they have, at the
// document that asks for most of them.
func (c *Compiler) overflows() schema.Errors {
	bySwitch := map[string][]*packets.Gateway{}
	for name := range c.usage {
		if c.ir.Gateway(name) == nil {
			delete(c.usage, name)
		}
	}
	for _, g := range c.ir.Gateways() {
		for _, sw := range g.Switches {
			bySwitch[sw] = append(bySwitch[sw], g)
		}
	}
	var errs schema.Errors
	for sw, gateways := range bySwitch {
		for table, size := range c.sizesOf(sw) {
			sum, most := 0, gateways[0]
			for _, g := range gateways {
				n := c.demand(g, table)
				sum += n
				if n > c.demand(most, table) {
					most = g
				}
			}
			if sum > size {
				errs = append(errs, c.overflow(sw, table, sum, size, most))
			}
		}
	}
	return errs
}

// sizesOf is the sizes of a switch's tables. A table that is not in its P4Info is
// checked by the sink.
func (c *Compiler) sizesOf(sw string) map[string]int {
	if s := c.ir.Switch(sw); s != nil && s.sizes != nil {
		return s.sizes
	}
	return TableSizes
}

// demand is how many entries of a table a gateway needs on each switch.
func (c *Compiler) demand(g *packets.Gateway, table string) int {
	n := 0
	switch table {
	case "vip_v4", "vip_v6":
		for _, v := range g.VIPs {
			if v.Is6() == (table == "vip_v6") {
				n++
			}
		}
		return n
	case "hash_profile":
		return 1
	case "pool":
		return len(g.Pools) + len(c.byGateway[g.Name])
	case "bucket":
		return 2 * (len(g.Pools) + len(c.byGateway[g.Name])) * g.Hash.Buckets
	case "backend":
		for _, p := range g.Pools {
			n += len(p.Backends)
		}
		return n
	}
	if u := c.usage[g.Name]; u != nil {
		return u.total[table]
	}
	return 0
}

// overflow makes the error of a table, at the policy with most rules in it. Tables
// that policies do not fill are blamed on the gateway.
func (c *Compiler) overflow(sw, table string, sum, size int, most *packets.Gateway) *schema.Error {
	byPolicy := map[string]int{}
	at := most.Origin
	if u := c.usage[most.Name]; u != nil && u.total[table] > 0 {
		origins := map[string]schema.Position{}
		for n := range u.cells {
			cell, _ := c.ir.Get(n).(*packets.Cell)
			if cell == nil {
				continue
			}
			for i := range cell.Rules {
				if r := &cell.Rules[i]; r.TableName() == table {
					byPolicy[r.Policy]++
					origins[r.Policy] = minPosition(origins[r.Policy], r.Origin)
				}
			}
		}
		names := slices.SortedFunc(maps.Keys(byPolicy), func(a, b string) int {
			return cmp.Or(cmp.Compare(byPolicy[b], byPolicy[a]), cmp.Compare(a, b))
		})
		if len(names) > 0 {
			at = origins[names[0]]
		}
	}
	remedy := "match whole networks"
	switch table {
	case "pool", "bucket":
		remedy = "use fewer versions, percentages or buckets"
		if blends := c.byGateway[most.Name]; len(blends) > len(most.Pools) {
			at = schema.Position{}
			for n := range blends {
				at = minPosition(at, c.ir.Get(n).(*packets.Blend).Origin)
			}
		}
	case "backend":
		remedy = "use fewer backends"
	case "vip_v4", "vip_v6", "hash_profile":
		remedy = "use fewer VIPs"
	}
	return &schema.Error{Position: at, Err: fmt.Errorf("table %s of switch %s would hold %d entries, its size is %d; %s, or spread the gateways over more switches",
		table, sw, sum, size, remedy)}
}

func minPosition(a, b schema.Position) schema.Position {
	if a.Path == "" || b.Compare(a) < 0 {
		return b
	}
	return a
}
