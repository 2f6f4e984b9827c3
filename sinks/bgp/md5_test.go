package bgp

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gray-release/gray/reconciler"
)

func TestMD5(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "bgp")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	routers := startRouters(t, func(c *routerConfig) { c.password = "right-and-secret" })
	rig := newRig(t, dir)
	rig.want(&targetBody{asn: 64512, routerID: netip.MustParseAddr("192.0.2.1")}, vip("203.0.113.10/32"))
	for _, a := range routers.at {
		rig.want(&neighborBody{address: a, local: routers.speaker, asn: 64500, passwordFile: "bgp"})
	}

	write("wrong-and-secret\n")
	rig.settle()
	routers.until("the wrong password shows", func(_ router, at netip.Addr) bool {
		return strings.Contains(rig.neighbor(at).LastError, "same MD5 password")
	})
	routers.have("nothing by the wrong password", map[string]route{})

	write("right-and-secret\n")
	if plan := rig.plan(); len(plan) != 2 || plan[0].Op() != reconciler.Update || plan[0].Key().Kind != kindNeighbor {
		t.Fatalf("another password in the file makes the plan %v, want an update of each neighbor", plan)
	}
	rig.settle()
	routers.have("the VIP by the right password", map[string]route{"203.0.113.10/32": {nextHop: "192.0.2.1"}})
	before := rig.Neighbors()

	// A file that is gone for a moment ends no session.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	state, err := rig.Observe(t.Context(), target, nil)
	if err == nil || !strings.Contains(err.Error(), "bgp cannot be read") || len(state) != 4 {
		t.Errorf("without its file the speaker shows %v and error %v, want all of it and the file's name", state, err)
	}
	if now := rig.Neighbors(); !cmp.Equal(before, now, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
		t.Errorf("without the file the sessions are %v, before they were %v", now, before)
	}
	for _, text := range []string{rig.log.String(), fmt.Sprintf("%+v %#[1]v", rig.speaker(target).neighbors)} {
		if strings.Contains(text, "and-secret") {
			t.Errorf("a password shows in:\n%s", text)
		}
	}
}

func TestPasswordFiles(t *testing.T) {
	outside := t.TempDir()
	dir := t.TempDir()
	for name, text := range map[string]string{
		filepath.Join(outside, "key"): "stolen", filepath.Join(dir, "good"): "secret\r\n", filepath.Join(dir, "empty"): "\n",
		filepath.Join(dir, "lines"): "first\nsecond\n", filepath.Join(dir, "long"): strings.Repeat("x", 81),
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(outside, "key"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if pw, err := readPassword(dir, "good"); err != nil || pw != "secret" {
		t.Errorf("the good file gives %d bytes and error %v", len(pw), err)
	}
	for file, want := range map[string]string{
		"empty": "is empty", "lines": "more than one line", "long": "81 bytes", "link": "not below", "missing": "cannot be read",
		filepath.Join(outside, "key"): "not below", "../" + filepath.Base(outside) + "/key": "not below",
	} {
		_, err := readPassword(dir, file)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives error %v, want one with %q", file, err, want)
		}
	}
}

// A neighbor whose file is missing is not spoken to without a password, and
// nothing else waits for it.
func TestMissingPasswordHoldsOneNeighbor(t *testing.T) {
	local, first, second := loopback(), loopback(), loopback()
	rig := newRig(t, t.TempDir())
	rig.speak(local, first, second)
	rig.want(&neighborBody{address: first, local: local, asn: 64500, passwordFile: "missing"}, vip("203.0.113.10/32"))
	if err := rig.apply(); err == nil || !strings.Contains(err.Error(), "missing cannot be read") {
		t.Errorf("a missing password file gives error %v", err)
	}
	if n := rig.Neighbors(); len(n) != 1 || n[0].Address != second {
		t.Errorf("the sessions are %v, want the second neighbor's", n)
	}
	if plan := rig.plan(); len(plan) != 1 || plan[0].Key() != neighborKey(target, first) {
		t.Errorf("what is left to do is %v, want the first neighbor", plan)
	}
}
