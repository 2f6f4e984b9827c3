package p4rt

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/protobuf/encoding/prototext"

	"github.com/gray-release/gray/reconciler"
)

// secondSpace is the second space that the protobuf library writes after a name in some
// builds and not in others.
var secondSpace = regexp.MustCompile(`(?m)^(\s*\w+:)  `)

// Text returns what is written to empty switches for resources of this sink: for each
// target a p4.v1.WriteRequest as protobuf text, with the change that each update
// belongs to as a comment.
func Text(resources []*reconciler.Resource) (string, error) {
	changes := make([]reconciler.Change, len(resources))
	for i, r := range resources {
		changes[i] = reconciler.Change{New: r}
	}
	slices.SortFunc(changes, reconciler.Change.Compare)
	var b strings.Builder
	last := ""
	for _, c := range changes {
		if c.Key().Target != last {
			last = c.Key().Target
			fmt.Fprintf(&b, "# %s\n", last)
		}
		if t, ok := c.New.Body.(*targetBody); ok {
			fmt.Fprintf(&b, "# %s\ndevice_id: %d\n", t, t.deviceID)
			continue
		}
		fmt.Fprintf(&b, "# %s\n", c)
		for phase := range phases {
			for u := range updatesOf([]reconciler.Change{c}, phase, func() *block { return new(block) }) {
				text, err := prototext.MarshalOptions{Multiline: true, Indent: "  "}.Marshal(&p4v1.WriteRequest{Updates: []*p4v1.Update{u.proto}})
				if err != nil {
					return "", err
				}
				b.Write(secondSpace.ReplaceAll(text, []byte("$1 ")))
			}
		}
	}
	return b.String(), nil
}
