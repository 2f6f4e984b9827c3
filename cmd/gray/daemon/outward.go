package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"regexp"

	"go.yaml.in/yaml/v3"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/secrets"
	"github.com/gray-release/gray/sources/probe"
)

// maxWebhooks bounds the list of --webhooks; each has a queue of its own.
const maxWebhooks = 32

// openOutward makes the prober and the notifier from the flags.
func (d *daemon) openOutward() error {
	for _, text := range d.c.Outward.Allow {
		n, err := netip.ParsePrefix(text)
		if err != nil || n.Addr().Is4In6() {
			return fmt.Errorf("--probe-allow %q is not a network; want one such as 10.0.0.0/8", text)
		}
		d.c.Outward.Probes.Allow = append(d.c.Outward.Probes.Allow, n)
	}
	if dir := d.c.Outward.Probes.ExecDir; dir != "" {
		switch info, err := os.Stat(dir); {
		case err != nil:
			return fmt.Errorf("--exec-dir cannot be read: %w", err)
		case !info.IsDir():
			return fmt.Errorf("--exec-dir %s is not a folder", dir)
		}
	}
	hooks, err := d.c.readWebhooks()
	if err != nil {
		return err
	}
	if d.notifier, err = admin.NewNotifier(d.c.Log, hooks...); err != nil {
		return fmt.Errorf("--webhooks %s: %w", d.c.Outward.Webhooks, err)
	}
	d.prober = probe.New(d.c.Outward.Probes)
	return nil
}

// atLine finds the line in an error of the YAML library.
var atLine = regexp.MustCompile(`\bline \d+`)

// readWebhooks reads the list of --webhooks. Its errors show only line numbers of the
// file, because URLs hold tokens.
func (c *Config) readWebhooks() ([]admin.Webhook, error) {
	if c.Outward.Webhooks == "" {
		return nil, nil
	}
	b, err := secrets.Read(c.Secrets, c.Outward.Webhooks)
	if err != nil {
		return nil, fmt.Errorf("--webhooks: %w", err)
	}
	var list []struct {
		URL    string `yaml:"url"`
		Format string `yaml:"format"`
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	err = d.Decode(&list)
	if err == nil && !errors.Is(d.Decode(new(any)), io.EOF) {
		err = errors.New("more than one document")
	}
	if err != nil && !errors.Is(err, io.EOF) {
		where := c.Outward.Webhooks
		if line := atLine.FindString(err.Error()); line != "" {
			where += ", " + line
		}
		return nil, fmt.Errorf("--webhooks %s: cannot be read as a list of {url: https://..., format: json|slack}", where)
	}
	if len(list) == 0 || len(list) > maxWebhooks {
		return nil, fmt.Errorf("--webhooks %s lists %d webhooks; want 1 to %d", c.Outward.Webhooks, len(list), maxWebhooks)
	}
	var hooks []admin.Webhook
	for i, w := range list {
		if w.Format != admin.FormatJSON && w.Format != admin.FormatSlack {
			return nil, fmt.Errorf("--webhooks %s: webhook %d has an unknown format; want %s or %s", c.Outward.Webhooks, i+1, admin.FormatJSON, admin.FormatSlack)
		}
		// NewNotifier refuses what is not a URL.
		if u, err := url.Parse(w.URL); err == nil && u.Scheme == "http" && !schema.IsLoopback(u.Hostname()) && !c.Insecure {
			return nil, fmt.Errorf("--webhooks %s: webhook %d is plaintext beyond loopback; use https, or give --insecure", c.Outward.Webhooks, i+1)
		}
		hooks = append(hooks, admin.Webhook{URL: w.URL, Format: w.Format})
	}
	return hooks, nil
}

// tell passes on a transition of a rollout. It does not wait.
func (d *daemon) tell(e reconciler.Event) {
	out := admin.Event{
		Time: e.Time, Warning: e.Warning, Kind: e.Reason, Policy: e.Policy, Network: e.Network, Commit: e.Revision, Message: e.Message,
	}
	if e.Batch > 0 {
		out.Batch = fmt.Sprintf("%d of %d", e.Batch, e.Batches)
	}
	out.Evidence, _ = e.Result.(*probe.Result)
	d.notifier.Notify(out)
	if d.c.Outward.Events != nil {
		d.c.Outward.Events(e)
	}
}
