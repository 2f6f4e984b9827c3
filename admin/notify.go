package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sources/probe"
)

// The bounds of webhooks.
const (
	maxQueue     = 1000             // events in the queue of a webhook
	postTimeout  = 10 * time.Second // of one delivery
	minBackoff   = time.Second
	maxBackoff   = 2 * time.Minute
	maxReply     = 4 << 10 // bytes of an answer that are read
	maxReplyText = 200     // bytes of an answer that are shown
	minSecret    = 8       // bytes of a part of a URL that may be a token
)

// The formats of webhooks.
const (
	FormatJSON  = "json"  // an Event, and how many were dropped before it
	FormatSlack = "slack" // a text, for Slack and what is compatible with it
)

// Webhook is a URL that gets events.
type Webhook struct {
	URL    string // may hold a token and is never shown
	Format string // FormatJSON or FormatSlack
}

// WebhookStatus counts the deliveries of a webhook.
type WebhookStatus struct {
	Name      string `json:"name"` // its number in the list, and its host
	Queued    int    `json:"queued"`
	Delivered int    `json:"delivered"`
	Refused   int    `json:"refused"`         // events that the server refused for good
	Dropped   int    `json:"dropped"`         // events dropped from a full queue, the oldest first
	Error     string `json:"error,omitempty"` // of the last attempt, if it failed
}

// Notifier sends events to webhooks. Each has a queue of its own, so that a slow one
// delays neither the others nor the caller.
type Notifier struct {
	hooks []*hook
	log   *slog.Logger
}

// hook is a webhook with its queue.
type hook struct {
	Webhook
	secrets []string
	client  *http.Client
	log     *slog.Logger
	wake    chan struct{}

	mu      sync.Mutex
	status  WebhookStatus
	queue   []Event
	first   uint64 // the number of the event at the queue's head
	skipped int    // events that were dropped since the last delivery
}

// NewNotifier makes a Notifier. Its errors name a webhook by its number, from 1, and
// never show the URL.
func NewNotifier(log *slog.Logger, webhooks ...Webhook) (*Notifier, error) {
	n := &Notifier{log: log}
	for i, w := range webhooks {
		u, err := url.Parse(w.URL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("webhook %d: its URL cannot be used; want https://HOST/PATH", i+1)
		}
		if w.Format != FormatJSON && w.Format != FormatSlack {
			return nil, fmt.Errorf("webhook %d: format %q is unknown; want %s or %s", i+1, w.Format, FormatJSON, FormatSlack)
		}
		name := fmt.Sprintf("%d (%s)", i+1, u.Host)
		n.hooks = append(n.hooks, &hook{
			Webhook: w, secrets: secretsOf(u), log: log.With("webhook", name), wake: make(chan struct{}, 1), status: WebhookStatus{Name: name},
			client: &http.Client{
				Timeout: postTimeout,
				// A redirect must not carry the token elsewhere.
				CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			},
		})
	}
	return n, nil
}

// Notify queues an event for every webhook and returns at once. The caller must not
// change what the event points to. A full queue drops its oldest event.
func (n *Notifier) Notify(e Event) {
	e.Message = clip(e.Message, maxMessage)
	if e.Evidence != nil {
		e.Evidence = e.Evidence.Evidence(maxEvidence)
	}
	for _, h := range n.hooks {
		h.push(e)
	}
}

// Status returns the state of all webhooks.
func (n *Notifier) Status() []WebhookStatus {
	out := []WebhookStatus{}
	for _, h := range n.hooks {
		h.mu.Lock()
		s := h.status
		s.Queued = len(h.queue)
		h.mu.Unlock()
		out = append(out, s)
	}
	return out
}

// Run delivers until ctx ends.
func (n *Notifier) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, h := range n.hooks {
		all.Go(func() { h.run(ctx) })
	}
	all.Wait()
	for _, s := range n.Status() {
		if s.Queued > 0 {
			n.log.Warn("the daemon ends with events that were not delivered", "webhook", s.Name, "events", s.Queued)
		}
	}
}

func (h *hook) push(e Event) {
	h.mu.Lock()
	if len(h.queue) == maxQueue {
		h.queue = h.queue[1:]
		h.first++
		h.skipped++
		h.status.Dropped++
	}
	h.queue = append(h.queue, e)
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// head returns the oldest event, its number, and how many were dropped before it.
func (h *hook) head() (e Event, number uint64, skipped int, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.queue) == 0 {
		return e, 0, 0, false
	}
	return h.queue[0], h.first, h.skipped, true
}

// run delivers one event after another, each until it is delivered or refused.
func (h *hook) run(ctx context.Context) {
	for backoff := minBackoff; ; {
		e, number, skipped, ok := h.head()
		if !ok {
			select {
			case <-h.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		err := h.post(ctx, e, skipped)
		if ctx.Err() != nil {
			return
		}
		again, retry := errors.AsType[*retryable](err)
		h.settle(number, skipped, err, retry)
		if !retry {
			backoff = minBackoff
			continue
		}
		// Jitter, so that daemons that failed together do not retry together.
		wait := max(backoff/2+rand.N(backoff/2), again.after)
		backoff = min(2*backoff, maxBackoff)
		h.log.Warn("cannot deliver an event, will try again", "kind", e.Kind, "error", err, "again", wait.Round(time.Millisecond).String())
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// settle records the result of an attempt. The event leaves the queue unless it has to
// be retried, or was dropped in the meantime.
func (h *hook) settle(number uint64, skipped int, err error, retry bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status.Error = ""
	if err != nil {
		h.status.Error = err.Error()
	}
	if retry {
		return
	}
	if err == nil {
		h.status.Delivered++
		h.skipped -= skipped
	} else {
		h.status.Refused++
		h.log.Error("an event was refused and is not sent again", "error", err)
	}
	switch {
	case h.first == number:
		h.queue = h.queue[1:]
		h.first++
	case err == nil: // it was dropped during its delivery, and arrived
		h.status.Dropped--
		h.skipped--
	}
}

// retryable is a failure that may be temporary.
type retryable struct {
	error
	after time.Duration // how long the server asked to wait
}

// post delivers one event. Its errors never contain the URL.
func (h *hook) post(ctx context.Context, e Event, skipped int) error {
	body, err := e.payload(h.Format, skipped)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(body))
	if err != nil {
		return errors.New("the request cannot be made")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "gray")
	res, err := h.client.Do(req)
	if err != nil {
		if inner := errors.Unwrap(err); inner != nil {
			err = inner // without method and URL
		}
		return &retryable{error: errors.New(h.redact(err.Error()))}
	}
	defer res.Body.Close()
	reply, _ := io.ReadAll(io.LimitReader(res.Body, maxReply))
	if res.StatusCode < 300 {
		return nil
	}
	err = fmt.Errorf("answered with status %d: %q", res.StatusCode, h.redact(clip(string(reply), maxReplyText)))
	switch {
	case res.StatusCode >= 500, res.StatusCode == http.StatusTooManyRequests, res.StatusCode == http.StatusRequestTimeout:
		seconds, _ := strconv.Atoi(res.Header.Get("Retry-After"))
		return &retryable{err, min(max(0, time.Duration(min(seconds, 3600))*time.Second), maxBackoff)}
	}
	return err
}

// secretsOf lists the parts of a URL that may be a token, the longest first.
func secretsOf(u *url.URL) []string {
	password, _ := u.User.Password()
	all := []string{u.String(), u.RequestURI(), u.Path, u.RawQuery, u.User.Username(), password}
	all = append(all, strings.Split(u.Path, "/")...)
	for _, values := range u.Query() {
		all = append(all, values...)
	}
	all = slices.DeleteFunc(all, func(s string) bool { return len(s) < minSecret })
	slices.SortFunc(all, func(a, b string) int { return len(b) - len(a) })
	return all
}

// redact removes the parts of the URL that may be a token from a text.
func (h *hook) redact(s string) string {
	for _, secret := range h.secrets {
		s = strings.ReplaceAll(s, secret, "[redacted]")
	}
	return s
}

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
