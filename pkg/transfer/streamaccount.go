package transfer

import (
	"sync"

	"krtpkg.dev/krtpkg/pkg/progress"
)

// streamAccount makes one account of an import from a stream: blobs are sent as they arrive, and the plan that
// is carried out at the end finds them at the target.
type streamAccount struct {
	report progress.Func

	mu sync.Mutex
	// planned is set once the total is known, arrived has the items that were counted since.
	planned bool
	arrived map[string]bool
}

func (a *streamAccount) handleEvent(e progress.Event) {
	if a.isNews(e) {
		a.report.Emit(e)
	}
}

// isNews drops a second total, and a second end of an item.
func (a *streamAccount) isNews(e progress.Event) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch e.Kind {
	case progress.Planned:
		if a.planned {
			return false
		}
		a.planned = true
		clear(a.arrived) // what came before the plan is found at the target
	case progress.Copied, progress.Skipped, progress.Mounted:
		if a.arrived[e.Subject] {
			return false
		}
		a.arrived[e.Subject] = true
	}
	return true
}

// announcePlan tells how much there is to do. Of a volume that is its blobs: manifests and tags follow with
// the last one.
func (s *streamImport) announcePlan() {
	planned := progress.Event{Kind: progress.Planned, Items: len(s.plan.nodes), Bytes: s.plan.Size()}
	if volume, _ := s.from.Volumes(); volume > 0 {
		planned.Items, planned.Bytes = 0, 0
		for _, desc := range s.from.ListExpected() {
			if n := s.plan.nodes[s.target(desc).Digest]; n != nil {
				planned.Items, planned.Bytes = planned.Items+1, planned.Bytes+n.desc.Size
			}
		}
	}
	s.options.Progress.Emit(planned)
}
