package reconciler

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// seconds runs f at every second and returns those at which it gave true.
func (g *rig) seconds(n int, f func() bool) []int {
	var at []int
	for i := range n {
		if f() {
			at = append(at, i)
		}
		g.after(time.Second)
	}
	return at
}

func TestAnUnreachableTargetIsTriedLessAndLess(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		g.w.at("mem/s", func(p *place) { p.down = errors.New("no route to host") })
		g.commit("1", switchDoc("s", 1))
		last := 0
		tries := g.seconds(200, func() bool {
			reads, _ := g.w.calls("mem/s")
			tried := reads > last
			last = reads
			return tried
		})
		if want := []int{0, 1, 3, 7, 15, 31, 63, 123, 183}; !slices.Equal(tries, want) {
			t.Errorf("it was tried at seconds %v, want %v", tries, want)
		}
		if said := g.log.records(t, "target failed, will try again"); len(said) != 1 {
			t.Errorf("the one failure was logged %d times", len(said))
		}
		g.w.at("mem/s", func(p *place) { p.down = nil })
		g.after(time.Minute)
		g.live("mem/s", "target : 127.0.0.1:1")
		// The next failure begins anew.
		g.w.at("mem/s", func(p *place) { p.down = errors.New("no route to host") })
		g.cfg.Hints.Add("mem/s")
		g.quiet()
		g.w.at("mem/s", func(p *place) { p.down = nil })
		g.after(time.Second)
		if c := g.status().Conditions[0]; c.Status != "True" {
			t.Errorf("a second after it came back: %+v", c)
		}
	})
}

func TestWhatFailedIsTriedByKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		rule := Key{"mem/s", "rule", "gw/7"}
		docs := []string{switchDoc("s", 1), gatewayDoc("gw", "203.0.113.10", "s", 2)}
		g.commit("1", docs...)
		g.w.at("mem/s", func(p *place) { p.refuse[rule] = errors.New("no such action") })
		_, last := g.w.calls("mem/s") // before the loop can know of the commit
		g.put("2", append(docs, policyDoc("p", "gw", 7, 8))...)
		tries := g.seconds(100, func() bool {
			g.quiet()
			_, applies := g.w.calls("mem/s")
			tried := applies > last
			last = applies
			return tried
		})
		if want := []int{0, 1, 3, 7, 15, 31, 63}; !slices.Equal(tries, want) {
			t.Errorf("the rule was tried at seconds %v, want %v", tries, want)
		}
		g.live("mem/s", onePlace("1", "rule gw/8: -> v2")...)
		if said := g.log.records(t, "not applied, will try again"); len(said) != 1 || said[0].Document != "c.yaml:9" || said[0].Error != "no such action" {
			t.Errorf("the one failure was logged as %+v", said)
		}
		// Another change of the same target does not wait for it.
		reads, _ := g.w.calls("mem/s")
		g.commit("3", append(docs, policyDoc("p", "gw", 7, 8, 9))...)
		g.live("mem/s", onePlace("1", "rule gw/8: -> v2", "rule gw/9: -> v2")...)
		if now, _ := g.w.calls("mem/s"); now != reads+1 {
			t.Errorf("%d reads, want one before the rule was tried again", now-reads)
		}
		g.w.at("mem/s", func(p *place) { clear(p.refuse) })
		g.after(time.Minute)
		g.live("mem/s", onePlace("1", "rule gw/7: -> v2", "rule gw/8: -> v2", "rule gw/9: -> v2")...)
		if c := g.status().Conditions[0]; c.Status != "True" {
			t.Errorf("all is live and the condition is %+v", c)
		}
	})
}

func TestACommitReplacesWhatIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		docs := []string{switchDoc("s", 1), gatewayDoc("gw", "203.0.113.10", "s", 2)}
		g.commit("1", docs...)
		g.w.at("mem/s", func(p *place) { p.refuse[Key{"mem/s", "rule", "gw/7"}] = errors.New("no such action") })
		g.commit("2", append(docs, policyDoc("p", "gw", 7))...)
		g.after(100 * time.Second)
		_, applies := g.w.calls("mem/s")
		g.commit("3", docs...)
		g.after(5 * time.Minute)
		if _, now := g.w.calls("mem/s"); now != applies {
			t.Errorf("what no commit wants any more was tried %d times", now-applies)
		}
		if s := g.status(); len(s.Conditions) != 1 || s.Conditions[0].Status != "True" || s.Targets[0].Pending != 0 && s.Targets[1].Pending != 0 {
			t.Errorf("a failure is remembered: %+v", s.Conditions)
		}
		// What a commit changes is tried at once, however long the pause has become.
		g.commit("4", append(docs, policyDoc("p", "gw", 7))...)
		g.after(100 * time.Second)
		g.w.at("mem/s", func(p *place) { clear(p.refuse) })
		g.commit("5", append(docs, strings.Replace(policyDoc("p", "gw", 7), "version: v2", "version: v1", 1), policyDoc("q", "gw", 8))...)
		g.live("mem/s", onePlace("1", "rule gw/8: -> v2")...)
	})
}

func TestABrokenBatchIsReadBeforeItIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		docs := []string{switchDoc("s", 1), gatewayDoc("gw", "203.0.113.10", "s", 2)}
		g.commit("1", docs...)
		g.w.at("mem/s", func(p *place) { p.broken = errors.New("the stream ended") })
		g.commit("2", append(docs, policyDoc("p", "gw", 7, 8))...)
		s := g.status().Targets[1]
		if s.Name != "mem/s" || s.Conditions[0].Reason != "ApplyFailed" || s.Conditions[2].Type != "Stalled" {
			t.Errorf("a batch that broke shows as %+v", s)
		}
		g.after(90 * time.Second)
		stalled := g.status().Targets[1].Conditions[2]
		if stalled != s.Conditions[2] {
			t.Errorf("it failed all the time, and is stalled since %v, not %v", stalled.LastTransitionTime, s.Conditions[2].LastTransitionTime)
		}
		g.w.at("mem/s", func(p *place) { p.broken = nil })
		g.after(time.Minute) // the fake fails the test where what was made is made again
		g.live("mem/s", onePlace("1", "rule gw/7: -> v2", "rule gw/8: -> v2")...)
		// What was half made is no drift, also where the next commit wants none of it.
		g.w.at("mem/s", func(p *place) { p.broken = errors.New("the stream ended") })
		g.commit("3", append(docs, policyDoc("p", "gw", 7, 8, 9, 10))...)
		g.commit("4", append(docs, policyDoc("p", "gw", 7, 8))...)
		g.w.at("mem/s", func(p *place) { p.broken = nil })
		g.after(time.Minute)
		g.live("mem/s", onePlace("1", "rule gw/7: -> v2", "rule gw/8: -> v2")...)
		if drift := g.log.records(t, "drift"); len(drift) > 0 {
			t.Errorf("what was half made is reported as drift: %+v", drift)
		}
	})
}

func TestDriftIsFoundByTheNextRead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t), func(c *Config) { c.Drift, c.MaxDelete = 30*time.Second, 50 })
		g.commit("1", switchDoc("s", 1), gatewayDoc("gw", "203.0.113.10", "s", 2), policyDoc("p", "gw", 7, 8))
		want := g.w.live("mem/s")
		before, applies := g.w.calls("mem/s")
		g.after(5 * time.Minute)
		if reads, now := g.w.calls("mem/s"); reads != before+10 || now != applies {
			t.Errorf("in five minutes of quiet it was read %d times, want 10, and written %d times", reads-before, now-applies)
		}
		g.w.at("mem/s", func(p *place) {
			p.foreign = true
			foreign := Key{"mem/s", "rule", "foreign"}
			p.live[foreign] = &Resource{Key: foreign, Rank: rankRule, Body: text("not ours")}
			changed := *p.live[Key{"mem/s", "rule", "gw/7"}]
			changed.Body = text("-> v9")
			p.live[changed.Key] = &changed
			delete(p.live, Key{"mem/s", "rule", "gw/8"})
		})
		g.after(30 * time.Second)
		if got := g.w.live("mem/s"); !slices.Equal(got, want) {
			t.Errorf("after a cycle is live %q, want %q", got, want)
		}
		var found []string
		for _, r := range g.log.records(t, "drift") {
			found = append(found, r.Found)
		}
		if want := []string{
			"+ mem/s rule foreign: not ours",
			"~ mem/s rule gw/7: -> v2 -> -> v9",
			"- mem/s rule gw/8: -> v2  # c.yaml:10",
		}; !slices.Equal(found, want) {
			t.Errorf("the drift was reported as %q, want %q", found, want)
		}
	})
}

func TestASlowTargetHoldsNoOther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		gate := make(chan struct{})
		g.w.at("mem/slow", func(p *place) { p.gate = gate })
		g.commit("1", switchDoc("slow", 1), switchDoc("s", 2), gatewayDoc("gw", "203.0.113.10", "s", 2))
		g.live("mem/s", onePlace("2")...)
		g.commit("2", switchDoc("slow", 1), switchDoc("s", 2), gatewayDoc("gw", "203.0.113.10", "s", 2), policyDoc("p", "gw", 7))
		g.live("mem/s", onePlace("2", "rule gw/7: -> v2")...)
		g.live("mem/slow")
		close(gate)
		g.quiet()
		g.live("mem/slow", "target : 127.0.0.1:1")
	})
}

func TestHintsCoalesce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		docs := []string{switchDoc("s", 1), gatewayDoc("gw", "203.0.113.10", "s", 2)}
		g.commit("1", docs...)
		gate := make(chan struct{})
		g.w.at("mem/s", func(p *place) { p.gate = gate })
		g.commit("2", append(docs, policyDoc("p", "gw", 7))...)
		before, _ := g.w.calls("mem/s")
		for range 100 {
			g.cfg.Hints.Add("mem/s")
			g.cfg.Hints.Add("mem/unknown")
			g.quiet()
		}
		close(gate)
		g.quiet()
		if reads, _ := g.w.calls("mem/s"); reads != before+1 {
			t.Errorf("100 hints during an Apply made %d reads, want 1", reads-before)
		}
	})
}

func TestACreateThatFindsAFullTableIsTriedAfterTheDeletes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		docs := []string{switchDoc("s", 1), gatewayDoc("gw", "203.0.113.10", "s", 2)}
		g.commit("1", append(docs, policyDoc("p", "gw", 7))...)
		g.w.at("mem/s", func(p *place) { p.room = len(p.live) })
		g.commit("2", append(docs, policyDoc("p", "gw", 8))...)
		g.live("mem/s", onePlace("1", "rule gw/8: -> v2")...)
		if failed := g.log.records(t, "not applied, will try again"); len(failed) > 0 {
			t.Errorf("it was put off: %+v", failed)
		}
	})
}

func TestTheSourceIsAskedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		g.commit("1", switchDoc("s", 1))
		g.source.mu.Lock()
		g.source.err = errors.New("the host is away")
		g.source.mu.Unlock()
		g.source.poke()
		g.quiet()
		if s := g.status(); s.Revision != "1" || !slices.Equal(s.Errors, []string{"the host is away"}) || s.Conditions[0].Reason != "FetchFailed" {
			t.Errorf("a failed Fetch shows as %+v", s)
		}
		last := g.source.asked()
		tries := g.seconds(70, func() bool {
			tried := g.source.asked() > last
			last = g.source.asked()
			return tried
		})
		if want := []int{1, 3, 7, 15, 31, 63}; !slices.Equal(tries, want) {
			t.Errorf("the source was asked at seconds %v, want %v", tries, want)
		}
		if n := strings.Count(g.log.String(), `"error":"the host is away"`); n != 1 { // a first Fetch may have come before the commit
			t.Errorf("the one failure was logged %d times", n)
		}
		g.source.mu.Lock()
		g.source.err = nil
		g.source.mu.Unlock()
		g.after(time.Minute)
		if s := g.status(); s.Conditions[0].Status != "True" {
			t.Errorf("the source is back and the conditions are %+v", s.Conditions)
		}
		last = g.source.asked()
		g.after(time.Hour)
		if g.source.asked() != last {
			t.Errorf("a source that answers was asked %d times without a hint", g.source.asked()-last)
		}
	})
}

func TestASlowFetchIsNotAskedTwice(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		g.quiet() // it failed, and is tried again after a second
		hold := make(chan struct{})
		g.source.mu.Lock()
		g.source.hold = hold
		g.source.mu.Unlock()
		before := g.source.asked()
		g.after(time.Second)
		for range 10 {
			g.cfg.Hints.Add("mem/s") // which wakes the loop
			g.source.poke()
			g.after(time.Second)
		}
		if n := g.source.asked() - before; n != 1 {
			t.Errorf("a slow source was asked %d times", n)
		}
		close(hold)
		g.quiet()
	})
}

// What was never read may hold anything, also of what is no longer wanted when it
// is.
func TestWhatIsDroppedBeforeTheFirstReadIsForgotten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		docs := []string{switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2)}
		g.w.at("mem/s", func(p *place) { p.down = errors.New("no route to host") })
		g.commit("1", append(docs, policyDoc("p", "gw", 7))...)
		g.commit("2", docs...)
		g.w.at("mem/s", func(p *place) { p.down = nil })
		g.after(time.Minute)
		g.live("mem/s", onePlace("1")...)
		if c := g.status().Conditions; len(c) != 1 || c[0].Status != "True" {
			t.Errorf("all is live and the conditions are %+v", c)
		}
	})
}

// Another address or device may be another switch, whatever is on the last one.
func TestASwitchThatIsReachedOtherwiseIsReadAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		g.commit("1", switchDoc("s", 1))
		reads, _ := g.w.calls("mem/s")
		g.commit("2", strings.Replace(switchDoc("s", 1), "spec: {", "spec: {deviceID: 7, ", 1))
		if now, _ := g.w.calls("mem/s"); now != reads+1 {
			t.Errorf("it was read %d times, want once", now-reads)
		}
	})
}

// What a commit says of a document's place is known later, also where a job was
// under way when it came.
func TestACommitDuringAJobIsNotForgotten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		docs := []string{switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2)}
		g.commit("1", append(docs, policyDoc("p", "gw", 7))...)
		gate, moved := make(chan struct{}), "# a line more\n"+policyDoc("p", "gw", 7)
		g.w.at("mem/s", func(p *place) { p.gate = gate })
		g.commit("2", append(docs, policyDoc("p", "gw", 7), policyDoc("q", "gw", 8))...)
		g.commit("3", append(docs, moved, policyDoc("q", "gw", 8))...)
		close(gate)
		g.quiet()
		read := make(chan struct{})
		g.w.at("mem/s", func(p *place) { p.gate, p.readGate = nil, read })
		g.cfg.Hints.Add("mem/s")
		g.quiet()
		g.commit("4", append(docs, moved, "# a line more\n"+policyDoc("q", "gw", 8))...)
		close(read)
		g.quiet()
		g.commit("5", append(docs, moved)...)
		g.commit("6", docs...)
		lines := g.applied()
		want := []string{"- mem/s rule gw/8: -> v2  # d.yaml:10", "- mem/s rule gw/7: -> v2  # c.yaml:10"}
		if got := lines[len(lines)-2:]; !slices.Equal(got, want) {
			t.Errorf("applied was %q, want %q", got, want)
		}
	})
}

func TestManyFailuresAreLoggedInFew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		docs := []string{switchDoc("s", 1), gatewayDoc("gw", "203.0.113.10", "s", 2)}
		g.commit("1", docs...)
		var vnis []int
		for i := range 100 {
			vnis = append(vnis, 100+i)
			g.w.at("mem/s", func(p *place) { p.refuse[Key{"mem/s", "rule", fmt.Sprintf("gw/%d", 100+i)}] = errors.New("no") })
		}
		g.commit("2", append(docs, policyDoc("p", "gw", vnis...))...)
		g.after(5 * time.Minute)
		if said := g.log.records(t, "not applied, will try again"); len(said) != mostLogged+1 {
			t.Errorf("100 failures over and over made %d log lines, want %d", len(said), mostLogged+1)
		}
	})
}
