package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	kapp "carvel.dev/kapp/pkg/kapp/app"
	"carvel.dev/kapp/pkg/kapp/clusterapply"
	kappconfig "carvel.dev/kapp/pkg/kapp/config"
	"carvel.dev/kapp/pkg/kapp/diff"
	kappres "carvel.dev/kapp/pkg/kapp/resources"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/marks"
	"krtpkg.dev/krtpkg/pkg/deploy/merge"
	"krtpkg.dev/krtpkg/pkg/deploy/records"
)

// Health is how a bundle is, or a resource.
type Health string

// The healths, from the best to the worst.
const (
	Healthy     Health = "healthy"
	Progressing Health = "progressing" // not ready, and may become so
	NotBegun    Health = "not begun"   // nothing of it is there yet
	Failing     Health = "failing"
	Unknown     Health = "unknown" // it could not be read
	Missing     Health = "missing" // was applied, but is missing
)

var healthOrder = []Health{Healthy, Progressing, NotBegun, Failing, Unknown, Missing}

func worseHealth(a, b Health) Health {
	return healthOrder[max(slices.Index(healthOrder, a), slices.Index(healthOrder, b))]
}

// RuntimeStatus is how a runtime is on the cluster.
type RuntimeStatus struct {
	Runtime string
	// Revision is the newest; the zero one if what was applied has no record.
	Revision Revision
	Bundles  []BundleStatus
}

// Health returns that of the worst bundle, and at best progressing, or failing, as long as the newest
// revision is not complete.
func (s RuntimeStatus) Health() Health {
	health := Healthy
	switch s.Revision.State {
	case InProgress, Paused:
		health = Progressing
	case Incomplete, Interrupted:
		health = Failing
	}
	for _, b := range s.Bundles {
		if b.Health == NotBegun {
			health = worseHealth(health, Progressing)
		} else {
			health = worseHealth(health, b.Health)
		}
	}
	return health
}

// HasDrifted reports whether anything differs from what was applied.
func (s RuntimeStatus) HasDrifted() bool {
	return slices.ContainsFunc(s.Bundles, func(b BundleStatus) bool { return len(b.Drift) > 0 })
}

// Stage is how far the newest revision is with a bundle.
type Stage string

// The stages.
const (
	StageComplete   Stage = "complete"
	StageIncomplete Stage = "incomplete"
	StageNotBegun   Stage = "not begun" // what is there, if anything, is of an earlier revision
	StageLeaving    Stage = "leaving"   // the revision does not have it: it is to be deleted
)

// BundleStatus is how a bundle is on the cluster.
type BundleStatus struct {
	Installed
	Health Health
	Stage  Stage
	// Reason is why the health is unknown.
	Reason string
	// Resources are how many it has.
	Resources int
	// Done are Jobs among them that have run and are no longer there.
	Done []ResourceID
	// Unready are the resources that are not healthy.
	Unready []ResourceStatus
	// Drift is what the next apply of the same would change, as kapp sees it.
	Drift []ResourceChange
}

// ResourceStatus is how a resource is.
type ResourceStatus struct {
	ResourceID
	Health Health `json:"health"`
	Reason string `json:"reason,omitempty"`
}

// Status looks at how the runtime of a name is, or for "" all of them, by name. It writes
// nothing, and needs nothing but the cluster: what was applied is recorded with the resources.
//
// Errors: [ErrNotInstalled].
func (c *Cluster) Status(ctx context.Context, name string, opts Options) ([]RuntimeStatus, error) {
	opts.setDefaults()
	installed, err := c.List(ctx, name)
	if err != nil {
		return nil, err
	}
	records, err := c.Runtimes(ctx)
	if err != nil {
		return nil, err
	}
	byName := map[string]*RuntimeStatus{}
	for runtime, revision := range records {
		if name == "" || name == runtime {
			if revision, err = c.records().SettleState(ctx, runtime, revision); err != nil {
				return nil, err
			}
			byName[runtime] = &RuntimeStatus{Runtime: runtime, Revision: revision}
		}
	}
	e := &engine{cluster: c, served: &servedKinds{}, options: opts, records: newAppRecords(installed)}
	defer e.shareListings(ctx, installed)()
	found := make([]BundleStatus, len(installed))
	tasks := make([]scheduledTask, len(installed))
	for i, one := range installed {
		tasks[i].run = func(ctx context.Context) (err error) {
			found[i], err = e.bundleStatus(ctx, one)
			return err
		}
	}
	failed, _ := runScheduled(ctx, tasks, opts.Parallel)
	if err := joinErrors(ctx, failed); err != nil {
		return nil, err
	}
	for _, b := range found {
		if byName[b.Runtime] == nil {
			byName[b.Runtime] = &RuntimeStatus{Runtime: b.Runtime}
		}
		byName[b.Runtime].Bundles = append(byName[b.Runtime].Bundles, b)
	}
	if name != "" && byName[name] == nil {
		return nil, c.notInstalled(ctx, name)
	}
	var all []RuntimeStatus
	for _, s := range byName {
		s.setStages()
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b RuntimeStatus) int {
		return compareIDs(ResourceID{Name: a.Runtime}, ResourceID{Name: b.Runtime})
	})
	return all, nil
}

// setStages holds the bundles that are there against those of the newest revision.
func (s *RuntimeStatus) setStages() {
	place := map[string]int{}
	for i, b := range s.Revision.Bundles {
		place[b.App] = i
	}
	there := map[string]bool{}
	for i := range s.Bundles {
		b := &s.Bundles[i]
		there[b.App] = true
		at, known := place[b.App]
		switch {
		case !known && len(place) > 0:
			b.Stage = StageLeaving
		case !b.Complete:
			b.Stage = StageIncomplete
		case known && (b.RuntimeDigest != s.Revision.Digest || b.Digest != s.Revision.Bundles[at].Digest || b.hasOtherValues(s.Revision)):
			b.Stage = StageNotBegun
		default:
			b.Stage = StageComplete
		}
	}
	for _, b := range s.Revision.Bundles {
		if !there[b.App] {
			s.Bundles = append(s.Bundles, BundleStatus{
				Installed: Installed{Runtime: s.Runtime, Bundle: b.Bundle, App: b.App, Layer: b.Layer, order: place[b.App]},
				Health:    NotBegun, Stage: StageNotBegun,
			})
		}
	}
	slices.SortFunc(s.Bundles, func(a, b BundleStatus) int { return compareInstalled(a.Installed, b.Installed) })
}

// hasOtherValues reports whether a bundle was last applied with other values than those of a
// revision. An older krtpkg did not record which.
func (i Installed) hasOtherValues(r Revision) bool {
	values, recorded := i.notes[annotationRuntimeValues]
	return recorded && values != r.Values
}

// TargetBundle returns what the newest revision has of a bundle.
func (s RuntimeStatus) TargetBundle(app string) (RevisionBundle, bool) {
	i := slices.IndexFunc(s.Revision.Bundles, func(b RevisionBundle) bool { return b.App == app })
	if i < 0 {
		return RevisionBundle{}, false
	}
	return s.Revision.Bundles[i], true
}

func (e *engine) bundleStatus(ctx context.Context, i Installed) (BundleStatus, error) {
	s := BundleStatus{Installed: i, Health: Healthy}
	_, err := e.runCancellable(ctx, progressHooks{}, func(p *kappParts) (callResult, error) {
		target, err := p.apps.Find(i.App)
		if err != nil {
			return callResult{}, err
		}
		if there, _, err := target.Exists(); err != nil || !there {
			return callResult{}, err
		}
		_, _, _ = e.served.askKinds(ctx, e.cluster.client.Discovery()) // what is wrong comes up in the lists
		p.failing.MarkRequiredGVs(e.served.answeringVersions())        // of groups that do not answer the rest tells
		return callResult{}, s.readResources(p, target, e.served)
	})
	if ctx.Err() != nil {
		return s, ctx.Err()
	}
	if err != nil { // no reason to be silent about the others
		s.Health, s.Reason = Unknown, records.ShortenReason(kappError{err}.Error())
	}
	return s, nil
}

func (s *BundleStatus) readResources(p *kappParts, target kapp.App, served *servedKinds) error {
	all, unread, err := p.readable(target, served)
	if err != nil {
		return err
	}
	_, conf, err := withRules(nil)
	if err != nil {
		return err
	}
	compare, err := newComparison(conf, all)
	if err != nil {
		return err
	}
	converged := clusterapply.NewConvergedResourceFactory(conf.WaitRules(), clusterapply.ConvergedResourceFactoryOpts{})
	there := map[ResourceID]bool{}
	for _, r := range all {
		if r.Transient() {
			continue
		}
		id := idOf(r)
		there[claimKey(id)] = true
		s.Resources++
		state, messages, err := converged.New(r, associated(all)).IsDoneApplying()
		one := ResourceStatus{ResourceID: id, Health: Healthy, Reason: state.Message}
		switch {
		case err != nil:
			one.Health, one.Reason = Failing, err.Error()
		case !state.Done:
			one.Health = Progressing
		case !state.Successful:
			one.Health = Failing
		}
		if one.Health != Healthy {
			if one.Reason == "" && len(messages) > 0 {
				one.Reason = records.ShortenReason(ansiColor.ReplaceAllString(messages[0], ""))
			}
			s.Unready = append(s.Unready, one)
		}
		drift, err := drifted(compare.ChangeFactory, conf, r)
		if err != nil {
			return err
		}
		s.Drift = append(s.Drift, drift...)
	}
	applied, err := readInventory(s.notes[annotationResources])
	if err != nil {
		return fmt.Errorf("configmap %s, annotation %s: %w", s.configMap, annotationResources, err)
	}
	done := readDoneJobs(s.notes[annotationDone])
	for _, id := range applied {
		if err := unread[schema.GroupKind{Group: id.APIGroup(), Kind: id.Kind}]; err != nil {
			s.Unready = append(s.Unready, ResourceStatus{ResourceID: id, Health: Unknown, Reason: records.ShortenReason(err.Error())})
			continue
		}
		if there[claimKey(id)] {
			continue
		}
		if done.hasDone(id) {
			s.Resources++
			s.Done = append(s.Done, id)
		} else {
			s.Unready = append(s.Unready, ResourceStatus{ResourceID: id, Health: Missing, Reason: "was applied, but is missing"})
			s.Drift = append(s.Drift, ResourceChange{ResourceID: id, Op: OpCreate})
		}
	}
	for _, one := range s.Unready {
		s.Health = worseHealth(s.Health, one.Health)
	}
	if !s.Complete {
		s.Health = worseHealth(s.Health, Progressing)
	}
	slices.SortFunc(s.Unready, func(a, b ResourceStatus) int { return compareIDs(a.ResourceID, b.ResourceID) })
	slices.SortFunc(s.Drift, func(a, b ResourceChange) int { return compareIDs(a.ResourceID, b.ResourceID) })
	return nil
}

// readable returns the resources of an app, and the kinds of which they cannot be read: what serves one,
// or a webhook that converts it, may be down.
func (p *kappParts) readable(target kapp.App, served *servedKinds) ([]kappres.Resource, map[schema.GroupKind]error, error) {
	selector, options, err := p.appSelector(target, made, nil)
	if err != nil {
		return nil, nil, err
	}
	all, err := p.found.List(selector, nil, options)
	unread := map[schema.GroupKind]error{}
	for _, gk := range options.GKsScope {
		if failure := served.groupFailure(gk.Group); failure != nil {
			unread[gk] = failure
		}
	}
	if err == nil || len(options.GKsScope) == 0 {
		return all, unread, err
	}
	for _, gk := range options.GKsScope {
		one := options
		one.GKsScope = []schema.GroupKind{gk}
		some, err := p.found.List(selector, nil, one)
		if err != nil {
			unread[gk] = p.withConverter(gk, err)
		}
		all = append(all, some...)
	}
	if len(unread) == len(options.GKsScope) {
		return nil, nil, err
	}
	return all, unread, nil
}

// withConverter adds to why a kind cannot be read that a webhook must convert it.
func (p *kappParts) withConverter(gk schema.GroupKind, err error) error {
	types, failed := p.types.All(false)
	i := slices.IndexFunc(types, func(t kappres.ResourceType) bool {
		return t.APIResource.Group == gk.Group && t.APIResource.Kind == gk.Kind
	})
	if failed != nil || i < 0 {
		return err
	}
	name := types[i].APIResource.Name + "." + gk.Group
	at := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	definition, failed := p.objects.Resource(at).Get(apiserver.WithoutLogs(p.ctx), name, metav1.GetOptions{})
	if failed != nil {
		return err
	}
	field := func(path ...string) string {
		text, _, _ := unstructured.NestedString(definition.Object, append([]string{"spec", "conversion"}, path...)...)
		return text
	}
	if field("strategy") != "Webhook" {
		return err
	}
	where := field("webhook", "clientConfig", "url")
	if name := field("webhook", "clientConfig", "service", "name"); name != "" {
		where = "service " + field("webhook", "clientConfig", "service", "namespace") + "/" + name
	}
	return fmt.Errorf("the conversion webhook of %s, %s, may be down: %w", name, where, err)
}

// associated finds what was made of a resource among what has been listed.
func associated(all []kappres.Resource) func(kappres.Resource, []kappres.ResourceRef) ([]kappres.Resource, error) {
	return func(of kappres.Resource, refs []kappres.ResourceRef) ([]kappres.Resource, error) {
		selector := kappres.NewAssociationLabel(of).AsSelector()
		var found []kappres.Resource
		for _, r := range all {
			if selector.Matches(labels.Set(r.Labels())) {
				found = append(found, r)
			}
		}
		return found, nil
	}
}

// drifted compares a resource with what was applied of it, as far as that is recorded on it.
func drifted(factory diff.ChangeFactory, conf kappconfig.Conf, r kappres.Resource) ([]ResourceChange, error) {
	applied, err := expectedOf(factory, r)
	if err != nil || applied == nil {
		return nil, err
	}
	change, err := factory.NewChangeAgainstLastApplied(r, applied)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", idOf(r), err)
	}
	if compareChange(change).Op() != diff.ChangeOpUpdate {
		return nil, nil
	}
	view := diff.NewTextDiffView(change.ConfigurableTextDiff(), conf.DiffMaskRules(), diff.TextDiffViewOpts{Context: 2, Mask: true})
	return []ResourceChange{{ResourceID: idOf(r), Op: OpUpdate, Diff: ansiColor.ReplaceAllString(view.String(), "")}}, nil
}

// expectedOf returns the manifest that a resource should agree with; nil if it is known to, or
// if nothing is recorded.
func expectedOf(factory diff.ChangeFactory, r kappres.Resource) (kappres.Resource, error) {
	if original := r.Annotations()[marks.Original]; original != "" {
		if factory.NewResourceWithHistory(r).LastAppliedResource() != nil {
			return nil, nil
		}
		applied, err := kappres.NewResourceFromBytes([]byte(original))
		if err != nil {
			return nil, fmt.Errorf("%s, annotation kapp.k14s.io/original: %w", idOf(r), err)
		}
		return applied, nil
	}
	live := r.DeepCopyRaw()
	outline := merge.AppliedManifest(live)
	if outline == nil {
		return nil, nil
	}
	data, err := json.Marshal(merge.ExpandOutline(outline, live))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", idOf(r), err)
	}
	return kappres.NewResourceFromBytes(data)
}
