package rollout

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/schema"
)

// drill is one rollout and its surroundings, without a compiler. Every step goes
// through the stored form now and then, as over a restart.
type drill struct {
	t         testing.TB
	r         *State
	spec      *Spec
	now       time.Time
	confirmed bool   // whether the sinks confirm what is to be live
	live      uint64 // what they have confirmed
	refused   *Refusal
	last      Actions
	events    []string
	told      []Verdict
}

// moves is a rollout with a check, in batches such as "1 5 25% 100%".
func movesOf(batches string, change ...func(*schema.Rollout)) *schema.Rollout {
	r := wholeRollout()
	r.Batches = nil
	for word := range strings.FieldsSeq(batches) {
		var b schema.Batch
		if err := b.UnmarshalText([]byte(word)); err != nil {
			panic(err)
		}
		r.Batches = append(r.Batches, b)
	}
	r.Verify = &schema.Verify{Exec: &schema.ExecProbe{Command: []string{"check"}}}
	for _, f := range change {
		f(r)
	}
	return r
}

func newDrill(t testing.TB, r *schema.Rollout, vms ...int) *drill {
	d := &drill{t: t, r: New("p"), now: time.Unix(1e9, 0).UTC(), confirmed: true}
	d.spec = &Spec{Policy: "p", Version: "v2", Digests: Digests{Identity: "v2 of Gateway/gw", Content: "c1", Fingerprint: "f1"}, Rollout: r}
	for i, n := range vms {
		name := fmt.Sprintf("n%d", i+1)

		d.spec.Networks = append(d.spec.Networks, Network{Name: name, VNI: uint32(i + 1), VMs: vmAddresses(firstNumbers(n)...)})
	}
	d.spec.Index()
	return d
}

func vmAddresses(numbers ...int) []netip.Addr {
	var all []netip.Addr
	for _, n := range numbers {
		all = append(all, numberedVM(n))
	}
	return all
}

// commit changes the documents.
func (d *drill) commit(change func(*Spec)) {
	next := *d.spec
	next.Networks = slices.Clone(d.spec.Networks)
	pace := *d.spec.Rollout
	next.Rollout = &pace
	change(&next)

	next.Index()
	d.spec = &next
}

// step is one Step. The state that it comes from is left as it was.
func (d *drill) step(verdicts ...Verdict) {
	d.t.Helper()
	obs := Observation{Verdicts: verdicts, Revision: "main@1", Refused: d.refused}
	if d.confirmed {
		d.live = d.r.Generation
	}
	obs.Confirmed = d.live
	before, _ := json.Marshal(d.r)
	next, actions := d.r.Step(d.spec, obs, d.now)
	if after, _ := json.Marshal(d.r); string(after) != string(before) {
		d.t.Fatalf("a Step changed its input from\n%s\nto\n%s", before, after)
	}
	d.r, d.last, d.refused = next, actions, nil
	for _, e := range actions.Events {
		d.events = append(d.events, e.Reason)
	}
	d.restart()
}

// restart reads the stored form back.
func (d *drill) restart() {
	d.t.Helper()
	b, err := json.Marshal(d.r)
	if err != nil {
		d.t.Fatal(err)
	}
	back, err := Read(b)
	if err != nil {
		d.t.Fatal(err)
	}
	if b2, _ := json.Marshal(back); string(b2) != string(b) {
		d.t.Fatalf("stored as\n%s\nread as\n%s", b, b2)
	}
	if d.now.Second()%2 == 0 {
		d.r = back
	}
}

// verdict is the answer to a probe.
func (p Probe) verdict(passed bool, dead ...string) Verdict {
	return Verdict{Network: p.Network, Fingerprint: p.Fingerprint, Generation: p.Generation, Attempt: p.Attempt, Baseline: p.Baseline, Passed: passed, Dead: dead, Evidence: dead}
}

// run steps until nothing happens without news: every probe passes, but those that
// fails names as network/batch, time goes on to the next Wake.
func (d *drill) run(fails ...string) {
	d.t.Helper()
	for range 1000 {
		generation, where := d.r.Generation, d.where()
		d.step()
		if len(d.last.Probes) == 0 {
			switch {
			case generation != d.r.Generation || where != d.where():
			case d.last.Wake.IsZero() || d.r.Stalled:
				return
			default:
				d.now = maxTime(d.now, d.last.Wake)
			}
			continue
		}
		var verdicts []Verdict
		for _, p := range d.last.Probes {
			if slices.Contains(fails, fmt.Sprintf("%s/%d", p.Network, p.Batch)) {
				verdicts = append(verdicts, p.verdict(false, "ping 10.0.0.1: 3 of 3 lost"))
			} else {
				verdicts = append(verdicts, p.verdict(true))
			}
		}
		d.told = append(d.told, verdicts...)
		d.step(verdicts...)
	}
	d.t.Fatal("it does not come to rest")
}

// probe steps until a probe is to run, and returns the first.
func (d *drill) probe() Probe {
	d.t.Helper()
	for range 5 {
		if d.step(); len(d.last.Probes) > 0 {
			return d.last.Probes[0]
		}
	}
	d.t.Fatalf("no probe is to run at %s", d.where())
	return Probe{}
}

// pass has the next probe pass.
func (d *drill) pass() {
	d.t.Helper()
	d.step(d.probe().verdict(true))
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// where is the state in one line: "n1 done, n2 Applying 2 [1 2 3], Progressing".
func (d *drill) where() string {
	var words []string
	for _, n := range d.r.Done {
		words = append(words, n+" done")
	}
	for _, m := range d.r.Moving {
		var vms []string
		for _, a := range m.VMs {
			b := a.As4()
			vms = append(vms, fmt.Sprint(int(b[2])<<8|int(b[3])))
		}
		text := fmt.Sprintf("%s %s %d [%s]", m.Network, m.Stage, m.Batch, strings.Join(vms, " "))
		if m.Whole {
			text += " all"
		}
		words = append(words, text)
	}
	return strings.Join(append(words, string(d.r.Phase)+"/"+d.r.Reason), ", ")
}

func (d *drill) at(want string) {
	d.t.Helper()
	if got := d.where(); got != want {
		d.t.Errorf("it is at\n  %s\nwant\n  %s\nafter %v", got, want, d.events)
	}
}

func (d *drill) do(verb, gate, want string) {
	d.t.Helper()
	next, _, err := d.r.Do(d.spec, Verb{Verb: verb, Gate: gate, Who: "ann", Why: "because"}, d.now)
	if textOf(err) != want {
		d.t.Errorf("%s: %v, want %q", verb, err, want)
	}
	d.r = next
}

// each steps through a run and lists where it was when a batch began.
func (d *drill) batches() []string {
	var all []string
	last := uint64(0)
	for range 1000 {
		d.step()
		for _, p := range d.last.Probes {
			if !p.Baseline && p.Generation != last {
				last = p.Generation
				all = append(all, fmt.Sprintf("%s/%d:%d", p.Network, p.Batch, len(p.VMs)))
			}
		}
		var verdicts []Verdict
		for _, p := range d.last.Probes {
			verdicts = append(verdicts, p.verdict(true))
		}
		if d.step(verdicts...); len(d.last.Probes) == 0 && len(verdicts) == 0 {
			if d.last.Wake.IsZero() {
				return all
			}
			d.now = maxTime(d.now, d.last.Wake)
		}
	}
	d.t.Fatal("it does not come to rest")
	return nil
}

// wholeRollout is a rollout with the defaults of a document.
func wholeRollout() *schema.Rollout {
	return &schema.Rollout{Batches: []schema.Batch{{N: 100, IsPercent: true}}, Parallel: 1, Approval: "none", OnFailure: "rollback"}
}

func firstNumbers(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i + 1
	}
	return all
}

func numberedVM(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}) }

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
