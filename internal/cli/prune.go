package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// pruneOptions are the flags of krtpkg prune.
type pruneOptions struct {
	keep         []string
	keepVersions int
	onCluster    bool
	contexts     []string
	cluster      clusterFlags

	// allowNoRevisions lets a cluster have nothing recorded.
	allowNoRevisions bool

	deleteChannels, deleteUnknown bool

	dryRun, yes bool
	concurrency int
	format      ui.Format
}

func (a *app) pruneCommand() *cobra.Command {
	var o pruneOptions
	cmd := &cobra.Command{
		Use:   "prune REGISTRY/REPOSITORY|oci:FOLDER (--keep PATTERN | --keep-versions N | --cluster)",
		Short: "delete the versions that a site no longer needs, with their images",
		Long: `Prune deletes versions of bundles and runtimes from one repository or folder, with everything that only
they need there: images, signatures and other referrers, and their tags.

These stay, with everything that they name and everything attached to any of it:
  --keep PATTERN      versions and other tags that match the pattern, as in stable or 1.*, or a digest
  --keep-versions N   the newest N versions of each name
  --cluster           the revisions that are recorded on the cluster, for rollbacks; --contexts names several
  channels            tags that are not a version, unless you pass --delete-channels
  unknown tags        those of neither a bundle nor a runtime, unless you pass --delete-unknown

At least one of the first three is needed, each pattern or digest must match, each cluster must have a revision
recorded, and at least one version must stay. Versions are compared as their tags and manifests claim them;
no signature is verified, so anyone who can push a version can cause an older one to be deleted. Content is
deleted only if it is reachable only from deleted versions. A dry run asks the registry to delete a manifest
that does not exist, to find out whether you may. Other repositories are not touched, not even those that
copy --paths preserve has created. References from other repositories are not detected: protect those digests
with --keep.

The plan is shown first. Tags are deleted before manifests, and manifests before what they name, so an
interrupted prune damages nothing that stays; run it again to delete the rest. A folder frees its disk
space at once, a registry at its next garbage collection. Copy nothing to the same place meanwhile.`,
		Example: `  krtpkg prune site.example/krt/edge --keep-versions 3 --cluster --dry-run
  krtpkg prune site.example/krt/edge --keep stable --keep '2.*' --contexts north,south
  krtpkg prune oci:dist --keep-versions 1 --yes`,
		GroupID: groupCarry,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runPrune(cmd.Context(), args[0], &o) },
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&o.keep, "keep", nil, "keep versions and other tags that match this pattern, such as stable or 1.*, or a digest")
	flags.IntVar(&o.keepVersions, "keep-versions", 0, "keep this many versions of each name, the newest")
	flags.BoolVar(&o.onCluster, "cluster", false, "keep the revisions recorded on the cluster, which krtpkg rollback may go back to")
	flags.StringSliceVar(&o.contexts, "contexts", nil, "like --cluster, for the clusters of these kubeconfig contexts")
	o.cluster.addKubeconfig(cmd)
	flags.StringVarP(&o.cluster.Namespace, "namespace", "n", "", "look for records only in this namespace (default: all namespaces)")
	flags.BoolVar(&o.allowNoRevisions, "allow-no-revisions", false, "continue if a cluster has no revision recorded")
	flags.BoolVar(&o.deleteChannels, "delete-channels", false, "also delete versions named by a channel, which is a tag that is not a version")
	flags.BoolVar(&o.deleteUnknown, "delete-unknown", false, "also delete tags that name neither a bundle nor a runtime, and what only they need")
	flags.BoolVar(&o.dryRun, "dry-run", false, "show what would be deleted without deleting")
	flags.BoolVarP(&o.yes, "yes", "y", false, "skip the confirmation")
	flags.IntVarP(&o.concurrency, "concurrency", "j", 8, "number of manifests to read in parallel")
	outputFlag(cmd, &o.format)
	return cmd
}

func (o *pruneOptions) checkPruneFlags(a *app, at place.Place) error {
	switch {
	case at.Tag != "" || at.Digest != "":
		return &usageError{fmt.Errorf("%s: want a place without a tag: name what stays with --keep", at)}
	case at.File != "":
		return &usageError{fmt.Errorf("%s is an archive, which cannot be changed", at)}
	case len(o.keep) == 0 && o.keepVersions == 0 && !o.reachesClusters():
		return &usageError{errors.New("nothing to keep: pass --keep, --keep-versions or --cluster")}
	case !o.onCluster && (o.cluster.Context != "" || !o.reachesClusters() && (o.cluster.Kubeconfig != "" || o.cluster.Namespace != "" || o.allowNoRevisions)):
		return &usageError{errors.New("--context requires --cluster; --kubeconfig, --namespace and --allow-no-revisions require --cluster or --contexts")}
	case o.keepVersions < 0:
		return &usageError{fmt.Errorf("--keep-versions %d: want 1 or more", o.keepVersions)}
	case o.concurrency < 1 || o.concurrency > 64:
		return &usageError{fmt.Errorf("--concurrency %d: want 1 to 64", o.concurrency)}
	case !o.dryRun && !o.yes && !a.ui.IsTerminal():
		return &usageError{errors.New("confirmation required, but there is no terminal: pass --yes, or --dry-run to see the plan")}
	}
	for _, pattern := range o.keep {
		if _, err := path.Match(pattern, ""); err != nil {
			return &usageError{fmt.Errorf("--keep %q: %w", pattern, err)}
		}
	}
	return nil
}

func (o *pruneOptions) reachesClusters() bool { return o.onCluster || len(o.contexts) > 0 }

func (a *app) runPrune(ctx context.Context, reference string, o *pruneOptions) error {
	at, err := a.openPlace(ctx, reference)
	if err != nil {
		return err
	}
	if err := o.checkPruneFlags(a, at.Place); err != nil {
		return err
	}
	store, err := at.Create(ctx, at.client)
	if err != nil {
		return err
	}
	options := transfer.PruneOptions{
		KeepVersions: o.keepVersions, KeepDigests: map[digest.Digest]string{}, DeleteChannels: o.deleteChannels,
		DeleteUnknown: o.deleteUnknown, Concurrency: o.concurrency, Progress: a.ui.Progress("prune"),
	}
	if err := o.resolvePatterns(ctx, store, &options); err != nil {
		return fmt.Errorf("prune %s: %w", at.Location(), err)
	}
	if err := o.keepRecorded(ctx, a, options.KeepDigests); err != nil {
		return err
	}
	leftovers := pruneJournal(at.Location())
	if options.Leftovers, err = leftovers.readLeft(); err != nil {
		return err
	}
	var plan *transfer.PrunePlan
	options.BeforeDelete = func() error { return leftovers.write(append(plan.Digests(), options.Leftovers...)) }
	plan, err = transfer.PlanPrune(ctx, store, options)
	if plan == nil {
		return err
	}
	r := describePrune(at, plan)
	r.DryRun = o.dryRun
	show := func(w io.Writer) { writePrunePlan(w, r) }
	if plan.IsEmpty() && err == nil && !o.dryRun {
		err = leftovers.remove()
	}
	if err != nil || o.dryRun || plan.IsEmpty() {
		if err := a.printResult(ctx, o.format, r, err, show); err != nil {
			return err
		}
		a.sayPruned(r, plan.IsEmpty())
		return nil
	}
	if !o.yes {
		show(a.ui)
		show = func(io.Writer) {} // it was just read
		answer, err := a.ui.Ask(ctx, fmt.Sprintf("delete %s from %s: %s [y/N]", countPruned(r), at.Location(), ui.Bytes(r.Bytes)))
		if err != nil || answer != "y" && answer != "yes" {
			return errors.Join(err, errors.New("prune "+at.Location()+": nothing was deleted: not confirmed"))
		}
	}
	done, err := plan.Prune(ctx)
	r.DeletedTagCount, r.DeletedManifestCount = done.Tags, done.Manifests
	switch {
	case err == nil:
		err = leftovers.remove()
	case isRefusedPrune(done, err):
		err = errors.Join(err, leftovers.write(options.Leftovers))
	}
	if err := a.printResult(ctx, o.format, r, err, show); err != nil {
		return err
	}
	a.sayPruned(r, false)
	return nil
}

// isRefusedPrune reports whether the registry refused the first deletion, so that nothing is left over.
func isRefusedPrune(done *transfer.Pruned, err error) bool {
	var response *errcode.ErrorResponse
	return *done == transfer.Pruned{} && errors.As(err, &response) &&
		(response.StatusCode == http.StatusUnauthorized || response.StatusCode == http.StatusForbidden)
}

// resolvePatterns sorts what is to stay into digests and globs. A tag or a digest that does not exist is an error: it was
// mistyped, and what was meant would be deleted.
func (o *pruneOptions) resolvePatterns(ctx context.Context, store place.Store, options *transfer.PruneOptions) error {
	for _, pattern := range o.keep {
		isDigest := digest.Digest(pattern).Validate() == nil
		if !isDigest {
			options.KeepTags = append(options.KeepTags, pattern)
		}
		if isDigest || !strings.ContainsAny(pattern, `*?[\`) {
			desc, err := store.Resolve(ctx, pattern)
			if err != nil {
				return fmt.Errorf("--keep %s: %w", pattern, err)
			}
			if isDigest {
				options.KeepDigests[desc.Digest] = "--keep " + shortDigest(pattern)
			}
		}
	}
	return nil
}

// errNoRevisions reports a cluster that has nothing recorded, which would keep nothing.
var errNoRevisions = errors.New("no revision is recorded there: check --context and --namespace, or pass --allow-no-revisions")

// keepRecorded adds what the revisions recorded on the clusters may roll back to, wherever it came from: rollback --from
// finds it by its digest.
func (o *pruneOptions) keepRecorded(ctx context.Context, a *app, keep map[digest.Digest]string) error {
	contexts := o.contexts
	if o.onCluster {
		contexts = append([]string{o.cluster.Context}, contexts...)
	}
	for _, name := range contexts {
		flags := o.cluster
		flags.Context = name
		cluster, err := flags.connectCluster(a)
		if err != nil {
			return err
		}
		runtimes, err := cluster.RecordedRuntimes(ctx, o.cluster.Namespace)
		if err != nil {
			return fmt.Errorf("%s: %w", cluster.Server(), err)
		}
		where := cluster.Server()
		if name != "" {
			where = name
		}
		count := 0
		for _, rt := range runtimes {
			count += keepRevisions(keep, rt, where)
		}
		if count == 0 && !o.allowNoRevisions {
			return fmt.Errorf("prune: cluster %s: %w", where, errNoRevisions)
		}
		a.ui.Say("%s: %s of %s recorded", where, countNoun(count, "revision"), countNoun(len(runtimes), "runtime"))
	}
	return nil
}

// keepRevisions adds the revisions of a runtime, the newest first.
func keepRevisions(keep map[digest.Digest]string, rt deploy.RecordedRuntime, where string) int {
	for _, r := range rt.Revisions {
		d := digest.Digest(r.Digest)
		if d.Validate() == nil && keep[d] == "" {
			keep[d] = fmt.Sprintf("revision %d of %s on %s", r.Number, rt.Name, where)
		}
		for _, b := range r.Bundles {
			if d := digest.Digest(b.Digest); d.Validate() == nil && keep[d] == "" {
				keep[d] = fmt.Sprintf("bundle of revision %d of %s on %s", r.Number, rt.Name, where)
			}
		}
	}
	return len(rt.Revisions)
}

func describePrune(at *openedReference, plan *transfer.PrunePlan) *result.Prune {
	r := &result.Prune{
		Reference: at.Location(), Bytes: plan.Bytes(), Tags: append([]string{}, plan.Tags...), Manifests: []string{},
		Versions: []result.PrunedVersion{}, Unknown: []result.UnknownTag{},
	}
	for _, v := range plan.Versions {
		r.Versions = append(r.Versions, result.PrunedVersion{
			Artifact: result.Artifact{Reference: at.Location() + "@" + v.Digest.String(), Kind: v.Kind, Name: v.Name, Version: v.Version, Digest: v.Digest.String()},
			Tags:     append([]string{}, v.Tags...), Deleted: len(v.Reasons) == 0, Reasons: v.Reasons,
		})
	}
	for _, u := range plan.Unknown {
		r.Unknown = append(r.Unknown, result.UnknownTag{Tag: u.Tag, Digest: u.Digest.String(), What: u.What, Deleted: u.Deleted})
	}
	for _, d := range plan.Manifests {
		r.Manifests = append(r.Manifests, d.Digest.String())
	}
	return r
}

func writePrunePlan(w io.Writer, r *result.Prune) {
	ui.Fprintf(w, "\tTAGS\tNAME\tVERSION\tDIGEST\tWHY\n")
	action := func(deleted bool) string {
		if deleted {
			return "delete"
		}
		return "keep"
	}
	for _, v := range r.Versions {
		tags := strings.Join(v.Tags, ", ")
		if tags == "" {
			tags = "-"
		}
		ui.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", action(v.Deleted), tags, v.Name, v.Version, shortenDigest(v.Digest), strings.Join(v.Reasons, ", "))
	}
	for _, u := range r.Unknown {
		why := "unknown: " + u.What
		if !u.Deleted {
			why += " (--delete-unknown deletes it)"
		}
		ui.Fprintf(w, "%s\t%s\t-\t-\t%s\t%s\n", action(u.Deleted), u.Tag, shortenDigest(u.Digest), why)
	}
}

// countPruned says how much is deleted.
func countPruned(r *result.Prune) string {
	versions := 0
	for _, v := range r.Versions {
		if v.Deleted {
			versions++
		}
	}
	return fmt.Sprintf("%s, %s, %s", countNoun(versions, "version"), countNoun(len(r.Tags), "tag"), countNoun(len(r.Manifests), "manifest"))
}

// sayPruned says what was done, and what is left to do.
func (a *app) sayPruned(r *result.Prune, isEmpty bool) {
	isFolder := strings.HasPrefix(r.Reference, "oci:")
	switch {
	case isEmpty:
		a.ui.Say("nothing to delete")
	case r.DryRun:
		a.ui.Say("would delete %s: %s", countPruned(r), ui.Bytes(r.Bytes))
	case isFolder:
		a.ui.Say("deleted %s: %s", countPruned(r), ui.Bytes(r.Bytes))
	default:
		a.ui.Say("deleted %s: %s, which the registry frees with its garbage collection", countPruned(r), ui.Bytes(r.Bytes))
	}
}

// allowDeletes returns what makes a registry delete.
func allowDeletes(refused *registry.NoDeletesError) string {
	if strings.Contains(refused.Host, ".dkr.ecr.") {
		return "delete with aws ecr batch-delete-image, or a lifecycle policy, by the list of krtpkg prune --dry-run -o json"
	}
	return "allow deletes at " + refused.Host + ": Distribution needs storage.delete.enabled: true (REGISTRY_STORAGE_DELETE_ENABLED=true), and no read-only mode; krtpkg doctor tests it"
}
