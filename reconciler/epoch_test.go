package reconciler

import (
	"path/filepath"
	"testing"
	"time"
)

// TestEpochsGrow holds that a process has a higher epoch than the one before it,
// whatever the clock says.
func TestEpochsGrow(t *testing.T) {
	state := "file:" + filepath.Join(t.TempDir(), "state.db")
	now, last := time.Unix(1_800_000_000, 0), uint64(0)
	for _, now := range []time.Time{now, now, now.Add(-time.Hour), now.Add(time.Minute)} {
		s, err := OpenStore(state)
		if err != nil {
			t.Fatal(err)
		}
		epoch, err := s.NextEpoch(now, 0)
		if err != nil || epoch <= last || epoch < uint64(now.Unix()) {
			t.Errorf("at %s the epoch is %d after %d (%v)", now, epoch, last, err)
		}
		if last, err = s.NextEpoch(now, epoch+100); err != nil || last != epoch+101 {
			t.Errorf("above %d the epoch is %d (%v)", epoch+100, last, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
