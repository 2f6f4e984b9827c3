package dir

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUnreadable has a file that may not be read: an error at the file, and none
// once it may, though neither its size nor its time changed.
func TestUnreadable(t *testing.T) {
	d := newTree(t)
	d.write("a.yaml", "a", "b.yaml", "b", "sub/c.yaml", "c")
	d.age("a.yaml")
	d.ok(os.Chmod(d.path("a.yaml"), 0))
	s := &Source{root: d.dir}
	asOrdinaryUser(t, func() {
		wantFiles(t, fetch(t, s), "a.yaml", "error: cannot be read: permission denied", "b.yaml", "b", "sub/c.yaml", "c")
	})
	d.ok(os.Chmod(d.path("a.yaml"), 0o644))
	wantFiles(t, fetch(t, s), "a.yaml", "a", "b.yaml", "b", "sub/c.yaml", "c")
	// A folder that may not be read may hold anything: the last state stays.
	d.ok(os.Chmod(d.path("sub"), 0))
	asOrdinaryUser(t, func() {
		if _, err := s.Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "sub") || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("got %v", err)
		}
	})
	d.ok(os.Chmod(d.path("sub"), 0o755))
	wantFiles(t, fetch(t, s), "a.yaml", "a", "b.yaml", "b", "sub/c.yaml", "c")
}

// asOrdinaryUser runs f, in this thread, without the right of root to read
// everything.
func asOrdinaryUser(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData
	if err := unix.Capget(&head, &had[0]); err != nil {
		t.Fatal(err)
	}
	less := had
	less[0].Effective &^= 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH
	if err := unix.Capset(&head, &less[0]); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Capset(&head, &had[0]); err != nil {
			t.Error(err)
		}
	}()
	f()
}
