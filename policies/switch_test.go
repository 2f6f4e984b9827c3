package policies

import (
	"slices"
	"strings"
	"testing"

	"github.com/gray-release/gray/schema"
)

// What a Switch document says of its MAC address and of BGP goes into what its
// gateways are lowered to, so they are made anew with it.
func TestGatewaysFollowTheirSwitch(t *testing.T) {
	const plain = `{address: "127.0.0.1:9559"}`
	const announced = `{address: "127.0.0.1:9559", bgp: {asn: 64512, routerID: 192.0.2.1, nextHop: 192.0.2.1, nextHop6: "2001:db8::1", neighbors: [{address: 192.0.2.254, asn: 64500}]}}`
	gateway := Name{Kind: schema.KindGateway, Name: "gw"}
	set, compiler, revision := schema.NewSet(), NewCompiler(NewIDs(), nil), 0
	adopt := func(spec string) (*IR, []Name) {
		t.Helper()
		revision++
		text := strings.Replace(worldBase, plain, spec, 1)
		s := &schema.Snapshot{Revision: "test", Files: schema.NewFiles(&schema.File{Path: "all.yaml", ID: string(rune('a' + revision)), Data: []byte(text)})}
		ir, units, err := compiler.Compile(set, set.Update(s), Facts{})
		if err != nil {
			t.Fatal(err)
		}
		return ir, units
	}
	adopt(plain)
	for _, step := range []struct {
		spec    string
		follows bool
	}{
		{strings.Replace(plain, "9559", "9560", 1), false},
		{`{address: "127.0.0.1:9560", mac: "02:00:00:00:00:77"}`, true},
		{announced, true},
		{strings.Replace(announced, "64500", "64501", 1), false},
		{strings.Replace(announced, "nextHop: 192.0.2.1", "nextHop: 192.0.2.2", 1), true},
		{strings.Replace(announced, "::1", "::2", 1), true},
		{strings.Replace(announced, "neighbors", `communities: ["64512:1"], neighbors`, 1), true},
		{plain, true},
	} {
		ir, units := adopt(step.spec)
		if got := slices.Contains(units, gateway); got != step.follows {
			t.Errorf("with %s the units are %v; the gateway among them: %t", step.spec, units, got)
		}
		if got := ir.Switch("sw").BGP != nil; got != strings.Contains(step.spec, "bgp") {
			t.Errorf("with %s the IR has BGP: %t", step.spec, got)
		}
	}
}
