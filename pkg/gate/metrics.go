package gate

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"krtpkg.dev/krtpkg/pkg/serve"
)

// requestKind is what upstream is asked for.
type requestKind int

const (
	askTag requestKind = iota
	askManifest
	askBlob
	askReferrers
	askTags
	requestKinds
)

var requestKindNames = [requestKinds]string{"tag", "manifest", "blob", "referrers", "tags"}

// metrics count what happens. The zero value is ready.
type metrics struct {
	upstream               [requestKinds]atomic.Int64
	upstreamBytes          atomic.Int64
	cacheHits, cacheMisses atomic.Int64
	verifications          atomic.Int64
	kept, moved            atomic.Int64
	policyLoads            atomic.Int64
	stateErrors            atomic.Int64

	mu sync.Mutex
	// answers are counted by kind and status, refusals by reason.
	answers  map[[2]string]int64
	refusals map[string]int64
}

// health is when an upstream began to fail, in Unix nanoseconds; 0 while it answers.
type health struct{ failingSince atomic.Int64 }

// setFailing records that it fails, and reports whether that is new.
func (h *health) setFailing(now time.Time) bool {
	return h.failingSince.CompareAndSwap(0, now.UnixNano())
}

// setAnswering records that it answers, and reports whether that is new.
func (h *health) setAnswering() bool { return h.failingSince.Swap(0) != 0 }

func (m *metrics) countAnswer(kind string, status int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.answers == nil {
		m.answers = map[[2]string]int64{}
	}
	m.answers[[2]string{kind, fmt.Sprint(status)}]++
}

func (m *metrics) countRefusal(reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refusals == nil {
		m.refusals = map[string]int64{}
	}
	m.refusals[reason]++
}

// serveMetrics answers with the metrics. Labels are of this package alone: what clients ask for is
// none, or they could make as many as they like.
func (g *Gate) serveMetrics(w http.ResponseWriter) {
	var text serve.MetricsText
	write := text.Add
	single := func(v any) string { return fmt.Sprintf(" %v", v) }
	m := &g.metrics
	m.mu.Lock()
	var answers, refusals []string
	for key, n := range m.answers {
		answers = append(answers, fmt.Sprintf("{kind=%q,status=%q} %d", key[0], key[1], n))
	}
	for reason, n := range m.refusals {
		refusals = append(refusals, fmt.Sprintf("{reason=%q} %d", reason, n))
	}
	m.mu.Unlock()
	slices.Sort(answers)
	slices.Sort(refusals)
	write("krtpkg_gate_answers_total", "counter", "Answers by kind of request and HTTP status.", answers...)
	write("krtpkg_gate_refusals_total", "counter", "Refusals by reason.", refusals...)
	var asked []string
	for kind := range requestKinds {
		asked = append(asked, fmt.Sprintf("{kind=%q} %d", requestKindNames[kind], m.upstream[kind].Load()))
	}
	write("krtpkg_gate_upstream_requests_total", "counter", "Questions to upstream registries by kind.", asked...)
	write("krtpkg_gate_upstream_bytes_total", "counter", "Bytes of blobs from upstream registries.", single(m.upstreamBytes.Load()))
	var failing []string
	for i, u := range g.o.Upstreams {
		failing = append(failing, fmt.Sprintf("{upstream=%q} %.3f", u.Prefix, float64(g.health[i].failingSince.Load())/1e9))
	}
	write("krtpkg_gate_upstream_failing_since_seconds", "gauge", "Unix time since which an upstream fails; 0 while it answers.", failing...)
	write("krtpkg_gate_verifications_total", "counter", "Roots that were verified, accepted or not.", single(m.verifications.Load()))
	write("krtpkg_gate_tags_kept_total", "counter", "Times that a tag stayed where it was, against upstream.", single(m.kept.Load()))
	write("krtpkg_gate_tags_moved_total", "counter", "Times that a tag moved to another digest.", single(m.moved.Load()))
	write("krtpkg_gate_accepted_roots", "gauge", "Roots with a verdict that accepts them.", single(g.countAccepted()))
	write("krtpkg_gate_memory_bytes", "gauge", "About how many bytes of memory manifests, verdicts, tags and the like take.", single(g.memorySize()))
	write("krtpkg_gate_cache_hits_total", "counter", "Blobs answered from the cache.", single(m.cacheHits.Load()))
	write("krtpkg_gate_cache_misses_total", "counter", "Blobs fetched from upstream.", single(m.cacheMisses.Load()))
	size := int64(0)
	if g.cache != nil {
		size = g.cache.totalSize()
	}
	write("krtpkg_gate_cache_bytes", "gauge", "Bytes in the cache.", single(size))
	write("krtpkg_gate_state_errors_total", "counter", "Times that the state or the cache could not be written.", single(m.stateErrors.Load()))
	write("krtpkg_gate_policy_loads_total", "counter", "Times that a changed policy was loaded.", single(m.policyLoads.Load()))
	valid := 1
	if g.policy.Load().err != nil {
		valid = 0
	}
	write("krtpkg_gate_policy_valid", "gauge", "1 if there is a policy, 0 if everything is refused.", single(valid))
	text.Reply(w)
}
