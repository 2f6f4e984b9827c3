package compose

import "sync"

// maxMemo bounds how much a memo remembers.
const maxMemo = 4096

// memo remembers what a pure function returned by key. What it returns is shared and
// read-only.
type memo[T any] struct {
	mu    sync.Mutex
	known map[string]outcome[T]
}

type outcome[T any] struct {
	value T
	err   error
}

// get returns what the function returns for a key; a full memo starts anew.
func (m *memo[T]) get(key string, f func() (T, error)) (T, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.known[key]
	if !ok {
		if m.known == nil || len(m.known) >= maxMemo {
			m.known = map[string]outcome[T]{}
		}
		o.value, o.err = f()
		m.known[key] = o
	}
	return o.value, o.err
}
