package softswitch

import "sync/atomic"

// dropReason is why a packet was dropped.
type dropReason int

const (
	dropTruncated dropReason = iota
	dropMalformed
	dropNoPipeline
	dropNoVIP
	dropNoProfile
	dropNoPool
	dropNoBucket
	dropNoBackend
	dropNoPort
	dropNotSent
	dropReasons
)

var dropNames = [dropReasons]string{
	"truncated", "malformed", "no pipeline", "no VIP", "no hash profile", "no pool", "no bucket", "no backend", "no port", "not sent",
}

type stats struct {
	forwarded atomic.Uint64
	writes    atomic.Uint64
	dropped   [dropReasons]atomic.Uint64
}

func (s *stats) drop(r dropReason) { s.dropped[r].Add(1) }

// Stats is what a switch has counted since it was made.
type Stats struct {
	Forwarded uint64            // packets sent on
	Dropped   map[string]uint64 // packets dropped, by reason
	Writes    uint64            // updates of the tables that succeeded
	Pushes    uint64            // pipelines that were committed
}

// Stats returns the counts.
func (s *Switch) Stats() Stats {
	st := Stats{Forwarded: s.stats.forwarded.Load(), Writes: s.stats.writes.Load(), Pushes: s.pushes.Load(), Dropped: map[string]uint64{}}
	for r := range dropReasons {
		if n := s.stats.dropped[r].Load(); n > 0 {
			st.Dropped[dropNames[r]] = n
		}
	}
	return st
}
