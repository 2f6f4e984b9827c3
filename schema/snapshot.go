package schema

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"iter"
	"slices"
	"strings"
)

// Position is a place in a repository: a slash-separated path relative to the root that
// gray reads, and a line, from 1 (0: the whole file).
type Position struct {
	Path string `json:"path"`
	Line int    `json:"line,omitempty"`
}

// String returns "path:line", which editors and terminals can link. The path is printed
// in one line, whatever characters it has.
func (p Position) String() string {
	const most = 4096
	if p.Line == 0 {
		return plain(p.Path, most)
	}
	return fmt.Sprintf("%s:%d", plain(p.Path, most), p.Line)
}

// Compare orders positions by path, then by line.
func (p Position) Compare(q Position) int {
	return cmp.Or(strings.Compare(p.Path, q.Path), cmp.Compare(p.Line, q.Line))
}

// File is one file of a snapshot. It is immutable once it is in one.
type File struct {
	Path string // slash-separated, relative to the root that gray reads; with a slash at the end, a folder that has an Err
	ID   string // identifies the content: files with equal IDs have equal Data and Err
	Data []byte // the content; empty if Err is set
	Err  error  // why the source refuses the file (too large, a link out of the repository), or nil
}

// Snapshot is one commit, or one state of a folder. It is immutable.
type Snapshot struct {
	Revision string // "main@sha1:<commit>" for Git, "dir@sha256:<digest>" for a folder
	Files    Files
}

// shardCount is the number of shards of a set of files. A changed copy of a set copies
// this many pointers and the shards that changed. A comparison of two sets compares
// this many pointers and the shards that differ. With 1024, both take microseconds at
// 100,000 files.
const shardCount = 1024

var shardSeed = maphash.MakeSeed()

// Files is an immutable set of files by path. The zero value is the empty set. Copies
// share what is equal, so the cost of a comparison depends on what differs.
type Files struct {
	shards *[shardCount][]*File // each sorted by path
	count  int
}

// NewFiles makes a set. Of two files with one path the later one stays.
func NewFiles(files ...*File) Files {
	return Files{}.With(files, nil)
}

// With returns a copy with the files of put added or replaced and the paths of remove
// removed. A path in both is put.
func (f Files) With(put []*File, remove []string) Files {
	next := Files{shards: new([shardCount][]*File), count: f.count}
	if f.shards != nil {
		*next.shards = *f.shards
	}
	fresh := make(map[int]bool)
	own := func(path string) int {
		n := int(maphash.String(shardSeed, path) % shardCount)
		if !fresh[n] {
			fresh[n] = true
			next.shards[n] = slices.Clone(next.shards[n])
		}
		return n
	}
	for _, path := range remove {
		n := own(path)
		if i, found := searchPath(next.shards[n], path); found {
			next.shards[n] = slices.Delete(next.shards[n], i, i+1)
			next.count--
		}
	}
	for _, file := range put {
		n := own(file.Path)
		i, found := searchPath(next.shards[n], file.Path)
		if found {
			next.shards[n][i] = file
			continue
		}
		next.shards[n] = slices.Insert(next.shards[n], i, file)
		next.count++
	}
	return next
}

// Len is the number of files.
func (f Files) Len() int { return f.count }

// Get returns the file of that path, or nil.
func (f Files) Get(path string) *File {
	shard := f.shard(int(maphash.String(shardSeed, path) % shardCount))
	if i, found := searchPath(shard, path); found {
		return shard[i]
	}
	return nil
}

// All yields every file, sorted by path.
func (f Files) All() iter.Seq[*File] {
	all := make([]*File, 0, f.count)
	for n := range shardCount {
		all = append(all, f.shard(n)...)
	}
	slices.SortFunc(all, func(a, b *File) int { return strings.Compare(a.Path, b.Path) })
	return slices.Values(all)
}

// Changed returns the sorted paths of files that are new, removed or have another ID
// since old.
func (f Files) Changed(old Files) []string {
	var paths []string
	for n := range shardCount {
		paths = appendShardDiff(paths, old.shard(n), f.shard(n))
	}
	slices.Sort(paths)
	return paths
}

func (f Files) shard(n int) []*File {
	if f.shards == nil {
		return nil
	}
	return f.shards[n]
}

// appendShardDiff merges two sorted shards and appends the paths that differ.
func appendShardDiff(paths []string, a, b []*File) []string {
	if len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) {
		return paths
	}
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].Path < b[0].Path:
			paths = append(paths, a[0].Path)
			a = a[1:]
		case len(a) == 0 || b[0].Path < a[0].Path:
			paths = append(paths, b[0].Path)
			b = b[1:]
		default:
			if a[0] != b[0] && a[0].ID != b[0].ID {
				paths = append(paths, a[0].Path)
			}
			a, b = a[1:], b[1:]
		}
	}
	return paths
}

func searchPath(shard []*File, path string) (int, bool) {
	return slices.BinarySearchFunc(shard, path, func(f *File, p string) int {
		return strings.Compare(f.Path, p)
	})
}
