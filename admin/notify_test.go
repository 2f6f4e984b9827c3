package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gray-release/gray/sources/probe"
)

const token = "T00000000/B00000000/hushhushhush" // as in a path

// failure is the event of a batch that failed.
func failure() Event {
	r := &probe.Result{Verdict: probe.Failed, Reason: "ping overlay 203.0.113.10: 10.0.0.5 (web-1), moved, answered 0 of 3", Tests: []probe.TestResult{{
		Test: "ping overlay 203.0.113.10", Verdict: probe.Failed, Addresses: 101, Failed: 60, Dead: 1, Sent: 303, Received: 123,
	}}}
	a := netip.MustParseAddr("10.0.0.5")
	for i := range 101 {
		r.Tests[0].Answers = append(r.Tests[0].Answers, probe.Answer{VM: fmt.Sprintf("web-<%d>", i), Address: a, Sent: 3, Loss: 100, Failed: i < 60})
		a = a.Next()
	}
	return Event{
		Time: time.Date(2026, 11, 25, 4, 0, 0, 0, time.UTC), Kind: "RolledBack", Policy: "gw-v2", Network: "vpc-1001", Batch: "2 of 4",
		Commit: "main@sha1:abc", Message: "1 & 2 <!channel> are lost", Evidence: r,
	}
}

// receiver is the other side of a webhook.
type receiver struct {
	mu     sync.Mutex
	bodies [][]byte
	times  []time.Time
	answer func(n int, w http.ResponseWriter) // of the nth request, from 0; nil: 200
	came   chan struct{}
}

func newReceiver(answer func(n int, w http.ResponseWriter)) *receiver {
	return &receiver{answer: answer, came: make(chan struct{}, 10_000)}
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	b, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	n := len(r.bodies)
	r.bodies, r.times = append(r.bodies, b), append(r.times, time.Now())
	r.mu.Unlock()
	if r.answer != nil {
		r.answer(n, w)
	}
	r.came <- struct{}{}
}

func (r *receiver) get(n int) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bodies[n]
}

// run runs a notifier until the test ends, and returns its log.
func run(t *testing.T, hooks ...Webhook) (*Notifier, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	n, err := NewNotifier(slog.New(slog.NewJSONHandler(&log, nil)), hooks...)
	if err != nil {
		t.Fatal(err)
	}
	return n, &log
}

// start runs it; the returned function ends it and waits for that.
func (n *Notifier) start(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { n.Run(ctx) })
	return func() { cancel(); done.Wait() }
}

// TestPayloads sends one event to webhooks of both formats over real connections.
func TestPayloads(t *testing.T) {
	plain, slack := newReceiver(nil), newReceiver(nil)
	a, b := httptest.NewServer(plain), httptest.NewServer(slack)
	defer a.Close()
	defer b.Close()
	n, _ := run(t, Webhook{a.URL + "/" + token, FormatJSON}, Webhook{b.URL, FormatSlack})
	defer n.start(t)()
	n.Notify(failure())
	<-plain.came
	<-slack.came
	var got struct {
		APIVersion string
		Event
	}
	if err := json.Unmarshal(plain.get(0), &got); err != nil {
		t.Fatal(err)
	}
	if c := got.Evidence.Tests[0]; got.APIVersion != EventVersion || got.Kind != "RolledBack" || got.Commit != "main@sha1:abc" || got.Message != "1 & 2 <!channel> are lost" ||
		len(c.Answers) != maxEvidence || c.LeftOut != 51 || !c.Answers[49].Failed {
		t.Errorf("%s", plain.get(0))
	}
	var text struct{ Text string }
	if err := json.Unmarshal(slack.get(0), &text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"*RolledBack* of `gw-v2`: 1 &amp; 2 &lt;!channel&gt; are lost\nnetwork vpc-1001, batch 2 of 4, commit main@sha1:abc\n```\nping overlay 203.0.113.10: 10.0.0.5 (web-&lt;0&gt;), a peer, answered 0 of 3, lost 100%, 0% before\n",
		"\nping overlay 203.0.113.10: failed, 60 of 101 addresses are worse than before, 50 of them not shown; 123 of 303 answered, ",
		", 1 did not answer before either\n```",
	} {
		if !strings.Contains(text.Text, want) {
			t.Errorf("%q is not in %q", want, text.Text)
		}
	}
}

func TestTextIsBounded(t *testing.T) {
	e := failure()
	for range 1000 {
		c := e.Evidence.Tests[0]
		c.Reason = strings.Repeat("x", 10_000)
		e.Evidence.Tests = append(e.Evidence.Tests, c)
	}
	if s := e.text(3); len(s) > 2*maxText || !strings.HasSuffix(s, "more lines\n```\n_3 earlier events were dropped_") {
		t.Errorf("%d bytes, the end is %q", len(s), s[len(s)-100:])
	}
}

// pipes is a network in memory, so that synctest's clock rules.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// inMemory connects the notifier's webhooks to a handler; a nil one cannot be reached.
func (n *Notifier) inMemory(h http.Handler) (stop func()) {
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		if h == nil {
			return nil, fmt.Errorf("no way to %s", token)
		}
		a, b := net.Pipe()
		p.conns <- b
		return a, nil
	}}
	for _, hook := range n.hooks {
		hook.client.Transport = tr
	}
	if h == nil {
		return tr.CloseIdleConnections
	}
	s := &http.Server{Handler: h}
	var done sync.WaitGroup
	done.Go(func() { _ = s.Serve(p) })
	return func() { _ = s.Close(); done.Wait() }
}

// TestBackoff has a server that is out of order for a while: the event arrives, the
// time between attempts grows, and what the server asks for is heeded.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(func(n int, w http.ResponseWriter) {
			switch {
			case n < 12:
				w.WriteHeader(http.StatusBadGateway)
			case n == 12:
				w.Header().Set("Retry-After", "119")
				w.WriteHeader(http.StatusTooManyRequests)
			case n == 14:
				w.WriteHeader(http.StatusInternalServerError)
			}
		})
		n, log := run(t, Webhook{"http://hooks.example.com/" + token, FormatJSON})
		defer n.inMemory(r)()
		stop := n.start(t)
		n.Notify(Event{Kind: "A"})
		n.Notify(Event{Kind: "B"})
		for range 16 {
			<-r.came
		}
		synctest.Wait()
		if s := n.Status()[0]; s.Delivered != 2 || s.Queued != 0 || s.Error != "" {
			t.Errorf("%+v", s)
		}
		stop()
		for i := range 13 {
			gap := r.times[i+1].Sub(r.times[i])
			most := min(minBackoff<<i, maxBackoff)
			if i == 12 {
				if gap < 119*time.Second {
					t.Errorf("it came %s after it was asked to wait 119 s", gap)
				}
			} else if gap < most/2 || gap > most {
				t.Errorf("attempt %d came after %s, want %s to %s", i+1, gap, most/2, most)
			}
		}
		// The next event waits for nothing.
		if gap := r.times[14].Sub(r.times[13]); gap > time.Second || !bytes.Contains(r.get(14), []byte(`"kind":"B"`)) {
			t.Errorf("the next one came after %s: %s", gap, r.get(14))
		}
		if gap := r.times[15].Sub(r.times[14]); gap > minBackoff {
			t.Errorf("its second attempt came after %s, want %s at the most", gap, minBackoff)
		}
		if strings.Count(log.String(), "cannot deliver an event") != 14 || strings.Contains(log.String(), "hushhush") {
			t.Errorf("the log is %s", log)
		}
	})
}

// TestFullQueue has a server that hangs: nobody waits for it, the oldest events are
// dropped and counted, and the receiver is told.
func TestFullQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		r := newReceiver(func(n int, _ http.ResponseWriter) {
			if n == 0 {
				<-hang
			}
		})
		n, _ := run(t, Webhook{"http://hooks.example.com/", FormatJSON})
		defer n.inMemory(r)()
		defer n.start(t)()
		n.Notify(Event{Kind: "K0"})
		synctest.Wait() // it is under way
		began := time.Now()
		for i := range maxQueue + 9 {
			n.Notify(Event{Kind: fmt.Sprintf("K%d", i+1)})
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("notifying took %s", took)
		}
		if s := n.Status()[0]; s.Queued != maxQueue || s.Dropped != 10 {
			t.Errorf("%+v", s)
		}
		close(hang)
		for range maxQueue + 1 {
			<-r.came
		}
		synctest.Wait()
		// The first one was dropped while it was on its way, and arrived.
		if s := n.Status()[0]; s.Queued != 0 || s.Dropped != 9 || s.Delivered != maxQueue+1 {
			t.Errorf("%+v", s)
		}
		for i, want := range map[int]string{0: `"kind":"K0"`, 1: `"dropped":9`, 2: `"kind":"K11"`, maxQueue: fmt.Sprintf(`"kind":"K%d"`, maxQueue+9)} {
			if b := r.get(i); !bytes.Contains(b, []byte(want)) || i == 2 && bytes.Contains(b, []byte("dropped")) {
				t.Errorf("request %d is %s, want %s", i, b, want)
			}
		}
	})
}

// TestRefused has a server that does not want an event: it is not sent again.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(func(n int, w http.ResponseWriter) {
			switch n {
			case 0:
				http.Error(w, "no_service for "+token, http.StatusNotFound)
			case 1:
				w.Header().Set("Location", "http://elsewhere.example.com/")
				w.WriteHeader(http.StatusTemporaryRedirect)
			}
		})
		n, log := run(t, Webhook{"http://hooks.example.com/" + token, FormatSlack})
		defer n.inMemory(r)()
		stop := n.start(t)
		for i := range 3 {
			n.Notify(Event{Kind: fmt.Sprint(i)})
			<-r.came
			synctest.Wait()
			if s := n.Status()[0]; i == 0 && s.Error != "answered with status 404: \"no_service for [redacted]/[redacted]/[redacted]\"" {
				t.Errorf("%+v", s)
			}
		}
		stop()
		if s := n.Status()[0]; s.Refused != 2 || s.Delivered != 1 || len(r.bodies) != 3 {
			t.Errorf("%+v after %d requests", s, len(r.bodies))
		}
		if strings.Contains(log.String(), "hushhush") || !strings.Contains(log.String(), "answered with status 307") {
			t.Errorf("the log is %s", log)
		}
	})
}

// TestUnreachable ends while an event waits; it says so and shows no token, wherever
// the URL holds it.
func TestUnreachable(t *testing.T) {
	for _, u := range []string{"http://hooks.example.com/" + token, "http://hooks.example.com/?key=" + token, "http://me:" + token[20:] + "@hooks.example.com/" + token} {
		synctest.Test(t, func(t *testing.T) {
			n, log := run(t, Webhook{u, FormatJSON})
			defer n.inMemory(nil)()
			stop := n.start(t)
			n.Notify(Event{Kind: "A"})
			synctest.Wait()
			s := n.Status()[0]
			if s.Queued != 1 || s.Error == "" || strings.Contains(fmt.Sprint(s), "hushhush") {
				t.Errorf("%+v", s)
			}
			stop()
			if strings.Contains(log.String(), "hushhush") || !strings.Contains(log.String(), "the daemon ends with events that were not delivered") {
				t.Errorf("the log is %s", log)
			}
		})
	}
}

func TestWebhookErrors(t *testing.T) {
	for _, w := range []Webhook{
		{"://" + token, FormatJSON},
		{"https:///" + token, FormatJSON},
		{"ftp://hooks.example.com/" + token, FormatJSON},
		{"https://hooks.example.com/%zz" + token, FormatJSON},
		{"https://hooks.example.com/" + token, "xml"},
	} {
		_, err := NewNotifier(slog.Default(), Webhook{"https://fine.example.com/", FormatJSON}, w)
		if err == nil || strings.Contains(err.Error(), "hush") || !strings.HasPrefix(err.Error(), "webhook 2: ") {
			t.Errorf("%v", err)
		}
	}
}

func TestLogValue(t *testing.T) {
	var b bytes.Buffer
	slog.New(slog.NewJSONHandler(&b, nil)).Info("event", "event", failure())
	for _, want := range []string{`"kind":"RolledBack"`, `"policy":"gw-v2"`, `"network":"vpc-1001"`, `"batch":"2 of 4"`, `"commit":"main@sha1:abc"`, `"verdict":"failed"`, `10.0.0.5 (web-1), moved, answered 0 of 3`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%s is not in %s", want, b.String())
		}
	}
}
