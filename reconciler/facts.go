package reconciler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/schema"
)

// What sources find out is taken in as facts.

// takeHealth takes in which servers fail their checks.
func (r *Reconciler) takeHealth() {
	r.facts.Down = r.cfg.Health.Down()
	if r.revision == "" {
		return // the first commit acts on it
	}
	if err := r.decide(r.meaning.good); err != nil {
		r.cfg.Log.Error("cannot act on failing servers, will try again", "error", err)
	}
	r.takeDead()
}

// notice takes over how many of a delta's servers fail.
func (r *Reconciler) notice(d *delta, now time.Time) {
	for _, n := range d.units {
		if n.Kind != schema.KindGateway || n.Part != "" {
			continue
		}
		doc, ok := r.docs.Get(document{name: schema.Name{Kind: n.Kind, Name: n.Name}})
		if gw := d.ir.Gateway(n.Name); ok && gw != nil {
			doc.ailing, doc.reason = ailing(gw, r.cfg.Health), "ServersDown"
			doc.degraded.set(doc.ailing != "", now)
			r.docs.ReplaceOrInsert(doc)
		}
	}
}

// ailing says which servers of a gateway fail, empty where none does.
func ailing(gw *packets.Gateway, checks *board.Health) string {
	var words []string
	for i := range gw.Pools {
		p := &gw.Pools[i]
		var down []string
		for _, b := range p.Backends {
			if b.Down {
				name := b.Name
				if why := checks.Why(gw.Name, p.Version+"/"+b.Name); why != nil {
					name += ": " + why.Error()
				}
				down = append(down, name)
			}
		}
		if len(down) == 0 {
			continue
		}
		s := fmt.Sprintf("%d of %d servers of %s fail their checks (%s)", len(down), len(p.Backends), p.Version, strings.Join(down[:min(5, len(down))], ", "))
		if p.Kept > 0 {
			s += fmt.Sprintf(", %d of them keep their buckets, as half always stay", p.Kept)
		}
		words = append(words, s)
	}
	return strings.Join(words, "; ")
}

// takeEndpoints takes in what was found in etcd.
func (r *Reconciler) takeEndpoints() {
	r.facts.Endpoints = r.cfg.Discovery.Endpoints()
	if r.revision == "" {
		return // the first commit acts on it
	}
	if err := r.decide(r.meaning.good); err != nil {
		r.cfg.Log.Error("cannot act on endpoints from etcd, will try again", "error", err)
	}
	r.noteEndpoints(time.Now())
}

// lookUp takes over which targets the services in force name.
func (r *Reconciler) lookUp(d *delta, now time.Time) {
	services := false
	for _, n := range d.units {
		if n.Kind == schema.KindService && n.Part == "" {
			services = true
		}
	}
	if !services || r.cfg.Discovery == nil {
		return
	}
	last := r.lookups
	r.lookups = d.ir.Lookups()
	var targets []string
	still := map[string]bool{}
	for _, l := range r.lookups {
		targets = append(targets, l.Target)
		still[l.Service] = true
	}
	for _, l := range last {
		if !still[l.Service] {
			r.noteTrouble(l.Service, board.Trouble{}, now)
		}
	}
	slices.Sort(targets)
	if err := r.cfg.Discovery.Want(slices.Compact(targets)); err != nil {
		r.cfg.Log.Error("cannot write the --state file", "error", err)
	}
	r.noteEndpoints(now)
}

// noteEndpoints says at the services what is wrong with their endpoints.
func (r *Reconciler) noteEndpoints(now time.Time) {
	for i := 0; i < len(r.lookups); {
		service := r.lookups[i].Service
		var sum board.Trouble
		var words []string
		for ; i < len(r.lookups) && r.lookups[i].Service == service; i++ {
			l := r.lookups[i]
			if t := r.cfg.Discovery.Trouble(l.Target); t != (board.Trouble{}) {
				sum.Reason = cmp.Or(sum.Reason, t.Reason)
				words = append(words, fmt.Sprintf("%s: version %s, etcd %s: %s", l.Origin, l.Version, l.Target, t.Message))
			}
		}
		sum.Message = strings.Join(words, "; ")
		r.noteTrouble(service, sum, now)
	}
}

// noteTrouble says what is wrong with a service.
func (r *Reconciler) noteTrouble(service string, t board.Trouble, now time.Time) {
	doc, ok := r.docs.Get(document{name: schema.Name{Kind: schema.KindService, Name: service}})
	if !ok || doc.ailing == t.Message && doc.reason == t.Reason {
		return
	}
	doc.ailing, doc.reason = t.Message, t.Reason
	doc.degraded.set(t.Message != "", now)
	r.docs.ReplaceOrInsert(doc)
}
