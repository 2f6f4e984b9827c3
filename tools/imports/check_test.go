package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheck holds the rules by imports that are right and imports that are not.
func TestCheck(t *testing.T) {
	const wrongOrder = "against the order of the folders"
	for _, c := range []struct {
		from, to, want string
		test           bool
	}{
		{"schema", "fmt", "", false},
		{"reconciler", module + "/policies", "", false},
		{"policies", module + "/reconciler", wrongOrder, false},
		{"policies", module + "/reconciler", wrongOrder, true},
		{"reconciler", module + "/sinks/xds", wrongOrder, false},
		{"reconciler", module + "/sinks/xds", "", true},
		{"reconciler", module + "/admin", wrongOrder, true},
		{"sinks/xds", module + "/sinks/p4rt", wrongOrder, false},
		{"sinks/bgp", module + "/sinks/p4rt", "", true},
		{"sinks/p4rt", module + "/sinks/p4rt/pipeline", "", false},
		{"sources/git", module + "/sources", "", false},
		{"sources", module + "/sources/git", wrongOrder, false},
		{"sources/git", module + "/sources/dir", wrongOrder, false},
		{"sources/etcd", module + "/stores/etcd", wrongOrder, false},
		{"stores/etcd", module + "/stores/bolt", wrongOrder, false},
		{"admin", module + "/sources/probe", "", false},
		{"admin", module + "/cmd/gray", wrongOrder, false},
		{"schema", module, "", true},
		{"cmd/gray", module + "/extras", wrongOrder, false},
		{"policies", module + "/policies/packets", "", false},
		{"policies", module + "/policies/packets/deep", wrongOrder, false},
		{"policies/packets", module + "/policies/packets", "", true},
		{"policies/packets", module + "/policies", wrongOrder, true},
		{"policies/packets", module + "/policies/requests", wrongOrder, false},
		{"policies/rollout", module + "/policies", wrongOrder, false},
		{"policies/rollout", module + "/schema", "", false},
		{"reconciler", module + "/policies/rollout", "", false},
		{"sinks/xds", module + "/sinks/sinktest", "", true},
		{"sinks/xds", module + "/sinks/sinktest", wrongOrder, false},
		{"schema", module + "/tools/testnet", "", true},
		{"cmd/gray", module + "/tools/testnet", wrongOrder, false},
		{"cmd/gray", module + "/tools/house", wrongOrder, true},
		{"cmd/gray", module + "/client", wrongOrder, true},
		{"client", module + "/schema", wrongOrder, false},
		{"client/example", module + "/client/etcd", "", false},
		{"client/example", module + "/sinks/xds", "", true},
		{"sinks/xds", "github.com/envoyproxy/go-control-plane/envoy/type/v3", "", false},
		{"sinks/xds/lower", "github.com/envoyproxy/go-control-plane/envoy/type/v3", "", false},
		{"sinks/xdsx", "github.com/envoyproxy/go-control-plane/envoy/type/v3", "which only these may: sinks/xds;", false},
		{"policies", "google.golang.org/protobuf/proto", "which only these may", true},
		{"policies", "github.com/google/go-cmp/cmp", "which only these may: none;", false},
		{"policies", "github.com/google/go-cmp/cmp", "", true},
		{"cmd/gray", "github.com/p4lang/p4runtime/go/p4/v1", "", true},
		{"cmd/gray", "github.com/p4lang/p4runtime/go/p4/v1", "and tests of these: cmd", false},
		{"cmd/gray", "example.com/new", "has no owner", true},
		{"cmd/gray", "github.com/spf13/cobraz", "has no owner", false},
	} {
		wantError(t, c.from+" to "+c.to, imported{from: c.from, to: c.to, test: c.test}.check(), c.want)
	}
	for names, want := range map[string]string{"Position": "", "Position Service": "uses schema.Service"} {
		i := imported{from: "policies/requests", to: module + "/schema", names: strings.Fields(names)}
		wantError(t, names, i.check(), want)
	}
	for folder, want := range map[string]string{"": "", "policies/rollout": "", "sinks/new/deep": "", "policies/util": "no rank", "common": "no rank"} {
		wantError(t, folder, checkFolder(folder), want)
	}
}

func wantError(t *testing.T, name string, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("%s: got %v, want %q", name, err, want)
	}
}

// TestRun holds that files are read with their lines, those of tests and of other
// systems too, and what go.mod requires.
func TestRun(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":                        "module m\n\nrequire (\n\texample.com/new v1.0.0\n\texample.com/deep v1.0.0 // indirect\n)\n",
		"schema/a_windows.go":           "package schema\n\nimport _ \"example.com/deep\"\n",
		"schema/a_test.go":              "package schema\n\nimport _ \"example.com/new\"\n",
		"policies/packets/a.go":         "package packets\n\nimport \"" + module + "/schema\"\n\nvar _ schema.Service\n",
		"sinks/sinktest/a.go":           "package sinktest\n\nimport _ \"" + module + "/tools/testnet\"\n",
		"other/a.go":                    "package other\n",
		".tools/python/a.go":            "not Go",
		"policies/packets/testdata.txt": "",
	} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	err := run(root)
	for _, want := range []string{
		"go.mod: example.com/new has no owner", "schema/a_windows.go:3: ", "schema/a_test.go:3: ", "other: the folder has no rank",
		"policies/packets/a.go:3: policies/packets uses schema.Service", "no go.mod requires go.etcd.io/bbolt",
	} {
		wantError(t, "run", err, want)
	}
	for _, never := range []string{"go.mod: example.com/deep", "sinktest", ".tools"} {
		if strings.Contains(err.Error(), never) {
			t.Errorf("%s is in %v", never, err)
		}
	}
}
