package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/tools/testnet"

	"github.com/rogpeppe/go-internal/testscript"

	quickstart "github.com/gray-release/gray"
	"github.com/gray-release/gray/tools/etcdtest"
)

// TestMain makes the test binary the real gray: for scripts, and for tests that
// start a daemon of their own.
func TestMain(m *testing.M) {
	etcdtest.Main()
	killAtWrite()
	if os.Getenv("GRAY_TEST_RUN_MAIN") != "" {
		os.Exit(run())
	}
	if mode := os.Getenv("GRAY_TEST_STREAM"); mode != "" {
		if err := streamMain(mode, os.Getenv("GRAY_TEST_ADDRESS")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if filepath.Base(os.Args[0]) != "gray" { // of a script, which has an environment of its own
		testnet.Enter()
		if tools, err := filepath.Abs("../../.tools"); err == nil {
			_ = os.Setenv("PATH", tools+string(os.PathListSeparator)+os.Getenv("PATH"))
		}
	}
	testscript.Main(m, map[string]func(){"gray": main})
}

// TestScripts drives the real command line; every script starts in a copy of the
// quickstart under Git.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("GIT_CONFIG_GLOBAL", os.DevNull)
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else each gray of a race build ends a second later
			for _, who := range []string{"AUTHOR", "COMMITTER"} {
				env.Setenv("GIT_"+who+"_NAME", "test")
				env.Setenv("GIT_"+who+"_EMAIL", "test@example.com")
			}
			pipelines, err := filepath.Abs(filepath.Join("..", "..", "sinks", "p4rt", "pipeline"))
			if err != nil {
				return err
			}
			env.Setenv("PIPELINES", pipelines)
			return os.CopyFS(filepath.Join(env.WorkDir, "repo"), quickstart.Quickstart())
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"blob": blob, "free": free, "until": until},
	})
}

// blob writes a file that a txtar cannot hold: blob FILE KIND.
func blob(ts *testscript.TestScript, _ bool, args []string) {
	content := map[string]string{
		"nul":   "apiVersion: gray.dev/v1alpha1\nkind: \x00Node\n",
		"latin": "apiVersion: gray.dev/v1alpha1\n# caf\xe9\n",
		"large": strings.Repeat("# padding padding padding padding\n", 2<<20/34),
		"bomb":  bomb(),
		"flows": flows(2049),
	}[args[1]]
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(content), 0o644))
}

// free sets variables to addresses that nobody listens on: free NAME...
func free(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		ts.Setenv(name, testnet.FreeAddress())
	}
}

// until runs a command until its output matches: until PATTERN COMMAND ARG...
func until(ts *testscript.TestScript, _ bool, args []string) {
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		_ = ts.Exec(args[1], args[2:]...) // its exit code says how a rollout stands
		if re.MatchString(ts.ReadFile("stdout")) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("%s has no line like %q", strings.Join(args[1:], " "), args[0])
		}
	}
}

// bomb is a document of nine levels of aliases, a thousand million strings if
// they were written out.
func bomb() string {
	var b strings.Builder
	b.WriteString("apiVersion: gray.dev/v1alpha1\nkind: GrayPolicy\nmetadata: {name: bomb}\nspec:\n  version: v2\n  targets: [{kind: Service, name: vpc-api}]\n  match:\n  - accounts: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := range 9 {
		fmt.Fprintf(&b, "  - accounts: &a%d [%s]\n", i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10), ", "))
	}
	return b.String()
}

// flows is a policy of n flows that cannot be merged.
func flows(n int) string {
	var b strings.Builder
	b.WriteString("apiVersion: gray.dev/v1alpha1\nkind: GrayPolicy\nmetadata: {name: many}\nspec:\n  version: v2\n  targets: [{kind: Gateway, name: vpc-gw}]\n  match:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - flow: {vni: %d, src: 10.0.0.0/24, dstPort: 443}\n", 5000+i)
	}
	return b.String()
}
