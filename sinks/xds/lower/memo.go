package lower

import "sync"

// memo remembers what was made for the keys that were asked for last. When it is
// full it forgets them all, and soon has those again that are still in use.
type memo[K comparable, V any] struct {
	most int // keys
	mu   sync.Mutex
	of   map[K]V
}

// get returns the value of a key, and makes it where it is not known.
func (m *memo[K, V]) get(k K, create func(K) V) V {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, known := m.of[k]
	if !known {
		if m.of == nil || len(m.of) >= m.most {
			m.of = map[K]V{}
		}
		v = create(k)
		m.of[k] = v
	}
	return v
}
