package git

import (
	"testing"

	"github.com/gray-release/gray/sources/dir"
)

// TestFoldersThatAreNotRead has folders become something that gray does not read, and
// back: each is an error with its name, and the working tree is read as the commits are.
func TestFoldersThatAreNotRead(t *testing.T) {
	r := newRepo(t)
	r.commit("env/a.yaml", "a", "env/b/b.yaml", "b", "env/c/c.yaml", "c", "prod/x/p.yaml", "p", "notes", "n")
	s := follow(t, r.dir, Config{Path: "env"})
	both := func(files ...string) {
		t.Helper()
		wantFiles(t, fetch(t, s), files...)
		snap, err := dir.Read(t.Context(), r.dir+"/env")
		if err != nil {
			t.Fatal(err)
		}
		wantFiles(t, snap, files...)
	}
	both("a.yaml", "a", "b/b.yaml", "b", "c/c.yaml", "c")

	// A submodule, as git makes one.
	r.git("rm", "-r", "--quiet", "env/b")
	r.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", r.dir, "env/b")
	r.commit()
	both("a.yaml", "a", "b/", module, "c/c.yaml", "c")

	// A link to a folder, whose target is made later, and a link to a file.
	r.git("rm", "-r", "--quiet", "env/c")
	r.commit("env/c", "-> ../prod/y", "env/README", "-> ../notes", "env/top", "-> ..", "env/away", "-> /etc/gray", "env/away.txt", "-> /etc/x")
	both("a.yaml", "a", "b/", module, "top/", linked, "away/", outside)
	r.commit("prod/y/q.yaml", "q")
	both("a.yaml", "a", "b/", module, "c/", linked, "top/", linked, "away/", outside)

	// Folders again.
	r.git("rm", "-r", "--quiet", "-f", "env/b", "env/c", "env/top", "env/away", ".gitmodules")
	r.commit("env/b/b.yaml", "b2", "env/c/c.yaml", "c2", "env/.hidden", "-> ../prod")
	both("a.yaml", "a", "b/b.yaml", "b2", "c/c.yaml", "c2")
}

// TestPointers has files whose content Git LFS keeps elsewhere.
func TestPointers(t *testing.T) {
	const text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
	r := newRepo(t)
	r.commit("p/p4info.txtpb", text, "p/device_config.bin", text, "r.csv", text, "d.yaml", text, "like.yaml", "x: "+text, "link.csv", "-> r.csv")
	want := []string{
		"p/p4info.txtpb", pointer, "p/device_config.bin", pointer, "r.csv", pointer, "d.yaml", pointer, "like.yaml", "x: " + text, "link.csv", pointer,
	}
	wantFiles(t, fetch(t, follow(t, r.dir, Config{})), want...)
	snap, err := dir.Read(t.Context(), r.dir)
	if err != nil {
		t.Fatal(err)
	}
	wantFiles(t, snap, want...)
}
