package memo

import "testing"

func TestMemo(t *testing.T) {
	const most = 8
	m, calls := New[int, int](most), 0
	get := func(k int) {
		t.Helper()
		if got := m.Get(k, func(k int) int { calls++; return 2 * k }); got != 2*k {
			t.Errorf("%d is %d", k, got)
		}
	}
	for range 2 {
		get(1)
		get(2)
	}
	if calls != 2 {
		t.Errorf("the function was called %d times for 2 keys", calls)
	}
	for k := range 3 * most {
		if get(k); len(m.known) > most {
			t.Fatalf("%d are remembered", len(m.known))
		}
	}
}
