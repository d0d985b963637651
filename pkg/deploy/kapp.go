package deploy

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"sync/atomic"
	"time"

	kapp "carvel.dev/kapp/pkg/kapp/app"
	"carvel.dev/kapp/pkg/kapp/clusterapply"
	cmdapp "carvel.dev/kapp/pkg/kapp/cmd/app"
	cmdcore "carvel.dev/kapp/pkg/kapp/cmd/core"
	kappconfig "carvel.dev/kapp/pkg/kapp/config"
	"carvel.dev/kapp/pkg/kapp/crdupgradesafety"
	"carvel.dev/kapp/pkg/kapp/diff"
	"carvel.dev/kapp/pkg/kapp/diffgraph"
	"carvel.dev/kapp/pkg/kapp/logger"
	"carvel.dev/kapp/pkg/kapp/permissions"
	kapppreflight "carvel.dev/kapp/pkg/kapp/preflight"
	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/dynamic"

	"krtpkg.dev/krtpkg/pkg/deploy/marks"
	"krtpkg.dev/krtpkg/pkg/deploy/merge"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
	"krtpkg.dev/krtpkg/pkg/resources"
	"krtpkg.dev/krtpkg/pkg/tracing"
)

// engine does to kapp's apps what its commands deploy and delete do, from the same parts, and
// in the same order; but what would change is a result, nothing is written if nothing changes,
// and what the server serves is asked for once for all apps.
type engine struct {
	cluster *Cluster
	served  *servedKinds
	options Options
	// family are the apps of the runtime: a resource may move from one to another.
	family []string
	// listings are what all apps have, while nothing is written. Default: kapp lists for each app.
	listings *sharedListings
	// records are kapp's own of the apps, while nothing is written. Default: kapp asks for each.
	records *appRecords
	// takeOver takes resources from Helm.
	takeOver bool
	// claims are what the runtime is to have; nil where all of it goes.
	claims *resourceClaims
}

// kappApp is what kapp deploy wants to know.
type kappApp struct {
	name      string
	labels    map[string]string // kapp refuses to change the value of one that is there
	manifests fs.FS
	// absent are kinds that an earlier bundle brings, when only looking.
	absent sets.Set[schema.GroupVersionKind]
	// newNamespaces are those that the runtime creates, when only looking.
	newNamespaces sets.Set[string]
	// ownKinds are those whose definitions the runtime has.
	ownKinds sets.Set[schema.GroupKind]
	// diffs has changes come with their diffs, when only looking.
	diffs bool
	// rehearse sends what would be written to the API server as a dry run, when only looking.
	rehearse bool
	// compareDefinitions looks for what changes of definitions do to resources that exist, when only looking.
	compareDefinitions bool
	// moment says which of its hooks run.
	moment lifecycleMoment
	// done are Jobs that are not to run again.
	done doneJobs
}

// progressHooks are how a call tells of itself. The zero value tells nothing.
type progressHooks struct {
	// begin is called once, before the first write.
	begin func(context.Context) error
	told  *messageTracker
}

// callResult is what a call has found out, and done.
type callResult struct {
	changes []ResourceChange
	// resources are those that the app has by its manifests.
	resources []ResourceID
	// ran are the hooks among what is applied, and releases what is recorded of them all.
	ran      []ranHook
	releases string
	// jobs are those that are done when the app is.
	jobs doneJobs
	// idle tells that there is nothing to write, and nothing to wait for.
	idle bool
	// refused is why a change that was only looked at would not be made.
	refused error
	// findings are what a dry run has found.
	findings []preflight.Finding
	// namespacesLeft tells that the namespaces of a deleted app are still there.
	namespacesLeft bool
}

// planDeploy returns what deployAndWait would change. It writes nothing.
func (e *engine) planDeploy(ctx context.Context, a kappApp) (_ callResult, err error) {
	ctx, end := tracing.Start(ctx, "plan app", tracing.App(a.name))
	defer func() { end(err) }()
	return e.runCancellable(ctx, progressHooks{}, func(parts *kappParts) (callResult, error) { return e.deployApp(ctx, parts, a, nil) })
}

// deployAndWait makes the cluster hold an app's manifests, and waits until they are ready.
func (e *engine) deployAndWait(ctx context.Context, a kappApp, h progressHooks) (_ callResult, err error) {
	ctx, end := tracing.Start(ctx, "apply app", tracing.App(a.name))
	defer func() { end(err) }()
	return e.runCancellable(ctx, h, func(parts *kappParts) (callResult, error) { return e.deployApp(ctx, parts, a, &h) })
}

// planDelete returns what deleteAndWait would change. It writes nothing.
func (e *engine) planDelete(ctx context.Context, a appDelete) (callResult, error) {
	return e.runCancellable(ctx, progressHooks{}, func(parts *kappParts) (callResult, error) { return e.deleteApp(ctx, parts, a, nil) })
}

// deleteAndWait deletes an app with its resources, and waits until they are gone. One that is not
// there is no error.
func (e *engine) deleteAndWait(ctx context.Context, a appDelete, h progressHooks) (_ callResult, err error) {
	ctx, end := tracing.Start(ctx, "delete app", tracing.App(a.name))
	defer func() { end(err) }()
	return e.runCancellable(ctx, h, func(parts *kappParts) (callResult, error) { return e.deleteApp(ctx, parts, a, &h) })
}

// runCancellable calls kapp, which takes no context, in a goroutine. When ctx ends, run returns at
// once. The goroutine ends later, at the next thing that it wants from the cluster: its
// clients refuse every request from then on, and nobody hears what it tells.
func (e *engine) runCancellable(ctx context.Context, h progressHooks, call func(*kappParts) (callResult, error)) (callResult, error) {
	defer h.told.stopTelling()
	bound, cancel := context.WithCancel(ctx)
	defer cancel()
	parts, err := e.newParts(bound, h.told)
	if err != nil {
		return callResult{}, err
	}
	type answer struct {
		callResult
		error
	}
	answered := make(chan answer, 1)
	go func() {
		var a answer
		defer func() {
			if problem := recover(); problem != nil {
				a.error = fmt.Errorf("kapp failed: %v", problem)
			}
			answered <- a
		}()
		a.callResult, a.error = call(parts)
	}()
	stuck := make(chan error, 1)
	go func() {
		if err := e.watchProgress(bound, parts, h.told); err != nil {
			stuck <- err
		}
	}()
	var a answer
	select {
	case a = <-answered:
	case a.error = <-stuck:
	case <-ctx.Done():
		a.error = ctx.Err()
	}
	if a.error != nil && ctx.Err() != nil {
		a.error = ctx.Err() // not what kapp made of a request that was refused
	}
	return a.callResult, a.error
}

// kappParts are those of kapp that a call on one app needs.
type kappParts struct {
	ctx     context.Context // kapp passes none to those that it calls back
	cluster *Cluster
	clients *kappClients
	objects dynamic.Interface
	types   *kappres.ResourceTypesImpl
	found   kappres.IdentifiedResources
	apps    kapp.Apps
	failing *cmdapp.FailingAPIServicesPolicy
	told    *messageTracker
	// pollInterval is the longest pause between two looks at what is not ready.
	pollInterval time.Duration
	// recording and known are what found asks.
	recording *recordingResources
	known     *knownResources
	// hasScripts is set while wait rules in ytt may run.
	hasScripts atomic.Bool
}

func (e *engine) newParts(ctx context.Context, told *messageTracker) (*kappParts, error) {
	var records *appRecords
	if told == nil { // it only looks
		records = e.records
	}
	deps := newClients(ctx, e.cluster.config, told, e.served, records)
	core, err := deps.CoreClient()
	if err != nil {
		return nil, err
	}
	objects, err := deps.DynamicClient(cmdcore.DynamicClientOpts{Warnings: true})
	if err != nil {
		return nil, err
	}
	muted, err := deps.DynamicClient(cmdcore.DynamicClientOpts{})
	if err != nil {
		return nil, err
	}
	failing := &cmdapp.FailingAPIServicesPolicy{}
	types := kappres.NewResourceTypesImpl(core, kappres.ResourceTypesImplOpts{CanIgnoreFailingAPIService: failing.CanIgnore})
	// Who may not list in all namespaces lists in those that the app uses.
	options := kappres.ResourcesImplOpts{FallbackAllowedNamespaces: []string{e.cluster.namespace}}
	silent := logger.NewNoopLogger()
	resources := kappres.NewResourcesImpl(types, core, objects, muted, options, silent)
	var listing kappres.Resources = resources
	if e.listings != nil {
		listing = listedResources{resources, e.listings}
	}
	recording := &recordingResources{Resources: marks.Originals{Resources: listing}}
	known := newKnownResources(recording, e.claims.newNamespaces(), records)
	finished := finishedJobs{Resources: known, cluster: e.cluster, since: time.Now().Truncate(time.Second)}
	found := kappres.NewIdentifiedResources(core, types, finished, options.FallbackAllowedNamespaces, silent)
	return &kappParts{
		ctx: ctx, cluster: e.cluster, clients: deps, objects: muted, types: types, found: found, failing: failing, told: told, pollInterval: e.options.PollInterval,
		recording: recording, known: known,
		apps: kapp.NewApps(e.cluster.namespace, core, found, silent),
	}, nil
}

// deployFlags returns the defaults of kapp deploy, which come from its flags. The command itself is
// not for several goroutines.
func (e *engine) deployFlags() *cmdapp.DeployOptions {
	o, flags := &cmdapp.DeployOptions{}, &cobra.Command{}
	o.DiffFlags.SetWithPrefix("diff", flags)
	o.ApplyFlags.SetWithDefaults("", cmdapp.ApplyFlagsDeployDefaults, flags)
	o.DeployFlags.Set(flags)
	e.setLimits(&o.ApplyFlags)
	o.DeployFlags.PrepareResourcesOpts.DefaultNamespace = e.cluster.namespace
	// Selectors are immutable, and an app's label in them ties a workload to one bundle.
	o.DeployFlags.DefaultLabelScopingRules = false
	return o
}

func (e *engine) deleteFlags() *cmdapp.DeleteOptions {
	o, flags := &cmdapp.DeleteOptions{}, &cobra.Command{}
	o.DiffFlags.SetWithPrefix("diff", flags)
	o.ApplyFlags.SetWithDefaults("", cmdapp.ApplyFlagsDeleteDefaults, flags)
	e.setLimits(&o.ApplyFlags)
	return o
}

func (e *engine) setLimits(f *cmdapp.ApplyFlags) {
	f.WaitingChangesOpts.Timeout = e.options.WaitTimeout
	f.WaitingChangesOpts.CheckInterval = firstPause(e.options.PollInterval) // pacedWait adds the rest
	f.ApplyingChangesOpts.Timeout = e.options.WaitTimeout
}

// deployApp is kapp deploy; without hooks it only looks.
func (e *engine) deployApp(ctx context.Context, p *kappParts, a kappApp, h *progressHooks) (callResult, error) {
	flags := e.deployFlags()
	target, err := p.apps.Find(a.name)
	if err != nil {
		return callResult{}, err
	}
	there, _, err := target.Exists()
	if err != nil {
		return callResult{}, err
	}
	create := !there && h != nil
	if create && h.begin != nil {
		if err := h.begin(ctx); err != nil {
			return callResult{}, err
		}
		h.begin = nil
	}
	if _, err := target.CreateOrUpdate("", a.labels, !create); err != nil {
		return callResult{}, err
	}

	wanted, conf, err := e.findWanted(p, target, a, flags)
	if err != nil {
		return callResult{}, err
	}
	p.hasScripts.Store(slices.ContainsFunc(conf.WaitRules(), func(r kappconfig.WaitRule) bool { return r.Ytt != nil }))
	existing, going, err := e.waitForTerminating(ctx, p, target, wanted.resources, flags, !there, h)
	if err != nil {
		return callResult{}, err
	}
	existing, handedOver := e.splitHandedOver(a.name, existing)
	existing = wanted.leaveOut(existing, e.cluster.namespace)
	keepOnDelete(existing, wanted.resources, func(kappres.Resource) bool { return false })
	existing = excludeResources(existing, slices.Concat(wanted.resting, wanted.done))
	if err := diff.NewRenewableResources(existing, wanted.resources).Prepare(); err != nil {
		return callResult{}, err
	}
	compare, err := newComparison(conf, existing)
	if err != nil {
		return callResult{}, err
	}
	p.recording.expectManifests(wanted.resources, compare)
	changes, err := compare.calculateChanges(existing, wanted.resources, conf, flags.DiffFlags.ChangeSetOpts)
	if err != nil {
		return callResult{}, err
	}
	p.recording.approveChanges(changes, flags.DiffFlags.ChangeSetOpts)
	set := changeSet(p, changes, compare.ChangeFactory, conf, flags.DiffFlags.ChangeSetOpts, flags.ApplyFlags)
	steps, graph, err := set.Calculate()
	if err != nil {
		return callResult{}, err
	}
	if err := waitForExistingDependencies(graph); err != nil {
		return callResult{}, err
	}
	result := callResult{changes: append(resourceChanges(steps, changeDetails{diffs: a.diffs, masks: conf.DiffMaskRules()}), wanted.absent...), resources: listIDs(notHooks(wanted.resources))}
	result.ran, result.releases, result.jobs = ranHooks(wanted.resources), wanted.releases, wanted.jobs
	if len(wanted.done) > 0 {
		result.resources = append(result.resources, wanted.done...)
		slices.SortFunc(result.resources, compareIDs)
	}
	if result.idle = len(steps) == 0 && len(wanted.absent) == 0; len(steps) == 0 {
		return result, nil
	}
	refused := cmp.Or(e.refuseManagedResources(steps), runPreflight(ctx, p, conf, graph))
	if h == nil {
		result.refused, result.findings = refused, terminatingFindings(going)
		if a.compareDefinitions {
			result.findings = append(result.findings, findDefinitionChanges(changes)...)
		}
		if a.rehearse && refused == nil {
			result.findings = append(result.findings, rehearseChanges(ctx, a, p, steps, wanted.resources, &result)...)
		}
		return result, nil
	}
	if refused != nil {
		return result, refused
	}
	if h.begin != nil {
		if err := h.begin(ctx); err != nil {
			return result, err
		}
	}
	run := changeRun{target: target, set: set, graph: graph, flags: flags, wanted: slices.Concat(wanted.resources, handedOver), existing: existing}
	return result, e.changeAdopting(ctx, a, steps, func() error { return e.applyChange(p, run, summarizeChanges(result.changes)) })
}

// newComparison compares resources by kapp's rules and merge.Rule.
func newComparison(conf kappconfig.Conf, existing []kappres.Resource) (*comparison, error) {
	usual, err := usualRules()
	if err != nil {
		return nil, err
	}
	rule := merge.Rule{Unrecorded: sets.New[string]()}
	for _, r := range existing {
		if r.Labels()[marks.App] != "" && merge.AppliedManifest(r.UnstructuredObject()) == nil {
			rule.Unrecorded.Insert(r.UID())
		}
	}
	// kapp's own rules come first in a configuration, then ours and those of the bundle.
	all, own := conf.RebaseMods(), usual.RebaseMods()
	rebase := slices.Insert(quickRules(all, own), len(own), kappres.ResourceModWithMultiple(rule))
	// kapp leaves status out of what it compares; merge.Rule keeps it as it is.
	exclude := conf.DiffAgainstExistingFieldExclusionMods()[len(usual.DiffAgainstExistingFieldExclusionMods()):]
	excludeApplied := conf.DiffAgainstLastAppliedFieldExclusionMods()
	return &comparison{
		ChangeFactory: diff.NewChangeFactory(rebase, excludeApplied, exclude, diff.ChangeOpts{}),
		rebase:        rebase, excludeApplied: excludeApplied, exclude: exclude,
		isUsual: len(all) == len(own) && len(exclude) == 0 && len(excludeApplied) == len(usual.DiffAgainstLastAppliedFieldExclusionMods()),
	}, nil
}

// findExisting returns the resources on the cluster that belong to the app, or will belong to it.
func (e *engine) findExisting(p *kappParts, target kapp.App, resources []kappres.Resource, flags *cmdapp.DeployOptions, isNew bool) ([]kappres.Resource, error) {
	p.known.forgetNamespaces()
	selector, options, err := p.appSelector(target, cmdapp.NewUsedGKsScope(resources).GKs(), namespacesOf(resources))
	if err != nil {
		return nil, err
	}
	return kappres.NewLabeledResources(selector, p.found, logger.NewNoopLogger()).AllAndMatching(resources, kappres.AllAndMatchingOpts{
		ExistingNonLabeledResourcesCheck:            true,
		ExistingNonLabeledResourcesCheckConcurrency: flags.DeployFlags.ExistingNonLabeledResourcesCheckConcurrency,
		SkipOwnershipCheckAllowedApps:               e.family,
		IsNewApp:                                    isNew,
		DisallowedResourcesByLabelKeys:              []string{kapp.KappIsAppLabelKey},
		LabelErrorResolutionFunc:                    p.ownerName,
		LabelValAppMapResolverFunc:                  p.appsByLabel,
		IdentifiedResourcesListOpts:                 options,
	})
}

// ownerName names the app that a resource belongs to. kapp takes no error here: without a name it
// gives the label instead.
func (p *kappParts) ownerName(key, value string) string {
	all, _ := p.apps.List(nil)
	for _, one := range all {
		if meta, err := one.Meta(); err == nil && meta.LabelKey == key && meta.LabelValue == value {
			return fmt.Sprintf("different %s (label '%s=%s')", one.Description(), key, value)
		}
	}
	if name, namespace := p.cluster.appOf(p.ctx, key, value); name != "" {
		return fmt.Sprintf("different app '%s' namespace: %s (label '%s=%s'); if that is intended, pass --namespace %s", name, namespace, key, value, namespace)
	}
	return ""
}

// appsByLabel is for what may move inside the runtime. Without it nothing may.
func (p *kappParts) appsByLabel() map[string]string {
	byLabel := map[string]string{}
	all, _ := p.apps.List(nil)
	for _, one := range all {
		if meta, err := one.Meta(); err == nil {
			byLabel[meta.LabelValue] = one.Name()
		}
	}
	return byLabel
}

func changeSet(p *kappParts, changes []diff.Change, factory diff.ChangeFactory, conf kappconfig.Conf, opts diff.ChangeSetOpts, apply cmdapp.ApplyFlags) clusterapply.ClusterChangeSet {
	converged := clusterapply.NewConvergedResourceFactory(conf.WaitRules(), clusterapply.ConvergedResourceFactoryOpts{})
	wait := &pacedWait{UI: p.told, ctx: p.ctx, longest: p.pollInterval}
	steps := clusterapply.NewClusterChangeFactory(apply.ClusterChangeOpts, p.found, factory,
		diff.NewChangeSetFactory(opts, factory), converged, p.told, conf.DiffMaskRules())
	return clusterapply.NewClusterChangeSet(shortenDefinitions(changes), apply.ClusterChangeSetOpts, steps,
		conf.ChangeGroupBindings(), conf.ChangeRuleBindings(), wait, logger.NewNoopLogger())
}

// runPreflight runs kapp's own checks if a Config document of the bundle turns them on.
func runPreflight(ctx context.Context, p *kappParts, conf kappconfig.Conf, graph *diffgraph.ChangeGraph) error {
	checks := kapppreflight.NewRegistry(map[string]kapppreflight.Check{
		"PermissionValidation": permissions.NewPreflight(p.clients, false),
		"CRDUpgradeSafety":     crdupgradesafety.NewPreflight(p.clients, false),
	})
	if err := checks.SetConfig(conf.PreflightRules()); err != nil {
		return fmt.Errorf("kapp's preflight rules: %w", err)
	}
	return checks.Run(ctx, graph)
}

// changeRun is a calculated change of an app that is about to be written.
type changeRun struct {
	target kapp.App
	set    clusterapply.ClusterChangeSet
	graph  *diffgraph.ChangeGraph
	flags  *cmdapp.DeployOptions
	// wanted are the app's resources by its manifests, and those that it keeps until another
	// app has taken them.
	wanted, existing []kappres.Resource
}

// applyChange writes, with a record of kapp's own that it began and how it ended.
func (e *engine) applyChange(p *kappParts, run changeRun, summary string) error {
	both := slices.Concat(run.wanted, run.existing)
	if err := run.target.UpdateUsedGVsAndGKs(p.failing.GVs(both, nil), cmdapp.NewUsedGKsScope(both).GKs()); err != nil {
		return err
	}
	defer e.served.forgetAfter(both)
	// As with kapp, that old records stay is no reason to fail.
	keep := run.flags.DeployFlags.AppChangesMaxToKeep
	defer func() { _, _, _ = run.target.GCChanges(keep, nil) }()
	touch := kapp.Touch{
		App: run.target, Description: "update: " + summary, Namespaces: namespacesOf(run.wanted),
		IgnoreSuccessErr: true, AppChangesMaxToKeep: keep,
	}
	return touch.Do(func() error {
		if err := run.set.Apply(run.graph); err != nil {
			return err
		}
		if len(run.existing) == 0 {
			return nil // it has been recorded
		}
		return run.target.UpdateUsedGVsAndGKs(p.failing.GVs(run.wanted, nil), cmdapp.NewUsedGKsScope(run.wanted).GKs())
	})
}

// kappError is an error of kapp without the blank lines in its text, which kapp's own CLI
// would format, and without what its ytt says of a panic.
type kappError struct{ error }

var (
	blankLines = regexp.MustCompile(`\n(\s*\n)+`)
	backtrace  = regexp.MustCompile(` \(backtrace: goroutine \d+ \[running\]:|\n +reason:\n +runtime/debug\.Stack\(\)(?:\n[ \t]+.*)*`)
)

func (e kappError) Error() string {
	return blankLines.ReplaceAllString(backtrace.ReplaceAllString(e.error.Error(), ""), "\n")
}

func (e kappError) Unwrap() error { return e.error }

// readResources reads manifests as kapp does.
func readResources(manifests fs.FS) ([]kappres.Resource, error) { return resources.Read(manifests) }

func namespacesOf(resources []kappres.Resource) []string {
	names := sets.New[string]()
	for _, r := range resources {
		if r.Namespace() == "" {
			names.Insert("(cluster)") // as kapp records it
		} else {
			names.Insert(r.Namespace())
		}
	}
	return sets.List(names)
}
