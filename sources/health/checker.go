package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	probing "github.com/prometheus-community/pro-bing"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler/board"
)

// maxBody bounds how much of an answer is read, in bytes.
const maxBody = 64 << 10

// Run checks the servers that the board wants until ctx ends, each on its own.
func Run(ctx context.Context, b *board.Health) {
	b.Tend(ctx, func(ctx context.Context, c policies.Check) { watch(ctx, b, c) })
}

// watch checks one server again and again. The server begins as up, so that a daemon
// that starts takes none out of service before it knows.
func watch(ctx context.Context, b *board.Health, c policies.Check) {
	// Spread the checks of many servers over the interval.
	timer := time.NewTimer(rand.N(c.How.Interval))
	defer timer.Stop()
	up, row := true, 0
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		timer.Reset(c.How.Interval)
		err := check(ctx, c)
		if ctx.Err() != nil {
			return
		}
		if (err == nil) == up {
			row = 0
			if !up {
				b.Report(c.Of, c.Server, err) // the newest reason
			}
			continue
		}
		row++
		if up && row >= c.How.Fall || !up && row >= c.How.Rise {
			up, row = !up, 0
			b.Report(c.Of, c.Server, err)
		}
	}
}

// check makes one check; the error says why it failed.
func check(ctx context.Context, c policies.Check) error {
	ctx, cancel := context.WithTimeout(ctx, c.How.Timeout)
	defer cancel()
	var err error
	switch {
	case c.How.ICMP:
		err = ping(ctx, c.Address)
	case c.How.TCP != 0:
		err = connect(ctx, netip.AddrPortFrom(c.Address, c.How.TCP))
	case c.How.HTTP.Port != 0:
		err = get(ctx, netip.AddrPortFrom(c.Address, c.How.HTTP.Port), c.How.HTTP.Path)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s", c.How.Timeout)
	}
	return err
}

// ping sends one echo request, from a raw socket if that is allowed.
func ping(ctx context.Context, address netip.Addr) error {
	var err error
	for _, privileged := range []bool{true, false} {
		p := probing.New(address.String())
		p.Count = 1
		p.SetPrivileged(privileged)
		if err = p.RunWithContext(ctx); err != nil {
			continue
		}
		if p.Statistics().PacketsRecv == 0 {
			return context.DeadlineExceeded
		}
		return nil
	}
	return fmt.Errorf("cannot send echo requests: %w; give the daemon CAP_NET_RAW", err)
}

func connect(ctx context.Context, to netip.AddrPort) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return err
	}
	return c.Close()
}

// get requests a path. It does not follow redirects, which pass: checks go only to the
// addresses in documents.
func get(ctx context.Context, from netip.AddrPort, path string) error {
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, Proxy: nil},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	target := url.URL{Scheme: "http", Host: from.String()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String()+path, nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return errors.Unwrap(err) // without method and URL, which the reader knows
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxBody))
	if res.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("answered with status %d", res.StatusCode)
	}
	return nil
}
