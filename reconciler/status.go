package reconciler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/btree"

	"github.com/gray-release/gray/schema"
)

// StatusVersion is the apiVersion of a Status.
const StatusVersion = "gray.dev/status/v1"

// Condition says one thing about an object, as the GitOps world writes it.
type Condition struct {
	Type               string    `json:"type"`   // Ready, Reconciling, Stalled, Programmed or Degraded
	Status             string    `json:"status"` // True or False
	Reason             string    `json:"reason"` // CamelCase
	Message            string    `json:"message,omitempty"`
	LastTransitionTime time.Time `json:"lastTransitionTime"` // of Status
	ObservedRevision   string    `json:"observedRevision,omitempty"`
}

// String is the condition on one line, without its type.
func (c Condition) String() string {
	return strings.TrimRight(fmt.Sprintf("%s %s %s", c.Status, c.Reason, c.Message), " ")
}

// Status is the status of everything.
type Status struct {
	APIVersion string           `json:"apiVersion"`
	Revision   string           `json:"revision"`   // the last good commit, which is desired
	Fetched    string           `json:"fetched"`    // the last commit that was seen
	Errors     []string         `json:"errors"`     // what is wrong with it, or with fetching
	Warnings   []string         `json:"warnings"`   // what is odd in the last good commit, sorted
	Conditions []Condition      `json:"conditions"` // Ready first; Reconciling and Stalled where they are True
	Documents  []DocumentStatus `json:"documents"`  // of the last good commit, sorted
	Targets    []TargetStatus   `json:"targets"`    // sorted
	Rollouts   []RolloutStatus  `json:"rollouts"`   // sorted
}

// DocumentStatus is the status of one document.
type DocumentStatus struct {
	Kind       string      `json:"kind"`
	Name       string      `json:"name"`
	Place      string      `json:"place"`      // path:line
	Conditions []Condition `json:"conditions"` // as those of Status; Degraded where servers of a Gateway fail or endpoints from etcd are not as they should be
}

// TargetStatus is the status of one target.
type TargetStatus struct {
	Name       string      `json:"name"`
	Resources  int         `json:"resources"` // desired
	Pending    int         `json:"pending"`   // that differ, or may
	Waiting    int         `json:"waiting"`   // of these, that wait for another resource
	Observed   *time.Time  `json:"observed,omitempty"`
	Conditions []Condition `json:"conditions"` // Programmed first; Reconciling and Stalled where they are True
}

// view is what the loop hands out for a Status to be made of: it is cheap to take
// and nobody changes it.
type view struct {
	revision, seen              string
	warned                      map[string]bool
	held                        error // why revision is not admitted
	fetchErr, badErr            error
	ready, reconciling, stalled flag
	docs                        *btree.BTreeG[document]
	undone                      map[schema.Name]int
	lacks                       map[schema.Name]lack // nobody changes it
	targets                     []targetView
	rollouts                    []rolloutView
}

// targetView is a target in a view.
type targetView struct {
	name                             string
	resources, pending               int
	programmed, reconciling, stalled flag
	read                             bool
	readAt                           time.Time
	err                              error
	reason                           string
	troubled, waiting                []keyView
}

// keyView is a key that is in trouble or waits.
type keyView struct {
	key   Key
	doc   schema.Name     // zero where there is none
	at    schema.Position // zero where nobody knows
	err   error           // what is wrong
	since time.Time       // with it
	why   Key             // what it waits for
}

// Status returns the status of everything.
func (r *Reconciler) Status(ctx context.Context) (*Status, error) {
	var v view
	if err := r.inLoop(ctx, func() { v = r.view() }); err != nil {
		return nil, err
	}
	s := &Status{
		APIVersion: StatusVersion, Revision: v.revision, Fetched: v.seen, Errors: []string{}, Warnings: append([]string{}, slices.Sorted(maps.Keys(v.warned))...),
		Conditions: v.conditions(), Documents: v.documents(), Targets: []TargetStatus{}, Rollouts: []RolloutStatus{},
	}
	for _, err := range []error{v.fetchErr, v.badErr} {
		if err != nil {
			s.Errors = append(s.Errors, strings.Split(err.Error(), "\n")...)
		}
	}
	for i := range v.targets {
		s.Targets = append(s.Targets, v.targets[i].status(v.revision, v.held))
	}
	for i := range v.rollouts {
		s.Rollouts = append(s.Rollouts, v.rollouts[i].status(v.revision))
	}
	return s, nil
}

// recordState records the conditions, so that transitions have their time.
func (r *Reconciler) recordState(now time.Time) {
	good := r.fetchErr == nil && r.badErr == nil
	r.findLacks(now)
	ready, todo := good && r.revision != "" && len(r.missing) == 0, false
	for _, t := range r.targets {
		t.recordState(now)
		ready, todo, good = ready && t.programmed.on, todo || t.reconciling.on, good && !t.stalled.on
	}
	r.ready.set(ready, now)
	r.reconciling.set(todo, now)
	r.stalled.set(!good, now)
	r.recordRollouts(now)
}

// view costs what is in trouble or under way, not what there is.
func (r *Reconciler) view() view {
	r.recordState(time.Now())
	v := view{
		revision: r.revision, seen: r.seen, warned: r.warned, fetchErr: r.fetchErr, badErr: r.badErr,
		ready: r.ready, reconciling: r.reconciling, stalled: r.stalled, docs: r.docs.Clone(), undone: maps.Clone(r.undone), lacks: r.missing,
	}
	if !r.admitted && r.revision != "" {
		v.revision, v.held = r.last.Revision, r.badErr
	}
	v.rollouts = r.viewRollouts()
	for _, name := range slices.Sorted(maps.Keys(r.targets)) {
		t := r.targets[name]
		tv := targetView{
			name: name, resources: len(t.desired), pending: len(t.dirty), programmed: t.programmed, reconciling: t.reconciling, stalled: t.stalled,
			read: t.observed != nil, readAt: t.readAt, err: t.err, reason: t.reason,
		}
		key := func(k Key) keyView {
			kv := keyView{key: k, doc: t.charged[k].doc}
			if d := t.desired[k]; d != nil {
				kv.at = d.Origin
			}
			return kv
		}
		for k, tr := range t.troubles {
			kv := key(k)
			kv.err, kv.since = tr.err, tr.since
			tv.troubled = append(tv.troubled, kv)
		}
		for k, why := range t.waiting {
			kv := key(k)
			kv.why = why
			tv.waiting = append(tv.waiting, kv)
		}
		v.targets = append(v.targets, tv)
	}
	return v
}

// conditions are those of the repository as a whole.
func (v *view) conditions() []Condition {
	reason, message := "Applied", ""
	pending, failed := 0, []string(nil)
	for i := range v.targets {
		t := &v.targets[i]
		pending += t.pending
		if t.stalled.on {
			failed = append(failed, t.name)
		}
	}
	switch {
	case v.fetchErr != nil:
		reason, message = "FetchFailed", firstLine(v.fetchErr)
	case v.badErr != nil:
		reason, message = "CommitRefused", firstLine(v.badErr)
		if _, deletes := errors.AsType[*RefusedError](v.badErr); deletes {
			reason = "DeleteRefused"
		}
	case v.revision == "":
		reason = "NothingFetched"
	case len(failed) > 0:
		reason, message = "TargetFailed", strings.Join(failed, ", ")+" failed, see targets"
	case len(v.lacks) > 0:
		reason, message = firstLack(v.lacks)
	case !v.ready.on:
		reason, message = "Progressing", fmt.Sprintf("%d changes are not live yet", pending)
	}
	return conditions("Ready", v.ready, v.reconciling, v.stalled, v.revision, reason, message)
}

// conditions are the first one, and Reconciling and Stalled where they are so.
// Reason and message say why the first is not True, or that it is.
func conditions(first string, good, todo, bad flag, revision, reason, message string) []Condition {
	all := []Condition{{first, "False", reason, message, good.since, revision}}
	if good.on {
		all[0].Status = "True"
	}
	if todo.on {
		all = append(all, Condition{"Reconciling", "True", "Progressing", "", todo.since, revision})
	}
	if bad.on {
		all = append(all, Condition{"Stalled", "True", reason, message, bad.since, revision})
	}
	return all
}

// status returns the status of a target.
func (t *targetView) status(revision string, held error) TargetStatus {
	ts := TargetStatus{Name: t.name, Resources: t.resources, Pending: t.pending, Waiting: len(t.waiting)}
	reason, message := "Applied", ""
	byKey := func(a, b keyView) int { return a.key.Compare(b.key) }
	switch {
	case t.err != nil:
		reason, message = t.reason, firstLine(t.err)
	case held != nil && t.pending > 0:
		reason, message = "DeleteRefused", firstLine(held)
	case len(t.troubled) > 0:
		var errs *PartialError
		for _, k := range t.troubled {
			errs = errs.Add(k.key, k.err)
		}
		reason, message = reasonOf(slices.MinFunc(t.troubled, byKey).err), firstLine(errs)
	case !t.read:
		reason = "NotObserved"
	case len(t.waiting) > 0 && len(t.waiting) == t.pending:
		k := slices.MinFunc(t.waiting, byKey)
		reason, message = "Waiting", fmt.Sprintf("%s waits for %s", k.key, k.why)
	case !t.programmed.on:
		reason, message = "Progressing", fmt.Sprintf("%d changes are not live yet", t.pending)
	}
	ts.Conditions = conditions("Programmed", t.programmed, t.reconciling, t.stalled, revision, reason, message)
	if t.read {
		ts.Observed = &t.readAt
	}
	return ts
}

// documents tells for each document whether all that comes from it is live.
func (v *view) documents() []DocumentStatus {
	troubled, waiting := map[schema.Name][]keyView{}, map[schema.Name][]keyView{}
	for i := range v.targets {
		for _, k := range v.targets[i].troubled {
			troubled[k.doc] = append(troubled[k.doc], k)
		}
		for _, k := range v.targets[i].waiting {
			waiting[k.doc] = append(waiting[k.doc], k)
		}
	}
	rollouts := map[string]*rolloutView{}
	for i := range v.rollouts {
		rollouts[v.rollouts[i].state.Policy] = &v.rollouts[i]
	}
	all := make([]DocumentStatus, 0, v.docs.Len())
	v.docs.Ascend(func(d document) bool {
		reason, message := "Applied", ""
		todo, bad := flag{!d.ready.on, d.ready.since}, flag{}
		switch t, w := troubled[d.name], waiting[d.name]; {
		case len(t) > 0:
			first := slices.MinFunc(t, func(a, b keyView) int { return cmp.Or(a.at.Compare(b.at), a.key.Compare(b.key)) })
			reason, message = reasonOf(first.err), fmt.Sprintf("%s: %s: %s", first.at, first.key, firstLine(first.err))
			if len(t) > 1 {
				message += fmt.Sprintf("; and %d more", len(t)-1)
			}
			bad = flag{true, slices.MinFunc(t, func(a, b keyView) int { return a.since.Compare(b.since) }).since}
			todo.on = len(t) < v.undone[d.name]
		case v.lacks[d.name] != (lack{}):
			reason, message = v.lacks[d.name].reason, v.lacks[d.name].message
			todo.on = v.undone[d.name] > 0
			bad = flag{true, d.ready.since}
		case len(w) > 0:
			first := slices.MinFunc(w, func(a, b keyView) int { return a.key.Compare(b.key) })
			reason, message = "Waiting", fmt.Sprintf("%s waits for %s", first.key, first.why)
		case !d.ready.on:
			reason, message = "Progressing", fmt.Sprintf("%d of its resources are not live yet", v.undone[d.name])
		case d.held:
			reason, message = "Suspended", "what was in force before stays in force"
		}
		ds := DocumentStatus{d.name.Kind, d.name.Name, d.at.String(), conditions("Ready", d.ready, todo, bad, v.revision, reason, message)}
		if ro := rollouts[d.name.Name]; ro != nil && d.name.Kind == schema.KindPolicy && d.ready.on {
			ds.Conditions = ro.conditions(v.revision)
		}
		if d.degraded.on {
			ds.Conditions = append(ds.Conditions, Condition{"Degraded", "True", d.reason, d.ailing, d.degraded.since, v.revision})
		}
		all = append(all, ds)
		return true
	})
	return all
}

func firstLine(err error) string {
	line, _, more := strings.Cut(err.Error(), "\n")
	if more {
		line += " (and more)"
	}
	return line
}
