package reconciler

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gray-release/gray/schema"
)

// StatusVersion is the apiVersion of a Status.
const StatusVersion = "gray.dev/status/v1"

// Condition says one thing about an object, as the GitOps world writes it.
type Condition struct {
	Type               string    `json:"type"`   // Ready, Reconciling, Stalled or Programmed
	Status             string    `json:"status"` // True or False
	Reason             string    `json:"reason"` // CamelCase
	Message            string    `json:"message,omitempty"`
	LastTransitionTime time.Time `json:"lastTransitionTime"`
	ObservedRevision   string    `json:"observedRevision,omitempty"`
}

// Status is how everything stands.
type Status struct {
	APIVersion string           `json:"apiVersion"`
	Revision   string           `json:"revision"` // the last good commit, which is desired
	Fetched    string           `json:"fetched"`  // the last commit that was seen
	Errors     []string         `json:"errors"`   // what is wrong with it, or with fetching
	Conditions []Condition      `json:"conditions"`
	Documents  []DocumentStatus `json:"documents"`
	Targets    []TargetStatus   `json:"targets"`
}

// DocumentStatus is how one document stands.
type DocumentStatus struct {
	Kind       string      `json:"kind"`
	Name       string      `json:"name"`
	Place      string      `json:"place"` // path:line
	Conditions []Condition `json:"conditions"`
}

// TargetStatus is how one target stands.
type TargetStatus struct {
	Name       string      `json:"name"`
	Resources  int         `json:"resources"` // desired
	Pending    int         `json:"pending"`   // that differ, or may
	Observed   *time.Time  `json:"observed,omitempty"`
	Conditions []Condition `json:"conditions"`
}

// Status tells how everything stands.
func (r *Reconciler) Status(ctx context.Context) (*Status, error) {
	s := &Status{APIVersion: StatusVersion, Errors: []string{}, Documents: []DocumentStatus{}, Targets: []TargetStatus{}}
	err := r.inLoop(ctx, func() {
		s.Revision, s.Fetched = r.revision, r.seen
		for _, err := range []error{r.fetchErr, r.badErr} {
			if err != nil {
				s.Errors = append(s.Errors, strings.Split(err.Error(), "\n")...)
			}
		}
		pending := 0
		for _, name := range slices.Sorted(maps.Keys(r.targets)) {
			ts := r.targets[name].status(r.revision)
			pending += ts.Pending
			s.Targets = append(s.Targets, ts)
		}
		s.Documents = r.documents()
		s.Conditions = r.conditions(pending)
	})
	return s, err
}

// conditions are those of the repository as a whole.
func (r *Reconciler) conditions(pending int) []Condition {
	ready := Condition{Type: "Ready", Status: "True", Reason: "Applied", LastTransitionTime: r.since, ObservedRevision: r.revision}
	switch {
	case r.fetchErr != nil:
		ready.Status, ready.Reason, ready.Message = "False", "FetchFailed", firstLine(r.fetchErr)
	case r.badErr != nil:
		ready.Status, ready.Reason, ready.Message = "False", "CommitRefused", firstLine(r.badErr)
	case r.revision == "":
		ready.Status, ready.Reason = "False", "NothingFetched"
	case pending > 0:
		ready.Status, ready.Reason, ready.Message = "False", "Progressing", fmt.Sprintf("%d changes are not live yet", pending)
	}
	for _, t := range r.targets {
		if ready.Status == "True" && (t.err != nil || len(t.errs) > 0) {
			ready.Status, ready.Reason, ready.Message = "False", "TargetFailed", "see targets"
		}
	}
	return []Condition{ready}
}

// status tells how a target stands.
func (t *target) status(revision string) TargetStatus {
	ts := TargetStatus{Name: t.name, Resources: len(t.desired), Pending: len(t.dirty)}
	programmed := Condition{Type: "Programmed", Status: "True", Reason: "Applied", LastTransitionTime: t.since, ObservedRevision: revision}
	switch {
	case t.observed == nil && t.err == nil:
		programmed.Status, programmed.Reason = "False", "NotObserved"
	case t.err != nil && t.observed == nil:
		programmed.Status, programmed.Reason, programmed.Message = "False", "Unreachable", firstLine(t.err)
	case t.err != nil:
		programmed.Status, programmed.Reason, programmed.Message = "False", "ApplyFailed", firstLine(t.err)
	case len(t.errs) > 0:
		programmed.Status, programmed.Reason, programmed.Message = "False", "Refused", firstLine(&PartialError{Keys: t.errs})
	case len(t.dirty) > 0:
		programmed.Status, programmed.Reason = "False", "Progressing"
	}
	ts.Conditions = append(ts.Conditions, programmed)
	if len(t.dirty) > 0 {
		ts.Conditions = append(ts.Conditions, Condition{Type: "Reconciling", Status: "True", Reason: "Progressing", LastTransitionTime: t.since, ObservedRevision: revision})
	}
	if t.err != nil {
		ts.Conditions = append(ts.Conditions, Condition{Type: "Stalled", Status: "True", Reason: programmed.Reason, Message: programmed.Message, LastTransitionTime: t.since, ObservedRevision: revision})
	}
	if t.observed != nil {
		at := t.observedAt
		ts.Observed = &at
	}
	return ts
}

// documents tells for each document whether all that comes from it is live.
func (r *Reconciler) documents() []DocumentStatus {
	all := []DocumentStatus{}
	docs := map[string][]*schema.Document{} // by path, in order
	for _, n := range r.set.Names() {
		d := r.set.Get(n)
		docs[d.Path] = append(docs[d.Path], d)
	}
	for _, list := range docs {
		slices.SortFunc(list, (*schema.Document).Compare)
	}
	trouble := map[*schema.Document]*Condition{}
	for _, t := range r.targets {
		for k := range t.dirty {
			if d := cause(docs, t, k); d != nil && trouble[d] == nil {
				trouble[d] = &Condition{Reason: "Progressing", Message: k.String() + " is not live yet", LastTransitionTime: r.since}
			}
		}
		for _, k := range slices.SortedFunc(maps.Keys(t.errs), Key.Compare) {
			if d := cause(docs, t, k); d != nil && (trouble[d] == nil || trouble[d].Reason == "Progressing") {
				place := t.desired[k].Origin.String()
				trouble[d] = &Condition{Reason: "Refused", Message: fmt.Sprintf("%s: %s: %v", place, k, t.errs[k]), LastTransitionTime: t.since}
			}
		}
	}
	for _, n := range r.set.Names() {
		d := r.set.Get(n)
		ready := Condition{Type: "Ready", Status: "True", Reason: "Applied", LastTransitionTime: r.since, ObservedRevision: r.revision}
		if bad := trouble[d]; bad != nil {
			ready.Status, ready.Reason, ready.Message, ready.LastTransitionTime = "False", bad.Reason, bad.Message, bad.LastTransitionTime
		}
		all = append(all, DocumentStatus{n.Kind, n.Name, d.Position.String(), []Condition{ready}})
	}
	return all
}

// cause is the document that a desired resource comes from, or nil.
func cause(docs map[string][]*schema.Document, t *target, k Key) *schema.Document {
	res := t.desired[k]
	if res == nil {
		return nil
	}
	var found *schema.Document
	for _, d := range docs[res.Origin.Path] {
		if d.Line <= res.Origin.Line {
			found = d
		}
	}
	return found
}

func firstLine(err error) string {
	line, _, more := strings.Cut(err.Error(), "\n")
	if more {
		line += " (and more)"
	}
	return line
}
