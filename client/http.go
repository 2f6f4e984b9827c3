package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// maxNames bounds how many names a Transport follows; beyond it the least recently used
// one is forgotten.
const maxNames = 1024

// dialTimeout bounds the setup of a connection. It is short because another address may
// answer.
const dialTimeout = 5 * time.Second

// Transport is an http.RoundTripper that reaches services by their names. It is
// safe for concurrent use.
type Transport struct {
	cfg  Config
	base *http.Transport
	ctx  context.Context // of the lookups
	stop context.CancelFunc

	mu    sync.Mutex
	names map[string]*lookup
}

// NewTransport returns a transport, which Close ends. Proxies in the environment
// (HTTP_PROXY) are not used.
func NewTransport(cfg Config) (*Transport, error) {
	base := &http.Transport{
		DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext, TLSHandshakeTimeout: dialTimeout,
		// All requests of a program go to one proxy, or to few endpoints.
		MaxIdleConns: 256, MaxIdleConnsPerHost: 256, IdleConnTimeout: 90 * time.Second,
	}
	if cfg.Proxy != "" {
		if err := checkProxy(cfg.Proxy); err != nil {
			return nil, err
		}
		base.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: cfg.Proxy})
	}
	t := &Transport{cfg: cfg, base: base, names: map[string]*lookup{}}
	t.ctx, t.stop = context.WithCancel(context.Background())
	return t, nil
}

// Close ends the lookups and closes idle connections. Later requests by name fail.
func (t *Transport) Close() error {
	t.stop()
	t.CloseIdleConnections()
	return nil
}

// CloseIdleConnections closes connections that serve no request.
func (t *Transport) CloseIdleConnections() { t.base.CloseIdleConnections() }

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	out, name, err := t.prepare(req)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	if name == "" {
		return t.base.RoundTrip(out)
	}
	addresses, err := t.lookup(name).wait(req.Context(), t.ctx)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	return t.takeTurns(out, addresses)
}

// prepare returns the request with its account, and the name to look up if there is one.
func (t *Transport) prepare(req *http.Request) (*http.Request, string, error) {
	how, to, err := t.cfg.choose(req.URL.Host, map[string]string{"http": "80", "https": "443"}[req.URL.Scheme])
	if err != nil {
		return nil, "", err
	}
	if req.URL.Scheme != "http" && how != direct {
		return nil, "", fmt.Errorf("%s://%s: services in the mesh and by name are reached by http only; the proxy refuses CONNECT", req.URL.Scheme, req.URL.Host)
	}
	value, err := routeBy(req.Context(), req.Header.Values(Header))
	if err != nil {
		return nil, "", err
	}
	out := req.Clone(req.Context())
	if value != "" {
		out.Header.Set(Header, value)
	}
	if how != byName {
		return out, "", nil
	}
	if out.Host == "" {
		out.Host = req.URL.Host
	}
	return out, to, nil
}

// takeTurns tries addresses until one can be dialled; nothing was sent to the others.
func (t *Transport) takeTurns(req *http.Request, addresses []string) (*http.Response, error) {
	for i, address := range addresses {
		try := req.Clone(req.Context())
		try.URL.Host = address
		if i > 0 && req.Body != nil && req.Body != http.NoBody {
			body, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			try.Body = body
		}
		res, err := t.base.RoundTrip(try)
		again := req.Body == nil || req.Body == http.NoBody || req.GetBody != nil
		if !isDial(err) || !again || i == len(addresses)-1 || req.Context().Err() != nil {
			return res, err
		}
	}
	return nil, errors.New("there is no address to try")
}

func isDial(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// lookup follows a name.
type lookup struct {
	name  string
	used  time.Time // guarded by the Transport's lock
	stop  context.CancelFunc
	known chan struct{} // closed after the first update

	mu        sync.Mutex
	addresses []string
	err       error
	turn      int
}

// lookup returns the lookup of a name, and begins it if it is new.
func (t *Transport) lookup(name string) *lookup {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.names[name]
	if l == nil {
		if len(t.names) >= maxNames {
			t.forget()
		}
		ctx, stop := context.WithCancel(t.ctx)
		l = &lookup{name: name, stop: stop, known: make(chan struct{})}
		t.names[name] = l
		go t.cfg.Naming.Watch(ctx, name, l.update)
	}
	l.used = time.Now()
	return l
}

// forget ends the least recently used lookup.
func (t *Transport) forget() {
	var oldest *lookup
	for _, l := range t.names {
		if oldest == nil || l.used.Before(oldest.used) {
			oldest = l
		}
	}
	oldest.stop()
	delete(t.names, oldest.name)
}

// update stores what the naming reports.
func (l *lookup) update(addresses []string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
	if err == nil {
		l.addresses = addresses
	}
	select {
	case <-l.known:
	default:
		close(l.known)
	}
}

// wait waits for the first update and returns the addresses, rotated by one with each
// call.
func (l *lookup) wait(ctx, life context.Context) ([]string, error) {
	select {
	case <-l.known:
	case <-ctx.Done():
		return nil, fmt.Errorf("looking up %s: %w", l.name, ctx.Err())
	case <-life.Done():
	}
	if life.Err() != nil {
		return nil, fmt.Errorf("looking up %s: %w", l.name, io.ErrClosedPipe)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.addresses)
	if n == 0 && l.err != nil {
		return nil, l.err
	}
	if n == 0 {
		return nil, noEndpoint(l.name)
	}
	l.turn = (l.turn + 1) % n
	order := make([]string, 0, n)
	return append(append(order, l.addresses[l.turn:]...), l.addresses[:l.turn]...), nil
}

func noEndpoint(name string) error {
	return fmt.Errorf("no endpoint of %s is registered", name)
}
