package git

import (
	"testing"
)

const (
	leaves   = "error: is a symbolic link that leaves the repository; put the file itself here"
	dangling = "error: is a symbolic link to nothing in the repository"
	tooMany  = "error: is a symbolic link that leads to too many others"
	noFile   = "error: is not a regular file"
	linked   = "error: is a symbolic link to a folder, which gray does not read; put its files here, or list it in .grayignore"
	outside  = "error: is a symbolic link that leaves the repository; put its files here, or list it in .grayignore"
	module   = "error: is a submodule or another Git repository, which gray does not read; put its files here, or list it in .grayignore"
	pointer  = "error: is a Git LFS pointer, not the file itself; gray does not fetch from LFS, so put the file into Git (git lfs untrack)"
)

func TestLinks(t *testing.T) {
	r := newRepo(t)
	r.commit("env/file.yaml", "f", "other/data", "d", "top.yaml", "t", "..odd/x", "odd",
		// Followed.
		"env/same.yaml", "-> file.yaml",
		"env/dots.yaml", "-> .././env//file.yaml",
		"env/beside.yaml", "-> ../other/data", // not a name that is read by itself, and out of the folder
		"env/top.yaml", "-> ../top.yaml",
		"env/chain.yaml", "-> chain2.yaml", "env/chain2.yaml", "-> chain3.yaml", "env/chain3.yaml", "-> file.yaml",
		"env/..data", "-> ../other", "env/mounted.yaml", "-> ..data/data",
		"env/oddly.yaml", "-> ../..odd/x",
		"env/deep/up.yaml", "-> ../folder/data", "env/folder", "-> ../other", // by a link to a folder
		"env/deep/back.yaml", "-> ../folder/../top.yaml", // .. counts from where the link leads
		// Refused.
		"env/out.yaml", "-> ../../secret.yaml",
		"env/inout.yaml", "-> ../../repo/top.yaml", // on this machine that would be inside
		"env/absolute.yaml", "-> /etc/passwd",
		"env/config.yaml", "-> ../.git/config",
		"env/chainout.yaml", "-> chainout2", "env/chainout2", "-> ../../x",
		"env/none.yaml", "-> none", "env/none2.yaml", "-> file.yaml/x",
		"env/loop.yaml", "-> loop2.yaml", "env/loop2.yaml", "-> loop.yaml", "env/self.yaml", "-> self.yaml",
		"env/dir.yaml", "-> ../other", "env/root.yaml", "-> ..",
		"env/l1.yaml", "-> l2", "env/l2", "-> l3", "env/l3", "-> l4", "env/l4", "-> l5", "env/l5", "-> l6",
		"env/l6", "-> l7", "env/l7", "-> l8", "env/l8", "-> l9", "env/l9", "-> file.yaml", "env/l.yaml", "-> l3", "env/l9.yaml", "-> l2",
		// The files of a pipeline.
		"env/pipe/p4info.txtpb", "p", "env/pipe/device_config.json", "-> ../../other/data", "env/pipe/device_config.bin", "-> ../../../x",
	)
	wantFiles(t, fetch(t, follow(t, r.dir, Config{Path: "env"})),
		"file.yaml", "f", "same.yaml", "f", "dots.yaml", "f", "beside.yaml", "d", "top.yaml", "t",
		"chain.yaml", "f", "chain2.yaml", "f", "chain3.yaml", "f", "mounted.yaml", "d", "oddly.yaml", "odd",
		"deep/up.yaml", "d", "deep/back.yaml", "t",
		"out.yaml", leaves, "inout.yaml", leaves, "absolute.yaml", leaves, "config.yaml", leaves, "chainout.yaml", leaves,
		"none.yaml", dangling, "none2.yaml", dangling,
		"loop.yaml", tooMany, "loop2.yaml", tooMany, "self.yaml", tooMany,
		"dir.yaml", noFile, "root.yaml", noFile,
		"l1.yaml", tooMany, "l9.yaml", tooMany, "l.yaml", "f", // eight links, not nine
		"pipe/p4info.txtpb", "p", "pipe/device_config.json", "d", "pipe/device_config.bin", leaves,
		"folder/", linked, "chainout2/", outside,
	)
}

// TestLinkTargets changes what links point to, not the links.
func TestLinkTargets(t *testing.T) {
	r := newRepo(t)
	r.commit("env/a.yaml", "-> ../shared/x", "env/b.yaml", "-> a.yaml", "shared/x", "1", "shared/y", "y")
	s := follow(t, r.dir, Config{Path: "env"})
	wantFiles(t, fetch(t, s), "a.yaml", "1", "b.yaml", "1")
	r.commit("shared/x", "2")
	wantFiles(t, fetch(t, s), "a.yaml", "2", "b.yaml", "2")
	r.commit("shared/x", "-> y")
	wantFiles(t, fetch(t, s), "a.yaml", "y", "b.yaml", "y")
	r.git("rm", "-r", "--quiet", "shared")
	r.commit()
	wantFiles(t, fetch(t, s), "a.yaml", dangling, "b.yaml", dangling)
	r.commit("shared/x", "3")
	before := fetch(t, s)
	wantFiles(t, before, "a.yaml", "3", "b.yaml", "3")
	// What is as it was is not read, nor told, again.
	r.commit("other", "x")
	if after := fetch(t, s); after.Files.Get("a.yaml") != before.Files.Get("a.yaml") {
		t.Error("a link that stayed was read again")
	}
	// A link becomes a file, and a file a link.
	r.git("rm", "--quiet", "env/a.yaml", "env/b.yaml")
	r.commit("env/a.yaml", "file", "env/b.yaml", "-> a.yaml")
	wantFiles(t, fetch(t, s), "a.yaml", "file", "b.yaml", "file")
	r.git("rm", "--quiet", "env/a.yaml")
	r.commit("env/a.yaml", "-> ../shared/x")
	wantFiles(t, fetch(t, s), "a.yaml", "3", "b.yaml", "3")
	r.git("rm", "--quiet", "env/a.yaml")
	r.commit("env/c.yaml", "c")
	wantFiles(t, fetch(t, s), "b.yaml", dangling, "c.yaml", "c")
}
