package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/deploy/records"
	"krtpkg.dev/krtpkg/pkg/graph"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/trust"
)

func (a *app) statusCommand() *cobra.Command {
	var f clusterFlags
	var o statusOptions
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "show the health and the drift of applied runtimes",
		Long: `Status prints the health of every runtime by layer and bundle, the drift (changes on the cluster
since the apply, by kapp's diff), and newer versions in its registry. --watch prints it again on
every change until all bundles are healthy.

--all-namespaces requires permission to list ConfigMaps in all namespaces, and to read in each that has a runtime. A
namespace that cannot be read is an error, after the others have been printed. --watch notes it once and polls it again; it
does not wait for namespaces that you may not read.

--html also writes a web page: the layers as a picture coloured by health and drift, and the revisions.
--receipts adds the receipts of sites.`,
		Example: `  krtpkg status
  krtpkg status --all-namespaces
  krtpkg status edge -o json
  krtpkg status edge --watch
  krtpkg status --html status.html`,
		GroupID: groupCluster,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runStatus(cmd.Context(), strings.Join(args, ""), o, f)
		},
	}
	f.addClusterFlags(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&o.full, "full", false, "print all drift and all unhealthy resources")
	flags.BoolVarP(&o.everywhere, "all-namespaces", "A", false, "show the runtimes of all namespaces")
	flags.BoolVarP(&o.watch, "watch", "w", false, "watch until all bundles are healthy")
	flags.DurationVar(&o.every, "every", 2*time.Second, "interval of --watch")
	flags.BoolVar(&o.offline, "no-registry", false, "do not ask the registry for newer versions")
	flags.StringVar(&o.page, "html", "", "also write the status as a web page to this file")
	flags.StringVar(&o.receipts, "receipts", "", "with --html: result of krtpkg receipts verify -o json to show")
	flags.BoolVar(&o.exitCode, "exit-code", false, "exit with code 5 if anything is unhealthy or has drifted")
	cmd.MarkFlagsMutuallyExclusive("all-namespaces", "namespace")
	cmd.MarkFlagsMutuallyExclusive("all-namespaces", "html")
	return cmd
}

type statusOptions struct {
	watch, offline, exitCode, everywhere, full bool
	every                                      time.Duration
	// page is a file to write a page to, and receipts one of what it also shows.
	page, receipts string
}

func (a *app) runStatus(ctx context.Context, name string, o statusOptions, f clusterFlags) error {
	if o.every < 100*time.Millisecond {
		return &usageError{fmt.Errorf("--every %s: want at least 100ms", o.every)}
	}
	if o.receipts != "" && o.page == "" {
		return &usageError{errors.New("--receipts requires --html")}
	}
	if err := f.checkValues(a); err != nil {
		return err
	}
	cluster, err := f.connectCluster(a)
	if err != nil {
		return err
	}
	w := &statusWatch{
		app: a, cluster: cluster, name: name, statusOptions: o, flags: f,
		news: &registryNews{app: a, asked: map[string]revisionNews{}}, pages: &statusPages{app: a, graphs: map[string]*graph.Graph{}},
		began: time.Now(), said: time.Now(), noted: map[string]bool{},
	}
	for {
		if ended, err := w.showStatus(ctx); ended || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(o.every):
		}
	}
}

// statusWatch shows the status, again on every change if it is watched.
type statusWatch struct {
	*app
	statusOptions
	cluster *deploy.Cluster
	name    string
	flags   clusterFlags
	news    *registryNews
	pages   *statusPages
	// began is when the watch did, said when it last printed anything.
	began, said time.Time
	// last is what was printed last, noted are the namespaces that were said to be unreadable.
	last  string
	noted map[string]bool
}

// showStatus prints the status if it differs from what was printed last, and reports whether nothing is left to wait for.
// A namespace that cannot be read is noted and polled again, and is an error at the end if reading it is forbidden.
func (w *statusWatch) showStatus(ctx context.Context) (ended bool, err error) {
	seen, err := w.readStatus(ctx)
	if err != nil {
		return true, err
	}
	if len(seen.views) == 0 && !w.watch {
		w.noteNothingApplied(ctx, w.cluster, w.statusOptions)
	}
	if !w.watch || seen.isSettled() {
		return true, w.printLastStatus(ctx, seen)
	}
	for _, u := range seen.unread {
		if !w.noted[u.namespace] {
			w.noted[u.namespace] = true
			w.ui.Note("note: %v", u)
		}
	}
	if text := seen.formatText(w.statusOptions); text != w.last {
		w.last, w.said = text, time.Now()
		return false, w.printStatus(ctx, seen)
	}
	if time.Since(w.said) >= remindEvery {
		w.said = time.Now()
		w.ui.Say("waiting for %s (%s so far)", strings.Join(append(unhealthyBundles(seen.views, w.statusOptions), seen.awaitedNamespaces()...), ", "), time.Since(w.began).Round(time.Second))
	}
	return false, nil
}

// printStatus prints a status after which others follow.
func (w *statusWatch) printStatus(ctx context.Context, seen *seenStatus) error {
	if err := w.writePage(ctx, seen); err != nil {
		return err
	}
	r := &result.Status{Runtimes: seen.views}
	if unread := seen.joinUnread(); unread != nil {
		r.SetError(w.describeError(ctx, unread))
	}
	return w.ui.Result(w.flags.format, r, func(out io.Writer) { writeStatus(out, seen.views, w.statusOptions) })
}

// printLastStatus prints the only status, or the last of a watch, and returns as an error what could not be read.
func (w *statusWatch) printLastStatus(ctx context.Context, seen *seenStatus) error {
	if err := w.writePage(ctx, seen); err != nil {
		return err
	}
	failed := seen.joinUnread()
	if failed == nil && w.exitCode && !seen.isWell {
		failed = errChanges
	}
	r := &result.Status{Runtimes: seen.views}
	return w.printResult(ctx, w.flags.format, r, failed, func(out io.Writer) { writeStatus(out, seen.views, w.statusOptions) })
}

func (w *statusWatch) writePage(ctx context.Context, seen *seenStatus) error {
	if w.page == "" {
		return nil
	}
	return w.pages.writeStatusPage(ctx, w.cluster, seen.views, w.statusOptions, w.flags.Context)
}

// seenStatus is the status at one time.
type seenStatus struct {
	views []result.RuntimeStatus
	// isWell is set if all runtimes are healthy and as they were applied.
	isWell bool
	// unread are the namespaces that could not be read.
	unread []*unreadError
}

// unreadError is the error of a namespace that cannot be read.
type unreadError struct {
	namespace string
	cause     error
}

func (e *unreadError) Error() string {
	return fmt.Sprintf("show the status in namespace %s: %v", e.namespace, e.cause)
}

func (e *unreadError) Unwrap() error { return e.cause }

// isSettled reports whether polling again brings nothing: all that can be read is well, and the rest is forbidden.
func (s *seenStatus) isSettled() bool { return s.isWell && len(s.awaitedNamespaces()) == 0 }

// awaitedNamespaces returns the namespaces that could not be read, and may be next time.
func (s *seenStatus) awaitedNamespaces() []string {
	var names []string
	for _, u := range s.unread {
		if !deploy.IsForbidden(u.cause) {
			names = append(names, "namespace "+u.namespace)
		}
	}
	return names
}

// joinUnread returns the error of all namespaces that could not be read; nil for none.
func (s *seenStatus) joinUnread() error {
	var all []error
	for _, u := range s.unread {
		all = append(all, u)
	}
	return errors.Join(all...)
}

// formatText returns the status as text, by which a change is recognized.
func (s *seenStatus) formatText(o statusOptions) string {
	var text strings.Builder
	writeStatus(&text, s.views, o)
	for _, u := range s.unread {
		fmt.Fprintln(&text, u.namespace)
	}
	return text.String()
}

// readStatus returns what can be read; an error if that is nothing, and a watch has nothing to wait for.
func (w *statusWatch) readStatus(ctx context.Context) (*seenStatus, error) {
	all, unread, err := w.listStatus(ctx, w.cluster, w.name, w.statusOptions, w.flags.parallel)
	if err != nil {
		return nil, err
	}
	seen := &seenStatus{views: []result.RuntimeStatus{}, isWell: true, unread: unread}
	if len(all) == 0 && len(unread) > 0 && (!w.watch || seen.isSettled()) {
		return nil, seen.joinUnread()
	}
	for _, s := range all {
		var known revisionNews
		if !w.offline {
			known = w.news.askRegistry(ctx, s.Revision)
		}
		view := describeStatus(s.namespace, s.RuntimeStatus, known.newer)
		view.Stale = known.stale
		seen.views = append(seen.views, view)
		seen.isWell = seen.isWell && s.Health() == deploy.Healthy && !s.HasDrifted()
	}
	return seen, nil
}

// placedStatus is the status of a runtime in a namespace.
type placedStatus struct {
	deploy.RuntimeStatus
	namespace string
}

// listStatus returns the status of a runtime, or of all for "", in the cluster's namespace or everywhere, and the namespaces
// that could not be read where others may have been.
func (a *app) listStatus(ctx context.Context, cluster *deploy.Cluster, name string, o statusOptions, parallel int) (found []placedStatus, unread []*unreadError, err error) {
	namespaces := []string{cluster.Namespace()}
	if o.everywhere {
		if namespaces, err = cluster.ListNamespaces(ctx, name); err != nil {
			return nil, nil, err
		}
	}
	for _, namespace := range namespaces {
		all, err := cluster.WithNamespace(namespace).Status(ctx, name, deploy.Options{Parallel: parallel})
		switch {
		case ctx.Err() != nil || err != nil && !o.everywhere:
			return nil, nil, cmp.Or(ctx.Err(), err)
		case errors.Is(err, deploy.ErrNotInstalled): // it has been deleted since it was listed
		case err != nil:
			unread = append(unread, &unreadError{namespace, err})
		}
		for _, s := range all {
			found = append(found, placedStatus{s, namespace})
		}
	}
	if o.everywhere && name != "" && len(found)+len(unread) == 0 {
		return nil, nil, fmt.Errorf("%s: %w in any namespace", name, deploy.ErrNotInstalled)
	}
	return found, unread, nil
}

// revisionNews is what the registry of a revision has of it: newer versions, and why its channels are stale.
type revisionNews struct {
	newer []string
	stale string
}

// registryNews asks for what registries have once per reference. Two runtimes of one digest may come from two repositories.
type registryNews struct {
	app   *app
	asked map[string]revisionNews
}

func (n *registryNews) askRegistry(ctx context.Context, r deploy.Revision) revisionNews {
	known, asked := n.asked[r.Reference]
	if !asked {
		known = revisionNews{n.app.newerVersions(ctx, r), n.app.staleChannels(ctx, r)}
		n.asked[r.Reference] = known
	}
	return known
}

// noteNothingApplied also tells where there are runtimes, if this user may see that.
func (a *app) noteNothingApplied(ctx context.Context, cluster *deploy.Cluster, o statusOptions) {
	if o.everywhere {
		a.ui.Note("note: nothing is applied in any namespace")
		return
	}
	elsewhere := ""
	if namespaces, err := cluster.ListNamespaces(ctx, ""); err == nil && len(namespaces) > 0 {
		elsewhere = fmt.Sprintf(": there are runtimes in %s (--namespace %s, or -A for all)", records.NameSome(namespaces), namespaces[0])
	}
	a.ui.Note("note: nothing is applied in namespace %s%s", cluster.Namespace(), elsewhere)
}

// unhealthyBundles returns the bundles that are not healthy or not as they were applied.
func unhealthyBundles(views []result.RuntimeStatus, o statusOptions) []string {
	var names []string
	for _, v := range views {
		found, where := false, ""
		if o.everywhere {
			where = " in namespace " + v.Namespace
		}
		for _, b := range v.Bundles {
			if b.Health != deploy.Healthy || len(b.Drift) > 0 {
				names, found = append(names, b.Name+where), true
			}
		}
		if !found && v.Health != deploy.Healthy {
			names = append(names, v.Name+where)
		}
	}
	return names
}

func describeStatus(namespace string, s deploy.RuntimeStatus, newer []string) result.RuntimeStatus {
	v := result.RuntimeStatus{
		Name: s.Runtime, Namespace: namespace, Version: s.Revision.Version, Digest: s.Revision.Digest, Health: s.Health(), Drifted: s.HasDrifted(),
		Revision: s.Revision, Newer: append([]string{}, newer...), Bundles: []result.BundleStatus{},
	}
	for _, b := range s.Bundles {
		target, _ := s.TargetBundle(b.App)
		v.Bundles = append(v.Bundles, result.BundleStatus{
			Name: b.Bundle, Layer: b.Layer, Version: b.Version, Digest: b.Digest, App: b.App, Health: b.Health, Reason: b.Reason,
			Complete: b.Complete, Stage: b.Stage, Target: target.Version, Changed: b.Changed.UTC(), ResourceCount: b.Resources,
			Done: append([]deploy.ResourceID{}, b.Done...), Unready: append([]deploy.ResourceStatus{}, b.Unready...),
			Drift: append([]deploy.ResourceChange{}, b.Drift...),
		})
	}
	return v
}

func writeStatus(w io.Writer, views []result.RuntimeStatus, o statusOptions) {
	for _, v := range views {
		ui.Fprintf(w, "%s %s  %s  %s", v.Name, v.Version, shortenDigest(v.Digest), v.Health)
		if o.everywhere {
			ui.Fprintf(w, "  (namespace %s)", v.Namespace)
		}
		ui.Fprintf(w, "\n")
		if r := v.Revision; r.Number > 0 {
			ui.Fprintf(w, "  revision %d %s, by %s, verified: %s\n", r.Number, strings.TrimSpace(string(r.State)+" "+r.Reason), r.By, cmp.Or(r.Verified, "not recorded"))
		}
		if len(v.Newer) > 0 {
			ui.Fprintf(w, "  newer: %s\n", strings.Join(v.Newer, ", "))
		}
		ui.Fprintf(w, "  LAYER\tBUNDLE\tVERSION\tHEALTH\tRESOURCES\tDRIFT\tCHANGED\n")
		for _, b := range v.Bundles {
			changed := "never"
			if !b.Changed.IsZero() {
				changed = b.Changed.Format("2006-01-02 15:04Z")
			}
			ui.Fprintf(w, "  %d\t%s\t%s\t%s\t%d\t%s\t%s\n", b.Layer, b.Name, versionsOf(b), healthOf(b), b.ResourceCount, formatDrift(b.Drift), changed)
		}
		for _, b := range v.Bundles {
			writeDetails(w, b, o)
		}
	}
}

// versionsOf returns the version that is there, and the one that is to be.
func versionsOf(b result.BundleStatus) string {
	if b.Target != "" && b.Version != "" && b.Target != b.Version {
		return b.Version + " → " + b.Target
	}
	return cmp.Or(b.Version, b.Target, "-")
}

// healthOf tells how a bundle is, and how far the newest revision is with it.
func healthOf(b result.BundleStatus) string {
	switch {
	case b.Stage == deploy.StageLeaving:
		return string(b.Health) + ", to be deleted"
	case b.Stage == deploy.StageNotBegun && b.Health != deploy.NotBegun:
		return string(b.Health) + ", not begun"
	case b.Stage == deploy.StageIncomplete:
		return string(b.Health) + ", incomplete"
	}
	return string(b.Health)
}

func formatDrift(changes []deploy.ResourceChange) string {
	if len(changes) == 0 {
		return "none"
	}
	return fmt.Sprint(len(changes))
}

// writeDetails are what is wrong with a bundle; a few of them unless all are wanted.
func writeDetails(w io.Writer, b result.BundleStatus, o statusOptions) {
	unready, drift := b.Unready, b.Drift
	if b.Reason != "" {
		ui.Fprintf(w, "  %s: %s\n", b.Name, b.Reason)
	}
	if !o.full {
		unready = unready[:min(len(unready), 5)]
	}
	if o.full {
		for _, id := range b.Done {
			ui.Fprintf(w, "  %s: %s has finished and was removed after its spec.ttlSecondsAfterFinished\n", b.Name, id)
		}
	}
	for _, r := range unready {
		ui.Fprintf(w, "  %s: %s is %s: %s\n", b.Name, r.ResourceID, r.Health, r.Reason)
	}
	for _, c := range drift {
		if c.Op == deploy.OpCreate {
			continue // it is missing, which has been said
		}
		ui.Fprintf(w, "  %s: %s differs from what was applied\n", b.Name, c.ResourceID)
		if o.full {
			ui.WriteIndented(w, "    ", c.Diff)
		}
	}
}

// newerVersions returns the versions above that of a revision where it came from. That they cannot be looked
// up is not an error of the status.
func (a *app) newerVersions(ctx context.Context, r deploy.Revision) []string {
	current, err := semver.NewVersion(r.Version)
	if err != nil || r.Reference == "" {
		return nil
	}
	p, err := place.Parse(r.Reference)
	if err != nil || !p.IsRegistry() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	at, err := a.openPlace(ctx, p.Repository)
	if err == nil {
		var found []*semver.Version
		err = at.store.Tags(ctx, "", func(tags []string) error {
			for _, tag := range tags {
				// Tags cannot have a plus.
				if v, err := semver.NewVersion(strings.Replace(tag, "_", "+", 1)); err == nil && v.GreaterThan(current) && (v.Prerelease() == "" || current.Prerelease() != "") {
					found = append(found, v)
				}
			}
			return nil
		})
		slices.SortFunc(found, func(a, b *semver.Version) int { return a.Compare(b) })
		if err == nil {
			names := make([]string, len(found))
			for i, v := range found {
				names[i] = v.Original()
			}
			return names
		}
	}
	a.ui.Note("note: look for newer versions at %s: %v", p.Repository, err)
	return nil
}

// staleChannels returns why all channels are stale that a revision was promoted to, by the configured policy; "" if one
// is not, or nothing is known. That they cannot be looked up is not an error of the status.
func (a *app) staleChannels(ctx context.Context, r deploy.Revision) string {
	policy, err := a.loadTrust(ctx, &trustFlags{})
	if err != nil || policy == nil || r.Reference == "" {
		return ""
	}
	p, err := place.Parse(r.Reference)
	if err != nil || !p.IsRegistry() {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	at, err := a.openReference(ctx, r.Reference)
	if err == nil {
		var channels *trust.Channels
		if _, channels, err = policy.VerifyChannels(ctx, at.store, at.root, policyPlace(at.Place)); err == nil {
			if stale := channels.CheckAll(time.Now()); stale != nil {
				a.ui.Note("WARNING: %s: %v", r.Reference, stale)
				return stale.Error()
			}
			return ""
		}
	}
	a.ui.Note("note: look for promotions of %s: %v", r.Reference, err)
	return ""
}

func (a *app) historyCommand() *cobra.Command {
	var f clusterFlags
	cmd := &cobra.Command{
		Use:   "history NAME",
		Short: "show the revisions of a runtime on a cluster",
		Example: `  krtpkg history edge
  krtpkg history edge -o json`,
		GroupID: groupCluster,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cluster, err := f.connectCluster(a)
			if err != nil {
				return err
			}
			all, err := cluster.History(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			r := &result.History{Name: args[0], Revisions: append([]deploy.Revision{}, all...)}
			return a.printResult(cmd.Context(), f.format, r, nil, func(w io.Writer) { writeHistory(w, all) })
		},
	}
	f.addConnection(cmd)
	outputFlag(cmd, &f.format)
	return cmd
}

func writeHistory(w io.Writer, all []deploy.Revision) {
	ui.Fprintf(w, "REVISION\tVERSION\tDIGEST\tVALUES\tSTATE\tSTARTED\tBY\tVERIFIED\n")
	for _, r := range all {
		state := string(r.State)
		if r.Reason != "" {
			state += ": " + fmt.Sprintf("%.60s", r.Reason)
		}
		ui.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Number, r.Version, shortenDigest(r.Digest), cmp.Or(shortenDigest(r.Values), "none"),
			state, r.Started.Format(time.RFC3339), r.By, cmp.Or(r.Verified, "not recorded"))
	}
}
