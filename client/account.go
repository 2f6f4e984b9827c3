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

// WithAccount returns a context whose requests are made on behalf of an account.
// An empty account is none. An account that the header cannot carry (over 256
// bytes, a double quote, anything that is not printable ASCII, a space at an end)
// fails the request.
func WithAccount(ctx context.Context, account string) context.Context {
	return context.WithValue(ctx, contextKey{}, account)
}

// AccountFrom returns the account that WithAccount put into a context, empty where
// there is none.
func AccountFrom(ctx context.Context) string {
	account, _ := ctx.Value(contextKey{}).(string)
	return account
}

// routeBy is the header's value for the account of a context, in front of what the
// caller has put there: the first account_id counts, other keys stay. It is empty
// where there is no account.
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
		return fmt.Errorf("the account has %d bytes, the most is %d", len(account), maxAccount)
	case strings.ContainsFunc(account, notPlain):
		return fmt.Errorf("the account %q has a character that header %s cannot carry; want printable ASCII without double quotes", account, Header)
	case strings.TrimSpace(account) != account:
		return fmt.Errorf("the account %q has a space at an end; remove it", account)
	}
	return nil
}

// needsQuotes tells whether a character would end or change a bare value.
func needsQuotes(r rune) bool { return strings.ContainsRune(" ,;=\\'", r) }
