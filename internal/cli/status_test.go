package cli

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/result"
)

// An upgrade that failed in the middle, as people read it.
func TestStatusTable(t *testing.T) {
	t.Parallel()
	changed := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	v := result.RuntimeStatus{Name: "edge", Version: "1.1.0", Digest: "sha256:0123456789abcdef", Health: deploy.Failing, Bundles: []result.BundleStatus{
		{Name: "kube-prometheus-stack", Layer: 2, Version: "1.1.0", Target: "1.1.0", Health: deploy.Healthy, Stage: deploy.StageComplete, ResourceCount: 121, Changed: changed},
		{Name: "ingress-nginx", Layer: 3, Version: "4.10.0", Target: "4.11.0", Health: deploy.Progressing, Stage: deploy.StageIncomplete, ResourceCount: 12, Changed: changed,
			Drift: []deploy.ResourceChange{{Op: deploy.OpCreate}, {Op: deploy.OpUpdate}}},
		{Name: "old", Layer: 3, Version: "1.0.0", Health: deploy.Healthy, Stage: deploy.StageLeaving, Changed: changed},
		{Name: "shop", Layer: 6, Version: "1.0.0", Target: "1.1.0", Health: deploy.Healthy, Stage: deploy.StageNotBegun, Changed: changed},
		{Name: "unread", Layer: 6, Version: "1.0.0", Target: "1.0.0", Health: deploy.Unknown, Stage: deploy.StageComplete, Reason: "the webhook is down", Changed: changed},
		{Name: "new", Layer: 6, Target: "1.1.0", Health: deploy.NotBegun, Stage: deploy.StageNotBegun},
	}}
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	writeStatus(w, []result.RuntimeStatus{v}, statusOptions{})
	w.Flush()
	for _, want := range []string{
		"4.10.0 → 4.11.0  progressing, incomplete  12", "healthy, to be deleted", "1.0.0 → 1.1.0    healthy, not begun", "not begun                0",
		"never", "2026-05-04 03:02Z", "  unread: the webhook is down\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("lacks %q", want)
		}
	}
	for line := range strings.Lines(out.String()) {
		if width := utf8.RuneCountInString(strings.TrimRight(line, "\n")); width > 110 {
			t.Errorf("%d columns: %s", width, line)
		}
	}
	if strings.Contains(out.String(), "0001") {
		t.Error("a time that is none is printed")
	}
	if t.Failed() {
		t.Logf("\n%s", &out)
	}
}

// Which namespace a bundle is in is told where bundles of several are waited for.
func TestUnhealthyBundles(t *testing.T) {
	t.Parallel()
	views := []result.RuntimeStatus{
		{Name: "edge", Namespace: "one", Health: deploy.Failing, Bundles: []result.BundleStatus{{Name: "web", Health: deploy.Failing}, {Name: "db", Health: deploy.Healthy}}},
		{Name: "edge", Namespace: "two", Health: deploy.Progressing},
	}
	for _, c := range []struct {
		options statusOptions
		want    []string
	}{
		{statusOptions{}, []string{"web", "edge"}},
		{statusOptions{everywhere: true}, []string{"web in namespace one", "edge in namespace two"}},
	} {
		if got := unhealthyBundles(views, c.options); !slices.Equal(got, c.want) {
			t.Errorf("everywhere %t: %q, want %q", c.options.everywhere, got, c.want)
		}
	}
}
