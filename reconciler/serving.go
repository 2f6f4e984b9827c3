package reconciler

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/schema"
)

// A document is Ready only where everything that it means is live now, and resources are
// not all of that: the switch may be away since they were read back, and all servers of a
// version may be down. What a document lacks beside its resources is worked out here.

// lack is why a document is not Ready whatever its resources are; the zero lack is none.
type lack struct{ reason, message string }

// serving is what Gateways and Services are served by, and what documents lack.
type serving struct {
	serves  map[schema.Name]any               // the Gateways and Services in force: *packets.Gateway, *requests.Service
	dead    map[schema.Name]map[string]string // of these: the versions that no server serves, and why
	missing map[schema.Name]lack
	stirred bool // something happened that lacks follow from
}

// serve takes over the Gateways and Services of a delta.
func (r *Reconciler) serve(d *delta) {
	changed := false
	for _, n := range d.units {
		if n.Part != "" || n.Kind != schema.KindGateway && n.Kind != schema.KindService {
			continue
		}
		changed = true
		name := schema.Name{Kind: n.Kind, Name: n.Name}
		if unit := d.ir.Get(n); unit != nil {
			r.serves[name] = unit
		} else {
			delete(r.serves, name)
		}
	}
	if changed {
		r.cfg.Health.Want(d.ir.Checks())
	}
	for _, n := range d.units {
		if n.Part == "" {
			r.findDead(schema.Name{Kind: n.Kind, Name: n.Name})
		}
	}
	r.stirred = r.stirred || len(d.docs) > 0
}

// findDead works out the versions of a Gateway or Service that no server serves.
func (r *Reconciler) findDead(n schema.Name) {
	dead := map[string]string{}
	switch unit := r.serves[n].(type) {
	case *packets.Gateway:
		for i := range unit.Pools {
			p := &unit.Pools[i]
			var servers []string
			for _, b := range p.Backends {
				servers = append(servers, b.Name)
			}
			if why := allDown(r.cfg.Health, n.Name, p.Version, "servers", servers); why != "" {
				dead[p.Version] = fmt.Sprintf("version %s of Gateway %s: %s", p.Version, n.Name, why)
			}
		}
	case *requests.Service:
		for i := range unit.Versions {
			v := &unit.Versions[i]
			var servers []string
			for _, e := range v.Endpoints {
				servers = append(servers, e.HostPort())
			}
			switch why := allDown(r.cfg.Health, policies.OfService(n.Name), v.Name, "endpoints", servers); {
			case v.Unknown: // it is said where they are to be applied
			case len(servers) == 0:
				dead[v.Name] = fmt.Sprintf("version %s of Service %s has no endpoint", v.Name, n.Name)
			case why != "":
				dead[v.Name] = fmt.Sprintf("version %s of Service %s: %s", v.Name, n.Name, why)
			}
		}
	}
	if maps.Equal(dead, r.dead[n]) {
		return
	}
	if r.dead[n] = dead; len(dead) == 0 {
		delete(r.dead, n)
	}
	r.stirred = true
}

// allDown says that all servers of a version fail their checks, empty where one does not.
func allDown(checks *board.Health, of, version, what string, servers []string) string {
	const most = 5
	var words []string
	for _, s := range servers {
		why := checks.Why(of, version+"/"+s)
		if why == nil {
			return ""
		}
		if len(words) < most {
			words = append(words, s+": "+why.Error())
		}
	}
	return fmt.Sprintf("all %d %s fail their checks (%s)", len(servers), what, strings.Join(words, ", "))
}

// takeDead takes in which servers fail their checks.
func (r *Reconciler) takeDead() {
	for owner := range r.facts.Down {
		n := schema.Name{Kind: schema.KindGateway, Name: owner}
		if kind, name, is := strings.Cut(owner, "/"); is {
			n = schema.Name{Kind: kind, Name: name}
		}
		r.findDead(n)
	}
}

// findLacks works out what documents lack, where something happened. It costs nothing
// while nothing is wrong.
func (r *Reconciler) findLacks(now time.Time) {
	if !r.stirred {
		return
	}
	r.stirred = false
	lacks := map[schema.Name]lack{}
	for _, t := range r.targets {
		self := t.desired[Key{Target: t.name, Kind: KindTarget}]
		if t.err == nil || self == nil {
			continue
		}
		if doc := r.documentAt(self.Origin); doc != (schema.Name{}) {
			lacks[doc] = lack{t.reason, t.name + ": " + firstLine(t.err)}
		}
	}
	for n, versions := range r.dead {
		if why := versions[defaultOf(r.serves[n])]; why != "" {
			lacks[n] = lack{reasonDead(n), why}
		}
	}
	r.missEnvoys(lacks)
	if len(lacks)+len(r.dead) > 0 {
		r.docs.Ascend(func(d document) bool { // Gateways come before the policies that go to them
			if d.name.Kind != schema.KindGateway && d.name.Kind != schema.KindPolicy {
				return d.name.Kind < schema.KindPolicy
			}
			if l := r.lackOf(&d, lacks); l != (lack{}) {
				lacks[d.name] = l
			}
			return true
		})
	}
	last := r.missing
	r.missing = lacks
	for _, all := range []map[schema.Name]lack{last, lacks} {
		for n := range all {
			if last[n] != lacks[n] {
				r.reckon(n, now)
			}
		}
	}
}

// countAbsent counts the keys of a target that nobody has connected to take.
func (r *Reconciler) countAbsent(t *target) {
	n := 0
	for _, tr := range t.troubles {
		if reasonOf(tr.err) == ReasonNotConnected {
			n++
		}
	}
	r.stirred = r.stirred || n != t.absent
	t.absent = n
}

// missEnvoys adds all Services where no Node is connected: nobody routes to them.
func (r *Reconciler) missEnvoys(lacks map[schema.Name]lack) {
	absent, nodes := 0, 0
	for _, t := range r.targets {
		absent += t.absent
	}
	if absent == 0 {
		return
	}
	r.docs.AscendGreaterOrEqual(document{name: schema.Name{Kind: schema.KindNode}}, func(d document) bool {
		if d.name.Kind == schema.KindNode {
			nodes++
		}
		return d.name.Kind == schema.KindNode
	})
	if absent < nodes {
		return
	}
	for n := range r.serves {
		if n.Kind == schema.KindService && lacks[n] == (lack{}) {
			lacks[n] = lack{ReasonNotConnected, "no Envoy is connected, so nobody routes its requests"}
		}
	}
}

// lackOf is what a Gateway or a policy lacks by what it is about.
func (r *Reconciler) lackOf(d *document, lacks map[schema.Name]lack) lack {
	if own := lacks[d.name]; own != (lack{}) {
		return own
	}
	for _, n := range d.needs {
		if why := r.dead[n][d.version]; why != "" && d.version != "" {
			return lack{reasonDead(n), why}
		}
	}
	for _, n := range d.needs {
		if l := lacks[n]; l != (lack{}) {
			return lack{l.reason, fmt.Sprintf("%s %s: %s", n.Kind, n.Name, l.message)}
		}
	}
	return lack{}
}

func defaultOf(unit any) string {
	switch unit := unit.(type) {
	case *packets.Gateway:
		return unit.Default
	case *requests.Service:
		return unit.Default
	}
	return ""
}

func reasonDead(n schema.Name) string {
	if n.Kind == schema.KindService {
		return "NoEndpoints"
	}
	return "NoServers"
}

// reckon records anew whether a document is Ready.
func (r *Reconciler) reckon(n schema.Name, now time.Time) {
	d, ok := r.docs.Get(document{name: n})
	if ready := r.undone[n] == 0 && r.missing[n] == (lack{}); ok && d.ready.on != ready {
		d.ready.set(ready, now)
		r.docs.ReplaceOrInsert(d)
	}
}

// needsOf is what a document goes to: a Gateway's Switches, and a policy's targets with
// the version there.
func needsOf(d *schema.Document) (needs []schema.Name, version string) {
	switch spec := d.Spec.(type) {
	case *schema.GatewaySpec:
		for _, s := range spec.Switches {
			needs = append(needs, schema.Name{Kind: schema.KindSwitch, Name: s})
		}
	case *schema.PolicySpec:
		version = spec.Version
		for _, t := range spec.Targets {
			needs = append(needs, schema.Name(t))
		}
	}
	return needs, version
}

// firstLack is the first document that lacks something, as a condition of all of them.
func firstLack(lacks map[schema.Name]lack) (reason, message string) {
	n := slices.MinFunc(slices.Collect(maps.Keys(lacks)), schema.Name.Compare)
	message = fmt.Sprintf("%s/%s: %s", n.Kind, n.Name, lacks[n].message)
	if len(lacks) > 1 {
		message += fmt.Sprintf("; and %d more documents", len(lacks)-1)
	}
	return lacks[n].reason, message
}

// plight is one thing that is wrong, to be told of.
type plight struct{ reason, message string }

// plights is what is wrong now, by what it is about. It costs what is wrong.
func (r *Reconciler) plights() map[string]plight {
	all := map[string]plight{}
	if r.fetchErr != nil {
		all["the repository"] = plight{"FetchFailed", firstLine(r.fetchErr)}
	}
	if r.badErr != nil && !waits(r.badErr) {
		p := plight{"CommitRefused", r.seen + ": " + firstLine(r.badErr)}
		if _, deletes := errors.AsType[*RefusedError](r.badErr); deletes {
			p.reason = "DeleteRefused"
		}
		all["the commit"] = p
	}
	for name, t := range r.targets {
		switch {
		case t.err != nil:
			all[name] = plight{t.reason, firstLine(t.err)}
		case t.absent > 0 && t.absent == len(t.troubles):
			all[name] = plight{ReasonNotConnected, fmt.Sprintf("the Envoys of %d Nodes are not connected", t.absent)}
		case len(t.troubles) > 0:
			all[name] = plight{"Refused", fmt.Sprintf("%d of its resources are in trouble", len(t.troubles))}
		}
	}
	for n := range r.dead {
		if l := r.missing[n]; l.reason == reasonDead(n) {
			all[n.String()] = plight(l)
		}
	}
	return all
}

// tellPlights tells of what has become wrong, and of what is right again.
func (r *Reconciler) tellPlights(now time.Time) {
	if r.cfg.Events == nil || r.cfg.Follow != nil {
		return
	}
	all := r.plights()
	tell := func(about string, warning bool, reason, message string) {
		r.cfg.Events(Event{Time: now, Revision: r.revision, Event: rollout.Event{Warning: warning, Reason: reason, Message: about + ": " + message}})
	}
	for _, about := range slices.Sorted(maps.Keys(all)) {
		if p := all[about]; r.told[about].reason != p.reason {
			tell(about, true, p.reason, p.message)
		}
	}
	for _, about := range slices.Sorted(maps.Keys(r.told)) {
		if _, still := all[about]; !still {
			tell(about, false, "Recovered", "no longer "+r.told[about].reason)
		}
	}
	r.told = all
}
