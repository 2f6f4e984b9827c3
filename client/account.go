package client

import (
	"context"
	"fmt"
	"strings"
)

// Header is the request header that carries the account, cookie-encoded:
// account_id=50002001.
const Header = "x-ucloud-routeby"

// maxAccount is the longest account that gray's Envoys read, in bytes.
const maxAccount = 256

// accountKey is the account's key in the header's value.
const accountKey = "account_id"

type contextKey struct{}

// WithAccount returns a context whose requests are made on behalf of an account; an
// empty account is none. A request fails if the header cannot carry the account: it has
// more than 256 bytes, a double quote, anything that is not printable ASCII, or a space
// at the start or the end.
func WithAccount(ctx context.Context, account string) context.Context {
	return context.WithValue(ctx, contextKey{}, account)
}

// AccountFrom returns the account that WithAccount put into a context; empty if there
// is none.
func AccountFrom(ctx context.Context) string {
	account, _ := ctx.Value(contextKey{}).(string)
	return account
}

// routeBy returns the header's value for the account of a context, before what the
// caller has put there: the first account_id counts, other keys stay. It is empty if
// there is no account.
func routeBy(ctx context.Context, have []string) (string, error) {
	account := AccountFrom(ctx)
	if account == "" {
		return "", nil
	}
	if err := checkAccount(account); err != nil {
		return "", err
	}
	if strings.ContainsFunc(account, needsQuotes) {
		account = `"` + account + `"`
	}
	return strings.Join(append([]string{accountKey + "=" + account}, have...), "; "), nil
}

func checkAccount(account string) error {
	notPlain := func(r rune) bool { return r < ' ' || r > '~' || r == '"' }
	switch {
	case len(account) > maxAccount:
		return fmt.Errorf("the account has %d bytes; want at most %d", len(account), maxAccount)
	case strings.ContainsFunc(account, notPlain):
		return fmt.Errorf("the account %q has a character that header %s cannot carry; want printable ASCII without double quotes", account, Header)
	case strings.TrimSpace(account) != account:
		return fmt.Errorf("the account %q begins or ends with a space; remove it", account)
	}
	return nil
}

// needsQuotes reports whether a character would end or change an unquoted value.
func needsQuotes(r rune) bool { return strings.ContainsRune(" ,;=\\'", r) }
