package softswitch_test

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	"github.com/gray-release/gray/sinks/p4rt/softswitch"
)

// python is the Python of the venv that make tools makes. Without it the test is skipped;
// on CI it fails.
func python(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../../.tools/venv/bin/python")
	if err == nil {
		_, err = os.Stat(path)
	}
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatal(err)
	default:
		t.Skipf("%v; run make tools", err)
	}
	return path
}

// TestShell has p4runtime-shell, a client of another project, program a switch, read it
// back and be refused.
func TestShell(t *testing.T) {
	py := python(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(softswitch.ServerOptions()...)
	softswitch.New(1).Register(server)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	cmd := exec.CommandContext(t.Context(), py, "testdata/shell.py", l.Addr().String(),
		"../pipeline/gray_v1model.p4info.txtpb", "../pipeline/gray_v1model.json")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	var got struct {
		Read     map[string]int
		Backend  string
		Refusals map[string][]string
		Left     int
	}
	// The shell prints what it is told to set; the answer is the last line.
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, table := range []string{"backend", "bucket", "pool", "hash_profile", "vip_v4", "vip_v6", "gray_vpc", "gray_vm_src_v4", "gray_vm_dst_v6", "gray_flow_v4"} {
		if got.Read[table] != 1 {
			t.Errorf("table %s was read back with %d entries, want 1", table, got.Read[table])
		}
	}
	if !strings.Contains(got.Backend, `value: "\n"`) {
		t.Errorf("the modified port was not read back: %s", got.Backend)
	}
	want := map[string][]string{
		"insert twice": {"ALREADY_EXISTS"}, "modify what is not there": {"NOT_FOUND"}, "delete what is not there": {"NOT_FOUND"},
		"no priority": {"INVALID_ARGUMENT"}, "a constant table": {"PERMISSION_DENIED"},
	}
	if d := cmp.Diff(want, got.Refusals); d != "" {
		t.Errorf("refusals (-want +got):\n%s", d)
	}
	if got.Left != 0 {
		t.Errorf("%d entries are left after all were deleted", got.Left)
	}
}
