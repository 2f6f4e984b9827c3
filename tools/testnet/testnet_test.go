package testnet

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv("GRAY_TEST_ACT") != "" {
		Enter()
		act()
	}
	Main(m)
}

// act has a process of its own hold the file that it was given, says what it sees of
// a test binary's surroundings, and waits for the end of its input.
func act() {
	left := exec.Command("sleep", "1000")
	left.ExtraFiles = []*os.File{os.NewFile(3, "given")}
	if err := left.Start(); err != nil {
		panic(err)
	}
	_, _ = os.Stdout.WriteString(strings.Join(os.Args[1:], " ") + "\n")
	_, _ = io.Copy(os.Stderr, os.Stdin)
	os.Exit(7)
}

// needNamespaces skips where a test binary has none.
func needNamespaces(t *testing.T) {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Skip("there are no namespaces here: this test needs root, or user namespaces, and iproute2")
	}
}

// binary is this test binary outside of all namespaces, and what waits until nothing
// that it started lives.
func binary(t *testing.T) (cmd *exec.Cmd, ended func()) {
	t.Helper()
	needNamespaces(t)
	held, given, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = held.Close(); _ = given.Close() })
	cmd = exec.Command(os.Args[0], "-a", "b c")
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, inside+"=") }), "GRAY_TEST_ACT=1")
	cmd.ExtraFiles = []*os.File{given}
	return cmd, func() {
		_, _ = given.Close(), held.SetReadDeadline(time.Now().Add(20*time.Second))
		if _, err := held.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("something lives on: %v", err)
		}
	}
}

func TestWhatEnterPassesOn(t *testing.T) {
	cmd, ended := binary(t)
	var out, log bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("input"), &out, &log
	_ = cmd.Run()
	if cmd.ProcessState.ExitCode() != 7 || out.String() != "-a b c\n" || log.String() != "input" {
		t.Errorf("%s: arguments %q, input %q", cmd.ProcessState, &out, &log)
	}
	ended()
}

// TestKilled holds that what a killed test binary started ends with it.
func TestKilled(t *testing.T) {
	cmd, ended := binary(t)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = cmd.Process.Wait() // Wait of cmd would end its input too
	ended()
}

func TestNetworkIsOwn(t *testing.T) {
	needNamespaces(t)
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all { // a kernel may add tunnels, which are down
		if i.Flags&net.FlagUp != 0 != (i.Name == "lo") {
			t.Errorf("there is %+v", i)
		}
	}
	if names, err := os.ReadDir("/var/run/netns"); os.Getuid() == 0 && (err != nil || len(names) > 0) {
		t.Errorf("there are namespaces %v, %v", names, err)
	}
}

func TestFreePorts(t *testing.T) {
	taken, err := net.Listen("tcp", FreeAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	seen := map[string]bool{taken.Addr().String(): true}
	nextPort.Add(ports - 1) // once around, to the one that is taken
	for range 100 {
		if a := FreeAddress(); seen[a] {
			t.Errorf("%s is given twice", a)
		} else {
			seen[a] = true
		}
	}
}
