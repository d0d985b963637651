package deploy

import (
	"context"
	"slices"
	"sync"
)

// scheduledTask is something to do after others.
type scheduledTask struct {
	after []int // indexes of tasks
	run   func(context.Context) error
}

// runScheduled runs tasks, at most limit at a time, each after those that it waits for. A task that
// fails, or that ctx's end keeps from running, blocks those after it; others go on. It returns
// the errors of those that ran, and which tasks were blocked by which, the failed ones among
// them. Where tasks wait for each
// other, the first goes first.
func runScheduled(ctx context.Context, tasks []scheduledTask, limit int) (failed map[int]error, blocked map[int][]int) {
	failed, blocked = map[int]error{}, map[int][]int{}
	var (
		mu      sync.Mutex
		ended   = map[int]bool{}
		started = map[int]bool{}
		running int
		free    = sync.NewCond(&mu)
	)
	mu.Lock()
	defer mu.Unlock()
	// next is a task that can start; the first, so that one at a time is in order.
	next := func() int {
		return slices.IndexFunc(allIndexes(tasks), func(i int) bool {
			return !started[i] && !slices.ContainsFunc(tasks[i].after, func(a int) bool { return !ended[a] })
		})
	}
	for {
		// What a task waits for may itself never run: that is found out in as many rounds as
		// the chain is long.
		for changed := true; changed; {
			changed = false
			for i, t := range tasks {
				by := slices.DeleteFunc(slices.Clone(t.after), func(a int) bool { return failed[a] == nil && blocked[a] == nil })
				if started[i] || blocked[i] != nil || len(by) == 0 {
					continue
				}
				blocked[i], started[i], changed = by, true, true
			}
		}
		i := -1
		if ctx.Err() == nil && running < limit {
			i = next()
			if i < 0 && running == 0 { // they wait for each other
				i = slices.IndexFunc(allIndexes(tasks), func(i int) bool { return !started[i] })
			}
		}
		if i < 0 {
			if running == 0 {
				return failed, blocked
			}
			free.Wait()
			continue
		}
		started[i] = true
		running++
		go func() {
			err := tasks[i].run(ctx)
			mu.Lock()
			defer mu.Unlock()
			running--
			if err != nil {
				failed[i] = err
			} else {
				ended[i] = true
			}
			free.Signal()
		}()
	}
}

func allIndexes(tasks []scheduledTask) []int {
	all := make([]int, len(tasks))
	for i := range all {
		all[i] = i
	}
	return all
}
