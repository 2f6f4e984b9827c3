package compose

import "sync"

// maxMemo bounds how many results a memo remembers.
const maxMemo = 4096

// memo remembers the results of a pure function by key. They are shared, so nobody
// may change them.
type memo[T any] struct {
	mu    sync.Mutex
	known map[string]outcome[T]
}

type outcome[T any] struct {
	value T
	err   error
}

// get returns what f returns for a key. A full memo forgets everything.
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
