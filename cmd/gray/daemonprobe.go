package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"regexp"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sources/probe"
)

// maxWebhooks bounds the list of --webhooks; each has a queue of its own.
const maxWebhooks = 32

// addOutward adds the flags of what a leader sends out beside what is live: probes
// and events.
func (c *daemonConfig) addOutward(f *pflag.FlagSet) {
	f.StringVar(&c.probes.ExecDir, "exec-dir", "", "the folder below which programs that verify a rollout lie; none is run without it")
	f.StringSliceVar(&c.probeAllow, "probe-allow", nil, "a network, such as 10.0.0.0/8, that http probes may go to beside the addresses of the documents; can be repeated")
	f.StringVar(&c.webhooks, "webhooks", "", "file below --secrets-dir that lists where events of rollouts go: [{url: https://..., format: json|slack}]")
}

// openOutward makes the prober and the notifier of the flags.
func (d *daemon) openOutward() error {
	for _, text := range d.c.probeAllow {
		n, err := netip.ParsePrefix(text)
		if err != nil || n.Addr().Is4In6() {
			return fmt.Errorf("--probe-allow %q is no network; want one such as 10.0.0.0/8", text)
		}
		d.c.probes.Allow = append(d.c.probes.Allow, n)
	}
	if dir := d.c.probes.ExecDir; dir != "" {
		switch info, err := os.Stat(dir); {
		case err != nil:
			return fmt.Errorf("--exec-dir cannot be read: %w", err)
		case !info.IsDir():
			return fmt.Errorf("--exec-dir %s is no folder", dir)
		}
	}
	hooks, err := d.c.readWebhooks()
	if err != nil {
		return err
	}
	if d.notifier, err = admin.NewNotifier(d.c.logger(), hooks...); err != nil {
		return fmt.Errorf("--webhooks %s: %w", d.c.webhooks, err)
	}
	d.prober = probe.New(d.c.probes)
	return nil
}

// atLine finds the place in an error of the YAML library.
var atLine = regexp.MustCompile(`\bline \d+`)

// readWebhooks reads the list of --webhooks. Its errors show nothing of the file but
// line numbers, as URLs hold tokens.
func (c *daemonConfig) readWebhooks() ([]admin.Webhook, error) {
	if c.webhooks == "" {
		return nil, nil
	}
	b, err := reconciler.ReadSecret(c.secrets, c.webhooks)
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
		where := c.webhooks
		if line := atLine.FindString(err.Error()); line != "" {
			where += ", " + line
		}
		return nil, fmt.Errorf("--webhooks %s: cannot be read as a list of {url: https://..., format: json|slack}", where)
	}
	if len(list) == 0 || len(list) > maxWebhooks {
		return nil, fmt.Errorf("--webhooks %s lists %d webhooks; want 1 to %d", c.webhooks, len(list), maxWebhooks)
	}
	var hooks []admin.Webhook
	for i, w := range list {
		if w.Format != admin.FormatJSON && w.Format != admin.FormatSlack {
			return nil, fmt.Errorf("--webhooks %s: webhook %d has an unknown format; want %s or %s", c.webhooks, i+1, admin.FormatJSON, admin.FormatSlack)
		}
		// One that is no URL is refused with the others of its kind.
		if u, err := url.Parse(w.URL); err == nil && u.Scheme == "http" && !isLoopback(u.Hostname()) && !c.insecure {
			return nil, fmt.Errorf("--webhooks %s: webhook %d would be told in plaintext, and is not on loopback; use https, or give --insecure", c.webhooks, i+1)
		}
		hooks = append(hooks, admin.Webhook{URL: w.URL, Format: w.Format})
	}
	return hooks, nil
}

// tell hands on a transition of a rollout. It does not wait.
func (d *daemon) tell(e reconciler.Event) {
	out := admin.Event{
		Time: e.Time, Warning: e.Warning, Kind: e.Reason, Policy: e.Policy, Network: e.Network, Commit: e.Revision, Message: e.Message,
	}
	if e.Batch > 0 {
		out.Batch = fmt.Sprintf("%d of %d", e.Batch, e.Batches)
	}
	out.Evidence, _ = e.Result.(*probe.Result)
	d.notifier.Notify(out)
	if d.c.events != nil {
		d.c.events(e)
	}
}

// saidWebhooks is how the webhooks fare, nil where there are none.
func (d *daemon) saidWebhooks() any {
	if s := d.notifier.Status(); len(s) > 0 {
		return s
	}
	return nil
}
