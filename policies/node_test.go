package policies

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gray-release/gray/schema"
)

// TestNodesFollowWhatTheyRun holds that a Node's unit is made anew when the image,
// the compose fields or the endpoints of a service that it runs change, that nodes
// which do not run it are left alone, and that accounts are.
func TestNodesFollowWhatTheyRun(t *testing.T) {
	service := func(name, version string) string {
		return fmt.Sprintf("kind: Service\nmetadata: {name: %s}\nspec: {hosts: [%s], default: v1, versions: [%s]}\n", name, name, version)
	}
	node := func(name, services string) string {
		return fmt.Sprintf("kind: Node\nmetadata: {name: %s}\nspec: {address: 192.0.2.1, services: [%s]}\n", name, services)
	}
	r := newRepo(t, service("api", "{name: v1, image: \"api:1\"}, {name: v2}"), service("web", "{name: v1, image: \"web:1\"}"),
		node("both", "{name: web, version: v1}, {name: api, version: v1}"), node("one", "{name: web, version: v1}"),
		"kind: GrayPolicy\nmetadata: {name: p}\nspec: {targets: [{kind: Service, name: api}], version: v2, match: [{accounts: [\"1\"]}]}\n")
	ir, units := r.must()
	if len(units) != 5 {
		t.Fatalf("the first commit makes %v", units)
	}
	n := ir.Get(Name{Kind: schema.KindNode, Name: "both"}).(*Node)
	if n.Image != "envoyproxy/envoy:v1.40.0" {
		t.Errorf("the proxy's image is %q", n.Image)
	}
	if len(n.Services) != 2 || n.Services[0].Name != "api" || n.Services[1].Name != "web" || n.Services[1].Origin.Line == 0 {
		t.Errorf("it runs %+v, want api and web with their places", n.Services)
	}
	for _, version := range []string{
		`{name: v1, image: "api:2"}, {name: v2}`,
		`{name: v1, image: "api:2", compose: {environment: {LOG: info}}}, {name: v2}`,
		`{name: v1, image: "api:2", compose: {environment: {LOG: debug}}}, {name: v2}`,
		`{name: v1, image: "api:2", endpoints: [{address: 192.0.2.1, port: 80}]}, {name: v2}`,
	} {
		r.put("0.yaml", service("api", version))
		ir, units := r.must()
		want := []Name{{Kind: schema.KindNode, Name: "both"}, {Kind: schema.KindService, Name: "api"}}
		if !slices.Equal(units, want) {
			t.Errorf("%s makes %v, want %v", version, units, want)
		}
		v := ir.Service("api").Version("v1")
		if v.Image != "api:2" || strings.Contains(version, "compose") != (len(v.Compose) > 0) {
			t.Errorf("%s is %+v", version, v)
		}
	}
	if v := ir.Service("api").Version("v3"); v != nil {
		t.Errorf("there is a version v3: %+v", v)
	}
	r.put("0.yaml", service("api", `{name: v1, image: "api:2", compose: {environment: {LOG: info}}}, {name: v2}`))
	ir, _ = r.must()
	want := map[string]any{"environment": map[string]any{"LOG": "info"}}
	if got := ir.Service("api").Version("v1").Compose; !reflect.DeepEqual(got, want) {
		t.Errorf("the compose fields are %v, want %v", got, want)
	}
}
