package requests

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestSharesOfAccounts holds how shares of accounts fall: close to what they are
// called, and growing one way only.
func TestSharesOfAccounts(t *testing.T) {
	for _, accounts := range []func(i int) string{
		func(i int) string { return fmt.Sprint(50_000_000 + i) },
		func(i int) string { return fmt.Sprint(50_000_000 + 100*i) },
		func(i int) string { return fmt.Sprintf("acme-%d", i) },
	} {
		var slots [Slots]int
		const n = 100_000
		for i := range n {
			slots[slotOf(accounts(i))]++
		}
		if low, high := slices.Min(slots[:]), slices.Max(slots[:]); low < n/Slots*8/10 || high > n/Slots*12/10 {
			t.Errorf("like %s: between %d and %d of %d accounts have a slot", accounts(0), low, high, n)
		}
	}
	if slotOf("") != Slots-1 {
		t.Error("requests without an account are not the last to move")
	}
}

// TestAccountOf reads routing headers; TestEnvoyRouting in sinks/xds has a real
// Envoy do the same.
func TestAccountOf(t *testing.T) {
	for header, want := range map[string]string{
		"account_id=1": "1", "a=b; account_id=1": "1", "account_id=1; a=b": "1", " ; account_id = 1 ; ": "1", `account_id="1"`: "1",
		`account_id="a;b"; c`: "a;b", `a="x;account_id=2"; account_id=1`: "1", "account_id=1; account_id=2": "1", "flag; account_id=1": "1",
		"a=b,account_id=1": "1", "account_id=a b": "a b", "": "", "account_id": "", "account_id=": "", "account_id=; account_id=1": "",
		"xaccount_id=1": "", "=1": "", ";;;": "", `account_id="1`: `"1`, `account_id="1"x; a=b`: `"1"x`, "ACCOUNT_ID=1": "", "account_id=1\t": "1",
		"account_id=" + strings.Repeat("x", MaxAccount): strings.Repeat("x", MaxAccount), "account_id=" + strings.Repeat("x", MaxAccount+1): "",
		"account_id=1; pad=" + strings.Repeat("x", maxRouteHeader): "",
	} {
		if got := accountOf(header, "account_id"); got != want {
			t.Errorf("%.40q: got %.40q, want %.40q", header, got, want)
		}
	}
}
