package cli

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/receipt"
	"krtpkg.dev/krtpkg/pkg/serve"
)

// metricsFlags say where the metrics of an apply go.
type metricsFlags struct{ file string }

func (f *metricsFlags) addMetricsFlags(cmd *cobra.Command, usage string) {
	cmd.Flags().StringVar(&f.file, "metrics-file", "", usage)
}

// prepare makes sure, before anything is applied, that there is a place for the metrics: a folder if there are several clusters.
func (f *metricsFlags) prepare(clusters []string) error {
	if f.file == "" {
		return nil
	}
	if len(clusters) > 0 {
		if err := os.MkdirAll(f.file, 0o755); err != nil {
			return fmt.Errorf("--metrics-file %s: want a folder for the metrics of several clusters: %w", f.file, err)
		}
		return nil
	}
	probe, err := os.CreateTemp(filepath.Dir(f.file), ".krtpkg-*")
	if err != nil {
		return fmt.Errorf("--metrics-file: %w", err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// inFolder returns the flags for one of several clusters.
func (f metricsFlags) inFolder(cluster string) metricsFlags {
	if f.file != "" {
		f.file = filepath.Join(f.file, strings.TrimSuffix(receipt.FileName(cluster), ".json")+".prom")
	}
	return f
}

// measure returns do with metrics of how it ended, for the textfile collector of Prometheus' node exporter, which wants files to
// be replaced as a whole. There are none of what nobody confirmed.
func (f *metricsFlags) measure(p *preparedRoot, do func() (deploy.Runtime, *deploy.Report, error)) func() (deploy.Runtime, *deploy.Report, error) {
	if f.file == "" {
		return do
	}
	return func() (deploy.Runtime, *deploy.Report, error) {
		began := time.Now()
		rt, report, failed := do()
		if errors.Is(failed, deploy.ErrNotConfirmed) {
			return rt, report, failed
		}
		rt.Name, rt.Version, rt.Digest = cmp.Or(rt.Name, p.deployedName()), p.set.Root.Metadata().Version, p.root.Digest.String()
		err := replaceWholeFile(f.file, []byte(describeApply(rt, report, failed, began, time.Now())))
		if err != nil {
			err = fmt.Errorf("--metrics-file: %w", err)
		}
		return rt, report, errors.Join(failed, err)
	}
}

// describeApply returns the metrics of an apply. Names and versions are those of a definition, which have no characters that
// Prometheus' text format would have to escape.
func describeApply(rt deploy.Runtime, report *deploy.Report, failed error, began, ended time.Time) string {
	var text serve.MetricsText
	runtime := fmt.Sprintf("{runtime=%q}", rt.Name)
	number := func(n float64) string { return fmt.Sprintf("%s %g", runtime, n) }
	succeeded := 1.0
	if failed != nil {
		succeeded = 0
	}
	text.Add("krtpkg_apply_success", "gauge", "1 if the last apply succeeded, 0 if it failed.", number(succeeded))
	text.Add("krtpkg_apply_info", "gauge", "The version that the last apply was of.", fmt.Sprintf("{runtime=%q,version=%q,digest=%q} 1", rt.Name, rt.Version, rt.Digest))
	text.Add("krtpkg_apply_finished_timestamp_seconds", "gauge", "When the last apply ended, as Unix time.", fmt.Sprintf("%s %d", runtime, ended.Unix()))
	text.Add("krtpkg_apply_duration_seconds", "gauge", "How long the last apply took.", number(max(ended.Sub(began).Seconds(), 0)))
	if report == nil {
		report = &deploy.Report{}
	}
	state := func(name string, n int) string { return fmt.Sprintf("{runtime=%q,state=%q} %d", rt.Name, name, n) }
	text.Add("krtpkg_apply_bundles", "gauge", "Bundles of the last apply by what became of them.",
		state("applied", len(report.Applied)), state("deleted", len(report.Deleted)), state("blocked", len(report.Blocked)))
	return text.String()
}
