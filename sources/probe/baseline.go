package probe

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Baseline is the loss in one Network before a release, in per cent, by test and
// address, for those that lost anything. Tests without an address are under the zero
// address.
type Baseline map[string]map[netip.Addr]float64

// Baseline makes the baseline for later probes of the same Network. It lacks the tests
// that could not be made: if the verdict is Unknown, take it again.
func (r *Result) Baseline() Baseline {
	b := Baseline{}
	for _, c := range r.Tests {
		if c.broken {
			continue
		}
		for _, a := range c.Answers {
			if a.Loss > 0 {
				b.set(c.Test, a.Address, a.Loss)
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

// Lines formats the baseline for people and for the store, a line for each loss, sorted:
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

// lostWord is the word before the loss.
const lostWord = "lost "

// percent writes a loss with up to two decimals, rounded up: the loss that is read back
// must not be less than the measured one. The rounding error is a tenth of the loss of
// one in MaxCount requests.
func percent(loss float64) string {
	text := strconv.FormatFloat(loss, 'f', 2, 64)
	if v, _ := strconv.ParseFloat(text, 64); v < loss {
		text = strconv.FormatFloat(v+0.01, 'f', 2, 64)
	}
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".") + "%"
}

// ParseBaseline reads the Lines of a Baseline, at most MaxTargets. It ignores other
// lines.
func ParseBaseline(lines []string) Baseline {
	b := Baseline{}
	for _, line := range lines[:min(len(lines), MaxTargets)] {
		if check, a, loss, ok := parseLoss(line); ok {
			b.set(check, a, loss)
		}
	}
	return b
}

// parseLoss reads a line from its end, because the name of a test may contain anything.
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

// compareAnswers sorts failed answers first, of these the moved ones first, then by
// loss.
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
