package lower

import (
	"fmt"
	"strings"
)

// CheckName refuses names with characters that Envoy, or the way in which names are
// joined, does not allow.
func CheckName(name string) error {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '/' {
			return fmt.Errorf("the name %q holds %q; want lower-case letters, digits, dots and dashes", name, c)
		}
	}
	return nil
}

// CheckLabel is CheckName for one part of a joined name.
func CheckLabel(s string) error {
	if s == "" || strings.Contains(s, "/") {
		return fmt.Errorf("%q is no name; want lower-case letters, digits, dots and dashes", s)
	}
	return CheckName(s)
}
