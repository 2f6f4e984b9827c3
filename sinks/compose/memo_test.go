package compose

import (
	"errors"
	"strconv"
	"testing"
)

func TestMemo(t *testing.T) {
	var m memo[int]
	calls, bad := 0, errors.New("bad")
	get := func(key string, value int, err error) {
		t.Helper()
		got, gotErr := m.get(key, func() (int, error) { calls++; return value, err })
		if got != value || !errors.Is(gotErr, err) {
			t.Errorf("%s is %d, %v", key, got, gotErr)
		}
	}
	for range 2 {
		get("one", 1, nil)
		get("none", 0, bad)
	}
	if calls != 2 {
		t.Errorf("the function was called %d times for 2 keys", calls)
	}
	for i := range 2 * maxMemo {
		get(strconv.Itoa(i), i, nil)
	}
	if n := len(m.known); n > maxMemo {
		t.Errorf("%d are remembered", n)
	}
}
