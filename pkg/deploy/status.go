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
	"k8s.io/apimachinery/pkg/labels"
)

// Health is how a bundle is, or a resource.
type Health string

// The healths, from the best to the worst.
const (
	Healthy     Health = "healthy"
	Progressing Health = "progressing" // not ready, and may become so
	Failing     Health = "failing"
	Missing     Health = "missing" // it was applied, and is not there
)

var healthOrder = []Health{Healthy, Progressing, Failing, Missing}

func worse(a, b Health) Health {
	return healthOrder[max(slices.Index(healthOrder, a), slices.Index(healthOrder, b))]
}

// RuntimeStatus is how a runtime is on the cluster.
type RuntimeStatus struct {
	Runtime string
	// Revision is the newest; the zero one if what was applied has no record.
	Revision Revision
	Bundles  []BundleStatus
}

// Health is that of the worst bundle.
func (s RuntimeStatus) Health() Health {
	health := Healthy
	for _, b := range s.Bundles {
		health = worse(health, b.Health)
	}
	return health
}

// Drifted tells whether anything differs from what was applied.
func (s RuntimeStatus) Drifted() bool {
	return slices.ContainsFunc(s.Bundles, func(b BundleStatus) bool { return len(b.Drift) > 0 })
}

// BundleStatus is how a bundle is on the cluster.
type BundleStatus struct {
	Installed
	Health Health
	// Resources are how many it has.
	Resources int
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
			byName[runtime] = &RuntimeStatus{Runtime: runtime, Revision: revision}
		}
	}
	e := &engine{cluster: c, served: &served{}, options: opts}
	found := make([]BundleStatus, len(installed))
	tasks := make([]task, len(installed))
	for i, one := range installed {
		tasks[i].run = func(ctx context.Context) (err error) {
			found[i], err = e.status(ctx, one)
			return err
		}
	}
	failed, _ := schedule(ctx, tasks, opts.Parallel)
	if err := joined(ctx, failed); err != nil {
		return nil, err
	}
	for _, b := range found {
		if byName[b.Runtime] == nil {
			byName[b.Runtime] = &RuntimeStatus{Runtime: b.Runtime}
		}
		byName[b.Runtime].Bundles = append(byName[b.Runtime].Bundles, b)
	}
	if name != "" && byName[name] == nil {
		return nil, fmt.Errorf("%s, namespace %s: %w", name, c.namespace, ErrNotInstalled)
	}
	var all []RuntimeStatus
	for _, s := range byName {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b RuntimeStatus) int {
		return compareIDs(ResourceID{Name: a.Runtime}, ResourceID{Name: b.Runtime})
	})
	return all, nil
}

func (e *engine) status(ctx context.Context, i Installed) (BundleStatus, error) {
	s := BundleStatus{Installed: i, Health: Healthy}
	_, err := e.run(ctx, hooks{}, func(p *parts) (done, error) {
		target, err := p.apps.Find(i.App)
		if err != nil {
			return done{}, err
		}
		if there, _, err := target.Exists(); err != nil || !there {
			return done{}, err
		}
		return done{}, s.read(p, target)
	})
	if err != nil {
		return s, fmt.Errorf("look at bundle %s: %w", i.Bundle, err)
	}
	return s, nil
}

func (s *BundleStatus) read(p *parts, target kapp.App) error {
	all, err := p.belonging(target)
	if err != nil {
		return err
	}
	_, conf, err := withRules(nil)
	if err != nil {
		return err
	}
	factory, err := changeFactory(conf, all)
	if err != nil {
		return err
	}
	converged := clusterapply.NewConvergedResourceFactory(conf.WaitRules(), clusterapply.ConvergedResourceFactoryOpts{})
	there := map[ResourceID]bool{}
	for _, r := range all {
		if r.Transient() {
			continue
		}
		id := identity(r)
		there[ResourceID{id.group(), id.Kind, id.Namespace, id.Name}] = true
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
				one.Reason = oneLine(ansiColor.ReplaceAllString(messages[0], ""))
			}
			s.Unready = append(s.Unready, one)
		}
		drift, err := drifted(factory, conf, r)
		if err != nil {
			return err
		}
		s.Drift = append(s.Drift, drift...)
	}
	applied, err := readInventory(s.notes[annotationResources])
	if err != nil {
		return fmt.Errorf("configmap %s, annotation %s: %w", s.configMap, annotationResources, err)
	}
	for _, id := range applied {
		if !there[ResourceID{id.group(), id.Kind, id.Namespace, id.Name}] {
			s.Unready = append(s.Unready, ResourceStatus{ResourceID: id, Health: Missing, Reason: "it was applied, and is not there"})
			s.Drift = append(s.Drift, ResourceChange{ResourceID: id, Op: Create})
		}
	}
	for _, one := range s.Unready {
		s.Health = worse(s.Health, one.Health)
	}
	if !s.Complete {
		s.Health = worse(s.Health, Progressing)
	}
	slices.SortFunc(s.Unready, func(a, b ResourceStatus) int { return compareIDs(a.ResourceID, b.ResourceID) })
	slices.SortFunc(s.Drift, func(a, b ResourceChange) int { return compareIDs(a.ResourceID, b.ResourceID) })
	return nil
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
		return nil, fmt.Errorf("%s: %w", identity(r), err)
	}
	if change.Op() != diff.ChangeOpUpdate {
		return nil, nil
	}
	view := diff.NewTextDiffView(change.ConfigurableTextDiff(), conf.DiffMaskRules(), diff.TextDiffViewOpts{Context: 2, Mask: true})
	return []ResourceChange{{ResourceID: identity(r), Op: Update, Diff: ansiColor.ReplaceAllString(view.String(), "")}}, nil
}

// expectedOf returns the manifest that a resource should agree with; nil if it is known to, or
// if nothing is recorded.
func expectedOf(factory diff.ChangeFactory, r kappres.Resource) (kappres.Resource, error) {
	if original := r.Annotations()["kapp.k14s.io/original"]; original != "" {
		if factory.NewResourceWithHistory(r).LastAppliedResource() != nil {
			return nil, nil
		}
		applied, err := kappres.NewResourceFromBytes([]byte(original))
		if err != nil {
			return nil, fmt.Errorf("%s, annotation kapp.k14s.io/original: %w", identity(r), err)
		}
		return applied, nil
	}
	live := r.DeepCopyRaw()
	outline := appliedManifest(live)
	if outline == nil {
		return nil, nil
	}
	data, err := json.Marshal(expandOutline(outline, live))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", identity(r), err)
	}
	return kappres.NewResourceFromBytes(data)
}
