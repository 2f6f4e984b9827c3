package dir

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestWatchLimit runs TestFewWatches in a user namespace of its own, where the
// number of watches can be bounded for it alone.
func TestWatchLimit(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestFewWatches$", "-test.v")
	cmd.Env = append(os.Environ(), "GRAY_TEST_FEW_WATCHES=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if !strings.Contains(string(out), "=== RUN") || strings.Contains(string(out), "--- SKIP") {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no user namespace with a bound of its own, and CI must have it: %v\n%s", err, out)
		}
		t.Skipf("no user namespace with a bound of its own: %v\n%s", err, out)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: TestFewWatches") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// TestFewWatches is the part of TestWatchLimit in the namespace.
func TestFewWatches(t *testing.T) {
	if os.Getenv("GRAY_TEST_FEW_WATCHES") == "" {
		t.Skip("run by TestWatchLimit")
	}
	d := newTree(t)
	if err := os.WriteFile("/proc/sys/user/max_inotify_watches", []byte("3"), 0o644); err != nil {
		t.Skip(err)
	}
	d.write("one/a.yaml", "1", "two/b.yaml", "1", "three/c.yaml", "1")
	if _, err := New(d.dir); err == nil || !strings.Contains(err.Error(), "raise fs.inotify.max_user_watches") {
		t.Fatalf("got %v", err)
	}
	// What comes later is polled, and watched once there is room.
	poll = 100 * time.Millisecond
	d.remove("three")
	s := open(t, d.dir)
	fetch(t, s)
	d.write("three/c.yaml", "1")
	untilFiles(t, s, "too many folders", "one/a.yaml", "1", "two/b.yaml", "1", "three/c.yaml", "1")
	for _, v := range []string{"2", "3"} {
		d.write("three/c.yaml", v)
		untilFiles(t, s, "polled", "one/a.yaml", "1", "two/b.yaml", "1", "three/c.yaml", v)
	}
	d.remove("one")
	d.remove("two")
	untilFiles(t, s, "fewer folders", "three/c.yaml", "3")
	d.write("three/c.yaml", "4")
	untilFiles(t, s, "watched", "three/c.yaml", "4")
}
