package schema

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// gitIgnores asks git which of the paths a .gitignore ignores.
func gitIgnores(t *testing.T, dir, patterns string, paths []string) map[string]bool {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, ".gitignore"), []byte(patterns), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("git", "check-ignore", "--no-index", "--stdin", "-z")
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader(strings.Join(paths, "\x00"))
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_SYSTEM="+os.DevNull, "XDG_CONFIG_HOME="+dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() != 1) {
		t.Fatalf("git check-ignore: %v: %s", err, &stderr)
	}
	ignored := map[string]bool{}
	for p := range strings.SplitSeq(string(out), "\x00") {
		ignored[p] = p != ""
	}
	return ignored
}

// gitDir makes an empty repository. git is part of what gray is built with, so
// only a machine without it goes without the comparison, and CI never does.
func gitDir(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("git is missing")
		}
		t.Skip("needs git")
	}
	dir := t.TempDir()
	if out, err := exec.Command("git", "init", "-q", dir).CombinedOutput(); err != nil {
		t.Fatalf("git init: %v: %s", err, out)
	}
	return dir
}

// sameAsGit holds that we ignore what git ignores. Every path is a file, and no
// path is a folder of another.
func sameAsGit(t *testing.T, dir, patterns string, paths []string) {
	t.Helper()
	list, errs := parseIgnore(file(IgnoreFile, patterns))
	if len(errs) > 0 {
		t.Fatalf("%q: %v", patterns, errs)
	}
	want := gitIgnores(t, dir, patterns, paths)
	for _, p := range paths {
		if got := list.match(p); got != want[p] {
			t.Errorf("%q on %q: %v, git says %v", patterns, p, got, want[p])
		}
	}
}

// TestIgnoreAsGit holds the table below to what git says.
func TestIgnoreAsGit(t *testing.T) {
	dir := gitDir(t)
	paths := []string{
		"a.yaml", "b.yaml", "keep.yaml", "x/a.yaml", "x/keep.yaml", "x/y/a.yaml", "x/y/z/a.yaml", "y/a.yaml", "deploy/a.yaml", "x/deploy/a.yaml",
		"deploy.yaml", "foo.yaml/b", "#a.yaml", "!a.yaml", "a b.yaml", "a ", " a", "a+b.yaml", "a(b).yaml", "a[b].yaml", "a*b.yaml", "ab.yaml", "aXb.yaml",
		"éé.yaml", "A.yaml", "x/foo/bar", "foo/bar", "foo/x/bar", "foo/x/y/bar", "$a^.yaml", "{a}.yaml", "a\\b", "x.y.yaml", "xayaml",
	}
	for _, patterns := range []string{
		"", "\n\n", "# a.yaml\n", "\\#a.yaml\n", "\\!a.yaml\n", "!a.yaml\n", "a.yaml", "a.yaml\n", "a.yaml\r\n", "a.yaml  \n", "a\\ \n", "a \n", " a\n", "a b.yaml\n",
		"/a.yaml\n", "x/a.yaml\n", "/x/a.yaml\n", "y/a.yaml\n", "x/\n", "/x/\n", "y/\n", "x\n", "/x\n", "x/y\n", "deploy\n", "deploy/\n", "a.yaml/\n",
		"*.yaml\n", "*\n", "/*\n", "**\n", "/**\n", "**/\n", "x/*\n", "x/**\n", "x/**/a.yaml\n", "**/a.yaml\n", "**/y/*\n", "/**/a.yaml\n", "x/**/\n", "foo/**/bar\n", "foo/*/bar\n", "**/foo/bar\n", "foo/bar\n",
		"?.yaml\n", "a?b.yaml\n", "[ab].yaml\n", "[!a].yaml\n", "[^a].yaml\n", "[a-c]*.yaml\n", "a\\[b\\].yaml\n", "a\\*b.yaml\n", "a**b.yaml\n", "**.yaml\n",
		"a+b.yaml\n", "a(b).yaml\n", "$a^.yaml\n", "{a}.yaml\n", "{a,b}.yaml\n", "x.y.yaml\n", "x?yaml\n", "éé.yaml\n", "a\\\\b\n", "\\a.yaml\n",
		"*.yaml\n!keep.yaml\n", "!keep.yaml\n*.yaml\n", "x/\n!x/keep.yaml\n", "x/*\n!x/keep.yaml\n", "*\n!*/\n!keep.yaml\n", "*\n!x/\n", "*\n!/x\n!/x/a.yaml\n", "/*\n!/x\n", "/x/*\n!/x/y/\n/x/y/*\n!/x/y/a.yaml\n",
		"*\n!x\n!x/**\n", "a.yaml\n!a.yaml\na.yaml\n", "!\n", "/\n", "//\n", "x//a.yaml\n", "/x/a.yaml/\n", "x/./a.yaml\n", "./a.yaml\n", "../a.yaml\n", byteOrderMark + "a.yaml\n",
	} {
		sameAsGit(t, dir, patterns, paths)
	}
}

// TestIgnoreLikeGit holds random patterns to what git says of random paths.
func TestIgnoreLikeGit(t *testing.T) {
	dir := gitDir(t)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	word := func(words ...string) string { return words[r.IntN(len(words))] }
	for range 150 {
		var patterns strings.Builder
		for range 1 + r.IntN(4) {
			patterns.WriteString(word("", "", "!") + word("", "/", "**/"))
			for i := range 1 + r.IntN(3) {
				if i > 0 {
					patterns.WriteString("/")
				}
				patterns.WriteString(word("a", "b", "ab", "*", "**", "a*", "*b", "?", "[ab]", "[!a]", "a?", "\\a", "**b"))
			}
			patterns.WriteString(word("", "/", "/**", "/*") + word("", " ", "\r") + "\n")
		}
		var paths []string
		for i := range 20 {
			var p strings.Builder
			for range r.IntN(4) {
				p.WriteString(word("a", "b", "ab", "abb", "c") + "/")
			}
			fmt.Fprintf(&p, "%s.%d", word("a", "b", "ab", "c"), i) // no path is a folder of another
			if r.IntN(2) == 0 {
				p.WriteString("/" + word("a", "b", "ab", "c"))
			}
			paths = append(paths, p.String())
		}
		sameAsGit(t, dir, patterns.String(), paths)
		if t.Failed() {
			return
		}
	}
}
