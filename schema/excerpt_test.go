package schema

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestExcerpt holds that a document that was taken out of its file is the same, and
// at the same place.
func TestExcerpt(t *testing.T) {
	text := "# two of them\n" + formatDoc(t, KindPolicy) + "---\n# another\n" + formatDoc(t, KindSwitch)
	set := wantProblems(t, snapshot("a/b.yaml", text))
	for _, n := range set.Names() {
		was := set.Get(n)
		is, err := was.Excerpt().Document()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(was, is, byValue, cmpopts.IgnoreUnexported(Document{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", n, diff)
		}
		if a, b := was.At("spec"), is.At("spec"); a != b {
			t.Errorf("%s: spec is at %s, was at %s", n, b, a)
		}
	}
	if _, err := (Excerpt{"a.yaml", 7, "kind: Nothing\n"}).Document(); err == nil {
		t.Error("an excerpt that is no document is read")
	}
}
