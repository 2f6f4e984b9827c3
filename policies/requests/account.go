package requests

import "strings"

// The longest routing header and the longest account in it, in bytes. A longer one
// counts as no account.
const (
	maxRouteHeader = 16384
	MaxAccount     = 256
)

// accountOf returns the account in a routing header: the first value of key in pairs
// like those of a cookie ("account_id=50002001; region=cn-bj2"). Pairs may be in any
// order. Names and values may have spaces around them, and a value may be in double
// quotes. Commas separate pairs too, as they join the lines of a header that comes more
// than once. It returns "" if there is no account.
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

// spaces are the bytes that are trimmed around names and values.
const spaces = " \t\n\v\f\r"

// pairValue reads the value after "=" and returns it with the rest.
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

// slotOf is the slot of an account, 0 to 99. The first n percent of the accounts are
// those with a slot below n. Requests without an account have the last slot.
func slotOf(account string) int {
	if account == "" {
		return Slots - 1
	}
	h := uint32(2166136261) // FNV-1a; its lower half alone spreads digits badly
	for i := range len(account) {
		h = (h ^ uint32(account[i])) * 16777619
	}
	return int((h ^ h>>16) % Slots)
}
