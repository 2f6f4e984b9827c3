package reconciler

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/schema"
)

// newStore returns a store in memory.
func newStore() *Store { return newKeeper().store() }

// TestEpochsGrow holds that a process has a higher epoch than the one before it,
// whatever the clock says.
func TestEpochsGrow(t *testing.T) {
	kept := newKeeper()
	now, last := time.Unix(1_800_000_000, 0), uint64(0)
	for _, now := range []time.Time{now, now, now.Add(-time.Hour), now.Add(time.Minute)} {
		s := kept.store()
		epoch, err := s.NextEpoch(now, 0)
		if err != nil || epoch <= last || epoch < uint64(now.Unix()) {
			t.Errorf("at %s the epoch is %d after %d (%v)", now, epoch, last, err)
		}
		if last, err = s.NextEpoch(now, epoch+100); err != nil || last != epoch+101 {
			t.Errorf("above %d the epoch is %d (%v)", epoch+100, last, err)
		}
	}
}

// A reconciler does not start on numbers or switches that it cannot read: to give
// them anew could change what entries on a switch mean.
func TestADamagedStoreIsNotStartedOn(t *testing.T) {
	for _, c := range []struct{ bucket, key, value, want string }{
		{bucketIDs, "table", "{", "IDs"},
		{bucketIDs, "s/1/7", "{", "IDs"},
		{bucketSwitches, "s", "{", "switches"},
	} {
		s := newStore()
		if err := s.Write(c.bucket, map[string][]byte{c.key: []byte(c.value)}, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{Store: s}); err == nil || !strings.Contains(err.Error(), "the "+c.want+" in the --state file cannot be read") {
			t.Errorf("a damaged record %s of %s gives %v", c.key, c.bucket, err)
		}
	}
}

// TestNumbersAreStoredEachByItself holds that a commit writes the numbers that it gives
// and frees and no others, and that the table of an earlier gray is read and replaced.
func TestNumbersAreStoredEachByItself(t *testing.T) {
	bubble(t, func(t *testing.T) {
		kept := newKeeper()
		numbers := func() map[string]string {
			all := map[string]string{}
			for key, value := range kept.records[bucketIDs] {
				all[key] = string(value)
			}
			return all
		}
		kept.records[bucketIDs] = map[string][]byte{"table": []byte(`[{"Switch":"s","Space":1,"Key":"gw","ID":200},{"Switch":"s","Space":1,"Key":"old","ID":7}]`)}
		g := start(t, newWorld(t), func(c *Config) { c.Store, c.MaxDelete = kept.store(), 100 })
		g.commit("1", switchDoc("s", 1), gatewayDoc("gw", "203.0.113.10", "s", 2))
		first := numbers()
		if _, stale := first["s/1/7"]; stale || first["table"] != "" || first["s/1/200"] != `{"Switch":"s","Space":1,"Key":"gw","ID":200}` {
			t.Errorf("after the first commit the store has %q", first)
		}
		kept.records[bucketIDs] = map[string][]byte{} // only what is written from here on
		docs := []string{switchDoc("s", 1), gatewayDoc("gw", "203.0.113.10", "s", 2), gatewayDoc("other", "203.0.113.11", "s", 2)}
		g.commit("2", docs...)
		second := numbers()
		if len(second) != len(first) {
			t.Errorf("a second gateway like the first writes %q, the first wrote %q", second, first)
		}
		for key := range second {
			if first[key] != "" {
				t.Errorf("a second gateway writes the number %s of the first", key)
			}
		}
		g.commit("3", docs[:2]...)
		if left := numbers(); len(left) > 0 {
			t.Errorf("when the second gateway has gone the store keeps %q", left)
		}
	})
}

// What is stored of a switch is all that its sinks lower it from.
func TestSwitchesAreStoredWhole(t *testing.T) {
	want := &policies.Switch{
		Name: "s", Origin: schema.Position{Path: "a.yaml", Line: 3}, Address: "192.0.2.1:9559", DeviceID: 1 << 63, MAC: [6]byte{2, 1},
		Role: "gray", Pipeline: "v1model", Push: "never", TLS: &policies.TLS{CA: "ca", Cert: "cert", Key: "key"}, Insecure: true,
		BGP: &policies.BGP{
			ASN: 4200000000, RouterID: netip.MustParseAddr("192.0.2.1"), NextHop: netip.MustParseAddr("2001:db8::1"),
			Neighbors: []policies.BGPNeighbor{{Address: netip.MustParseAddr("192.0.2.2"), ASN: 1, PasswordFile: "f"}}, Communities: []uint32{1},
		},
	}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	s := newStore()
	if err := s.Write(bucketSwitches, map[string][]byte{"s": b}, nil); err != nil {
		t.Fatal(err)
	}
	got, _, err := s.switches()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]*policies.Switch{"s": want}, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.IgnoreUnexported(policies.Switch{})); diff != "" {
		t.Errorf("a switch comes back changed:\n%s", diff)
	}
}
