// Package testnet lets tests run beside anything else on a machine, even another run of
// the same tests: it gives a test binary a network of its own.
package testnet

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// inside is the environment variable that says that a process is in the namespaces of a
// test binary. A test that starts the test binary with another environment has to set it.
const inside = "GRAY_TESTNET"

// Main runs the tests of a package after Enter.
func Main(m *testing.M) {
	Enter()
	os.Exit(m.Run())
}

// Enter executes the test binary again in new namespaces, if the system allows it: on
// Linux it does for root, and mostly for others. The test binary then has its own
// network with only loopback, its own names for ip netns, and its own processes, which
// end with it. Enter returns in the new namespaces, or if there can be none; with
// CI=true, root must be able to have them.
//
// Send signals to the process with the test binary's name. Its parent, unshare, passes
// on the exit code.
func Enter() {
	if runtime.GOOS != "linux" || os.Getenv(inside) != "" {
		return
	}
	err := enter()
	if os.Getenv("CI") == "true" && os.Getuid() == 0 {
		fmt.Fprintf(os.Stderr, "no namespaces for the tests: %v\n", err)
		os.Exit(1)
	}
}

// enter returns only an error.
func enter() error {
	flags := []string{"--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"}
	script := `ip link set lo up && mkdir -p /var/run/netns && mount -t tmpfs netns /var/run/netns && exec "$0" "$@"`
	if os.Getuid() != 0 { // the user stays the same, and cannot use ip netns
		flags = append(flags, "--user", "--map-current-user", "--keep-caps")
		script = `ip link set lo up && exec setpriv --inh-caps -all --ambient-caps -all "$0" "$@"`
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return err
	}
	args := append(append([]string{unshare}, flags...), "sh", "-c", script)
	try := exec.Command(unshare, append(args[1:len(args):len(args)], "true")...)
	if out, err := try.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return syscall.Exec(unshare, append(append(args, self), os.Args[1:]...), append(os.Environ(), inside+"=1"))
}

// The system's ephemeral ports begin above these.
const firstPort, ports = 20_000, 12_000

var nextPort atomic.Uint32

func init() { nextPort.Store(rand.Uint32N(ports)) }

// FreePort returns a loopback port that nobody listens on, for a program that needs to
// be given one. It returns another port each time, and never an ephemeral one, so that
// the port is still free when it is used.
func FreePort() uint16 {
	for range ports {
		port := firstPort + uint16(nextPort.Add(1)%ports)
		if l, err := net.Listen("tcp", address(port)); err == nil {
			_ = l.Close()
			return port
		}
	}
	panic("no port is free")
}

// FreeAddress returns the address, host:port, of a FreePort.
func FreeAddress() string { return address(FreePort()) }

func address(port uint16) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))) }

// Eventually waits until a condition holds. If it never does, the test fails with what
// say returns.
func Eventually(t testing.TB, say func() string, holds func() bool) {
	t.Helper()
	const patience = 30 * time.Second
	for end := time.Now().Add(patience); !holds(); {
		if time.Now().After(end) {
			t.Fatalf("waited %s in vain: %s", patience, say())
		}
		time.Sleep(2 * time.Millisecond)
	}
}
