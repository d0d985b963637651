package site_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/site"
)

func TestApplyFleet(t *testing.T) {
	t.Parallel()
	errDown := errors.New("no answer")
	for name, test := range map[string]struct {
		opts        site.FleetOptions
		down        []string
		interruptAt string
		want, fails string
	}{
		"all": {want: "a applied, b applied, c applied, d applied"},
		"the first fails": {down: []string{"a"}, want: "a failed, b not begun, c not begun, d not begun",
			fails: "cluster a: no answer\n3 clusters not started: 1 failed, and at most 0 may fail"},
		"one may fail": {opts: site.FleetOptions{MaxUnavailable: 1}, down: []string{"a"}, want: "a failed, b applied, c applied, d applied",
			fails: "cluster a: no answer"},
		"the last fails": {down: []string{"d"}, want: "a applied, b applied, c applied, d failed", fails: "cluster d: no answer"},
		"interrupted": {interruptAt: "b", want: "a applied, b failed, c not begun, d not begun",
			fails: "cluster b: context canceled\n2 clusters not started: 1 failed, and at most 0 may fail"},
		"interrupted where one may fail": {opts: site.FleetOptions{MaxUnavailable: 1}, interruptAt: "b", want: "a applied, b failed, c not begun, d not begun",
			fails: "cluster b: context canceled\n2 clusters not started: context canceled"},
	} {
		ctx, interrupt := context.WithCancel(context.Background())
		var started []string
		outcomes, err := site.ApplyFleet(ctx, []string{"a", "b", "c", "d"}, test.opts, func(ctx context.Context, cluster string) (*deploy.Report, error) {
			started = append(started, cluster)
			if cluster == test.interruptAt {
				interrupt()
				return nil, ctx.Err()
			}
			if slices.Contains(test.down, cluster) {
				return &deploy.Report{}, errDown
			}
			return &deploy.Report{Runtime: cluster}, nil
		})
		interrupt()
		var got []string
		for _, o := range outcomes {
			got = append(got, fmt.Sprintf("%s %s", o.Cluster, o.State))
			if (o.State == site.FleetApplied) != (o.Report != nil && o.Report.Runtime == o.Cluster) || (o.State == site.FleetFailed) != (o.Err != nil) {
				t.Errorf("%s: %+v", name, o)
			}
		}
		if text := strings.Join(got, ", "); text != test.want {
			t.Errorf("%s: %s, want %s", name, text, test.want)
		}
		if text := fmt.Sprint(err); test.fails == "" && err != nil || test.fails != "" && text != test.fails {
			t.Errorf("%s: %s, want %s", name, text, test.fails)
		}
		if !slices.IsSorted(started) {
			t.Errorf("%s: started in the order %s", name, started)
		}
		if len(test.down) > 0 && !errors.Is(err, errDown) {
			t.Errorf("%s: %v hides its cause", name, err)
		}
	}
}

// As many clusters as MaxParallel are in progress at the same time: each waits for another one.
func TestApplyFleetInParallel(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var mu sync.Mutex
	running, most := 0, 0
	both := make(chan struct{})
	_, err := site.ApplyFleet(ctx, []string{"a", "b", "c"}, site.FleetOptions{MaxParallel: 2}, func(ctx context.Context, _ string) (*deploy.Report, error) {
		mu.Lock()
		running++
		if most = max(most, running); running == 2 && most == 2 {
			select {
			case <-both:
			default:
				close(both)
			}
		}
		mu.Unlock()
		defer func() { mu.Lock(); running--; mu.Unlock() }()
		select {
		case <-both:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	if err != nil || most != 2 {
		t.Errorf("%d in parallel, %v", most, err)
	}
}
