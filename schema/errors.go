package schema

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxErrors is how many errors one run reports; the others are counted.
const maxErrors = 1000

// maxFileErrors is how many errors of one file are kept, to bound memory.
const maxFileErrors = 100

// maxText bounds the text of an error, in bytes, as it quotes documents.
const maxText = 500

// Error is something wrong at a place in the repository.
type Error struct {
	Position
	Field string // such as "spec.match[2].flow.vni"; empty: the whole file or document
	Err   error
	more  int // in the last entry of a list that was cut: how many are left out
}

// Error returns "path:line: field: what is wrong" in one line.
func (e *Error) Error() string {
	switch {
	case e.more == 1:
		return "and 1 more error"
	case e.more > 1:
		return fmt.Sprintf("and %d more errors", e.more)
	case e.Field == "":
		return fmt.Sprintf("%s: %v", e.Position, e.Err)
	}
	return fmt.Sprintf("%s: %s: %v", e.Position, e.Field, e.Err)
}

// Unwrap returns the error without its place.
func (e *Error) Unwrap() error { return e.Err }

// newError makes an error whose text is one line of bounded length.
func newError(at Position, field, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	if text := err.Error(); plain(text, maxText) != text {
		err = errors.New(plain(text, maxText))
	}
	return &Error{Position: at, Field: field, Err: err}
}

// Errors is the errors of a commit, sorted by place.
type Errors []*Error

// Error returns one line per error.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the errors one by one.
func (es Errors) Unwrap() []error {
	errs := make([]error, len(es))
	for i, e := range es {
		errs[i] = e
	}
	return errs
}

// Sort returns the errors sorted by place and text, without duplicates. Beyond maxErrors
// a last entry says how many more there are. Lists that were cut can be joined and
// sorted again.
func (es Errors) Sort() Errors {
	var sorted Errors
	more := 0
	for _, e := range es {
		if more += e.more; e.more == 0 {
			sorted = append(sorted, e)
		}
	}
	slices.SortFunc(sorted, func(a, b *Error) int {
		return cmp.Or(a.Compare(b.Position), strings.Compare(a.Field, b.Field), strings.Compare(a.Err.Error(), b.Err.Error()))
	})
	sorted = slices.CompactFunc(sorted, func(a, b *Error) bool {
		return a.Position == b.Position && a.Field == b.Field && a.Err.Error() == b.Err.Error()
	})
	if over := len(sorted) - maxErrors; over > 0 {
		more += over
		sorted = slices.Clone(sorted[:maxErrors])
	}
	return sorted.and(more)
}

// and appends the entry that counts errors that are left out.
func (es Errors) and(more int) Errors {
	if more > 0 {
		es = append(es, &Error{Err: errors.New("more errors"), more: more})
	}
	return es
}

// errorList collects the first errors of one file, and counts the others.
type errorList struct {
	errs Errors
	more int
}

func (l *errorList) errorf(at Position, field, format string, args ...any) {
	if len(l.errs) >= maxFileErrors {
		l.more++
		return
	}
	l.errs = append(l.errs, newError(at, field, format, args...))
}

// count is the number of errors so far.
func (l *errorList) count() int { return len(l.errs) + l.more }

// list returns the errors, in no order.
func (l *errorList) list() Errors { return l.errs.and(l.more) }

// plain makes a text one line of printable characters, and cuts it to most bytes. Keys,
// values and paths may contain anything.
func plain(s string, most int) string {
	cut := len(s) > most
	if cut {
		s = strings.ToValidUTF8(s[:most], "")
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		quoted := strconv.Quote(s)
		s = strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
	}
	if cut {
		s += "..."
	}
	return s
}

// clip shortens a value that is quoted in an error.
func clip(s string) string { return Clip(s, 80) }

// Clip cuts a text to at most so many bytes, and adds dots if it does.
func Clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
