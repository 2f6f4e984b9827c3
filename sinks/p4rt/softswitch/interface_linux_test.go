package softswitch

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inNamespace moves the test into a network namespace of its own, which goes
// with it. That needs root and the ip command.
func inNamespace(t testing.TB) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	err := unix.Unshare(unix.CLONE_NEWNET)
	if err == nil {
		_, err = exec.LookPath("ip")
	}
	if err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("cannot make a network namespace: %v; run as root, with iproute2 installed", err)
	}
	t.Skipf("cannot make a network namespace: %v; run as root, with iproute2 installed, to run this test", err)
}

func ip(t testing.TB, args string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

func up(t testing.TB, name string) {
	t.Helper()
	ip(t, "link set "+name+" up")
}

// running waits until an interface that is up takes frames.
func running(t testing.TB, name string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if ifi, err := net.InterfaceByName(name); err == nil && ifi.Flags&net.FlagRunning != 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("interface %s does not come up", name)
		}
	}
}

// wire is the far end of a port.
type wire struct {
	t    testing.TB
	file *os.File
}

// newWire makes a pair of interfaces, NAME and NAME-far, and opens the far one.
func newWire(t testing.TB, name string) *wire {
	t.Helper()
	ip(t, "link add "+name+" type veth peer name "+name+"-far")
	up(t, name)
	up(t, name+"-far")
	running(t, name)
	running(t, name+"-far")
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ifi, err := net.InterfaceByName(name + "-far")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifi.Index}),
	); err != nil {
		t.Fatal(err)
	}
	w := &wire{t, os.NewFile(uintptr(fd), name)}
	t.Cleanup(func() { _ = w.file.Close() })
	return w
}

func (w *wire) send(frame []byte) {
	w.t.Helper()
	if _, err := w.file.Write(append(make([]byte, vnetHeader), frame...)); err != nil {
		w.t.Fatal(err)
	}
}

// wants waits for a frame; others, such as those of the kernel itself, may come
// before it.
func (w *wire) wants(what string, frame []byte) {
	w.t.Helper()
	raw, err := w.file.SyscallConn()
	if err != nil {
		w.t.Fatal(err)
	}
	_ = w.file.SetReadDeadline(time.Now().Add(patience))
	r := newPacketReader(raw)
	for {
		_, got, err := r.next()
		if err != nil {
			w.t.Fatalf("%s: %v; it never came", what, err)
		}
		if bytes.Equal(got, frame) {
			return
		}
		if bytes.Equal(got[:12], frame[:12]) {
			w.t.Fatalf("%s:\n got %x\nwant %x", what, got, frame)
		}
	}
}

// TestInterfaces sends frames through real interfaces, with and without a VLAN
// tag, and none comes back from where it was sent to.
func TestInterfaces(t *testing.T) {
	inNamespace(t)
	s := New(device)
	if err := s.load(gateway()...); err != nil {
		t.Fatal(err)
	}
	in, flows := newWire(t, "in"), newWire(t, "flows")
	for number, name := range map[uint32]string{9: "in", flowPool: "flows"} {
		if err := s.AttachInterface(number, name); err != nil {
			t.Fatal(err)
		}
	}
	frame := in4(1001, inner4("10.0.0.5", "10.0.0.6", tcp(40001, 443)))
	for _, f := range [][]byte{frame, tagged(0x6064, frame), tagged(0, frame)} {
		in.send(f)
		flows.wants("a frame for the flow's port", forwarded(f, flowPool))
	}
	// Both ways, and the port of a pool may be the one that the frame came by.
	flows.send(frame)
	flows.wants("a frame that came by the flow's port", forwarded(frame, flowPool))
	if err := s.AttachInterface(9, "flows"); err == nil || !strings.Contains(err.Error(), "port 9 is already attached") {
		t.Errorf("a port was attached twice: %v", err)
	}
	if err := s.AttachInterface(10, "nothing"); err == nil || !strings.Contains(err.Error(), `"nothing"`) {
		t.Errorf("an interface that is not there: %v", err)
	}
	// An interface that goes down and up again goes on.
	ip(t, "link set in down")
	up(t, "in")
	running(t, "in")
	running(t, "in-far")
	in.send(frame)
	flows.wants("a frame after the interface was down", forwarded(frame, flowPool))
	// A frame that the interface does not take is counted. None of those before
	// came back to be sent again.
	ip(t, "link set flows mtu 68")
	in.send(frame)
	for end := time.Now().Add(patience); s.Stats().Dropped["not sent"] == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("a frame that is too long: %+v", s.Stats())
		}
	}
	if n := s.Stats().Forwarded; n != 5 {
		t.Errorf("%d frames were sent on, want 5", n)
	}
	done := make(chan error)
	go func() { done <- s.Close() }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("Close hangs")
	}
}
