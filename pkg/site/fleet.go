package site

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"krtpkg.dev/krtpkg/pkg/deploy"
)

// FleetOptions are for [ApplyFleet].
type FleetOptions struct {
	// MaxParallel is how many clusters are processed in parallel (default: 1).
	MaxParallel int
	// MaxUnavailable is how many clusters may fail. After one more, no further cluster is started.
	MaxUnavailable int
}

// FleetState is what became of a cluster of a fleet.
type FleetState string

// States of a cluster of a fleet.
const (
	FleetNotBegun FleetState = "not begun"
	FleetApplied  FleetState = "applied"
	FleetFailed   FleetState = "failed"
)

// FleetOutcome is what became of one cluster of a fleet.
type FleetOutcome struct {
	Cluster string
	State   FleetState
	Elapsed time.Duration
	// Report is set if State is FleetApplied, Err if it is FleetFailed.
	Report *deploy.Report
	Err    error
}

// ApplyFleet calls apply for each of the named clusters, in their order, and returns what became of each, in the same
// order. It starts no further cluster once more than MaxUnavailable have failed, or ctx has ended; clusters that have been
// started are finished. The error joins those of all failed clusters, and counts the clusters that were not started.
func ApplyFleet(ctx context.Context, clusters []string, opts FleetOptions, apply func(ctx context.Context, cluster string) (*deploy.Report, error)) ([]FleetOutcome, error) {
	var (
		mu       sync.Mutex
		failed   int
		outcomes = make([]FleetOutcome, len(clusters))
		group    errgroup.Group
	)
	mayStart := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return failed <= opts.MaxUnavailable && ctx.Err() == nil
	}
	group.SetLimit(max(opts.MaxParallel, 1))
	for i, cluster := range clusters {
		outcome := &outcomes[i]
		*outcome = FleetOutcome{Cluster: cluster, State: FleetNotBegun}
		group.Go(func() error {
			if !mayStart() {
				return nil
			}
			began := time.Now()
			report, err := apply(ctx, cluster)
			outcome.State, outcome.Elapsed, outcome.Report = FleetApplied, time.Since(began), report
			if err != nil {
				outcome.State, outcome.Report, outcome.Err = FleetFailed, nil, err
				mu.Lock()
				failed++
				mu.Unlock()
			}
			return nil
		})
	}
	_ = group.Wait() // errors are in outcomes
	return outcomes, joinFleetErrors(ctx, outcomes, opts)
}

func joinFleetErrors(ctx context.Context, outcomes []FleetOutcome, opts FleetOptions) error {
	var errs []error
	waiting := 0
	for _, outcome := range outcomes {
		switch outcome.State {
		case FleetFailed:
			errs = append(errs, fmt.Errorf("cluster %s: %w", outcome.Cluster, outcome.Err))
		case FleetNotBegun:
			waiting++
		}
	}
	failed := len(errs)
	switch {
	case waiting == 0:
	case failed > opts.MaxUnavailable:
		errs = append(errs, fmt.Errorf("%d clusters not started: %d failed, and at most %d may fail", waiting, failed, opts.MaxUnavailable))
	default:
		errs = append(errs, fmt.Errorf("%d clusters not started: %w", waiting, ctx.Err()))
	}
	return errors.Join(errs...)
}
