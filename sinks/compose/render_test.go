package compose

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	composespec "github.com/compose-spec/compose-go/v2/schema"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/schema"
)

// plain are documents that every docker-compose can read.
const plain = `
kind: Service
metadata: {name: api}
spec:
  hosts: [api.internal]
  default: v1
  versions:
  - name: v1
    image: registry.internal/api:1
    compose:
      command: [serve, "--price", "$PRICE ${PRICE} $$"]
      environment: {WORD: "$HOME", YES: "yes", NO: "no", NIL: "null", OCTAL: "0o17", TIME: "12:30:45", NUMBER: "1_000", TEXT: "a: b\n# c\n", N: 4, FROM_HOST: ~}
      volumes: ["/etc/api:/etc/api:ro", "data:/var/lib/api"]
      restart: always
      healthcheck: {test: "test $PRICE = 1", interval: 5s}
      user: "1000"
  - {name: v2, image: registry.internal/api:2}
  - {name: v3}
---
kind: Service
metadata: {name: web}
spec: {hosts: [web.internal], default: v1, versions: [{name: v1, image: "web:1", compose: {volumes: ["data:/data", "cache:/cache"]}}]}
---
kind: Node
metadata: {name: host-1}
spec: {address: 192.0.2.1, proxy: {image: "envoy:test"}, services: [{name: web, version: v1}, {name: api, version: v1}]}
`

// rich are documents with what Compose has had since.
const rich = `
kind: Service
metadata: {name: api}
spec:
  hosts: [api.internal]
  default: v1
  versions:
  - name: v1
    image: registry.internal/api:1
    compose:
      network_mode: host
      env_file: [/etc/passwd, {path: local.env, required: false}]
      label_file: /etc/passwd
      depends_on: {web: {condition: service_healthy}, gray_envoy: {condition: service_started}}
      deploy: {resources: {limits: {memory: 1g, cpus: "0.5"}}}
      profiles: [extra]
      labels: {com.example.owner: "$HOME"}
      ulimits: {nofile: {soft: 1024, hard: 65536}}
      tmpfs: /run
      stop_grace_period: 1m
      x-note: {price: "$PRICE"}
---
kind: Service
metadata: {name: web}
spec: {hosts: [web.internal], default: v1, versions: [{name: v1, image: "web:1", compose: {healthcheck: {test: [CMD, "true"]}}}]}
---
kind: Node
metadata: {name: host-1}
spec: {address: 192.0.2.1, services: [{name: web, version: v1}, {name: api, version: v1}]}
`

// TestSpec holds the schema that documents are checked by to the one that compose-go
// loads by.
func TestSpec(t *testing.T) {
	b, err := os.ReadFile("../../schema/compose-spec.json")
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != composespec.Schema {
		t.Error("schema/compose-spec.json is not compose-go's schema/compose-spec.json; copy it there")
	}
}

// TestRender loads a node's file again and looks at what it means.
func TestRender(t *testing.T) {
	text := rendered(t, plain)
	if again := rendered(t, plain); again != text {
		t.Errorf("the same documents give other bytes:\n%s\n%s", text, again)
	}
	p := loaded(t, text)
	if got := slices.Sorted(slices.Values(p.ServiceNames())); !slices.Equal(got, []string{"api", "gray_envoy", "web"}) {
		t.Fatalf("the services are %v", got)
	}
	for _, s := range p.Services {
		if s.NetworkMode != "host" || len(s.Networks) > 0 || len(s.Ports) > 0 {
			t.Errorf("%s is on network %q %v with ports %v", s.Name, s.NetworkMode, s.Networks, s.Ports)
		}
	}
	want, err := bootstrap(&policies.Node{Name: "host-1"})
	if err != nil {
		t.Fatal(err)
	}
	envoy := p.Services["gray_envoy"]
	if envoy.Image != "envoy:test" || envoy.Restart != "unless-stopped" ||
		!slices.Equal(envoy.Command, []string{"--disable-hot-restart", "--config-yaml", string(want)}) {
		t.Errorf("the Envoy is %s, restarted %s, by %q", envoy.Image, envoy.Restart, envoy.Command)
	}
	api := p.Services["api"]
	if api.Image != "registry.internal/api:1" || api.Restart != "always" || api.User != "1000" || api.Labels["gray.dev/version"] != "v1" {
		t.Errorf("the service is %+v", api)
	}
	if got := []string(api.Command); !slices.Equal(got, []string{"serve", "--price", "$PRICE ${PRICE} $$"}) {
		t.Errorf("the command is %q", got)
	}
	for name, value := range map[string]string{
		"WORD": "$HOME", "YES": "yes", "NO": "no", "NIL": "null", "OCTAL": "0o17", "TIME": "12:30:45", "NUMBER": "1_000", "TEXT": "a: b\n# c\n", "N": "4",
	} {
		if got := api.Environment[name]; got == nil || *got != value {
			t.Errorf("environment %s is %v, want %q", name, got, value)
		}
	}
	if got, there := api.Environment["FROM_HOST"]; !there || got != nil {
		t.Errorf("environment FROM_HOST is %v, %t", got, there)
	}
	if got := api.HealthCheck.Test; !slices.Equal(got, types.HealthCheckTest{"CMD-SHELL", "test $PRICE = 1"}) {
		t.Errorf("the health check is %q", got)
	}
	if got := slices.Sorted(slices.Values(p.VolumeNames())); !slices.Equal(got, []string{"cache", "data"}) {
		t.Errorf("the volumes are %v", got)
	}
	if web := p.Services["web"]; web.Restart != "unless-stopped" || web.HealthCheck != nil {
		t.Errorf("the other service is %+v", web)
	}
}

// TestRenderRich holds that further fields come through, and that nothing is opened
// that they name.
func TestRenderRich(t *testing.T) {
	ir := compile(t, rich)
	before := clone(ir.Service("api").Version("v1").Compose)
	text := rendered(t, rich)
	if strings.Contains(text, "root:") {
		t.Fatalf("the file holds /etc/passwd:\n%s", text)
	}
	p := loaded(t, text)
	api, ok := p.DisabledServices["api"] // its profile is not asked for
	if !ok {
		t.Fatalf("there is no api in\n%s", text)
	}
	if len(api.EnvFiles) != 2 || api.EnvFiles[0].Path != "/etc/passwd" || bool(api.EnvFiles[1].Required) || len(api.LabelFiles) != 1 {
		t.Errorf("files: %v, %v", api.EnvFiles, api.LabelFiles)
	}
	if api.DependsOn["web"].Condition != "service_healthy" || api.Deploy.Resources.Limits.MemoryBytes != 1<<30 ||
		api.Ulimits["nofile"].Hard != 65536 || time.Duration(*api.StopGracePeriod) != time.Minute || api.Labels["com.example.owner"] != "$HOME" {
		t.Errorf("the service is %+v", api)
	}
	if note, _ := api.Extensions["x-note"].(map[string]any); note["price"] != "$PRICE" {
		t.Errorf("x-note is %v", api.Extensions)
	}
	s := newSink(t, "")
	if _, err := s.Render(ir, nodeOf(t, ir, "host-1")); err != nil {
		t.Fatal(err)
	}
	if after := ir.Service("api").Version("v1").Compose; !reflect.DeepEqual(before, any(after)) {
		t.Errorf("rendering changed the IR from %v to %v", before, after)
	}
}

// TestNoImage holds that a version without image shows as one that is not there.
func TestNoImage(t *testing.T) {
	text := rendered(t, strings.Replace(plain, "{name: api, version: v1}", "{name: api, version: v3}", 1))
	if !strings.Contains(text, "\n# Not here, as the version has no image: api v3.\n") {
		t.Errorf("the file does not tell:\n%s", text)
	}
	if p := loaded(t, text); len(p.Services) != 2 {
		t.Errorf("the services are %v", p.ServiceNames())
	}
}

// TestLowerRefuses holds what only compose-go finds, with its place, whether a node
// runs the version or not.
func TestLowerRefuses(t *testing.T) {
	for _, c := range []struct{ old, new, kind, name, want string }{
		{"interval: 5s", "interval: 5 apples", schema.KindService, "api", "all.yaml:8: compose: .*interval"},
		{"interval: 5s", "interval: 5 apples", schema.KindNode, "host-1", "all.yaml:8: compose: .*interval"},
		{"user: \"1000\"", "depends_on: [nobody]", schema.KindNode, "host-1", "all.yaml:26: spec.services: .*nobody"},
		{"user: \"1000\"", "mem_limit: much", schema.KindService, "api", "all.yaml:8: compose: .*much"},
	} {
		ir := compile(t, strings.Replace(plain, c.old, c.new, 1))
		_, err := newSink(t, "").Lower(ir, policies.Name{Kind: c.kind, Name: c.name})
		if _, ok := err.(schema.Errors); !ok {
			t.Errorf("%s: got %v, want schema.Errors", c.new, err)
			continue
		}
		place, word, _ := strings.Cut(c.want, ".*")
		if !strings.HasPrefix(err.Error(), place) || !strings.Contains(err.Error(), word) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %q, want %q", c.new, err, c.want)
		}
	}
}

// TestHealthCheck holds how a service's check becomes the container's.
func TestHealthCheck(t *testing.T) {
	node := &policies.Node{Address: netip.MustParseAddr("192.0.2.1")}
	version := &requests.ServiceVersion{Endpoints: []requests.Endpoint{
		{Address: netip.MustParseAddr("192.0.2.2"), Port: 1}, {Address: node.Address, Port: 8080},
	}}
	for _, c := range []struct {
		health *packets.HealthCheck
		want   []string // in the command; nil: no check
	}{
		{nil, nil},
		{&packets.HealthCheck{ICMP: true}, nil},
		{&packets.HealthCheck{HTTP: packets.HTTPCheck{Path: "/it's"}}, []string{`'http://192.0.2.1:8080/it'\''s'`, "curl", "wget"}},
		{&packets.HealthCheck{HTTP: packets.HTTPCheck{Path: "/", Port: 81}}, []string{"'http://192.0.2.1:81/'"}},
		{&packets.HealthCheck{}, []string{"nc -z -w 1 192.0.2.1 8080"}},
		{&packets.HealthCheck{TCP: 22, Timeout: 3 * time.Second}, []string{"nc -z -w 3 192.0.2.1 22"}},
	} {
		got := healthCheck(node, &requests.Service{Health: c.health}, version)
		if (got == nil) != (c.want == nil) {
			t.Errorf("%+v makes %+v", c.health, got)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(got.Test[1], w) {
				t.Errorf("%+v makes %q, want %q in it", c.health, got.Test, w)
			}
		}
	}
	if got := healthCheck(&policies.Node{}, &requests.Service{Health: &packets.HealthCheck{}}, version); got != nil {
		t.Errorf("without an endpoint on the node it is %+v", got)
	}
	got := healthCheck(node, &requests.Service{Health: &packets.HealthCheck{TCP: 1, Interval: 5 * time.Second, Timeout: 2 * time.Second, Fall: 4}}, version)
	if time.Duration(*got.Interval) != 5*time.Second || time.Duration(*got.Timeout) != 2*time.Second || *got.Retries != 4 {
		t.Errorf("it is made %+v", got)
	}

	ir := compile(t, plain)
	ir.Service("web").Health = &packets.HealthCheck{HTTP: packets.HTTPCheck{Path: "/healthz", Port: 80}}
	ir.Service("api").Health = ir.Service("web").Health
	text, err := newSink(t, "").Render(ir, nodeOf(t, ir, "host-1"))
	if err != nil {
		t.Fatal(err)
	}
	p := loaded(t, text)
	if test := p.Services["web"].HealthCheck.Test[1]; !strings.Contains(test, "/healthz") {
		t.Errorf("the service's check is %q", test)
	}
	if test := p.Services["api"].HealthCheck.Test[1]; test != "test $PRICE = 1" {
		t.Errorf("the version's own check became %q", test)
	}
}

// TestDockerCompose has every docker compose that is here read the files.
func TestDockerCompose(t *testing.T) {
	t.Setenv("PRICE", "9")
	programs := [][]string{{tool(t, "docker-compose", "docker-compose")}}
	if _, err := runQuietly(t, "docker", "compose", "version"); err == nil {
		programs = append(programs, []string{"docker", "compose"})
	}
	dir := t.TempDir()
	files := map[string]string{"plain": rendered(t, plain), "rich": rendered(t, rich)}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "local.env"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, program := range programs {
		version := run(t, program[0], append(program[1:], "version")...)
		for name := range files {
			if name == "rich" && strings.Contains(version, "1.29") {
				continue // it is from before Compose had most of that
			}
			out := run(t, program[0], append(slices.Clone(program[1:]), "-f", filepath.Join(dir, name+".yaml"), "--profile", "extra", "config")...)
			for _, want := range []string{"network_mode: host", "--config-yaml", "$${HOME}"} {
				if !strings.Contains(out, want) {
					t.Errorf("%v reads %s without %q:\n%s", program, name, want, out)
				}
			}
			if name == "plain" && !strings.Contains(out, "$$PRICE $${PRICE} $$$$") {
				t.Errorf("%v reads %s with another price:\n%s", program, name, out)
			}
		}
	}
}
