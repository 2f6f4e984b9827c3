package compose

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gray-release/gray/policies"
)

// TestUnit has systemd read the unit and judge how well it is shut in.
func TestUnit(t *testing.T) {
	analyze := tool(t, "systemd-analyze", "systemd")
	for name, n := range map[string]*policies.Node{
		"high": {Name: "host-1", Port: 15001, AdminPort: 15000}, "low": {Name: "host-1", Port: 80, AdminPort: 15000},
	} {
		text, err := Unit(n, "/bin/true") // verify wants a program that is there
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(text, mark("host-1")) || strings.Contains(text, "CAP_NET_BIND_SERVICE") != (name == "low") {
			t.Errorf("the unit of a node with port %d is\n%s", n.Port, text)
		}
		file := filepath.Join(t.TempDir(), "host-1"+UnitSuffix)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		// What it does not know it only warns about.
		if out := run(t, analyze, "verify", file); out != "" {
			t.Errorf("%s: %s", name, out)
		}
		run(t, analyze, "security", "--offline=true", "--threshold=20", "--no-pager", file)
	}
}

func TestUnitWantsAPath(t *testing.T) {
	for _, envoy := range []string{"", "envoy", "/usr/bin/../bin/envoy", "/opt/my envoy", "/opt/envoy%n", "/opt/a\nb", "/opt/$X"} {
		if text, err := Unit(&policies.Node{Name: "n"}, envoy); err == nil {
			t.Errorf("%q makes\n%s", envoy, text)
		}
	}
}
