package probe

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/schema"
)

func TestBaselineLines(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("fd00::1")
	b := Baseline{
		"ping overlay 203.0.113.10":    {v4: 100, v6: 100. / 3, netip.MustParseAddr("10.0.0.9"): 0.1},
		"exec check: 10.0.0.1 lost 5%": {netip.Addr{}: 100},
		"http http://10.0.0.1/a: b":    {netip.Addr{}: 100},
		"tcp 22":                       {v4: 33.34},
	}
	lines := b.Lines()
	want := []string{
		"exec check: 10.0.0.1 lost 5%: lost 100%",
		"http http://10.0.0.1/a: b: lost 100%",
		"ping overlay 203.0.113.10: 10.0.0.9 lost 0.1%",
		"ping overlay 203.0.113.10: 10.0.0.10 lost 100%",
		"ping overlay 203.0.113.10: fd00::1 lost 33.34%",
		"tcp 22: 10.0.0.10 lost 33.34%",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("the lines are\n  %s\nwant\n  %s", strings.Join(lines, "\n  "), strings.Join(want, "\n  "))
	}
	b["ping overlay 203.0.113.10"][v6] = 33.34
	if back := ParseBaseline(lines); !maps.EqualFunc(back, b, maps.Equal) {
		t.Errorf("read back as %v", back)
	}
	for _, bad := range []string{
		"", "ping", "ping: ", "ping: lost", "ping: lost 5", "ping: lost x%", "ping: lost NaN%", "ping: lost 101%", "ping: lost 0%", "ping: lost -1%",
		"ping: 10.0.0 lost 5%", "ping: 10.0.0.1", "ping: 10.0.0.1 lost 5% lost 5%", "ping 10.0.0.1 lost 5%",
	} {
		if b := ParseBaseline([]string{bad}); len(b) != 0 {
			t.Errorf("%q is read as %v", bad, b)
		}
	}
	if b := ParseBaseline(slices.Repeat([]string{"x"}, MaxTargets+1)); len(b) != 0 {
		t.Error(b)
	}
	more := append(slices.Repeat([]string{"x"}, MaxTargets), lines[0])
	if b := ParseBaseline(more); len(b) != 0 {
		t.Errorf("more lines are read than are written: %v", b)
	}
}

func FuzzBaseline(f *testing.F) {
	f.Add("ping overlay 203.0.113.10: 10.0.0.10 lost 33.34%", "exec a: b", 100./3)
	f.Add("exec x: lost 100%", "", 0.001)
	f.Fuzz(func(t *testing.T, line, check string, loss float64) {
		// Whatever is read is written and read back the same.
		first := ParseBaseline([]string{line})
		lines := first.Lines()
		if again := ParseBaseline(lines).Lines(); !slices.Equal(again, lines) {
			t.Errorf("%q: %q, then %q", line, lines, again)
		}
		// What was measured excuses as much, and no further request.
		if !(loss > 0 && loss <= 100) {
			return
		}
		a := netip.MustParseAddr("fd00::1")
		for _, to := range []netip.Addr{a, {}} {
			b := Baseline{check: {to: loss}}
			got := ParseBaseline(b.Lines())[check][to]
			if got < loss || got > loss+0.0101 {
				t.Errorf("%q of %v: %v is read back as %v", check, to, loss, got)
			}
		}
	})
}

// TestFreshFirst has more moved VMs than can be probed.
func TestFreshFirst(t *testing.T) {
	all := routes(MaxTargets+500, 20)
	fresh := map[netip.Addr]bool{}
	for _, r := range all[MaxTargets:] {
		fresh[r.Prefix.Addr()] = true
	}
	s := choose(all, func(schema.Route) bool { return true }, addresses(fresh).has, 8, 1)
	if len(s.Targets) != MaxTargets || s.LeftOut != 500 {
		t.Fatalf("%d targets, %d left out", len(s.Targets), s.LeftOut)
	}
	for i, target := range s.Targets {
		if fresh[target.Address] != (i < 500) || !target.Moved {
			t.Fatalf("target %d is %+v", i, target)
		}
	}
	if l := s.lines(); len(l) != 1 || !strings.HasPrefix(l[0], "500 moved addresses were not tested") {
		t.Errorf("%q", l)
	}
}

func TestLines(t *testing.T) {
	a := netip.MustParseAddr("10.0.0.5")
	r := &Result{Verdict: Failed, Tests: []TestResult{
		{Test: "tcp 22", Verdict: Passed, Addresses: 2, Sent: 2, Received: 2, Latency: Latency{Avg: Duration(time.Millisecond), Max: Duration(2 * time.Millisecond)}},
		{Test: "ping overlay 203.0.113.10", Verdict: Failed, Addresses: 9, Failed: 3, Dead: 1, Skipped: 2, Sent: 27, Received: 18},
		{Test: "exec vpc", Verdict: Failed, Failed: 1, Sent: 1, Output: "one\nthe VPC is \"broken\"\n", Answers: []Answer{{Sent: 1, Loss: 100, Failed: true, Error: "exit status 3"}}},
		{Test: "http http://x/", Verdict: Unknown, Reason: "no such host"},
	}}
	for i := range 9 {
		r.Tests[1].Answers = append(r.Tests[1].Answers, Answer{VM: fmt.Sprintf("web-%d", i), Address: a, Moved: i == 4, Sent: 3, Received: 3})
		a = a.Next()
	}
	for i, received := range map[int]int{2: 0, 4: 1, 6: 2} {
		k := &r.Tests[1].Answers[i]
		k.Received, k.Failed, k.Loss, k.Late = received, true, 100*float64(3-received)/3, received/2
	}
	got := strings.Join(r.Lines(2), "\n")
	want := `ping overlay 203.0.113.10: 10.0.0.9 (web-4), moved, answered 1 of 3, lost 67%, 0% before, avg 0s, max 0s
ping overlay 203.0.113.10: 10.0.0.7 (web-2), a peer, answered 0 of 3, lost 100%, 0% before
ping overlay 203.0.113.10: failed, 3 of 9 addresses are worse than before, 1 of them not shown; 18 of 27 answered, avg 0s, max 0s, 1 did not answer before either, 2 of another family than the monitor
exec vpc: answered 0 of 1, lost 100%, 0% before: exit status 3, after "the VPC is \"broken\""
exec vpc: failed; 0 of 1 answered
http http://x/: unknown: no such host; 0 of 0 answered
tcp 22: passed; 2 of 2 answered, avg 1ms, max 2ms`
	if got != want {
		t.Errorf("it says\n%s\nwant\n%s", got, want)
	}
	if r.Tests[1].Answers[0].VM != "web-0" {
		t.Error("the result was changed")
	}
	if l := (&Result{Verdict: Unknown, Reason: "there is no check"}).Lines(2); !slices.Equal(l, []string{"there is no check"}) {
		t.Errorf("%q", l)
	}
}
