package catalog_test

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"krtpkg.dev/krtpkg/pkg/catalog"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/graph"
	"krtpkg.dev/krtpkg/pkg/result"
)

// clusterState is a runtime on a cluster, with a bundle of each health.
func clusterState() *catalog.ClusterState {
	at := time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)
	bundle := func(name string, layer int, health deploy.Health) result.BundleStatus {
		return result.BundleStatus{Name: name, Layer: layer, Version: "1.0.0", Health: health, Changed: at, ResourceCount: 3}
	}
	drifted, failing := bundle("network", 3, deploy.Healthy), bundle("web", 6, deploy.Failing)
	drifted.Drift = []deploy.ResourceChange{{ResourceID: deploy.ResourceID{APIVersion: "v1", Kind: "ConfigMap", Name: "network"}, Op: deploy.OpUpdate, Diff: "  1,1   data:\n- a: 1\n+ a: 2\n"}}
	failing.Unready = []deploy.ResourceStatus{{ResourceID: deploy.ResourceID{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", Namespace: "web"}, Health: deploy.Failing, Reason: "no image"}}
	return &catalog.ClusterState{
		Cluster: "north", Status: result.Status{Runtimes: []result.RuntimeStatus{{
			Name: "edge", Version: "1.0.0", Digest: "sha256:" + strings.Repeat("0a", 32), Health: deploy.Failing, Drifted: true, Newer: []string{"1.1.0"},
			Bundles: []result.BundleStatus{bundle("base", 1, deploy.Healthy), drifted, bundle("store", 3, deploy.Missing), bundle("queue", 5, deploy.NotBegun), failing},
		}}},
		Histories: []result.History{{Name: "edge", Revisions: []deploy.Revision{{Number: 2, Version: "1.0.0", State: "complete", Started: at, By: "operator", Digest: "sha256:" + strings.Repeat("0a", 32)}}}},
		Graphs: map[string]*graph.Graph{"edge": {Name: "edge", Version: "1.0.0", Nodes: []graph.Node{
			{Name: "base", Version: "1.0.0", Layer: 1}, {Name: "network", Version: "1.0.0", Layer: 3, Requires: []string{"base"}}, {Name: "web", Version: "1.0.0", Layer: 6, Requires: []string{"network"}},
		}}},
		Receipts: &result.Receipts{Receipts: []result.ReceiptStatus{{Cluster: "north", Name: "edge", Version: "1.0.0", State: "current", Outcome: "applied", Finished: at}}, Refused: []result.RefusedReceipt{{File: "south.json", Message: "the signature is not valid"}}},
	}
}

func TestStatusPage(t *testing.T) {
	var page strings.Builder
	if err := catalog.WriteStatus(&page, clusterState()); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"status.html": []byte(page.String())}
	checkInert(t, files)
	text := pageText(t, files)
	for _, told := range []string{"What runs on north", "drifted", "absent", "failing", "no image", "operator", "Newer versions: 1.1.0", "a: 2", "applied", "south.json: the signature is not valid", "is failing"} {
		if !strings.Contains(text, told) {
			t.Errorf("the page does not tell of %q", told)
		}
	}
	if got := strings.Count(page.String(), `class="net `); got != 2 {
		t.Errorf("the picture has %d lines", got)
	}
	var policy, style string
	for node := range parsePage(t, "status.html", files["status.html"]).Descendants() {
		if attribute(node, "http-equiv") != "" {
			policy = attribute(node, "content")
		}
		if node.Type == html.ElementNode && node.Data == "style" {
			style = node.FirstChild.Data
		}
	}
	sum := sha256.Sum256([]byte(style))
	if want := "style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"; !strings.Contains(policy, want) || strings.Contains(policy, "script-src") {
		t.Errorf("policy %q, want %s", policy, want)
	}
	var again strings.Builder
	if err := catalog.WriteStatus(&again, clusterState()); err != nil || again.String() != page.String() {
		t.Errorf("%v: the same state gives another page", err)
	}
}
