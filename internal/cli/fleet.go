package cli

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/site"
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
	flags.IntVar(&f.maxUnavailable, "max-unavailable", 0, "number of clusters that may fail; after one more, no further cluster is started")
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
func (a *app) applyFleet(ctx context.Context, p *preparedRoot, connected []*deploy.Cluster, o *applyOptions) error {
	clusters := map[string]*deploy.Cluster{}
	for i, name := range o.fleet.contexts {
		clusters[name] = connected[i]
	}
	options := site.FleetOptions{MaxParallel: o.fleet.maxParallel, MaxUnavailable: o.fleet.maxUnavailable}
	var mu sync.Mutex
	written := map[string]*result.ReceiptFile{}
	outcomes, failed := site.ApplyFleet(ctx, o.fleet.contexts, options, func(ctx context.Context, name string) (*deploy.Report, error) {
		a.ui.Say("cluster %s: started", name)
		one := *o
		one.cluster.label, one.receipt, one.metrics = name+": ", o.receipt.inFolder(name), o.metrics.inFolder(name)
		report, file, err := a.applyTo(ctx, clusters[name], p, &one)
		mu.Lock()
		written[name] = file
		mu.Unlock()
		if err != nil {
			a.ui.Say("cluster %s: failed", name)
			return nil, err
		}
		a.noteSkipped(one.cluster.label, report)
		a.ui.Say("cluster %s: applied", name)
		return report, nil
	})
	return a.printFleet(ctx, p, o, outcomes, written, failed)
}

func (a *app) printFleet(ctx context.Context, p *preparedRoot, o *applyOptions, outcomes []site.FleetOutcome, written map[string]*result.ReceiptFile, failed error) error {
	views := make([]result.ClusterApply, len(outcomes))
	for i, outcome := range outcomes {
		views[i] = result.ClusterApply{Context: outcome.Cluster, State: string(outcome.State), Seconds: outcome.Elapsed.Round(time.Millisecond).Seconds()}
		switch outcome.State {
		case site.FleetFailed:
			views[i].Reason = a.ui.ErrorText(outcome.Err.Error())
		case site.FleetApplied:
			view := describeDeployed(outcome.Report)
			view.Receipt = written[outcome.Cluster]
			views[i].Report = &view
		}
	}
	r := &result.Apply{Applied: result.Applied{Name: p.deployedName(), Applied: []result.BundleOutcome{}, Deleted: []result.BundleOutcome{}}, Clusters: views}
	return a.printResult(ctx, o.cluster.format, r, failed, func(w io.Writer) {
		ui.Fprintf(w, "CONTEXT\tSTATE\tTIME\tREASON\n")
		for _, v := range views {
			reason, _, _ := strings.Cut(v.Reason, "\n")
			ui.Fprintf(w, "%s\t%s\t%.1fs\t%s\n", v.Context, v.State, v.Seconds, reason)
		}
	})
}
