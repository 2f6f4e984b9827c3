package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDemo runs the whole demo against the real Envoy.
func TestDemo(t *testing.T) {
	testEnvoy(t)
	var out strings.Builder
	if err := gray(t.Context(), &out, "demo"); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, want := range []string{
		"account 50002001 is answered by v2", "account 50009999 is answered by v1",
		"VNI 1001 leaves on port 6, a v2 port", "All expectations held",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the demo did not say %q:\n%s", want, &out)
		}
	}
}

// TestDemoRollout runs both stories of gray demo --rollout at the same time, as
// somebody without Envoy, root and terminal would.
func TestDemoRollout(t *testing.T) {
	t.Setenv("PATH", gitOnly(t))
	for broken, wants := range map[bool][]string{
		false: {"vpc-1002  22222 11111 11111 11111   5/20 on v2", "PhaseCompleted", "the rollout is Completed, with 40 of 40 VMs moved", "0 were lost: by nobody"},
		true:  {"vpc-1002  x1111 11111 11111 11111   1/20 on v2", "PhaseRolledBack", "failure  VerificationFailed, batch 1 of Network vpc-1002, at main@sha1:", "still RolledBack, in run 1, with 0 VMs moved", "were lost: by vpc-1002/vm-1"},
	} {
		t.Run(fmt.Sprintf("broken=%v", broken), func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			if err := gray(t.Context(), &out, "demo", "--rollout", fmt.Sprintf("--broken=%v", broken)); err != nil {
				t.Fatalf("%v\n%s", err, &out)
			}
			for _, want := range append(wants, "All expectations held") {
				if !strings.Contains(out.String(), want) {
					t.Errorf("the demo did not say %q:\n%s", want, &out)
				}
			}
			if strings.Contains(out.String(), "\x1b") {
				t.Errorf("without a terminal there are escape sequences:\n%q", &out)
			}
		})
	}
}

// gitOnly is a folder with git and nothing else.
func gitOnly(t *testing.T) string {
	t.Helper()
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(git, filepath.Join(dir, "git")); err != nil {
		t.Fatal(err)
	}
	return dir
}
