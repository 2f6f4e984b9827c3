package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// maxBody bounds how much of an answer is read, in bytes.
const maxBody = 64 << 10

// connect opens a TCP connection.
func (p *Prober) connect(ctx context.Context, c Test, a *Answer) {
	a.Sent = 1
	began := time.Now()
	conn, err := (&net.Dialer{Timeout: c.Timeout}).DialContext(ctx, "tcp", netip.AddrPortFrom(a.Address, c.Port).String())
	if err != nil {
		a.fail(err, c.Timeout)
		return
	}
	_ = conn.Close()
	a.Received = 1
	a.Latency.add(time.Since(began))
}

// get requests a URL. It checks the address after it has resolved the name, follows no
// redirects and uses no proxy.
func (p *Prober) get(ctx context.Context, c Test, allow Allow, a *Answer) {
	a.Sent = 1
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	dialer := &net.Dialer{Control: func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if err := allow.Check(to.Addr()); err != nil {
			return refusal{err}
		}
		return nil
	}}
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, Proxy: nil, DialContext: dialer.DialContext, MaxResponseHeaderBytes: maxBody},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	began := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, nil)
	if err != nil {
		a.Error, a.local = clip(err.Error()), true
		return
	}
	res, err := client.Do(req)
	if err != nil {
		a.fail(errors.Unwrap(err), c.Timeout) // without method and URL, which the reader knows
		return
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxBody))
	if res.StatusCode != c.Expect {
		a.Error = fmt.Sprintf("answered with status %d, want %d", res.StatusCode, c.Expect)
		return
	}
	a.Received = 1
	a.Latency.add(time.Since(began))
}

// refusal is the error of an address that may not be probed.
type refusal struct{ error }

// fail records why a test failed.
func (a *Answer) fail(err error, limit time.Duration) {
	refused, isRefusal := errors.AsType[refusal](err)
	var slow net.Error
	var unnamed *net.DNSError
	switch {
	case isRefusal:
		a.Error, a.local = refused.Error(), true
	case errors.As(err, &unnamed):
		a.Error, a.local = clip(unnamed.Error()), true
	case errors.As(err, &slow) && slow.Timeout():
		a.Error = fmt.Sprintf("no answer within %s", limit)
	default:
		a.Error, a.local = clip(unwrapped(err).Error()), isLocal(err)
	}
}

// isLocal reports whether an error was caused by the daemon's host, and not by the
// address that was tested.
func isLocal(err error) bool {
	no, ok := errors.AsType[syscall.Errno](err)
	return ok && slices.Contains([]syscall.Errno{
		syscall.EACCES, syscall.EPERM, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.EADDRNOTAVAIL, syscall.ENETDOWN,
	}, no)
}

// Allow says which addresses tests from the daemon's host may reach. Documents come
// from pull requests and are not trusted with every network that the host can reach.
type Allow struct {
	Networks []netip.Prefix      // --probe-allow
	Named    map[netip.Addr]bool // addresses in documents
}

// allow returns the addresses that a request may reach.
func (p *Prober) allow(r Request) Allow {
	a := Allow{Networks: p.opt.Allow, Named: make(map[netip.Addr]bool, len(r.Named)+len(r.Targets))}
	for _, n := range r.Named {
		a.Named[n.Unmap()] = true
	}
	for _, t := range r.Targets {
		a.Named[t.Address.Unmap()] = true
	}
	return a
}

// Check returns why an address may not be probed, or nil.
func (a Allow) Check(addr netip.Addr) error {
	addr = addr.Unmap()
	if !addr.IsValid() || addr.Zone() != "" {
		return fmt.Errorf("%s is not a plain IP address", addr)
	}
	if a.Named[addr] || slices.ContainsFunc(a.Networks, func(n netip.Prefix) bool { return n.Contains(addr) }) {
		return nil
	}
	return fmt.Errorf("%s is neither an address in a document nor in a --probe-allow network", addr)
}
