package probe

import (
	"fmt"
	"slices"
	"strings"
)

// shownAnswers is how many answers a check a verdict names.
const shownAnswers = 20

// Evidence is a copy with at most so many answers a check: those that failed, then
// those that lost most; LeftOut says how many more there are.
func (r *Result) Evidence(limit int) *Result {
	out := *r
	out.Checks = slices.Clone(r.Checks)
	for i := range out.Checks {
		c := &out.Checks[i]
		c.Answers = slices.Clone(c.Answers)
		slices.SortStableFunc(c.Answers, compareAnswers)
		if len(c.Answers) > limit {
			c.LeftOut += len(c.Answers) - limit
			c.Answers = c.Answers[:limit:limit]
		}
	}
	return &out
}

// Lines is what was found, for people: of each check who failed it, at most so many,
// and what came of it as a whole. The checks that did not pass come first.
//
//	ping overlay 203.0.113.10: 10.0.0.5 (web-1), moved, answered 0 of 3, lost 100%, 0% before
//	ping overlay 203.0.113.10: failed, 1 of 9 addresses is worse than before; 24 of 27 answered, avg 1.2ms, max 3ms
func (r *Result) Lines(limit int) []string {
	out := []string{}
	checks := slices.Clone(r.Evidence(limit).Checks)
	slices.SortStableFunc(checks, func(a, b CheckResult) int { return truth(a.Verdict == Passed) - truth(b.Verdict == Passed) })
	for _, c := range checks {
		shown := 0
		for i := range c.Answers {
			if a := &c.Answers[i]; a.Failed {
				out = append(out, c.Check+": "+a.line(c.Output))
				shown++
			}
		}
		out = append(out, c.Check+": "+c.summary(shown))
	}
	if len(r.Checks) == 0 && r.Reason != "" {
		out = append(out, r.Reason)
	}
	return out
}

// line is who failed and how; of a program also what it wrote last.
func (a *Answer) line(output string) string {
	var b strings.Builder
	if who := a.who(); who != "" {
		kind := "a peer"
		if a.Moved {
			kind = "moved"
		}
		fmt.Fprintf(&b, "%s, %s, ", who, kind)
	}
	fmt.Fprintf(&b, "answered %d of %d, lost %.0f%%, %.0f%% before", a.Received, a.Sent, a.Loss, a.Before)
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

// summary is what came of a check as a whole.
func (c *CheckResult) summary(shown int) string {
	var b strings.Builder
	b.WriteString(string(c.Verdict))
	switch {
	case c.Verdict == Unknown:
		fmt.Fprintf(&b, ": %s", c.Reason)
	case c.Failed > 0 && c.Addresses > 0:
		fmt.Fprintf(&b, ", %d of %d addresses worse than before", c.Failed, c.Addresses)
		if more := c.Failed - shown; more > 0 {
			fmt.Fprintf(&b, ", %d of them not named here", more)
		}
	}
	fmt.Fprintf(&b, "; %d of %d answered", c.Received, c.Sent)
	if c.Received > 0 {
		fmt.Fprintf(&b, ", avg %s, max %s", c.Latency.Avg, c.Latency.Max)
	}
	if c.Dead > 0 {
		fmt.Fprintf(&b, ", %d dead before", c.Dead)
	}
	if c.Skipped > 0 {
		fmt.Fprintf(&b, ", %d of another family than the monitor", c.Skipped)
	}
	return clip(b.String())
}

// lines says who was not probed though it moved.
func (s selection) lines() []string {
	var out []string
	if s.LeftOut > 0 {
		out = append(out, fmt.Sprintf("%d moved addresses were not probed, as one verification probes %d at most", s.LeftOut, MaxTargets))
	}
	if s.Ranges > 0 {
		out = append(out, fmt.Sprintf("%d moved routes are to more than one address each, and were not probed", s.Ranges))
	}
	return out
}
