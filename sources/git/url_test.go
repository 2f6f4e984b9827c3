package git

import (
	"errors"
	"strings"
	"testing"
)

func TestRedact(t *testing.T) {
	for raw, want := range map[string]string{
		"https://example.com/r":               "https://example.com/r",
		"https://user:secret@example.com/r":   "https://example.com/r",
		"https://token@example.com/r":         "https://example.com/r",
		"https://user:se%20cret@example.com/": "https://example.com/",
		"https://user:se%zzcret@example.com/": "https://example.com/",
		"https://user:se/cr@et@example.com/r": "https://example.com/r",
		"ssh://git@example.com/r":             "ssh://example.com/r",
		"git@example.com:r":                   "git@example.com:r",
		"user:secret@example.com:r":           "example.com:r",
		"/srv/a@b:c":                          "/srv/a@b:c",
		"file:///srv/r":                       "file:///srv/r",
		"":                                    "",
	} {
		if got := Redact(raw); got != want {
			t.Errorf("%q becomes %q, want %q", raw, got, want)
		}
	}
}

func TestClean(t *testing.T) {
	long := errors.New("a\nb\t c\r\n" + strings.Repeat("ä", maxMessage) + " p4ss")
	err := clean(long, []string{"", "p4ss", "a"})
	if !errors.Is(err, long) {
		t.Error("the error is not held")
	}
	if got := err.Error(); !strings.HasPrefix(got, "xxxxx b c ä") || !strings.HasSuffix(got, "ä ...") || len(got) > maxMessage+4 || strings.Contains(got, "p4ss") {
		t.Errorf("got %q", got)
	}
}
