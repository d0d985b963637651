package cli

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"krtpkg.dev/krtpkg/pkg/deploy"
)

// What the node exporter reads is Prometheus' format, whatever came of the apply.
func TestApplyMetrics(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	rt := deploy.Runtime{Name: "edge", Version: "1.0.0+b1", Digest: "sha256:1"}
	report := &deploy.Report{Applied: []deploy.Outcome{{Bundle: "a"}, {Bundle: "b"}}, Blocked: []deploy.Outcome{{Bundle: "c"}}}
	for _, c := range []struct {
		report  *deploy.Report
		failed  error
		success float64
	}{{report, nil, 1}, {report, errors.New("x"), 0}, {nil, errors.New("x"), 0}} {
		text := describeApply(rt, c.report, c.failed, began, began.Add(1500*time.Millisecond))
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(strings.NewReader(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if got := families["krtpkg_apply_success"].GetMetric()[0].GetGauge().GetValue(); got != c.success {
			t.Errorf("success %v, want %v", got, c.success)
		}
		if got := families["krtpkg_apply_duration_seconds"].GetMetric()[0].GetGauge().GetValue(); got != 1.5 {
			t.Errorf("duration %v", got)
		}
		if got := families["krtpkg_apply_finished_timestamp_seconds"].GetMetric()[0].GetGauge().GetValue(); got != float64(began.Unix()+1) {
			t.Errorf("finished %v", got)
		}
		if got := len(families["krtpkg_apply_bundles"].GetMetric()); got != 3 {
			t.Errorf("%d states", got)
		}
	}
}
