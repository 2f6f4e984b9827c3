package admin

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sources/probe"
)

// The bounds of an event's payload.
const (
	maxEvidence = 50   // answers per test
	maxShown    = 10   // answers per test in a text
	maxMessage  = 2000 // bytes of a message
	maxText     = 6000 // bytes of a text
)

// EventVersion is the apiVersion of an Event's payload.
const EventVersion = "gray.dev/event/v1"

// Event is something to tell people: a transition of a rollout.
type Event struct {
	Time     time.Time     `json:"time"`
	Warning  bool          `json:"warning,omitempty"` // people should look
	Kind     string        `json:"kind"`              // what happened, in one word: BatchPassed, RolledBack
	Policy   string        `json:"policy,omitempty"`
	Network  string        `json:"network,omitempty"`
	Batch    string        `json:"batch,omitempty"` // such as 2 of 4
	Commit   string        `json:"commit,omitempty"`
	Message  string        `json:"message"`            // one line, at most 2,000 bytes
	Evidence *probe.Result `json:"evidence,omitempty"` // of the probe that led to it
}

// LogValue is the event for a structured log line, with verdict and reason of its
// evidence.
func (e Event) LogValue() slog.Value {
	var attrs []slog.Attr
	for _, a := range [][2]string{{"kind", e.Kind}, {"policy", e.Policy}, {"network", e.Network}, {"batch", e.Batch}, {"commit", e.Commit}, {"message", e.Message}} {
		if a[1] != "" {
			attrs = append(attrs, slog.String(a[0], a[1]))
		}
	}
	if e.Evidence != nil {
		attrs = append(attrs, slog.String("verdict", string(e.Evidence.Verdict)), slog.String("reason", e.Evidence.Reason))
	}
	return slog.GroupValue(attrs...)
}

// payload encodes the event; dropped counts the events lost before it.
func (e Event) payload(format string, dropped int) ([]byte, error) {
	if format == FormatSlack {
		return json.Marshal(struct {
			Text string `json:"text"`
		}{e.text(dropped)})
	}
	return json.Marshal(struct {
		APIVersion string `json:"apiVersion"`
		Event
		Dropped int `json:"dropped,omitempty"`
	}{EventVersion, e, dropped})
}

// text formats the event for people, in Slack's markup.
func (e Event) text(dropped int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s*", escape(e.Kind))
	if e.Policy != "" {
		fmt.Fprintf(&b, " of `%s`", escape(e.Policy))
	}
	fmt.Fprintf(&b, ": %s", escape(e.Message))
	var about []string
	for _, a := range [][2]string{{"network", e.Network}, {"batch", e.Batch}, {"commit", e.Commit}} {
		if a[1] != "" {
			about = append(about, a[0]+" "+escape(clip(a[1], maxReplyText)))
		}
	}
	if len(about) > 0 {
		fmt.Fprintf(&b, "\n%s", strings.Join(about, ", "))
	}
	if e.Evidence != nil {
		// A clipped text must not leave the block open.
		fmt.Fprintf(&b, "\n```\n%s\n```", escape(clipLines(e.Evidence.Lines(maxShown), maxText)))
	}
	if dropped > 0 {
		fmt.Fprintf(&b, "\n_%d earlier events were dropped_", dropped)
	}
	return b.String()
}

// clipLines joins lines up to a bound.
func clipLines(lines []string, most int) string {
	n := 0
	for i, l := range lines {
		l = clip(l, maxMessage)
		if lines[i] = l; n+len(l) > most {
			return strings.Join(append(lines[:i:i], fmt.Sprintf("and %d more lines", len(lines)-i)), "\n")
		}
		n += len(l) + 1
	}
	return strings.Join(lines, "\n")
}

// clip makes a text one line of at most so many bytes.
func clip(s string, most int) string {
	return schema.Clip(strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), " "), most)
}

// escape keeps Slack from reading markup in a name or a message.
func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "`", "'").Replace(s)
}
