package schema

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// file makes a file as a source does: its ID follows from its content.
func file(path, text string) *File {
	sum := sha256.Sum256([]byte(text))
	return &File{Path: path, ID: hex.EncodeToString(sum[:]), Data: []byte(text)}
}

// snapshot makes a snapshot of paths and texts in turn.
func snapshot(pathsAndTexts ...string) *Snapshot {
	var files []*File
	for i := 0; i < len(pathsAndTexts); i += 2 {
		files = append(files, file(pathsAndTexts[i], pathsAndTexts[i+1]))
	}
	return &Snapshot{Files: NewFiles(files...)}
}

// problems are the errors of a set as they are printed, one a line.
func problems(s *Set) string {
	if err := s.Err(); err != nil {
		return err.Error()
	}
	return ""
}

// wantProblems reads a snapshot and compares what is wrong with it.
func wantProblems(t *testing.T, snap *Snapshot, want ...string) *Set {
	t.Helper()
	set, _ := Parse(snap)
	if diff := cmp.Diff(strings.Join(want, "\n"), problems(set)); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
	return set
}

// byValue compares documents' specs.
var byValue = cmp.Options{cmpopts.EquateComparable(Addr{}, Prefix{}, netip.Addr{}, netip.Prefix{})}

func to[T any](v T) *T { return &v }

func addr(s string) Addr { return Addr{netip.MustParseAddr(s)} }

func prefix(s string) Prefix { return Prefix{netip.MustParsePrefix(s)} }
