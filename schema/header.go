package schema

import (
	"fmt"
	"regexp/syntax"
	"strings"
)

// The bounds of an expression: what Envoy accepts, and what may run for every request.
const (
	maxRegex   = 256 // bytes
	maxProgram = 500 // instructions
)

// maxHeaderValue is the longest value in a test, in bytes.
const maxHeaderValue = 1024

// header checks a header test.
func (v *validator) header(h *HeaderMatch, field string) {
	if err := checkHeaderName(h.Name); err != nil && !v.wrong(field+".name") {
		v.errorf(field+".name", "%v", err)
	}
	tests := 0
	for _, t := range []struct {
		name  string
		value *string
	}{{"exact", h.Exact}, {"prefix", h.Prefix}, {"suffix", h.Suffix}, {"regex", h.Regex}} {
		if t.value == nil {
			continue
		}
		tests++
		if err := checkHeaderValue(t.name, *t.value); err != nil {
			v.errorf(field+"."+t.name, "%v", err)
		}
	}
	if h.Present != nil {
		tests++
	}
	if tests != 1 {
		v.errorf(field, "has %d tests; want one of exact, prefix, suffix, regex and present", tests)
	}
}

// checkHeaderName checks the name of a header that a test may use.
func checkHeaderName(name string) error {
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return fmt.Errorf("%q is not the name of a header; want lower-case letters, digits, dashes and underscores", clip(name))
		}
	}
	switch {
	case name == "host":
		return fmt.Errorf("the host chooses the Service; name it in hosts there")
	case strings.HasPrefix(name, "x-gray-") || strings.HasPrefix(name, "x-envoy-"):
		return fmt.Errorf("%q is a header that the proxy sets or removes itself; name one of the client's", clip(name))
	case len(name) > 256:
		return fmt.Errorf("%q is too long; the most is 256 bytes", clip(name))
	}
	return nil
}

// checkHeaderValue checks the value of a test.
func checkHeaderValue(test, value string) error {
	switch {
	case value == "":
		return fmt.Errorf("is empty; say present: true for any value")
	case len(value) > maxHeaderValue:
		return fmt.Errorf("has %d bytes; the most is %d", len(value), maxHeaderValue)
	}
	if test == "regex" {
		return checkRegex(value)
	}
	if test != "suffix" && value[0] == ' ' || test != "prefix" && value[len(value)-1] == ' ' {
		return fmt.Errorf("%q: a header value has no spaces around it; remove them", clip(value))
	}
	return nil
}

// checkRegex refuses an expression that Envoy would refuse, or that is too costly to run
// for every request. Go and Envoy have the same syntax, RE2.
func checkRegex(expr string) error {
	if len(expr) > maxRegex {
		return fmt.Errorf("has %d bytes; the most of an expression is %d", len(expr), maxRegex)
	}
	tree, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return fmt.Errorf("%q is not an RE2 expression: %w", clip(expr), err)
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return fmt.Errorf("%q is not an RE2 expression: %w", clip(expr), err)
	}
	if len(prog.Inst) > maxProgram {
		return fmt.Errorf("%q is too costly: it makes %d instructions, and the most is %d; repeat less", clip(expr), len(prog.Inst), maxProgram)
	}
	return nil
}

// routeBy checks the RouteBy of a Service.
func (v *validator) routeBy(r *RouteBy) {
	if err := checkHeaderName(r.Header); err != nil && !v.wrong("spec.routeBy.header") {
		v.errorf("spec.routeBy.header", "%v", err)
	}
	if strings.ContainsAny(r.Key, "=;, \t\"") || len(r.Key) > 256 {
		v.errorf("spec.routeBy.key", "%q cannot be a key; want up to 256 bytes without =, ;, comma, quote and space", clip(r.Key))
	}
}
