package git

import (
	"cmp"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/transport"

	"github.com/gray-release/gray/schema"
)

// locate returns the path of a local repository, or the endpoint of a remote.
func locate(raw string, insecure bool) (string, *transport.Endpoint, error) {
	e, err := transport.NewEndpoint(raw)
	if err != nil {
		// The error of go-git repeats the URL, which may contain a password.
		return "", nil, fmt.Errorf("%q is not a Git URL; want a path, https://HOST/PATH or ssh://USER@HOST/PATH", Redact(raw))
	}
	switch e.Protocol {
	case "file":
		local, err := localPath(raw)
		return local, nil, err
	case "https", "ssh":
		return "", e, nil
	case "http":
		if insecure || schema.IsLoopback(e.Host) {
			return "", e, nil
		}
		return "", nil, fmt.Errorf("%s is plaintext; use https, or --insecure", Redact(raw))
	}
	return "", nil, fmt.Errorf("%s: the protocol %s is not supported; use https, ssh or a path", Redact(raw), e.Protocol)
}

// localPath is the path in a file:// URL, or the text itself.
func localPath(raw string) (string, error) {
	if !strings.HasPrefix(raw, "file://") {
		return raw, nil
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host != "" && u.Host != "localhost" || u.Path == "" {
		return "", fmt.Errorf("%q is not a path on this machine; want file:///PATH", raw)
	}
	return filepath.FromSlash(u.Path), nil
}

// Redact removes user and password from a URL. A URL that cannot be parsed loses
// everything before its last @.
func Redact(raw string) string {
	scheme, rest, isURL := strings.Cut(raw, "://")
	u, err := url.Parse(raw)
	switch at := strings.LastIndex(rest, "@"); {
	case isURL && err == nil && u.User != nil:
		u.User = nil
		return u.String()
	case isURL && err != nil && at >= 0:
		return scheme + "://" + rest[at+1:]
	}
	if user, host, ok := strings.Cut(raw, "@"); ok && !isURL && strings.Contains(user, ":") {
		return host // user:password@host:path is not a URL, but may contain a password
	}
	return raw
}

// maxMessage bounds how much of a server's message is shown, in bytes.
const maxMessage = 500

// cleaned is an error whose text has no secrets.
type cleaned struct {
	text string
	error
}

func (c cleaned) Error() string { return c.text }
func (c cleaned) Unwrap() error { return c.error }

// clean makes an error one short line without secrets: servers may answer with whole
// pages, and may repeat what they were sent.
func clean(err error, secrets []string) error {
	text := err.Error()
	for _, s := range secrets {
		if s != "" {
			text = strings.ReplaceAll(text, s, "xxxxx")
		}
	}
	text = strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "?")
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + " ..."
	}
	return cleaned{text, err}
}

// urlSecrets lists the parts of a URL that must not be shown, both encoded and decoded.
// For some hosts, a user without a password is a token.
func urlSecrets(raw string, e *transport.Endpoint) []string {
	if e == nil || e.Protocol == "ssh" && e.Password == "" {
		return nil
	}
	secret := cmp.Or(e.Password, e.User)
	if secret == "" {
		return nil
	}
	secrets := []string{secret, url.PathEscape(secret), url.QueryEscape(secret)}
	if u, err := url.Parse(raw); err == nil && u.User != nil {
		_, written, _ := strings.Cut(raw, "://")
		written, _, _ = strings.Cut(written, "@")
		secrets = append(secrets, written)
		if _, p, ok := strings.Cut(written, ":"); ok {
			secrets = append(secrets, p)
		}
	}
	return secrets
}
