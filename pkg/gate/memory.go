package gate

import (
	"container/list"
	"sync"

	"github.com/opencontainers/go-digest"
)

// memory keeps values within a limit of bytes: the latest used, of all repositories together, so that nobody who asks for
// many names makes it grow.
type memory[K comparable, V any] struct {
	limit int64
	// onDrop is called with the lock held when a value goes; nil for nothing.
	onDrop func(K, V)

	mu     sync.Mutex
	size   int64
	order  *list.List // of *remembered[K, V], the latest used first
	places map[K]*list.Element
}

// remembered is a value, and about how many bytes it takes.
type remembered[K comparable, V any] struct {
	key   K
	value V
	size  int64
}

// entrySize is what a value takes beside its texts.
const entrySize = 400

func newMemory[K comparable, V any](limit int64) *memory[K, V] {
	return &memory[K, V]{limit: limit, order: list.New(), places: map[K]*list.Element{}}
}

func (m *memory[K, V]) find(key K) (value V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	place, ok := m.places[key]
	if ok {
		m.order.MoveToFront(place)
		value = place.Value.(*remembered[K, V]).value
	}
	return value, ok
}

// keep remembers a value and forgets those that were not used for the longest time. What is larger than the whole memory
// is not kept.
func (m *memory[K, V]) keep(key K, value V, size int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(key, value, size)
}

// put is keep with the lock held. It reports whether the value is kept.
func (m *memory[K, V]) put(key K, value V, size int64) bool {
	m.drop(key)
	if size += entrySize; size > m.limit {
		return false
	}
	m.places[key] = m.order.PushFront(&remembered[K, V]{key, value, size})
	m.size += size
	m.shrink()
	return true
}

// shrink makes it fit. The lock is held.
func (m *memory[K, V]) shrink() {
	for m.size > m.limit {
		m.drop(m.order.Back().Value.(*remembered[K, V]).key)
	}
}

// drop forgets a value. The lock is held.
func (m *memory[K, V]) drop(key K) {
	place, ok := m.places[key]
	if !ok {
		return
	}
	gone := m.order.Remove(place).(*remembered[K, V])
	delete(m.places, key)
	m.size -= gone.size
	if m.onDrop != nil {
		m.onDrop(key, gone.value)
	}
}

func (m *memory[K, V]) totalSize() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.size
}

// storedManifest is a manifest that was hashed, or a small blob.
type storedManifest struct {
	// mediaType is by the content; empty for a blob.
	mediaType string
	data      []byte
}

// manifestMemory keeps manifests by digest.
type manifestMemory struct {
	*memory[digest.Digest, storedManifest]
}

func (m manifestMemory) keepManifest(d digest.Digest, s storedManifest) {
	if known, ok := m.find(d); ok && known.mediaType != "" {
		return // the same bytes
	}
	m.keep(d, s, int64(len(s.data)))
}
