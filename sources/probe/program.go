package probe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"github.com/gray-release/gray/schema"
)

// The bounds of texts, in bytes.
const (
	maxLine   = 512      // a reason, a name
	maxOutput = 16 << 10 // the end of what a program wrote
)

// linger is how long a program's output is read after its end: a process that left its
// group may keep it open.
const linger = time.Second

// resolve finds a program below --exec-dir after symbolic links are resolved.
func resolve(dir string, command []string) (string, error) {
	if dir == "" {
		return "", errors.New("the daemon runs programs only with --exec-dir")
	}
	if len(command) == 0 || command[0] == "" {
		return "", errors.New("the command is empty; name a program below --exec-dir")
	}
	root, err := filepath.EvalSymlinks(dir)
	if err == nil {
		root, err = filepath.Abs(root)
	}
	if err != nil {
		return "", fmt.Errorf("--exec-dir %s cannot be read: %w", dir, unwrapped(err))
	}
	full := command[0]
	if !filepath.IsAbs(full) {
		full = filepath.Join(root, full)
	}
	resolved, err := filepath.EvalSymlinks(full)
	if err != nil {
		return "", fmt.Errorf("%s cannot be run: %w", clip(command[0]), unwrapped(err))
	}
	if rel, err := filepath.Rel(root, resolved); err != nil || !filepath.IsLocal(rel) {
		return "", fmt.Errorf("%s is not below --exec-dir %s", clip(command[0]), dir)
	}
	info, err := os.Stat(resolved)
	if err != nil {
		return "", fmt.Errorf("%s cannot be run: %w", clip(command[0]), unwrapped(err))
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return "", fmt.Errorf("%s is not executable", clip(command[0]))
	}
	return resolved, nil
}

// environment is the whole environment of a program: what is probed, and a PATH. The
// addresses are on its standard input, because they may be too many for an environment.
func environment(r Request) []string {
	return []string{
		"PATH=/usr/local/bin:/usr/bin:/bin",
		"LANG=C.UTF-8",
		"GRAY_POLICY=" + r.Policy,
		"GRAY_NETWORK=" + r.Network,
		fmt.Sprintf("GRAY_VNI=%d", r.VNI),
		"GRAY_COMMIT=" + r.Commit,
		"GRAY_BATCH=" + r.Batch,
	}
}

// lines formats the targets for a program: "moved" or "peer", the address, the VTEP and
// the name of the VM.
func lines(targets []Target) string {
	var b strings.Builder
	for _, t := range targets {
		kind := "peer"
		if t.Moved {
			kind = "moved"
		}
		fmt.Fprintf(&b, "%s %s %s %s\n", kind, t.Address, t.VTEP, t.VM)
	}
	return b.String()
}

// run runs a program without a shell; exit status 0 passes. An error means that the
// daemon's host failed.
func (p *Prober) run(ctx context.Context, program string, r Request, c Test, a *Answer, out *TestResult) error {
	select {
	case p.programs <- struct{}{}:
		defer func() { <-p.programs }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	limited, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	output := &tail{}
	cmd := exec.CommandContext(limited, program, c.Command[1:]...)
	cmd.Dir, cmd.Env = filepath.Dir(program), environment(r)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(lines(r.Targets)), output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Kill the whole group, or a child would go on probing.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = linger
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s cannot be run: %w", clip(c.Command[0]), unwrapped(err))
	}
	a.Sent = 1
	err := cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left behind
	out.Output = output.String()
	switch {
	case limited.Err() != nil && ctx.Err() == nil:
		a.Error = fmt.Sprintf("it took longer than %s and was killed", c.Timeout)
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		a.Received = 1
		a.Latency.add(time.Since(began))
	default:
		a.Error = err.Error()
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	b   []byte
	cut bool
}

// Write accepts everything, so that its output never blocks a program.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(b)
	if n > maxOutput {
		b, t.cut = b[n-maxOutput:], true
	}
	t.b = append(t.b, b...)
	if over := len(t.b) - maxOutput; over > 0 {
		t.b, t.cut = append(t.b[:0], t.b[over:]...), true
	}
	return n, nil
}

// String is the end of the text, without control characters.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := printable(string(t.b))
	if t.cut {
		return "..." + s
	}
	return s
}

// printable removes control characters and invalid UTF-8.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || unicode.IsControl(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, s)
}

// clip makes a text one line of limited length.
func clip(s string) string {
	return schema.Clip(strings.ReplaceAll(printable(s), "\n", " "), maxLine)
}
