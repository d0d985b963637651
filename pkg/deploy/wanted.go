package deploy

import (
	"errors"
	"fmt"
	"slices"

	kapp "carvel.dev/kapp/pkg/kapp/app"
	cmdapp "carvel.dev/kapp/pkg/kapp/cmd/app"
	kappconfig "carvel.dev/kapp/pkg/kapp/config"
	"carvel.dev/kapp/pkg/kapp/logger"
	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"krtpkg.dev/krtpkg/pkg/deploy/merge"
)

// wantedResources are the resources of an app by its manifests.
type wantedResources struct {
	resources []kappres.Resource
	absent    []ResourceChange // of kinds that are not served yet
	resting   []ResourceID     // hooks that do not run
	releases  string           // of the hooks
	jobs      doneJobs         // Jobs that will be done, with those that are
	done      []ResourceID     // Jobs that have run before
}

// leaveOut leaves out resources that are to have a version which is not served yet: what would
// change is not known, but not that they go.
func (w *wantedResources) leaveOut(existing []kappres.Resource, namespace string) []kappres.Resource {
	return slices.DeleteFunc(existing, func(r kappres.Resource) bool {
		id := idOf(r)
		i := slices.IndexFunc(w.absent, func(c ResourceChange) bool {
			if c.Namespace == "" && id.Namespace != "" {
				c.Namespace = namespace // which kapp has not set on those
			}
			return c.IsSame(id)
		})
		if i >= 0 {
			w.absent[i].Op = OpUpdate
		}
		return i >= 0
	})
}

func (e *engine) findWanted(p *kappParts, target kapp.App, a kappApp, flags *cmdapp.DeployOptions) (wantedResources, kappconfig.Conf, error) {
	var w wantedResources
	all, err := readResources(a.manifests)
	if err != nil {
		return w, kappconfig.Conf{}, err
	}
	resources, conf, err := withRules(all)
	if err != nil {
		return w, conf, err
	}
	if len(resources) == 0 {
		return w, conf, errors.New("no resources: kapp would delete all resources of the app")
	}
	resources = slices.DeleteFunc(resources, func(r kappres.Resource) bool {
		if !a.absent.Has(r.GroupVersion().WithKind(r.Kind())) {
			return false
		}
		w.absent = append(w.absent, ResourceChange{ResourceID: idOf(r), Op: OpCreate})
		return true
	})
	if err := refuseGeneratedNames(resources); err != nil {
		return w, conf, err
	}
	if w.jobs, err = ttlJobs(resources, e.cluster.namespace); err != nil {
		return w, conf, err
	}
	dropStatus(resources)
	replaceJobs(resources)
	w.releases = releasesOf(resources)
	if err := a.moment.armHooks(resources); err != nil {
		return w, conf, err
	}
	usedGVs, err := target.UsedGVs()
	if err != nil {
		return w, conf, err
	}
	p.failing.MarkRequiredGVs(usedGVs)
	flags.DeployFlags.PrepareResourcesOpts.BeforeModificationFunc = func(rs []kappres.Resource) []kappres.Resource {
		p.failing.MarkRequiredResources(rs)
		return shortenAll(rs)
	}
	resources, err = kapp.NewPreparation(p.types, flags.DeployFlags.PrepareResourcesOpts).PrepareResources(resources)
	if err != nil {
		return w, conf, err
	}
	resources, w.resting = a.moment.splitResting(restoreAll(resources))
	resources, w.done = splitDone(resources, w.jobs, a.done)
	selector, err := target.LabelSelector()
	if err != nil {
		return w, conf, err
	}
	w.resources = resources
	err = kappres.NewLabeledResources(selector, p.found, logger.NewNoopLogger()).Prepare(resources,
		conf.OwnershipLabelMods(), conf.LabelScopingMods(flags.DeployFlags.DefaultLabelScopingRules), conf.AdditionalLabels())
	if err != nil {
		return w, conf, err
	}
	for _, r := range resources {
		if err := merge.RecordApplied(r); err != nil {
			return w, conf, fmt.Errorf("%s: %w", idOf(r), err)
		}
	}
	return w, conf, nil
}

// dropStatus removes what a manifest says of an object's status: controllers write that.
func dropStatus(resources []kappres.Resource) {
	for _, r := range resources {
		delete(r.UnstructuredObject(), "status")
	}
}

// replaceJobs has a Job that cannot be changed, since its pod template is immutable, replaced.
func replaceJobs(resources []kappres.Resource) {
	for _, r := range resources {
		if r.Kind() != "Job" || r.APIGroup() != "batch" || r.Annotations()[updateStrategy] != "" {
			continue
		}
		u := unstructured.Unstructured{Object: r.UnstructuredObject()}
		annotations := u.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[updateStrategy] = fallbackOnReplace
		u.SetAnnotations(annotations)
	}
}

const (
	updateStrategy    = "kapp.k14s.io/update-strategy"
	fallbackOnReplace = "fallback-on-replace"
)
