package secrets

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadSecret(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	write := func(path string, size int) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.Repeat("s", size)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, from string) {
		t.Helper()
		if err := os.Symlink(to, from); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(outside, "key"), 6)
	write(filepath.Join(dir, "sub", "key"), 6)
	write(filepath.Join(dir, "large"), maxSecret+1)
	link("sub/key", filepath.Join(dir, "inner"))
	link(filepath.Join(outside, "key"), filepath.Join(dir, "outer"))
	link(outside, filepath.Join(dir, "folder"))
	link(dir, filepath.Join(outside, "secrets"))
	for _, root := range []string{dir, filepath.Join(outside, "secrets")} {
		for _, good := range []string{"sub/key", "inner", filepath.Join(dir, "sub", "key"), "sub/../inner"} {
			if b, err := Read(root, good); err != nil || len(b) != 6 {
				t.Errorf("%s below %s gives %d bytes and error %v", good, root, len(b), err)
			}
		}
		for bad, want := range map[string]string{
			"outer": "is not below --secrets-dir", "folder/key": "is not below --secrets-dir", "../" + filepath.Base(outside) + "/key": "is not below",
			filepath.Join(outside, "key"): "is not below --secrets-dir", filepath.Join(outside, "none"): "is not below --secrets-dir", "/none/at/all": "is not below --secrets-dir",
			"folder/none": "is not below --secrets-dir", "../none/none": "is not below --secrets-dir", "sub/none": "cannot be read", "missing": "cannot be read", "sub": "cannot be read", "large": "is larger than",
		} {
			if _, err := Read(root, bad); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s below %s gives error %v, want %q", bad, root, err, want)
			}
		}
	}
	if _, err := Read(filepath.Join(dir, "none"), "key"); err == nil || !strings.Contains(err.Error(), "--secrets-dir") {
		t.Errorf("a missing folder gives error %v", err)
	}
}

// TestByteOrderMark holds that what an editor writes before a text is no part of a secret.
func TestByteOrderMark(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("\ufeffs3cret\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := Read(dir, "token"); err != nil || string(b) != "s3cret\r\n" {
		t.Errorf("got %q (%v)", b, err)
	}
}
