package policies

import (
	"strings"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/schema"
)

// poolPart begins the part of a blend's unit.
const poolPart = "pool/"

// blends is which units point to which blend.
type blends struct {
	uses      map[Name]map[string]schema.Position // by unit: the pools
	users     map[Name]map[Name]schema.Position   // by blend: the units
	byGateway map[string]map[Name]bool
	blendIDs  map[Name][]idKey // by blend
}

// useBlends records which blends a unit points to, each with the place in a document.
// Blends that are new, no longer used or from another place are compiled again.
func (c *Compiler) useBlends(unit Name, now map[string]schema.Position) {
	was := c.uses[unit]
	for pool, at := range was {
		if have, still := now[pool]; !still || have != at {
			c.blendUsed(unit, pool, nil)
		}
	}
	for pool, at := range now {
		if have, before := was[pool]; !before || have != at {
			c.blendUsed(unit, pool, &at)
		}
	}
	if c.uses[unit] = now; len(now) == 0 {
		delete(c.uses, unit)
	}
}

func (c *Compiler) blendUsed(unit Name, pool string, at *schema.Position) {
	blend := Name{schema.KindGateway, unit.Name, poolPart + pool}
	if !c.dirtyBlends[blend] {
		c.dirtyBlends[blend] = false // to be checked
	}
	switch {
	case at == nil:
		delete(c.users[blend], unit)
	case c.users[blend] == nil:
		c.users[blend] = map[Name]schema.Position{unit: *at}
	default:
		c.users[blend][unit] = *at
	}
}

// blendsOf is the blends that rules point to.
func blendsOf(rules []packets.Rule) map[string]schema.Position {
	uses := map[string]schema.Position{}
	for i := range rules {
		if pool := rules[i].Pool; packets.IsBlend(pool) {
			uses[pool] = minPosition(uses[pool], rules[i].Origin)
		}
	}
	return uses
}

// compileBlend makes a blend, or removes it if no unit points to it.
func (c *Compiler) compileBlend(n Name, gatewayChanged bool) {
	users, gw := c.users[n], c.ir.Gateway(n.Name)
	if gw == nil || len(users) == 0 {
		delete(c.users, n)
		delete(c.byGateway[n.Name], n)
		c.wantIDs(n, c.blendIDs[n], nil)
		delete(c.blendIDs, n)
		c.ir.Put(n, nil)
		c.pending[n] = true
		return
	}
	var origin schema.Position
	for _, at := range users {
		origin = minPosition(origin, at)
	}
	name := strings.TrimPrefix(n.Part, poolPart)
	if was := c.ir.Blend(gw.Name, name); was != nil && was.Origin == origin && !gatewayChanged {
		return
	}
	var ids []idKey
	for _, sw := range gw.Switches {
		ids = append(ids, idKey{sw, SpacePool, gw.Name + "/" + name})
	}
	c.wantIDs(n, c.blendIDs[n], ids)
	c.blendIDs[n] = ids
	if c.byGateway[n.Name] == nil {
		c.byGateway[n.Name] = map[Name]bool{}
	}
	c.byGateway[n.Name][n] = true
	c.ir.Put(n, packets.NewBlend(gw, name, origin))
	c.pending[n] = true
}
