package pipeline

import (
	"fmt"
	"strings"

	p4configv1 "github.com/p4lang/p4runtime/go/p4/config/v1"
	"google.golang.org/protobuf/encoding/prototext"
)

// TableSizes reads the sizes of the tables by their names from a P4Info in
// protobuf's text format. It implements policies.ReadTableSizes.
func TableSizes(text []byte) (map[string]int, error) {
	if deep(text) {
		return nil, fmt.Errorf("it is nested more than %d levels deep", maxDepth)
	}
	info := new(p4configv1.P4Info)
	if err := (prototext.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, info); err != nil {
		_, reason, _ := strings.Cut(err.Error(), ":") // the library's name stands before it
		return nil, fmt.Errorf("%s", strings.TrimLeft(reason, " \u00a0"))
	}
	sizes := map[string]int{}
	for _, t := range info.GetTables() {
		sizes[t.GetPreamble().GetName()] = int(max(t.GetSize(), 0))
	}
	return sizes, nil
}

// maxDepth is how deep a P4Info may be nested; p4c's are less than ten. What is
// discarded unread goes as deep into the stack as the text does.
const maxDepth = 100

// deep tells whether a text goes deeper than maxDepth, before the first string
// that does not end in its line.
func deep(text []byte) bool {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '{', '<', '[':
			if depth++; depth > maxDepth {
				return true
			}
		case '}', '>', ']':
			depth--
		case '#':
			for i < len(text) && text[i] != '\n' {
				i++
			}
		case '"', '\'':
			for i++; i < len(text) && text[i] != c; i++ {
				if text[i] == '\\' {
					i++
				} else if text[i] == '\n' {
					return false // the parser goes no further
				}
			}
		}
	}
	return false
}
