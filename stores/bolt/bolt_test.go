package bolt

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/gray-release/gray/reconciler"
)

// TestMain lets the test binary be another process that has a store open.
func TestMain(m *testing.M) {
	if state := os.Getenv("GRAY_TEST_HOLD_STORE"); state != "" {
		if _, err := Open(state); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("open")
		_, _ = os.Stdin.Read(make([]byte, 1)) // until the test lets go
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func load(t *testing.T, s *reconciler.Store, bucket string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := s.Load(bucket, func(k string, v []byte) error { all[k] = string(v); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestStoreKeepsWhatWasWritten(t *testing.T) {
	state := "file:" + filepath.Join(t.TempDir(), "new", "state.db")
	s, err := Open(state)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Write("b", map[string][]byte{"x": []byte("1"), "y": []byte("2"), "z": nil}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Write("b", map[string][]byte{"y": []byte("3")}, []string{"x", "missing"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(state); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got, want := load(t, s, "b"), map[string]string{"y": "3", "z": ""}; !maps.Equal(got, want) {
		t.Errorf("after it was opened again it holds %q, want %q", got, want)
	}
	if got := load(t, s, "other"); len(got) > 0 {
		t.Errorf("a bucket that nobody wrote holds %q", got)
	}
	wrong := errors.New("stop")
	if err := s.Load("b", func(string, []byte) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("the caller's error becomes %v", err)
	}
	info, err := os.Stat(strings.TrimPrefix(state, "file:"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v; others may not read it", info.Mode(), err)
	}
}

func TestStoreSaysWhyItCannotBeOpened(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return "file:" + file
	}
	future := "file:" + filepath.Join(dir, "future.db")
	s, err := Open(future)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(strings.TrimPrefix(future, "file:"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("version"), []byte("99")) })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ state, want string }{
		{"etcd://x", "want file:/path/to/state.db"},
		{"file:", "want file:/path/to/state.db"},
		{write("text.db", strings.Repeat("this is no database\n", 1000)), "invalid database"},
		{write("short.db", "x"), "invalid"},
		{"file:" + filepath.Join(strings.TrimPrefix(write("plain", "x"), "file:"), "state.db"), "cannot make its folder"},
		{"file:" + dir, "is a directory"},
		{future, `has layout "99", this gray reads "1"`},
	} {
		s, err := Open(c.state)
		if err == nil {
			t.Errorf("%s was opened: %v", c.state, s.Close())
			continue
		}
		if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "--state") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want one line with %q", c.state, err, c.want)
		}
	}
}

func TestStoreIsOneProcessesOwn(t *testing.T) {
	state := "file:" + filepath.Join(t.TempDir(), "state.db")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "GRAY_TEST_HOLD_STORE="+state)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said string
	if _, err := fmt.Fscan(out, &said); err != nil || said != "open" {
		t.Fatalf("the other process says %q, %v", said, err)
	}
	if _, err := Open(state); err == nil || !strings.Contains(err.Error(), "another process has it open") {
		t.Errorf("a file that another process has open gives %v", err)
	}
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	s, err := Open(state)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
}

func TestAFailedWriteChangesNothing(t *testing.T) {
	s, err := Open("file:" + filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Write("b", map[string][]byte{"x": []byte("1")}, nil); err != nil {
		t.Fatal(err)
	}
	// The second record cannot be written, so the first one is not either.
	for range 20 { // in whatever order
		if err := s.Write("b", map[string][]byte{"x": []byte("2"), "": []byte("no name")}, []string{"x"}); err == nil {
			t.Fatal("a record without a name was written")
		}
	}
	if got := load(t, s, "b"); got["x"] != "1" || len(got) != 1 {
		t.Errorf("after a failed write it holds %q", got)
	}
}
