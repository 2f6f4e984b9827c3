package sinktest

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/gray-release/gray"
)

// edit replaces a text that occurs once in a document.
type edit struct{ path, old, new string }

// Documents returns a commit, which is the quickstart with some additions and its switch
// at an address, and a later commit that changes something of every kind.
func Documents(t testing.TB, address string) (base, changed map[string]string) {
	t.Helper()
	base = map[string]string{}
	root := gray.Quickstart()
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(root, path)
		base[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	base = apply(t, base,
		edit{"gateways/vpc-gw.yaml", "127.0.0.1:9559", address},
		edit{"gateways/vpc-gw.yaml", "vips: [203.0.113.10]", `vips: [203.0.113.10, 203.0.113.12, "2001:db8::10"]`},
		edit{"gateways/vpc-gw.yaml", "buckets: 4096", "buckets: 256"},
		edit{"policies/one-flow.yaml", "  match:\n", "  match:\n  - flow: {src: 0.0.0.0/0, protocol: udp, dstPort: 1-1023}\n" +
			"  - flow: {vni: 1002, src: \"fd00::/64\", protocol: 58}\n  - vms: [{network: vpc-1002, addresses: [10.0.0.9]}]\n"},
	)
	changed = apply(t, base,
		edit{"gateways/vpc-gw.yaml", "fields: [vni, src, dst, protocol, srcPort, dstPort]", "fields: [vni, src, dst]"},
		edit{"gateways/vpc-gw.yaml", "02:00:00:00:00:11", "02:00:00:00:01:11"},
		edit{"gateways/vpc-gw.yaml", "    - {name: gw4, address: 192.0.2.14, mac: \"02:00:00:00:00:14\", port: 4}\n", ""},
		edit{"gateways/vpc-gw.yaml", "    - {name: gw6,", "    - {name: gw7, address: 192.0.2.17, mac: \"02:00:00:00:00:17\", port: 7}\n    - {name: gw6,"},
		edit{"gateways/vpc-gw.yaml", "vips: [203.0.113.10, 203.0.113.12, ", "vips: [203.0.113.10, 203.0.113.11, "},
		edit{"policies/early-adopter.yaml", `["50002001"]`, `["50002002"]`},
		edit{"policies/one-flow.yaml", "srcPort: 40001", "srcPort: 40002-40005"},
		edit{"policies/one-flow.yaml", "  - vms: [{network: vpc-1002, addresses: [10.0.0.9]}]\n", ""},
		edit{"services/vpc-api.yaml", "18082", "18083"},
		edit{"nodes/host-1.yaml", "proxy: {port: 15001,", "proxy: {port: 15002,"},
	)
	return base, changed
}

func apply(t testing.TB, documents map[string]string, edits ...edit) map[string]string {
	t.Helper()
	next := map[string]string{}
	for path, text := range documents {
		next[path] = text
	}
	for _, e := range edits {
		if strings.Count(next[e.path], e.old) != 1 {
			t.Fatalf("%s does not contain %q exactly once", e.path, e.old)
		}
		next[e.path] = strings.Replace(next[e.path], e.old, e.new, 1)
	}
	return next
}
