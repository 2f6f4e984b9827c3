// Package testnet lets tests run beside whatever else runs on a machine, another run
// of the same tests included: a test binary has a network of its own.
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

// inside is the environment variable that says that a process is in the namespaces
// of a test binary. What is started with an environment of its own needs it if it is
// the test binary again.
const inside = "GRAY_TESTNET"

// Main runs the tests of a package after Enter.
func Main(m *testing.M) {
	Enter()
	os.Exit(m.Run())
}

// Enter executes the test binary again in new namespaces and does not return there,
// if the system allows it: on Linux to root, and mostly to others. Networks are its
// own, with loopback alone, and so are the names of ip netns and the processes, which
// end with the test binary, however that ends. It returns in the namespaces, and
// where there can be none; with CI=true root is to have them.
//
// Signals are for the process that has the test binary's name; that above it, of
// unshare, passes on the exit code.
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

// enter returns only if there is an error.
func enter() error {
	flags := []string{"--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"}
	script := `ip link set lo up && mkdir -p /var/run/netns && mount -t tmpfs netns /var/run/netns && exec "$0" "$@"`
	if os.Getuid() != 0 { // who stays who it is, and has no use for ip netns
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

// Ports that a system gives by itself begin above these.
const firstPort, ports = 20_000, 12_000

var nextPort atomic.Uint32

func init() { nextPort.Store(rand.Uint32N(ports)) }

// FreePort is a loopback port that nobody listens on, for a program that must be told
// one. It is another each time, and none that the system gives to connections or to
// who listens on port 0, so that it is still free when it is used.
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

// FreeAddress is the address, host:port, of a FreePort.
func FreeAddress() string { return address(FreePort()) }

func address(port uint16) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))) }

// Eventually waits until something holds; say tells how it is where that never comes.
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
