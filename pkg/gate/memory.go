package gate

import (
	"container/list"
	"sync"

	"github.com/opencontainers/go-digest"
)

// maxMemory is how many bytes of manifests are kept in memory.
const maxMemory = 64 << 20

// storedManifest is a manifest that was hashed, or a small blob.
type storedManifest struct {
	// mediaType is by the content; empty for a blob.
	mediaType string
	data      []byte
}

// manifestMemory keeps manifests by digest, the latest used ones.
type manifestMemory struct {
	limit int64

	mu     sync.Mutex
	size   int64
	order  *list.List // of digest.Digest, the latest used first
	places map[digest.Digest]*list.Element
	kept   map[digest.Digest]storedManifest
}

func newManifestMemory(limit int64) *manifestMemory {
	return &manifestMemory{limit: limit, order: list.New(), places: map[digest.Digest]*list.Element{}, kept: map[digest.Digest]storedManifest{}}
}

func (m *manifestMemory) find(d digest.Digest) (storedManifest, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	found, ok := m.kept[d]
	if ok {
		m.order.MoveToFront(m.places[d])
	}
	return found, ok
}

func (m *manifestMemory) keep(d digest.Digest, s storedManifest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, ok := m.kept[d]; ok {
		if known.mediaType == "" {
			m.kept[d] = s // the same bytes
		}
		return
	}
	m.kept[d], m.places[d] = s, m.order.PushFront(d)
	m.size += int64(len(s.data))
	for m.size > m.limit && m.order.Len() > 1 {
		last := m.order.Back()
		d := m.order.Remove(last).(digest.Digest)
		m.size -= int64(len(m.kept[d].data))
		delete(m.kept, d)
		delete(m.places, d)
	}
}
