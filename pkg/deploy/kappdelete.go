package deploy

import (
	"context"
	"fmt"
	"slices"
	"time"

	kapp "carvel.dev/kapp/pkg/kapp/app"
	"carvel.dev/kapp/pkg/kapp/diff"
	kappres "carvel.dev/kapp/pkg/kapp/resources"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
)

// appDelete is what kapp delete wants to know.
type appDelete struct {
	name string
	// namespacesLater leaves the app's namespaces, and with them the app.
	namespacesLater bool
	// diffs has changes come with their diffs, when only looking.
	diffs bool
}

// deleteApp is kapp delete; without hooks it only looks.
func (e *engine) deleteApp(ctx context.Context, p *kappParts, a appDelete, h *progressHooks) (callResult, error) {
	flags := e.deleteFlags()
	target, err := p.apps.Find(a.name)
	if err != nil {
		return callResult{}, err
	}
	there, _, err := target.Exists()
	if err != nil || !there {
		return callResult{}, err
	}
	used, err := target.UsedGVs()
	if err != nil {
		return callResult{}, err
	}
	p.failing.MarkRequiredGVs(used)
	existing, err := p.labeledResources(target)
	if err != nil {
		return callResult{}, err
	}
	for _, r := range existing {
		if _, ours := r.Annotations()["kapp.k14s.io/owned-for-deletion"]; ours {
			r.MarkTransient(false)
		}
	}
	existing, _ = e.splitHandedOver(a.name, existing)
	inPart, err := e.cluster.adoptedInPart(ctx, a.name)
	if err != nil {
		return callResult{}, err
	}
	keepOnDelete(existing, nil, inPart)
	existing = dropChildrenOfOthers(existing)
	_, conf, err := withRules(nil)
	if err != nil {
		return callResult{}, err
	}
	factory := diff.NewChangeFactory(nil, nil, nil, diff.ChangeOpts{})
	// Without rules no record of what was applied ever counts, and to find that out was a quarter of what a delete
	// computes.
	flags.DiffFlags.ChangeSetOpts.AgainstLastApplied = false
	changes, err := diff.NewChangeSetFactory(flags.DiffFlags.ChangeSetOpts, factory).New(existing, nil).Calculate()
	if err != nil {
		return callResult{}, err
	}
	set := changeSet(p, changes, factory, conf, flags.DiffFlags.ChangeSetOpts, flags.ApplyFlags)
	steps, graph, err := set.Calculate()
	result := callResult{changes: resourceChanges(steps, changeDetails{diffs: a.diffs, masks: conf.DiffMaskRules()}), resources: listIDs(existing)}
	if err != nil || h == nil {
		return result, err
	}
	if h.begin != nil {
		if err := h.begin(ctx); err != nil {
			return result, err
		}
	}
	now := slices.DeleteFunc(slices.Clone(changes), func(c diff.Change) bool {
		r := c.ExistingResource()
		later := a.namespacesLater && r.Kind() == "Namespace" && r.APIGroup() == "" && r.Annotations()[deleteStrategy] != orphan
		result.namespacesLeft = result.namespacesLeft || later
		return later
	})
	if result.namespacesLeft {
		set = changeSet(p, now, factory, conf, flags.DiffFlags.ChangeSetOpts, flags.ApplyFlags)
		if _, graph, err = set.Calculate(); err != nil {
			return result, err
		}
	}
	defer e.served.forgetAfter(existing)
	return result, kapp.Touch{App: target, Description: "delete", IgnoreSuccessErr: true}.Do(func() error {
		if err := set.Apply(graph); err != nil {
			_, _, _ = target.GCChanges(kapp.AppChangesMaxToKeepDefault, nil)
			return err
		}
		if err := e.deleteAgain(ctx, existing); err != nil || result.namespacesLeft {
			return err
		}
		return e.deleteRecord(ctx, target)
	})
}

// deleteRecord deletes what kapp has recorded of an app. kapp itself looks at every kind of the
// cluster before, for each app; deleteAll does so once, for all of them.
func (e *engine) deleteRecord(ctx context.Context, target kapp.App) error {
	if _, _, err := target.GCChanges(0, nil); err != nil {
		return fmt.Errorf("delete kapp's record of changes: %w", err)
	}
	configMap, err := e.cluster.appConfigMap(ctx, target.Name())
	if err != nil {
		return err
	}
	if err := apiserver.IgnoreNotFound(e.cluster.configMaps().Delete(apiserver.WithoutLogs(ctx), configMap.Name, metav1.DeleteOptions{})); err != nil {
		return fmt.Errorf("delete kapp's record of %s: %w", target.Name(), err)
	}
	return nil
}

// dropChildrenOfOthers leaves out what controllers have made of resources that are not deleted:
// kapp would wait until it is gone. Pods of a workload that has moved to another app keep the
// label of the one that they were made for.
func dropChildrenOfOthers(existing []kappres.Resource) []kappres.Resource {
	going := sets.New[string]() // UIDs
	for _, r := range existing {
		if !r.Transient() && !isKept(r) {
			going.Insert(r.UID())
		}
	}
	for before := -1; before < len(going); { // children of children follow
		before = len(going)
		for _, r := range existing {
			if slices.ContainsFunc(r.OwnerRefs(), func(o metav1.OwnerReference) bool { return going.Has(string(o.UID)) }) {
				going.Insert(r.UID())
			}
		}
	}
	return slices.DeleteFunc(existing, func(r kappres.Resource) bool { return r.Transient() && !going.Has(r.UID()) })
}

// deleteAgain deletes cluster roles that Kubernetes makes again: the controller that fills roles
// from others writes what it is about to write even if the role has been deleted meanwhile.
func (e *engine) deleteAgain(ctx context.Context, deleted []kappres.Resource) error {
	roles := e.cluster.client.RbacV1().ClusterRoles()
	for range 3 {
		looked := false
		for _, r := range deleted {
			rule, aggregates, _ := unstructured.NestedMap(r.DeepCopyRaw(), "aggregationRule")
			if r.Kind() != "ClusterRole" || !aggregates || rule == nil {
				continue
			}
			looked = true
			role, err := roles.Get(apiserver.WithoutLogs(ctx), r.Name(), metav1.GetOptions{})
			if err == nil && len(role.Labels) == 0 {
				err = roles.Delete(apiserver.WithoutLogs(ctx), r.Name(), metav1.DeleteOptions{})
			}
			if err := apiserver.IgnoreNotFound(err); err != nil {
				return fmt.Errorf("%s, which was created again after its deletion: %w", idOf(r), err)
			}
		}
		if !looked {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
	return nil
}

// labeledResources returns the resources on the cluster that have the app's label.
func (p *kappParts) labeledResources(target kapp.App) ([]kappres.Resource, error) {
	selector, options, err := p.appSelector(target, made, nil)
	if err != nil {
		return nil, err
	}
	return p.found.List(selector, nil, options)
}

// appSelector says by which label an app's resources are found, and where to look: at kinds that it is
// known to have, and at more, in namespaces that it is known to use, and in more.
func (p *kappParts) appSelector(target kapp.App, more []schema.GroupKind, in []string) (labels.Selector, kappres.IdentifiedResourcesListOpts, error) {
	options := kappres.IdentifiedResourcesListOpts{}
	selector, err := target.LabelSelector()
	if err != nil {
		return nil, options, err
	}
	meta, err := target.Meta()
	if err != nil {
		return nil, options, err
	}
	options.ResourceNamespaces = append(meta.LastChange.Namespaces, in...)
	used, err := target.UsedGKs()
	if used != nil { // kapp looks at all kinds for an app that does not say which it has
		options.GKsScope = sets.New(append(slices.Clone(more), *used...)...).UnsortedList()
	}
	return selector, options, err
}

// made are kinds that Kubernetes itself makes of an app's, with its labels.
var made = []schema.GroupKind{
	{Kind: "Pod"}, {Kind: "PersistentVolumeClaim"}, {Group: "apps", Kind: "ReplicaSet"},
	{Group: "apps", Kind: "ControllerRevision"}, {Group: "batch", Kind: "Job"},
}
