package gate

import (
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// place is a name in a repository: a tag, a digest, or a question.
type place struct{ where, name string }

// decisions are what was decided under a loaded policy, and are forgotten with it. They have limits for all repositories
// together.
type decisions struct {
	verdicts *verdictMemory
	// attached are manifests that are answered because of what they are attached to.
	attached *attachmentMemory
	// refusals are decisions on other manifests, blobRefusals on blobs, for a while: the same digest may be asked for as
	// either.
	refusals, blobRefusals *memory[place, refusal]
	// answers are what tags lead to, for a while.
	answers *memory[place, tagAnswer]
	// lists are the tags of repositories that would be answered, for a while.
	lists *memory[string, tagList]
	// searched is when the tags of a repository were last searched for roots.
	searched *memory[string, time.Time]
	// recalled is until when what tags of a repository led to before is not verified again, and what failed.
	recalled *memory[string, refusal]
}

func newDecisions(bytes int64) *decisions {
	return &decisions{
		verdicts: newVerdictMemory(bytes / 2),
		attached: newAttachmentMemory(bytes / 8),
		refusals: newMemory[place, refusal](bytes / 16), blobRefusals: newMemory[place, refusal](bytes / 16),
		answers: newMemory[place, tagAnswer](bytes / 16), lists: newMemory[string, tagList](bytes / 16),
		searched: newMemory[string, time.Time](bytes / 32), recalled: newMemory[string, refusal](bytes / 32),
	}
}

// totalSize returns about how many bytes are used.
func (d *decisions) totalSize() int64 {
	return d.verdicts.totalSize() + d.attached.totalSize() + d.refusals.totalSize() + d.blobRefusals.totalSize() +
		d.answers.totalSize() + d.lists.totalSize() + d.searched.totalSize() + d.recalled.totalSize()
}

// refusal is why something is not answered.
type refusal struct {
	err   error
	until time.Time
}

func keepRefusal(m *memory[place, refusal], at place, r refusal) {
	m.keep(at, r, int64(len(r.err.Error())))
}

// tagList are tags, the highest version first or by name.
type tagList struct {
	tags  []string
	until time.Time
}

func (l tagList) size() (n int64) {
	for _, tag := range l.tags {
		n += 16 + int64(len(tag))
	}
	return n
}

// attachmentMemory keeps attachments, and finds their blobs.
type attachmentMemory struct {
	*memory[place, attachment]
	blobs map[place]attachedBlob
}

// attachedBlob is a blob of attachments, of which there are so many.
type attachedBlob struct {
	// sizes are how many give it which size: whoever may push may give any.
	sizes       map[int64]int
	until       time.Time
	attachments int
}

func newAttachmentMemory(limit int64) *attachmentMemory {
	m := &attachmentMemory{newMemory[place, attachment](limit), map[place]attachedBlob{}}
	m.onDrop = func(at place, a attachment) {
		for d, size := range a.blobs {
			key := place{at.where, d.String()}
			b := m.blobs[key]
			if b.sizes[size]--; b.sizes[size] == 0 {
				delete(b.sizes, size)
			}
			if b.attachments--; b.attachments == 0 {
				delete(m.blobs, key)
			} else {
				m.blobs[key] = b
			}
		}
	}
	return m
}

func (m *attachmentMemory) keepAttachment(at place, a attachment) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.put(at, a, 400*int64(len(a.blobs))) {
		return
	}
	for d, size := range a.blobs {
		key := place{at.where, d.String()}
		b := m.blobs[key]
		if b.sizes == nil {
			b.sizes = map[int64]int{}
		}
		b.sizes[size]++
		m.blobs[key] = attachedBlob{b.sizes, a.until, b.attachments + 1}
	}
}

// findBlob returns the sizes that are given to a blob of something attached, the least first.
func (m *attachmentMemory) findBlob(at place) (sizes []int64, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.blobs[at]
	return slices.Sorted(maps.Keys(b.sizes)), ok && time.Now().Before(b.until)
}

// verdictMemory keeps verdicts, and finds those of a repository.
type verdictMemory struct {
	*memory[place, *verdict]
	of map[string]map[digest.Digest]*verdict
}

func newVerdictMemory(limit int64) *verdictMemory {
	m := &verdictMemory{newMemory[place, *verdict](limit), map[string]map[digest.Digest]*verdict{}}
	m.onDrop = func(at place, v *verdict) {
		delete(m.of[at.where], v.root)
		if len(m.of[at.where]) == 0 {
			delete(m.of, at.where)
		}
	}
	return m
}

// keepVerdict remembers a verdict. A refused one takes little.
func (m *verdictMemory) keepVerdict(v *verdict) {
	at, size := place{v.repository.where, v.root.String()}, v.size()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.put(at, v, size) {
		return
	}
	if m.of[at.where] == nil {
		m.of[at.where] = map[digest.Digest]*verdict{}
	}
	m.of[at.where][v.root] = v
}

// measureVerdict counts a verdict again, that has grown.
func (m *verdictMemory) measureVerdict(v *verdict) {
	at, size := place{v.repository.where, v.root.String()}, v.size()+entrySize
	m.mu.Lock()
	defer m.mu.Unlock()
	if found, ok := m.places[at]; ok && found.Value.(*remembered[place, *verdict]).value == v {
		entry := found.Value.(*remembered[place, *verdict])
		m.size += size - entry.size
		entry.size = size
		m.shrink()
	}
}

// hasRoom reports whether a search may verify roots that nobody asked for by name. They never take the place of
// others, so that no search verifies again what the last one did.
func (m *verdictMemory) hasRoom() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.size < m.limit/4*3
}

// listVerdicts returns the verdicts of a repository; of all if where is empty.
func (m *verdictMemory) listVerdicts(where string) []*verdict {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []*verdict
	if where != "" {
		for _, v := range m.of[where] {
			all = append(all, v)
		}
		return all
	}
	for e := m.order.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(*remembered[place, *verdict]).value)
	}
	return all
}

// listAccepted returns those that are accepted now.
func (m *verdictMemory) listAccepted(where string) []*verdict {
	now := time.Now()
	var accepted []*verdict
	for _, v := range m.listVerdicts(where) {
		if v.isAccepted(now) {
			accepted = append(accepted, v)
		}
	}
	return accepted
}

// forgetVerdict drops a verdict.
func (m *verdictMemory) forgetVerdict(v *verdict) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := place{v.repository.where, v.root.String()}
	if found, ok := m.places[at]; ok && found.Value.(*remembered[place, *verdict]).value == v {
		m.drop(at)
	}
}
