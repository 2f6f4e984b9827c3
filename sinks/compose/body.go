package compose

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/gray-release/gray/reconciler"
)

// body is the text of a node's file. Plans show the images only: the rest of a file,
// such as the environment, may be confidential.
type body struct {
	text   string
	images map[string]string // by compose service; nil: the text is not a compose file
}

func newBody(text string) *body {
	var file struct {
		Services map[string]struct{ Image string }
	}
	b := &body{text: text}
	if yaml.Unmarshal([]byte(text), &file) == nil && file.Services != nil {
		b.images = map[string]string{}
		for name, s := range file.Services {
			b.images[name] = s.Image
		}
	}
	return b
}

// Equal implements reconciler.Body.
func (b *body) Equal(o reconciler.Body) bool {
	x, ok := o.(*body)
	return ok && b.text == x.text
}

// String implements reconciler.Body.
func (b *body) String() string {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(b.images)) {
		words = append(words, clean(name)+" "+clean(b.images[name]))
	}
	if b.images == nil {
		words = append(words, "not a compose file")
	}
	return strings.Join(words, ", ") + " (" + b.digest() + ")"
}

// Delta implements reconciler.Body.
func (b *body) Delta(o reconciler.Body) string {
	old := o.(*body)
	var words []string
	names := maps.Clone(old.images)
	if names == nil {
		names = map[string]string{}
	}
	maps.Copy(names, b.images)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		was, had := old.images[name]
		is, has := b.images[name]
		switch {
		case !had:
			words = append(words, "with "+clean(name)+" "+clean(is))
		case !has:
			words = append(words, "without "+clean(name)+" "+clean(was))
		case was != is:
			words = append(words, clean(name)+" "+clean(was)+" -> "+clean(is))
		}
	}
	if len(words) == 0 {
		words = append(words, "same images, other settings")
	}
	return strings.Join(words, ", ") + " (" + old.digest() + " -> " + b.digest() + ")"
}

// digest is a short hash of the text.
func (b *body) digest() string {
	sum := sha256.Sum256([]byte(b.text))
	return fmt.Sprintf("sha256 %x", sum[:6])
}

// clean keeps text that somebody else wrote from breaking a plan's line.
func clean(s string) string {
	if len(s) > 200 {
		s = s[:200]
	}
	if q := strconv.Quote(s); q != `"`+s+`"` || s == "" {
		return q
	}
	return s
}
