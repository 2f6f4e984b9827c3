package probe

import (
	"fmt"
	"slices"
	"strings"
)

// shownAnswers is how many answers per test a verdict names.
const shownAnswers = 20

// Evidence is a copy with a limited number of answers per test: those that failed, then
// those with the highest loss. LeftOut says how many more there are.
func (r *Result) Evidence(limit int) *Result {
	out := *r
	out.Tests = slices.Clone(r.Tests)
	for i := range out.Tests {
		c := &out.Tests[i]
		c.Answers = slices.Clone(c.Answers)
		slices.SortStableFunc(c.Answers, compareAnswers)
		if len(c.Answers) > limit {
			c.LeftOut += len(c.Answers) - limit
			c.Answers = c.Answers[:limit:limit]
		}
	}
	return &out
}

// Lines describes the result for people: for each test a limited number of addresses
// that failed it, and a summary. Tests that did not pass come first.
//
//	ping overlay 203.0.113.10: 10.0.0.5 (web-1), moved, answered 0 of 3, lost 100%, 0% before
//	ping overlay 203.0.113.10: failed, 1 of 9 addresses is worse than before; 24 of 27 answered, avg 1.2ms, max 3ms
func (r *Result) Lines(limit int) []string {
	out := []string{}
	checks := slices.Clone(r.Evidence(limit).Tests)
	slices.SortStableFunc(checks, func(a, b TestResult) int { return truth(a.Verdict == Passed) - truth(b.Verdict == Passed) })
	for _, c := range checks {
		shown := 0
		for i := range c.Answers {
			if a := &c.Answers[i]; a.Failed {
				out = append(out, c.Test+": "+a.line(c.Output))
				shown++
			}
		}
		out = append(out, c.Test+": "+c.summary(shown))
	}
	if len(r.Tests) == 0 && r.Reason != "" {
		out = append(out, r.Reason)
	}
	return out
}

// line says which address failed and how, with the last line that a program wrote.
func (a *Answer) line(output string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%sanswered %d of %d, lost %.0f%%, %.0f%% before", a.who(), a.Received, a.Sent, a.Loss, a.Before)
	if a.Received > 0 {
		fmt.Fprintf(&b, ", avg %s, max %s", a.Latency.Avg, a.Latency.Max)
	}
	if a.Late > 0 {
		fmt.Fprintf(&b, ", %d too late", a.Late)
	}
	if a.Error != "" {
		fmt.Fprintf(&b, ": %s", a.Error)
	}
	if lines := strings.Split(strings.TrimSpace(output), "\n"); lines[len(lines)-1] != "" {
		fmt.Fprintf(&b, ", after %q", clip(lines[len(lines)-1]))
	}
	return clip(b.String())
}

// summary is the result of a test as a whole.
func (c *TestResult) summary(shown int) string {
	var b strings.Builder
	b.WriteString(string(c.Verdict))
	switch {
	case c.Verdict == Unknown:
		fmt.Fprintf(&b, ": %s", c.Reason)
	case c.Failed > 0 && c.Addresses > 0:
		fmt.Fprintf(&b, ", %d of %d addresses are worse than before", c.Failed, c.Addresses)
		if more := c.Failed - shown; more > 0 {
			fmt.Fprintf(&b, ", %d of them not shown", more)
		}
	}
	fmt.Fprintf(&b, "; %d of %d answered", c.Received, c.Sent)
	if c.Received > 0 {
		fmt.Fprintf(&b, ", avg %s, max %s", c.Latency.Avg, c.Latency.Max)
	}
	if c.Dead > 0 {
		fmt.Fprintf(&b, ", %d did not answer before either", c.Dead)
	}
	if c.Skipped > 0 {
		fmt.Fprintf(&b, ", %d of another family than the monitor", c.Skipped)
	}
	return clip(b.String())
}

// lines says what has moved and was not tested.
func (s selection) lines() []string {
	var out []string
	if s.LeftOut > 0 {
		out = append(out, fmt.Sprintf("%d moved addresses were not tested: a probe tests at most %d", s.LeftOut, MaxTargets))
	}
	if s.Ranges > 0 {
		out = append(out, fmt.Sprintf("%d moved routes were not tested: each is to more than one address", s.Ranges))
	}
	return out
}
