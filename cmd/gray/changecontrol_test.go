package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	quickstart "github.com/gray-release/gray"
	"github.com/gray-release/gray/tools/testnet"
)

// page is a page of the documentation whose blocks are run. A block of yaml is the
// file that its first line names; one of console is commands, each after "$ ", with
// their output.
type page struct {
	t      *testing.T
	dir    string
	env    []string
	gone   []string // what is put in another's place: old, new, ...
	update bool     // write what the commands print into the page
}

// TestChangeControlPage runs docs/change-control.md. GRAY_UPDATE_PAGE=1 writes what
// it prints into the page.
func TestChangeControlPage(t *testing.T) {
	t.Parallel()
	p := newPage(t)
	path := filepath.Join("..", "..", "docs", "change-control.md")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	block := regexp.MustCompile("(?s)```(yaml|console)\n(.*?)```\n")
	ran := 0
	out := block.ReplaceAllStringFunc(text, func(found string) string {
		m := block.FindStringSubmatch(found)
		if m[1] == "yaml" {
			p.write(m[2])
			return found
		}
		after := ""
		for _, step := range strings.Split("\n"+m[2], "\n$ ")[1:] {
			command, want, _ := strings.Cut(step, "\n")
			if want != "" && !strings.HasSuffix(want, "\n") {
				want += "\n"
			}
			ran++
			after += "$ " + command + "\n" + p.run(command, want)
		}
		return "```console\n" + after + "```\n"
	})
	if ran < 20 {
		t.Errorf("the page has %d commands", ran)
	}
	if p.update {
		if err := os.WriteFile(path, []byte(out), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// newPage is a copy of the quickstart under Git, without its policies, and addresses
// of its own in place of those that the page has.
func newPage(t *testing.T) *page {
	p := &page{t: t, dir: filepath.Join(t.TempDir(), "repo"), update: os.Getenv("GRAY_UPDATE_PAGE") != ""}
	p.ok(os.CopyFS(p.dir, quickstart.Quickstart()))
	p.ok(os.RemoveAll(filepath.Join(p.dir, "policies")))
	p.env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GRAY_WHO=ann@desk", "GORACE=atexit_sleep_ms=0") // as in TestScripts
	for _, who := range []string{"AUTHOR", "COMMITTER"} {
		p.env = append(p.env, "GIT_"+who+"_NAME=ann", "GIT_"+who+"_EMAIL=ann@example.com")
	}
	for name, known := range map[string]string{"GRAY_LISTEN": "127.0.0.1:9559", "GRAY_XDS_LISTEN": "127.0.0.1:18000", "GRAY_ADMIN_LISTEN": "127.0.0.1:18001"} {
		address := testnet.FreeAddress()
		p.env, p.gone = append(p.env, name+"="+address), append(p.gone, address, known)
		if name == "GRAY_LISTEN" {
			p.shell("sed -i s/" + known + "/" + address + "/ gateways/vpc-gw.yaml")
		}
	}
	p.shell("git init -q -b main && git add -A && git commit -q -m quickstart")
	return p
}

func (p *page) ok(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// write writes the file that the first line of a block names.
func (p *page) write(block string) {
	first, _, _ := strings.Cut(block, "\n")
	path := filepath.Join(p.dir, strings.TrimPrefix(first, "# "))
	p.ok(os.MkdirAll(filepath.Dir(path), 0o755))
	p.ok(os.WriteFile(path, []byte(block), 0o644))
}

// shell runs a command that is to work. Exit code 1 is an answer.
func (p *page) shell(command string) string {
	p.t.Helper()
	out, code := p.try(command)
	if code > exitNo {
		p.t.Fatalf("%s: exit code %d\n%s", command, code, out)
	}
	return out
}

// try runs a command.
func (p *page) try(command string) (out string, code int) {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), "sh", "-c", command)
	cmd.Dir, cmd.Env = p.dir, p.env
	b, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		p.t.Fatalf("%s: %v", command, err)
	}
	return strings.NewReplacer(p.gone...).Replace(string(b)), cmd.ProcessState.ExitCode()
}

// run runs a command of the page and compares what it prints. What only looks is
// tried until it finds what is awaited.
func (p *page) run(command, want string) string {
	p.t.Helper()
	if background, is := strings.CutSuffix(command, " &"); is {
		cmd := exec.CommandContext(p.t.Context(), "sh", "-c", "exec "+background)
		cmd.Dir, cmd.Env = p.dir, p.env
		p.ok(cmd.Start())
		p.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return ""
	}
	if !regexp.MustCompile("^gray (rollout )?(status|diff|history)").MatchString(command) {
		got := p.shell(command)
		if !p.update && same(got) != same(want) {
			p.t.Errorf("$ %s\n(-page +real):\n%s", command, cmp.Diff(same(want), same(got)))
		}
		return got
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	pause := time.NewTicker(50 * time.Millisecond)
	if p.update {
		pause.Reset(1500 * time.Millisecond) // nothing says when it has come to rest but that it stays so
	}
	defer pause.Stop()
	for last := "-"; ; {
		got, code := p.try(command)
		if done := p.update && got == last || !p.update && same(got) == same(want); done && code <= exitNo {
			return got
		}
		last = got
		select {
		case <-pause.C:
		case <-ctx.Done():
			p.t.Fatalf("$ %s\n(-page +real):\n%s", command, cmp.Diff(same(want), same(got)))
		}
	}
}

// same is a text without what is another at each run: digests of commits and times.
func same(text string) string {
	text = regexp.MustCompile(`\b[0-9a-f]{40}\b`).ReplaceAllString(text, "COMMIT")
	text = regexp.MustCompile(`(  )[0-9a-f]{8}(  )`).ReplaceAllString(text, "${1}COMMIT${2}")
	return regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`).ReplaceAllString(text, "TIME")
}
