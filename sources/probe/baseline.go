package probe

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Baseline is what was lost in one Network before a release, in per cent by check
// and address, of those that lost anything. Checks without an address are under the
// zero one.
type Baseline map[string]map[netip.Addr]float64

// Baseline is what later verifications of the same Network are held against. The
// checks that could not be made are not in it: where the verdict is Unknown, take
// it again.
func (r *Result) Baseline() Baseline {
	b := Baseline{}
	for _, c := range r.Checks {
		if c.broken {
			continue
		}
		for _, a := range c.Answers {
			if a.Loss > 0 {
				b.set(c.Check, a.Address, a.Loss)
			}
		}
	}
	return b
}

func (b Baseline) set(check string, a netip.Addr, loss float64) {
	if b[check] == nil {
		b[check] = map[netip.Addr]float64{}
	}
	b[check][a] = loss
}

// Lines is the baseline for people and for the store, a line for each loss, sorted:
// "ping overlay 203.0.113.10: 10.0.0.5 lost 100%", "exec vpc: lost 100%". ParseBaseline
// reads them.
func (b Baseline) Lines() []string {
	var out []string
	for _, check := range slices.Sorted(maps.Keys(b)) {
		for _, a := range slices.SortedFunc(maps.Keys(b[check]), netip.Addr.Compare) {
			line := check + ": "
			if a.IsValid() {
				line += a.String() + " "
			}
			out = append(out, line+lostWord+percent(b[check][a]))
		}
	}
	return out
}

// lostWord stands before the loss.
const lostWord = "lost "

// percent writes a loss with up to two places, rounded up: what is read must not be
// less than what was measured, and the loss of one of MaxCount requests is ten times
// the error.
func percent(loss float64) string {
	text := strconv.FormatFloat(loss, 'f', 2, 64)
	if v, _ := strconv.ParseFloat(text, 64); v < loss {
		text = strconv.FormatFloat(v+0.01, 'f', 2, 64)
	}
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".") + "%"
}

// ParseBaseline reads the Lines of a Baseline, at most MaxTargets. A line that is
// something else is left out: nothing is excused by it.
func ParseBaseline(lines []string) Baseline {
	b := Baseline{}
	for _, line := range lines[:min(len(lines), MaxTargets)] {
		if check, a, loss, ok := parseLoss(line); ok {
			b.set(check, a, loss)
		}
	}
	return b
}

// parseLoss reads a line from its end, as a check's name may hold anything.
func parseLoss(line string) (check string, a netip.Addr, loss float64, ok bool) {
	at := strings.LastIndex(line, ": ")
	if at < 0 {
		return "", a, 0, false
	}
	check, rest := line[:at], line[at+2:]
	if who, what, both := strings.Cut(rest, " "+lostWord); both {
		var err error
		if a, err = netip.ParseAddr(who); err != nil {
			return "", a, 0, false
		}
		rest = lostWord + what
	}
	number, lost := strings.CutPrefix(rest, lostWord)
	number, per := strings.CutSuffix(number, "%")
	loss, err := strconv.ParseFloat(number, 64)
	return check, a, loss, lost && per && err == nil && loss > 0 && loss <= 100
}

// compareAnswers sorts those that failed first, of these what moved, then by loss.
func compareAnswers(a, b Answer) int {
	return cmp.Or(
		cmp.Compare(truth(b.Failed), truth(a.Failed)),
		cmp.Compare(truth(b.Failed && b.Moved), truth(a.Failed && a.Moved)),
		cmp.Compare(b.Loss, a.Loss),
	)
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}
