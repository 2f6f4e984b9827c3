package pipeline

import (
	"fmt"
	"strings"

	p4configv1 "github.com/p4lang/p4runtime/go/p4/config/v1"
	"google.golang.org/protobuf/encoding/prototext"
)

// TableSizes returns the sizes of the tables by name from a P4Info in protobuf's text
// format. It implements policies.ReadTableSizes.
func TableSizes(text []byte) (map[string]int, error) {
	if deep(text) {
		return nil, fmt.Errorf("it is nested more than %d levels deep", maxDepth)
	}
	info := new(p4configv1.P4Info)
	if err := (prototext.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, info); err != nil {
		_, reason, _ := strings.Cut(err.Error(), ":") // without the library's name
		return nil, fmt.Errorf("%s", strings.TrimLeft(reason, " \u00a0"))
	}
	sizes := map[string]int{}
	for _, t := range info.GetTables() {
		sizes[t.GetPreamble().GetName()] = int(max(t.GetSize(), 0))
	}
	return sizes, nil
}

// maxDepth is how deep a P4Info may be nested; those of p4c have less than ten levels.
// The parser skips unknown fields recursively, and would run out of stack.
const maxDepth = 100

// deep tells whether a text is nested deeper than maxDepth before the first string that
// does not end on its line.
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
					return false // the parser stops here
				}
			}
		}
	}
	return false
}
