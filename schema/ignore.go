package schema

import (
	"bytes"
	"path"
	"slices"
	"strings"
)

// IgnoreFile is a file at the root that lists, in gitignore syntax, files that gray does
// not read.
const IgnoreFile = ".grayignore"

// maxIgnore and maxPatterns bound an IgnoreFile, in bytes and in patterns, as every file
// of the repository is compared with all patterns.
const (
	maxIgnore   = 16 << 10
	maxPatterns = 256
)

// ignoreList is the patterns of an IgnoreFile, as git reads them. In the libraries for
// it, a pattern that includes a folder again also includes all files in it, which breaks
// the idiom "*", "!*/", "!*.yaml". So this is our own, on top of path.Match. Unlike in
// git, "?" and classes match one character, not one byte.
type ignoreList []ignorePattern

type ignorePattern struct {
	segments []string // of the path; "**" matches any number of them
	anywhere bool     // one segment, which matches at any depth
	negate   bool     // includes again what earlier patterns ignore
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

// trimPattern removes the line end, and spaces before it that are not escaped.
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

// caretNegation writes a class [!a] as [^a], as path.Match needs it.
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

// match tells whether a file, or a folder around it, is ignored.
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

// matchOne tells whether a path is ignored by the last pattern that matches it.
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

// matchSegments matches a path with a pattern. "**" matches any number of segments, but
// at the end at least one.
func matchSegments(pattern, segments []string) bool {
	star, resume := -1, 0 // the last "**", and where its match ends for now
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
