package schema

import (
	"bytes"
	"path"
	"slices"
	"strings"
)

// IgnoreFile lists, in gitignore syntax, files that gray does not read. It
// stands at the root.
const IgnoreFile = ".grayignore"

// maxIgnore and maxPatterns bound an IgnoreFile, in bytes and in patterns: every
// file of the repository is held against all of it.
const (
	maxIgnore   = 16 << 10
	maxPatterns = 256
)

// ignoreList is the patterns of an IgnoreFile, as git reads them. Libraries for
// it let a pattern that takes a folder back take back all that is in it, which
// breaks the idiom "*", "!*/", "!*.yaml"; hence our own, on top of path.Match.
// Unlike git, "?" and classes match one character, not one byte of it.
type ignoreList []ignorePattern

type ignorePattern struct {
	segments []string // of the path; "**" stands for any number of them
	anywhere bool     // one segment, which may stand at any depth
	negate   bool     // takes back what patterns before it ignore
	dirOnly  bool
}

// parseIgnore reads an IgnoreFile, which may be absent.
func parseIgnore(f *File) (ignoreList, Errors) {
	if f == nil {
		return nil, nil
	}
	if err := checkText(f, maxIgnore, "ignore whole folders"); err != nil {
		return nil, Errors{err}
	}
	var list ignoreList
	var errs errorList
	line := 0
	for text := range bytes.Lines(bytes.TrimPrefix(f.Data, []byte(byteOrderMark))) {
		line++
		pattern := trimPattern(string(text))
		if pattern == "" || pattern[0] == '#' {
			continue
		}
		at := Position{f.Path, line}
		if len(list) == maxPatterns {
			errs.errorf(at, "", "is pattern %d, the most is %d; ignore whole folders", maxPatterns+1, maxPatterns)
			break
		}
		p := newIgnorePattern(pattern)
		if slices.ContainsFunc(p.segments, func(s string) bool { _, err := path.Match(s, ""); return err != nil }) || strings.Contains(pattern, "[[:") {
			errs.errorf(at, "", "%q is not a pattern; want one of gitignore, without classes such as [[:alpha:]]", clip(pattern))
			continue
		}
		list = append(list, p)
	}
	return list, errs.list()
}

// trimPattern removes the end of the line and spaces before it that no
// backslash protects.
func trimPattern(line string) string {
	line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
	for strings.HasSuffix(line, " ") {
		body := strings.TrimSuffix(line, " ")
		if slashes := len(body) - len(strings.TrimRight(body, `\`)); slashes%2 == 1 {
			break
		}
		line = body
	}
	return line
}

func newIgnorePattern(text string) ignorePattern {
	var p ignorePattern
	text, p.negate = strings.CutPrefix(text, "!")
	text, p.dirOnly = strings.CutSuffix(text, "/")
	p.anywhere = !strings.Contains(text, "/")
	p.segments = strings.Split(strings.TrimPrefix(text, "/"), "/")
	for i, s := range p.segments {
		p.segments[i] = caretNegation(s)
	}
	return p
}

// caretNegation spells a class [!a] as path.Match wants it, [^a].
func caretNegation(pattern string) string {
	b := []byte(pattern)
	for i := 0; i+1 < len(b); i++ {
		switch {
		case b[i] == '\\':
			i++
		case b[i] == '[' && b[i+1] == '!':
			b[i+1] = '^'
		}
	}
	return string(b)
}

// match tells whether a file is ignored: it is, or a folder that it is in.
func (l ignoreList) match(file string) bool {
	if len(l) == 0 {
		return false
	}
	segments := strings.Split(file, "/")
	for n := 1; n <= len(segments); n++ {
		if l.matchOne(segments[:n], n < len(segments)) {
			return true
		}
	}
	return false
}

// matchOne tells what the last pattern says that has a word on a path.
func (l ignoreList) matchOne(segments []string, isDir bool) bool {
	for _, p := range slices.Backward(l) {
		if p.dirOnly && !isDir {
			continue
		}
		at := segments
		if p.anywhere {
			at = segments[len(segments)-1:]
		}
		if matchSegments(p.segments, at) {
			return !p.negate
		}
	}
	return false
}

// matchSegments matches a path with a pattern. "**" matches any number of
// segments, at the end at least one.
func matchSegments(pattern, segments []string) bool {
	star, resume := -1, 0 // the last "**", and where what follows it was tried
	p, s := 0, 0
	for s < len(segments) {
		switch {
		case p < len(pattern) && pattern[p] == "**":
			star, resume = p, s
			p++
		case p < len(pattern) && matchSegment(pattern[p], segments[s]):
			p++
			s++
		case star >= 0:
			resume++
			p, s = star+1, resume
		default:
			return false
		}
	}
	return p == len(pattern)
}

func matchSegment(pattern, segment string) bool {
	ok, err := path.Match(pattern, segment)
	return ok && err == nil
}
