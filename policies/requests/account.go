package requests

import "strings"

// The longest routing header, and the longest account in it, in bytes: what is
// longer counts as no account.
const (
	maxRouteHeader = 16384
	MaxAccount     = 256
)

// accountOf is the account that a routing header carries: the first value of key
// in its pairs, which look like those of a cookie ("account_id=50002001;
// region=cn-bj2"). The keys may come in any order, spaces may stand around names
// and values, and a value may stand in double quotes. Commas part pairs too, as
// the lines of a header that comes more than once are joined by them. Empty where
// there is none.
func accountOf(header, key string) string {
	if len(header) > maxRouteHeader {
		return ""
	}
	for rest := header; rest != ""; {
		rest = strings.TrimLeft(rest, spaces+";,")
		end := strings.IndexAny(rest, "=;,")
		if end < 0 || rest[end] != '=' {
			rest = rest[max(end, 0):]
			if end < 0 {
				break
			}
			continue
		}
		name := strings.TrimRight(rest[:end], spaces)
		var value string
		value, rest = pairValue(rest[end+1:])
		if name == key {
			if len(value) > MaxAccount {
				return ""
			}
			return value
		}
	}
	return ""
}

// spaces are the bytes that may stand around names and values.
const spaces = " \t\n\v\f\r"

// pairValue reads the value after "=" and what follows it.
func pairValue(s string) (value, rest string) {
	s = strings.TrimLeft(s, spaces)
	if strings.HasPrefix(s, `"`) {
		if end := strings.IndexByte(s[1:], '"'); end >= 0 {
			after := strings.TrimLeft(s[end+2:], spaces)
			if after == "" || after[0] == ';' || after[0] == ',' {
				return s[1 : end+1], after
			}
		}
	}
	end := strings.IndexAny(s, ";,")
	if end < 0 {
		end = len(s)
	}
	return strings.TrimRight(s[:end], spaces), s[end:]
}

// slotOf is the share of one per cent, 0 to 99, that an account belongs to: it is
// among the first n per cent where it is below n. Requests without an account are
// the last to move.
func slotOf(account string) int {
	if account == "" {
		return Slots - 1
	}
	h := uint32(2166136261) // FNV-1a, of which the lower half alone would see digits as too much alike
	for i := range len(account) {
		h = (h ^ uint32(account[i])) * 16777619
	}
	return int((h ^ h>>16) % Slots)
}
