package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/schema"
)

const (
	// proxyService is the compose service of a node's Envoy. No Service can have that
	// name, as it is not a DNS label.
	proxyService = "gray_envoy"
	// versionLabel is the container label for the version of a service.
	versionLabel = "gray.dev/version"
	restart      = "unless-stopped"
	hostNetwork  = "host"
)

// Render makes the file of a node: its Envoy and the services that it runs. Errors in
// documents are schema.Errors.
func (s *Sink) Render(ir *policies.IR, n *policies.Node) (string, error) {
	bootstrap, err := s.cfg.Bootstrap(n)
	if err != nil {
		return "", err
	}
	p := &types.Project{Name: "gray", Services: types.Services{}, Volumes: types.Volumes{}}
	p.Services[proxyService] = proxyOf(n, string(bootstrap), s.cfg.Mounts)
	head := Mark(n.Name, fmt.Sprintf("# To run it on its host: docker compose -p gray -f %s up -d --remove-orphans\n", n.Name+ComposeSuffix))
	var all []string // keyOf of all that runs
	var errs schema.Errors
	for _, ns := range n.Services {
		svc := ir.Service(ns.Name)
		v := svc.Version(ns.Version)
		if v.Image == "" {
			head += fmt.Sprintf("# Not here, as the version has no image: %s %s.\n", ns.Name, ns.Version)
			continue
		}
		c, err := s.service(svc, v)
		if err != nil {
			errs = append(errs, at(v, err))
			continue
		}
		if c.HealthCheck == nil {
			c.HealthCheck = healthCheck(n, svc, v)
		}
		for _, volume := range c.Volumes {
			if volume.Type == types.VolumeTypeVolume && volume.Source != "" {
				p.Volumes[volume.Source] = types.VolumeConfig{}
			}
		}
		p.Services[ns.Name] = c
		all = append(all, keyOf(svc, v))
	}
	if len(errs) > 0 {
		return "", errs
	}
	text, err := marshal(p)
	if err != nil {
		return "", err
	}
	// Each service is valid by itself, but they may refer to each other.
	if err := s.wholes.Get(strings.Join(all, "\n"), func(string) error {
		_, err := load(types.ConfigFile{Content: text}, true)
		return err
	}); err != nil {
		origin := n.Origin
		if len(n.Services) > 0 {
			origin = n.Services[0].Origin
		}
		return "", schema.Errors{{Position: origin, Field: "spec.services", Err: fmt.Errorf("do not make a valid compose file: %w", reason(err))}}
	}
	return head + string(text), nil
}

// proxyOf is a node's Envoy. Its bootstrap is part of the command: a file of its own
// would have to be copied along, and a changed command makes docker compose recreate
// the container.
func proxyOf(n *policies.Node, bootstrap string, mounts []string) types.ServiceConfig {
	var c types.ServiceConfig
	c.Image, c.NetworkMode, c.Restart = n.Image, hostNetwork, restart
	// Else it would take another Envoy on the host's network for its parent.
	c.Command = types.ShellCommand{"--disable-hot-restart", "--config-yaml", bootstrap}
	for _, dir := range mounts { // the folder, as a mounted file would stay the old one when it is replaced
		c.Volumes = append(c.Volumes, types.ServiceVolumeConfig{Type: types.VolumeTypeBind, Source: dir, Target: dir, ReadOnly: true})
	}
	return c
}

// service is a version of a service as a compose service.
func (s *Sink) service(svc *requests.Service, v *requests.ServiceVersion) (types.ServiceConfig, error) {
	c := s.services.Get(keyOf(svc, v), func(string) compiled {
		c, err := serviceOf(svc, v)
		return compiled{c, err}
	})
	return c.ServiceConfig, c.err
}

type compiled struct {
	types.ServiceConfig
	err error
}

// keyOf is equal for versions that are equal as compose services.
func keyOf(svc *requests.Service, v *requests.ServiceVersion) string {
	fields, err := json.Marshal(v.Compose)
	if err != nil { // schema accepts only what JSON can hold
		panic(err)
	}
	return strings.Join([]string{svc.Name, v.Name, v.Image, string(fields)}, "\x00")
}

func serviceOf(svc *requests.Service, v *requests.ServiceVersion) (types.ServiceConfig, error) {
	var c types.ServiceConfig
	if len(v.Compose) > 0 {
		file := types.ConfigFile{Config: map[string]any{"services": map[string]any{svc.Name: clone(v.Compose)}}}
		p, err := load(file, false)
		if err != nil {
			return c, err
		}
		c = p.Services[svc.Name]
	}
	c.Image, c.NetworkMode = v.Image, hostNetwork
	if c.Restart == "" {
		c.Restart = restart
	}
	if c.Labels == nil {
		c.Labels = types.Labels{}
	}
	c.Labels[versionLabel] = v.Name
	return c, nil
}

// check checks all versions that could run on nodes.
func (s *Sink) check(svc *requests.Service) error {
	var errs schema.Errors
	for i := range svc.Versions {
		v := &svc.Versions[i]
		if v.Image == "" {
			continue
		}
		if _, err := s.service(svc, v); err != nil {
			errs = append(errs, at(v, err))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return errs.Sort()
}

// at adds the position of a version to an error about it.
func at(v *requests.ServiceVersion, err error) *schema.Error {
	return &schema.Error{Position: v.Origin, Field: "compose", Err: reason(err)}
}

// reason is a loader's error on one line, without the words that the loader adds.
func reason(err error) error {
	text := strings.Join(strings.Fields(err.Error()), " ")
	text = strings.TrimPrefix(text, "decoding failed due to the following error(s): ")
	return errors.New(strings.TrimSuffix(text, ": invalid compose project"))
}

// load loads a file as docker compose does, but opens no file that it names. A whole
// file is interpolated, and must hold everything that it refers to.
func load(file types.ConfigFile, whole bool) (*types.Project, error) {
	file.Filename = "compose.yaml"
	if file.Content == nil {
		file.Content = []byte{} // else the loader would read a file of that name
	}
	return loader.LoadWithContext(context.Background(), types.ConfigDetails{
		ConfigFiles: []types.ConfigFile{file}, Environment: types.Mapping{},
	}, func(o *loader.Options) {
		o.SkipInterpolation, o.SkipConsistencyCheck = !whole, !whole
		o.SkipNormalization, o.SkipExtends, o.SkipInclude = true, true, true
		o.SkipResolveEnvironment, o.SkipResolveLabels, o.ResolvePaths = true, true, false
		o.Profiles = []string{"*"}
		o.SetProjectName("gray", true)
	})
}

// clone copies a value of a document, as the loader changes what it is given.
func clone(v any) any {
	switch x := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(x))
		for k, v := range x {
			m[k] = clone(v)
		}
		return m
	case []any:
		l := make([]any, len(x))
		for i, v := range x {
			l[i] = clone(v)
		}
		return l
	}
	return v
}

// marshal writes a project as a file. It leaves out the name, which the Compose of
// Debian 12 does not know. Nothing in documents is a variable, so every dollar sign is
// escaped.
func marshal(p *types.Project) ([]byte, error) {
	raw, err := p.MarshalYAML()
	if err != nil {
		return nil, err
	}
	var root yaml.Node
	if err := yaml.Unmarshal(raw, &root); err != nil {
		return nil, err
	}
	top := root.Content[0]
	for i := 0; i+1 < len(top.Content); i += 2 {
		if top.Content[i].Value == "name" {
			top.Content = append(top.Content[:i], top.Content[i+2:]...)
			break
		}
	}
	escape(top)
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(top); err != nil {
		return nil, err
	}
	return b.Bytes(), enc.Close()
}

// escape doubles the dollar signs of values; Compose does not interpolate keys.
func escape(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode {
		n.Value = strings.ReplaceAll(n.Value, "$", "$$")
		return
	}
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			continue
		}
		escape(c)
	}
}

// healthCheck is the service's own check, run inside the container on this node; nil
// where the service has none, or its port is not known. It needs curl, wget or nc in
// the image. A version whose image has none of them brings a healthcheck of its own.
func healthCheck(n *policies.Node, svc *requests.Service, v *requests.ServiceVersion) *types.HealthCheckConfig {
	h := svc.Health
	if h == nil || h.ICMP {
		return nil
	}
	port := h.TCP
	if h.HTTP.Path != "" {
		port = h.HTTP.Port
	}
	for _, e := range v.Endpoints {
		if port == 0 && v.Etcd == "" && e.Address == n.Address {
			port = e.Port
		}
	}
	if port == 0 {
		return nil
	}
	seconds := max(1, int(h.Timeout/time.Second))
	command := fmt.Sprintf("nc -z -w %d %s %d", seconds, n.Address, port)
	if ownPort := h.HTTP.Port == 0; h.HTTP.Path != "" && !(ownPort && (svc.Protocol == "http2" || svc.Protocol == "grpc")) { // HTTP/2, which wget does not speak
		url := quote("http://" + net.JoinHostPort(n.Address.String(), strconv.Itoa(int(port))) + h.HTTP.Path)
		command = fmt.Sprintf("if command -v curl >/dev/null; then curl -fsS -m %d -o /dev/null %s; else wget -q -T %d -O /dev/null %s; fi",
			seconds, url, seconds, url)
	}
	check := &types.HealthCheckConfig{Test: types.HealthCheckTest{"CMD-SHELL", command}}
	if h.Interval > 0 {
		check.Interval = duration(h.Interval)
	}
	if h.Timeout > 0 {
		check.Timeout = duration(h.Timeout)
	}
	if h.Fall > 0 {
		retries := uint64(h.Fall)
		check.Retries = &retries
	}
	return check
}

func duration(d time.Duration) *types.Duration {
	t := types.Duration(d)
	return &t
}

// quote makes one word of a text for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
