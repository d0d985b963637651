package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/receipt"
	"krtpkg.dev/krtpkg/pkg/serve"
	"krtpkg.dev/krtpkg/pkg/site"
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
	return f.checkFile()
}

// checkFile returns an error unless metrics can be written to the file, which replaces only those of an earlier apply.
func (f *metricsFlags) checkFile() error {
	info, err := os.Stat(f.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("--metrics-file: %w", err)
	case !info.Mode().IsRegular():
		return &usageError{fmt.Errorf("--metrics-file %s: not a file", f.file)}
	case info.Size() > 0:
		file, err := os.Open(f.file)
		if err != nil {
			return fmt.Errorf("--metrics-file: %w", err)
		}
		start, err := io.ReadAll(io.LimitReader(file, int64(len(metricsHead))))
		if err := errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("--metrics-file: %w", err)
		}
		if string(start) != metricsHead {
			return &usageError{fmt.Errorf("--metrics-file %s: the file exists and has no metrics of an apply: name another", f.file)}
		}
	}
	probe, err := os.CreateTemp(filepath.Dir(f.file), ".krtpkg-*")
	if err != nil {
		return fmt.Errorf("--metrics-file: %w", err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// metricsHead is how a file of metrics begins.
const metricsHead = "# HELP krtpkg_apply_success "

// inFolder returns the flags for one of several clusters.
func (f metricsFlags) inFolder(cluster string) metricsFlags {
	if f.file != "" {
		f.file = filepath.Join(f.file, strings.TrimSuffix(receipt.FileName(cluster), ".json")+".prom")
	}
	return f
}

// writeMetrics writes how an apply to a cluster ended, for the textfile collector of Prometheus' node exporter, which wants files
// to be replaced as a whole. There are no metrics of what nobody confirmed, and that they cannot be written changes nothing
// of how it ended.
func (a *app) writeMetrics(f *metricsFlags, p *preparedRoot, rt deploy.Runtime, report *deploy.Report, failed error, began time.Time) {
	if f.file == "" || errors.Is(failed, deploy.ErrNotConfirmed) {
		return
	}
	rt.Name, rt.Version, rt.Digest = cmp.Or(rt.Name, p.deployedName()), p.set.Root.Metadata().Version, p.root.Digest.String()
	if err := replaceWholeFile(f.file, []byte(describeApply(rt, report, failed, began, time.Now()))); err != nil {
		a.ui.Note("WARNING: --metrics-file: %v", err)
	}
}

// describeApply returns the metrics of an apply. Names and versions are those of a definition, which have no characters that
// Prometheus' text format would have to escape.
func describeApply(rt deploy.Runtime, report *deploy.Report, failed error, began, ended time.Time) string {
	var text serve.MetricsText
	runtime := fmt.Sprintf("{runtime=%q}", rt.Name)
	number := func(n float64) string { return fmt.Sprintf("%s %g", runtime, n) }
	outcome := site.NewReceipt(rt, report, failed).Outcome
	is := func(one receipt.Outcome) string {
		if outcome == one {
			return number(1)
		}
		return number(0)
	}
	text.Add("krtpkg_apply_success", "gauge", "1 if the last apply succeeded, 0 if it failed or paused.", is(receipt.Applied))
	text.Add("krtpkg_apply_paused", "gauge", "1 if the last apply paused after a layer.", is(receipt.Paused))
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
