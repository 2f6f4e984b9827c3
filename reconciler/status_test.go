package reconciler

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gray-release/gray/schema"
)

// of returns the condition of a type, the zero Condition where there is none.
func of(conditions []Condition, kind string) Condition {
	for _, c := range conditions {
		if c.Type == kind {
			return c
		}
	}
	return Condition{}
}

func (s *Status) document(name string) DocumentStatus {
	i := slices.IndexFunc(s.Documents, func(d DocumentStatus) bool { return d.Name == name })
	if i < 0 {
		return DocumentStatus{}
	}
	return s.Documents[i]
}

func TestConditionsTellWhenTheyChanged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		begin := time.Now()
		at := func(seconds int) time.Time { return begin.Add(time.Duration(seconds) * time.Second) }
		g := start(t, newWorld(t), func(c *Config) { c.Drift = 30 * time.Second })
		ready := func(conditions []Condition, status, reason string, since int) {
			t.Helper()
			if c := conditions[0]; c.Status != status || c.Reason != reason || !c.LastTransitionTime.Equal(at(since)) {
				t.Errorf("at second %d: %+v, want %s %s since second %d (%v)", int(time.Since(begin).Seconds()), c, status, reason, since, at(since))
			}
		}
		docs := []string{switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2)}
		g.after(10 * time.Second)
		ready(g.status().Conditions, "False", "FetchFailed", 0)
		g.commit("1", docs...)
		s := g.status()
		ready(s.Conditions, "True", "Applied", 10)
		ready(s.document("gw").Conditions, "True", "Applied", 10)
		if len(s.Conditions) != 1 || len(s.Targets[1].Conditions) != 1 {
			t.Errorf("all is live and the conditions are %+v, %+v", s.Conditions, s.Targets[1].Conditions)
		}
		g.after(100 * time.Second) // at 110; three reads went by
		g.commit("2", append(docs, policyDoc("p", "gw", 7))...)
		s = g.status()
		ready(s.Conditions, "True", "Applied", 110)
		ready(s.document("gw").Conditions, "True", "Applied", 10)
		ready(s.document("p").Conditions, "True", "Applied", 110)
		if c := s.document("gw").Conditions[0]; c.ObservedRevision != "2" {
			t.Errorf("the observed revision is %s, want 2", c.ObservedRevision)
		}
		g.after(10 * time.Second) // at 120
		g.w.at("mem/s", func(p *place) { p.refuse[Key{"mem/s", "rule", "gw/8"}] = errors.New("no") })
		g.commit("3", append(docs, policyDoc("p", "gw", 7, 8))...)
		g.after(50 * time.Second) // at 170
		s = g.status()
		ready(s.Conditions, "False", "TargetFailed", 120)
		ready(s.document("p").Conditions, "False", "Refused", 120)
		ready(s.document("gw").Conditions, "True", "Applied", 10)
		ready(s.Targets[1].Conditions, "False", "Refused", 120)
		for _, conditions := range [][]Condition{s.Conditions, s.Targets[1].Conditions, s.document("p").Conditions} {
			if c := of(conditions, "Stalled"); c.Status != "True" || !c.LastTransitionTime.Equal(at(120)) || c.Message != conditions[0].Message {
				t.Errorf("stalled is %+v", c)
			}
		}
		if c := of(s.Targets[1].Conditions, "Reconciling"); !c.LastTransitionTime.Equal(at(120)) {
			t.Errorf("reconciling is %+v", c)
		}
		if c := of(s.document("p").Conditions, "Reconciling"); c.Type != "" {
			t.Errorf("all that is to be done failed, and reconciling is %+v", c)
		}
		if m := s.document("p").Conditions[0].Message; m != "c.yaml:10: mem/s rule gw/8: no" {
			t.Errorf("the refusal is shown as %q", m)
		}
		g.w.at("mem/s", func(p *place) { clear(p.refuse) })
		g.after(30 * time.Second) // tried at 183
		s = g.status()
		ready(s.Conditions, "True", "Applied", 183)
		ready(s.document("p").Conditions, "True", "Applied", 183)
		ready(s.Targets[1].Conditions, "True", "Applied", 183)
	})
}

func TestABadCommitShowsTheLastGoodOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		docs := []string{switchDoc("s", 1) + "---\n" + gatewayDoc("gw", aVIP, "s", 2), policyDoc("p", "gw", 7)}
		g.commit("1", docs...)
		good := g.status()
		if want := []string{"Gateway/gw a.yaml:6", "GrayPolicy/p b.yaml:1", "Switch/s a.yaml:1"}; !slices.Equal(places(good), want) {
			t.Fatalf("the documents are %q, want %q", places(good), want)
		}
		g.after(time.Minute)
		g.commit("2", "# a line more\n"+switchDoc("s", 1)+"---\n"+gatewayDoc("gw", aVIP, "s", 2), "kind: nonsense\n", policyDoc("q", "gw", 8))
		s := g.status()
		if s.Revision != "1" || s.Fetched != "2" || !slices.Equal(places(s), places(good)) || cmp.Diff(s.Documents, good.Documents) != "" {
			t.Errorf("after a bad commit %s is in force with the documents %q", s.Revision, places(s))
		}
		if len(s.Errors) == 0 || !strings.HasPrefix(s.Errors[0], "b.yaml:1: ") || s.Conditions[0].Reason != "CommitRefused" || of(s.Conditions, "Stalled").Type == "" {
			t.Errorf("the bad commit shows as %q, %+v", s.Errors, s.Conditions)
		}
		// The next good one brings along what the bad one changed.
		g.commit("3", "# a line more\n"+switchDoc("s", 1)+"---\n"+gatewayDoc("gw", aVIP, "s", 2), policyDoc("q", "gw", 8))
		s = g.status()
		if want := []string{"Gateway/gw a.yaml:7", "GrayPolicy/q b.yaml:1", "Switch/s a.yaml:2"}; !slices.Equal(places(s), want) || len(s.Errors) > 0 {
			t.Errorf("the documents are %q, want %q; errors %q", places(s), want, s.Errors)
		}
		g.live("mem/s", onePlace("1", "rule gw/8: -> v2")...)
	})
}

func places(s *Status) []string {
	var all []string
	for _, d := range s.Documents {
		all = append(all, d.Kind+"/"+d.Name+" "+d.Place)
	}
	return all
}

// Two documents of one file have their failures told apart by line.
func TestFailuresShowAtTheirDocument(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		g.w.at("mem/s", func(p *place) {
			for _, vni := range []string{"8", "9"} {
				p.refuse[Key{"mem/s", "rule", "gw/" + vni}] = errors.New("no\nsuch thing")
			}
		})
		g.commit("1", switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2), policyDoc("p", "gw", 7)+"---\n"+policyDoc("q", "gw", 8, 9, 10)+"---\n"+policyDoc("r", "gw", 11))
		s := g.status()
		for name, want := range map[string]string{
			"p": "", "r": "", "gw": "",
			"q": "c.yaml:19: mem/s rule gw/8: no (and more); and 1 more",
		} {
			if c := s.document(name).Conditions[0]; c.Message != want {
				t.Errorf("%s shows as %+v, want the message %q", name, c, want)
			}
		}
		// Where the second one was is now a line of the first.
		g.commit("2", switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2), policyDoc("p", "gw", 7)+"# more\n# more\n# more\n# more\n  - flow: {vni: 8}\n")
		if c := g.status().document("p").Conditions[0]; c.Message != "c.yaml:14: mem/s rule gw/8: no (and more)" {
			t.Errorf("p shows as %+v", c)
		}
	})
}

func TestStatusIsTheDataOfOneMoment(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		g.commit("1", switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2))
		var v view
		g.do(func() { v = g.view() })
		before := v.documents()
		g.commit("2", switchDoc("s", 1), gatewayDoc("other", "203.0.113.11", "s", 2))
		if diff := cmp.Diff(before, v.documents()); diff != "" {
			t.Errorf("what was handed out changed:\n%s", diff)
		}
		if n := len(g.status().Documents); n != 2 {
			t.Errorf("%d documents, want 2", n)
		}
	})
}

func TestDocumentAt(t *testing.T) {
	r, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	a, b := schema.Name{Kind: "K", Name: "a"}, schema.Name{Kind: "K", Name: "b"}
	r.places["f"] = []placed{{3, a}, {9, b}}
	for line, want := range map[int]schema.Name{1: {}, 2: {}, 3: a, 8: a, 9: b, 100: b} {
		if got := r.documentAt(schema.Position{Path: "f", Line: line}); got != want {
			t.Errorf("line %d lies in %v, want %v", line, got, want)
		}
	}
	if got := r.documentAt(schema.Position{Path: "g", Line: 5}); got != (schema.Name{}) {
		t.Errorf("another file holds %v", got)
	}
}
