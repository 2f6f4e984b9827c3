package p4rt

import (
	"context"
	"strings"
	"sync"
	"testing"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	"github.com/gray-release/gray/policies"
)

// Every field of a switch that the sink uses is compared and shown in a plan, and only
// another pipeline empties the tables.
func TestASwitchIsComparedWhole(t *testing.T) {
	base := policies.Switch{
		Name: "gw-a", Address: "192.0.2.1:9559", DeviceID: 1, Pipeline: "v1model", Push: "ifDifferent",
		TLS: &policies.TLS{CA: "ca.pem", Cert: "a.pem", Key: "a.key"},
	}
	was := switchOf(&base).Body.(*targetBody)
	for want, change := range map[string]func(*policies.Switch){
		"":                                         func(*policies.Switch) {},
		"another place":                            func(s *policies.Switch) { s.Address = "192.0.2.2:9559" },
		"another place too":                        func(s *policies.Switch) { s.DeviceID = 2 },
		"role none -> ops":                         func(s *policies.Switch) { s.Role = "ops" },
		"pushPipeline ifDifferent -> never":        func(s *policies.Switch) { s.Push = "never" },
		"insecure false -> true":                   func(s *policies.Switch) { s.Insecure = true },
		"tls.ca ca.pem -> other.pem":               func(s *policies.Switch) { s.TLS = &policies.TLS{CA: "other.pem", Cert: "a.pem", Key: "a.key"} },
		"tls.cert a.pem -> none, tls.key a.key":    func(s *policies.Switch) { s.TLS = &policies.TLS{CA: "ca.pem"} },
		"tls.key a.key -> b.key":                   func(s *policies.Switch) { s.TLS = &policies.TLS{CA: "ca.pem", Cert: "a.pem", Key: "b.key"} },
		"-> gray/tna, to be loaded by other means": func(s *policies.Switch) { s.Pipeline = "tna" },
	} {
		sw := base
		change(&sw)
		is := switchOf(&sw).Body.(*targetBody)
		if is.Equal(was) != (want == "") {
			t.Errorf("%s: equal is %t", want, is.Equal(was))
		}
		if resets := strings.Contains(want, "loaded"); is.Resets(was) != resets {
			t.Errorf("%s: resets is %t", want, is.Resets(was))
		}
		if moves := strings.Contains(want, "place"); (is.Place() != was.Place()) != moves {
			t.Errorf("%s: the places are %s and %s", want, was.Place(), is.Place())
		} else if !moves && !strings.Contains(is.Delta(was), want) {
			t.Errorf("the plan says %q, want %q", is.Delta(was), want)
		}
	}
}

// TestAnotherRoleIsArbitratedFor changes the role of a switch: the sink arbitrates for it
// on a new stream and uses it from then on, and the tables stay.
func TestAnotherRoleIsArbitratedFor(t *testing.T) {
	sw := newLab(t)
	document := func(role string) string {
		return strings.Replace(switchDoc("sw", sw.address), "spec: {", "spec: {role: "+role+", ", 1)
	}
	l := newLoop(t, document("one"), gatewayDoc("sw"), networkDoc(1))
	l.settle()
	var mu sync.Mutex
	roles := map[string]bool{}
	h := hook(func(_ context.Context, req any) error {
		if w, ok := req.(*p4v1.WriteRequest); ok {
			mu.Lock()
			defer mu.Unlock()
			roles[w.GetRole()] = true
		}
		return nil
	})
	sw.hook.Store(&h)
	asked, pushes, batches := len(sw.asked()), sw.sw.Stats().Pushes, sw.batches.Load()
	l.adopt(document("two"), gatewayDoc("sw"), networkDoc(1))
	l.settle()
	if now := sw.batches.Load(); now != batches || sw.sw.Stats().Pushes != pushes {
		t.Errorf("another role alone is written %d times, and loads %d pipelines", now-batches, sw.sw.Stats().Pushes-pushes)
	}
	l.adopt(document("two"), gatewayDoc("sw"), networkDoc(1), vpcDoc(1))
	l.settle()
	if len(roles) != 1 || !roles["two"] {
		t.Errorf("what comes next is written in the roles %v", roles)
	}
	if len(sw.asked()) == asked {
		t.Error("nobody arbitrated anew")
	}
}

// TestASwitchMovesToAnotherDevice changes the address of a switch: the old device is
// emptied, and the new one is programmed.
func TestASwitchMovesToAnotherDevice(t *testing.T) {
	from, to := newLab(t), newLab(t)
	documents := func(sw *lab) []string {
		return []string{switchDoc("sw", sw.address), gatewayDoc("sw"), networkDoc(1), vpcDoc(1)}
	}
	l := newLoop(t, documents(from)...)
	l.settle()
	full := len(entriesAt(t, from))
	for i, step := range [][2]*lab{{from, to}, {to, from}} {
		left, now := step[0], step[1]
		l.adopt(documents(now)...)
		l.settle()
		if n := len(entriesAt(t, now)); n != full || n == 0 {
			t.Errorf("move %d: the device that it is has %d entries, want %d", i, n, full)
		}
		if n := len(entriesAt(t, left)); n != 0 {
			t.Errorf("move %d: %d entries are left at the device that it was", i, n)
		}
		for _, line := range []string{"- p4rt/sw@" + left.address + "/1 vip_v4", "+ p4rt/sw vip_v4"} {
			if !strings.Contains(l.log.String(), line) {
				t.Errorf("move %d: the log says nothing of %q:\n%s", i, line, l.log.String())
			}
		}
	}
	s, err := l.Status(t.Context())
	if err != nil || len(s.Targets) != 1 {
		t.Errorf("targets %+v, error %v", s.Targets, err)
	}
}
