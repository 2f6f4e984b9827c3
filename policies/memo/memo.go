// Package memo remembers the results of pure functions.
package memo

import "sync"

// Memo has the results for the keys that were asked for last. They are shared, so nobody
// may change them. A full one forgets them all, and soon has those again that are in use.
type Memo[K comparable, V any] struct {
	most  int
	mu    sync.Mutex
	known map[K]V
}

// New returns a memo of that many keys at the most.
func New[K comparable, V any](most int) *Memo[K, V] {
	return &Memo[K, V]{most: most, known: map[K]V{}}
}

// Get returns what f makes of a key.
func (m *Memo[K, V]) Get(k K, f func(K) V) V {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, known := m.known[k]
	if !known {
		if len(m.known) >= m.most {
			m.known = map[K]V{}
		}
		v = f(k)
		m.known[k] = v
	}
	return v
}
