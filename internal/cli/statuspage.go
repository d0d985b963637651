package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"time"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/pkg/catalog"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/graph"
	"krtpkg.dev/krtpkg/pkg/result"
)

// statusPages writes a page of what is on a cluster, whenever that changes.
type statusPages struct {
	*app
	// graphs are the pictures of revisions by their digests, nil for what cannot be read: each is asked for once.
	graphs map[string]*graph.Graph
}

func (a *statusPages) writeStatusPage(ctx context.Context, cluster *deploy.Cluster, views []result.RuntimeStatus, o statusOptions, name string) error {
	state := &catalog.ClusterState{Cluster: name, Status: result.Status{Runtimes: views}, Graphs: map[string]*graph.Graph{}}
	for _, view := range views {
		revisions, err := cluster.History(ctx, view.Name)
		if err != nil {
			return err
		}
		state.Histories = append(state.Histories, result.History{Name: view.Name, Revisions: revisions})
		if !o.offline {
			g, asked := a.graphs[view.Revision.Digest]
			if !asked {
				g = a.revisionGraph(ctx, view.Revision)
				a.graphs[view.Revision.Digest] = g
			}
			if g != nil {
				state.Graphs[view.Name] = g
			}
		}
	}
	if o.receipts != "" {
		receipts, err := readReceiptsResult("--receipts", o.receipts)
		if err != nil {
			return err
		}
		state.Receipts = receipts
	}
	var page bytes.Buffer
	if err := catalog.WriteStatus(&page, state); err != nil {
		return err
	}
	dir, err := os.OpenRoot(filepath.Dir(o.page))
	if err != nil {
		return err
	}
	defer dir.Close()
	return replaceFile(dir, filepath.Base(o.page), page.Bytes(), 0o644)
}

// revisionGraph returns the picture of a revision, for its lines; nil if what was applied cannot be read, which is not
// an error of the status.
func (a *app) revisionGraph(ctx context.Context, r deploy.Revision) *graph.Graph {
	if r.Reference == "" {
		return nil
	}
	if p, err := place.Parse(r.Reference); err != nil || !p.IsRegistry() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	at, err := a.openReference(ctx, r.Reference)
	if err == nil {
		set, opened := a.lookInto(ctx, at)
		if err = opened; err == nil {
			g, drawn := catalog.DrawGraph(set, "", func(...string) *int64 { return nil })
			if err = drawn; err == nil {
				return g
			}
		}
	}
	a.ui.Note("note: the page shows no lines to what bundles require: %s: %v", r.Reference, err)
	return nil
}
