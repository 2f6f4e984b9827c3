package probe

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// programs makes an --exec-dir with programs of sh.
func programs(t *testing.T, scripts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func execute(t *testing.T, dir string, timeout time.Duration, command ...string) *Result {
	t.Helper()
	r := Request{
		Policy: "gw-v2", Network: "vpc-1001", VNI: 1001, Commit: "main@sha1:abc", Batch: "2 of 4", Targets: targets(2, "10.0.0.1"),
		Tests: []Test{{Kind: Exec, Command: command, Timeout: timeout}},
	}
	return quick(Options{ExecDir: dir}).Probe(t.Context(), r)
}

func TestExec(t *testing.T) {
	t.Setenv("GRAY_SECRET", "hush") // of the daemon
	dir := programs(t, map[string]string{
		"fine":  "exit 0\n",
		"wrong": "echo the VPC is broken >&2\nexit 3\n",
		"tell":  "env | sort; cat; echo \"args:$#:$1:$2\"\n",
		"loud":  "head -c 10000000 /dev/zero | tr '\\0' x; printf '\\033[2J\\377end'\n",
		"deaf":  "exec 0<&-\nexit 0\n",
	})
	if res := execute(t, dir, patience, "fine"); res.Verdict != Passed || res.Tests[0].Latency.Min <= 0 {
		t.Errorf("%s: %s", res.Verdict, res.Reason)
	}
	if res := execute(t, dir, patience, filepath.Join(dir, "fine")); res.Verdict != Passed {
		t.Errorf("by its whole path: %s: %s", res.Verdict, res.Reason)
	}
	if res := execute(t, dir, patience, "deaf"); res.Verdict != Passed {
		t.Errorf("%s: %s", res.Verdict, res.Reason)
	}
	if res := execute(t, dir, patience, "wrong"); res.Verdict != Failed || res.Reason != "exec wrong: answered 0 of 1: exit status 3" || res.Tests[0].Output != "the VPC is broken\n" {
		t.Errorf("%s: %s: %q", res.Verdict, res.Reason, res.Tests[0].Output)
	}
	res := execute(t, dir, patience, "loud")
	if out := res.Tests[0].Output; len(out) > maxOutput+3 || !strings.HasPrefix(out, "...xxx") || !strings.HasSuffix(out, "xxx[2Jend") {
		t.Errorf("%d bytes are kept, the end is %q", len(out), out[max(0, len(out)-20):])
	}
	// The environment is clean, arguments are passed as they are, and no shell reads them.
	want := strings.Join([]string{
		"GRAY_BATCH=2 of 4", "GRAY_COMMIT=main@sha1:abc", "GRAY_NETWORK=vpc-1001", "GRAY_POLICY=gw-v2", "GRAY_VNI=1001",
		"LANG=C.UTF-8", "PATH=/usr/local/bin:/usr/bin:/bin",
	}, "\n")
	res = execute(t, dir, patience, "tell", "$(id)", "a b")
	var got []string
	for line := range strings.Lines(res.Tests[0].Output) {
		if !strings.HasPrefix(line, "PWD=") && !strings.HasPrefix(line, "SHLVL=") && !strings.HasPrefix(line, "_=") && !strings.HasPrefix(line, "OLDPWD=") { // of sh itself
			got = append(got, line)
		}
	}
	if text := strings.Join(got, ""); text != want+"\nmoved 10.0.0.1 192.0.2.0 vm-0\npeer 10.0.0.2 192.0.2.1 vm-1\nargs:2:$(id):a b\n" {
		t.Errorf("the program found\n%s", text)
	}
}

// TestExecEnds has programs that do not end by themselves; what they started goes
// with them.
func TestExecEnds(t *testing.T) {
	note := filepath.Join(t.TempDir(), "pid")
	dir := programs(t, map[string]string{
		"hang":   "sleep 1000 & echo $! > " + note + "\nwait\n",
		"leave":  "sleep 1000 & echo $! > " + note + "\n",
		"ignore": "trap '' TERM INT\necho $$ > " + note + "\nwhile :; do sleep 1; done\n",
	})
	for _, c := range []struct {
		name    string
		timeout time.Duration
		verdict Verdict
		reason  string
	}{
		{"hang", 500 * time.Millisecond, Failed, "it took longer than 500ms and was killed"},
		{"ignore", 500 * time.Millisecond, Failed, "it took longer than 500ms and was killed"},
		{"leave", patience, Passed, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			began := time.Now()
			res := execute(t, dir, c.timeout, c.name)
			if res.Verdict != c.verdict || !strings.Contains(res.Reason, c.reason) || time.Since(began) > patience {
				t.Errorf("after %s: %s: %s", time.Since(began), res.Verdict, res.Reason)
			}
			b, err := os.ReadFile(note)
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(patience); alive(pid); {
				if time.Now().After(deadline) {
					t.Fatalf("process %d is still there", pid)
				}
				time.Sleep(time.Millisecond) // its parent, init, takes it in its own time
			}
		})
	}
}

// alive tells whether a process runs; one that nobody waits for does not.
func alive(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

// TestExecEscape names what must not be run.
func TestExecEscape(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "checks")
	outside := filepath.Join(root, "outside")
	ran := filepath.Join(root, "ran")
	script := []byte("#!/bin/sh\n: > " + ran + "\n")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "sub"), 0o755),
		os.MkdirAll(filepath.Join(root, "checks-2"), 0o755),
		os.WriteFile(outside, script, 0o755),
		os.WriteFile(filepath.Join(root, "checks-2", "x"), script, 0o755),
		os.WriteFile(filepath.Join(dir, "text"), script, 0o644),
		os.WriteFile(filepath.Join(dir, "fine"), []byte("#!/bin/sh\n"), 0o755),
		os.Symlink(outside, filepath.Join(dir, "link")),
		os.Symlink("../outside", filepath.Join(dir, "relative")),
		os.Symlink(root, filepath.Join(dir, "folder")),
		os.Symlink("loop", filepath.Join(dir, "loop")),
		os.Symlink("../fine", filepath.Join(dir, "sub", "inner")),
		os.Symlink(dir, filepath.Join(root, "alias")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ program, want string }{
		{"link", "is not below --exec-dir"},
		{"relative", "is not below --exec-dir"},
		{"folder/outside", "is not below --exec-dir"},
		{"../outside", "is not below --exec-dir"},
		{"../checks-2/x", "is not below --exec-dir"},
		{outside, "is not below --exec-dir"},
		{"/bin/true", "is not below --exec-dir"},
		{"loop", "cannot be run"},
		{"absent", "absent cannot be run: no such file or directory"},
		{"sub", "is not executable"},
		{"text", "is not executable"},
		{"", "the command is empty"},
	} {
		if res := execute(t, dir, patience, c.program); res.Verdict != Unknown || !strings.Contains(res.Reason, c.want) {
			t.Errorf("%q: %s: %s", c.program, res.Verdict, res.Reason)
		}
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("a program beyond --exec-dir was run")
	}
	if res := execute(t, "", patience, "fine"); res.Verdict != Unknown || !strings.Contains(res.Reason, "the daemon runs programs only with --exec-dir") {
		t.Errorf("%s: %s", res.Verdict, res.Reason)
	}
	for _, d := range []string{dir, filepath.Join(root, "alias")} {
		if res := execute(t, d, patience, "sub/inner"); res.Verdict != Passed {
			t.Errorf("a link that stays inside: %s: %s", res.Verdict, res.Reason)
		}
	}
}

// TestEvidence is bounded, holds what failed first, and survives JSON.
func TestEvidence(t *testing.T) {
	r := &Result{Verdict: Failed, Tests: []TestResult{{Test: "tcp 22"}}}
	for i, v := range targets(1000, "10.0.0.1") {
		a := Answer{VM: v.VM, Address: v.Address, Sent: 1, Received: 1}
		if i%100 == 50 {
			a.Received, a.Loss, a.Failed = 0, 100, i > 500
		}
		r.Tests[0].Answers = append(r.Tests[0].Answers, a)
	}
	e := r.Evidence(8)
	c := e.Tests[0]
	if len(c.Answers) != 8 || c.LeftOut != 992 || len(r.Tests[0].Answers) != 1000 || r.Tests[0].Answers[0].VM != "vm-0" {
		t.Errorf("%d answers, %d left out", len(c.Answers), c.LeftOut)
	}
	for i, a := range c.Answers {
		if a.Failed != (i < 5) || a.Loss != 100 {
			t.Errorf("answer %d: %+v", i, a)
		}
	}
	c.Answers[0].Latency.add(1500 * time.Microsecond)
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var back Result
	if err := json.Unmarshal(b, &back); err != nil || !strings.Contains(string(b), `"max":"1.5ms"`) {
		t.Errorf("%v: %s", err, b)
	}
	if a := back.Tests[0].Answers[0]; a.Address != c.Answers[0].Address || a.Latency.Max != c.Answers[0].Latency.Max {
		t.Errorf("%+v came back", a)
	}
}
