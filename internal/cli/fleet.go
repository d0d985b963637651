package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/result"
)

// fleetFlags are for a handful of clusters.
type fleetFlags struct {
	contexts       []string
	maxParallel    int
	maxUnavailable int
}

func (f *fleetFlags) addFleetFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.contexts, "contexts", nil, "apply to the clusters of these kubeconfig contexts, in this order")
	flags.IntVar(&f.maxParallel, "max-parallel", 1, "number of clusters to process in parallel")
	flags.IntVar(&f.maxUnavailable, "max-unavailable", 0, "number of failed clusters after which no other one is started")
}

func (f *fleetFlags) checkValues(o *applyOptions) error {
	if len(f.contexts) == 0 {
		return nil
	}
	sorted := slices.Sorted(slices.Values(f.contexts))
	switch {
	case len(slices.Compact(sorted)) != len(f.contexts):
		return &usageError{errors.New("--contexts names a cluster twice")}
	case f.maxParallel < 1 || f.maxUnavailable < 0:
		return &usageError{errors.New("--max-parallel must be at least 1, --max-unavailable at least 0")}
	case !o.cluster.yes:
		return &usageError{errors.New("--contexts cannot ask for confirmation: review with krtpkg plan, then pass --yes")}
	}
	return nil
}

// applyFleet applies to several clusters what has been verified once.
func (a *app) applyFleet(ctx context.Context, p *preparedRoot, o *applyOptions) error {
	var clusters []*deploy.Cluster
	for _, name := range o.fleet.contexts {
		at := o.cluster
		at.Context, at.label = name, name+": "
		cluster, err := at.connectCluster(a)
		if err != nil {
			return err
		}
		clusters = append(clusters, cluster)
	}
	var mu sync.Mutex
	views := make([]result.ClusterApply, len(clusters))
	errs := make([]error, len(clusters))
	failed := 0
	var group errgroup.Group
	group.SetLimit(o.fleet.maxParallel)
	for i, cluster := range clusters {
		views[i] = result.ClusterApply{Context: o.fleet.contexts[i], State: "not begun"}
		group.Go(func() error {
			mu.Lock()
			stop := failed > o.fleet.maxUnavailable || ctx.Err() != nil
			mu.Unlock()
			if stop {
				return nil
			}
			began := time.Now()
			a.ui.Say("cluster %s: started", o.fleet.contexts[i])
			one := *o
			one.cluster.label = o.fleet.contexts[i] + ": "
			report, err := a.applyTo(ctx, cluster, p, &one)
			mu.Lock()
			defer mu.Unlock()
			views[i].State, views[i].Seconds = "applied", time.Since(began).Round(time.Millisecond).Seconds()
			if err != nil {
				failed++
				errs[i] = fmt.Errorf("cluster %s: %w", o.fleet.contexts[i], err)
				views[i].State, views[i].Reason = "failed", a.ui.ErrorText(err.Error())
				a.ui.Say("cluster %s: failed", o.fleet.contexts[i])
				return nil
			}
			a.noteSkipped(one.cluster.label, report)
			view := describeDeployed(report)
			views[i].Report = &view
			a.ui.Say("cluster %s: applied", o.fleet.contexts[i])
			return nil
		})
	}
	_ = group.Wait() // errors are in errs
	if begun := slices.IndexFunc(views, func(v result.ClusterApply) bool { return v.State == "not begun" }); begun >= 0 {
		errs = append(errs, fmt.Errorf("%d clusters failed, more than --max-unavailable %d: the others were not started", failed, o.fleet.maxUnavailable))
	}
	r := &result.Apply{Applied: result.Applied{Name: p.deployedName(), Applied: []result.BundleOutcome{}, Deleted: []result.BundleOutcome{}}, Clusters: views}
	return a.printResult(ctx, o.cluster.format, r, errors.Join(errs...), func(w io.Writer) {
		ui.Fprintf(w, "CONTEXT\tSTATE\tTIME\tREASON\n")
		for _, v := range views {
			reason, _, _ := strings.Cut(v.Reason, "\n")
			ui.Fprintf(w, "%s\t%s\t%.1fs\t%s\n", v.Context, v.State, v.Seconds, reason)
		}
	})
}
