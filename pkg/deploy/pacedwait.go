package deploy

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"carvel.dev/kapp/pkg/kapp/clusterapply"

	"krtpkg.dev/krtpkg/pkg/retry"
)

// pacedWait makes the pauses between two looks at what is not ready. Kapp's own are all of the same length, so that a
// Deployment that takes a fifth of a second is waited for twice as long and more, in each layer again. These begin at an
// eighth of the longest, and each is twice as long as the one before, until something has become ready.
//
// Kapp tells of each look before it takes it. Itself it makes the first pause each time, whatever it tells; the rest is
// added here.
type pacedWait struct {
	clusterapply.UI
	ctx     context.Context
	longest time.Duration

	mu      sync.Mutex
	section string // the last one
	looks   int    // without a change
}

// firstPause returns the pause before the second look, and the shortest between two.
func firstPause(longest time.Duration) time.Duration { return longest / 8 }

// NotifySection implements [clusterapply.UI].
func (p *pacedWait) NotifySection(format string, args ...any) {
	section := fmt.Sprintf(format, args...)
	if pause := p.nextPause(section); pause > 0 {
		_ = retry.Wait(p.ctx, pause) // where ctx has ended, the look that follows fails
	}
	p.UI.NotifySection("%s", section)
}

// nextPause returns what to add to kapp's pause before a section: nothing before the first look, and nothing where more is
// ready than at the last one. Kapp paces by itself how it tries again to apply.
func (p *pacedWait) nextPause(section string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if section != p.section || strings.HasPrefix(section, "applying ") {
		p.section, p.looks = section, 0
		return 0
	}
	first := firstPause(p.longest)
	pause := first << min(p.looks, 8)
	p.looks++
	return min(pause, p.longest) - first
}
