package deploy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	kapp "carvel.dev/kapp/pkg/kapp/app"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/marks"
)

// Labels of an app's ConfigMap are there from its first moment, because kapp creates it
// with them: an apply that was interrupted can be found, continued and deleted in order.
// Label values are too short for a digest and too narrow for all versions, so what is known
// of the last success is in annotations.
const (
	labelLayer = "krtpkg.dev/layer"
	labelOrder = "krtpkg.dev/order" // the place in the runtime, padded so that it sorts as text

	annotationVersion        = "krtpkg.dev/version"
	annotationDigest         = "krtpkg.dev/digest"
	annotationRuntimeVersion = "krtpkg.dev/runtime-version"
	annotationRuntimeDigest  = "krtpkg.dev/runtime-digest"
	annotationRuntimeValues  = "krtpkg.dev/runtime-values" // the digest of the site's values
	// annotationChange is the name of the last of kapp's changes when an Apply ended well.
	annotationChange = "krtpkg.dev/change"
	// annotationNeeds are the names of the bundles of its layer that it needs, by commas.
	annotationNeeds = "krtpkg.dev/needs"
	// annotationResources are the resources that were applied, a line each.
	annotationResources = "krtpkg.dev/resources"
	// annotationDone are Jobs that have run and need not be there any more, see doneJobs.
	annotationDone = "krtpkg.dev/done"
)

// Installed is a bundle on the cluster.
type Installed struct {
	Runtime string
	// Bundle is its name, that of the runtime for a bundle applied without one.
	Bundle string
	App    string // the kapp app
	Layer  int
	// Version and Digest are those of the bundle, RuntimeVersion and RuntimeDigest those of
	// the runtime that were last applied with success; empty if none was.
	Version, Digest               string
	RuntimeVersion, RuntimeDigest string
	// Complete tells whether an Apply has ended well since the last change. It is false while
	// one is going on, after one that failed or was interrupted (the next Apply continues
	// it), and after a change by anything else than Apply, such as kapp's CLI.
	Complete bool
	// Changed is when the last change began; zero if none did.
	Changed time.Time
	// Needs are the bundles of its layer that it needs.
	Needs []string

	alone     bool
	order     int
	configMap string
	label     string // the value of kapp's label (marks.App) on its resources
	change    string
	labels    map[string]string
	notes     map[string]string
	record    *corev1.ConfigMap
}

// List returns the bundles of the runtime with this name, or of all for "", in the order in
// which they were applied; runtimes by name. None is not an error.
func (c *Cluster) List(ctx context.Context, name string) ([]Installed, error) {
	selector, err := appSelector(name)
	if err != nil {
		return nil, err
	}
	found, err := c.configMaps().List(apiserver.WithoutLogs(ctx), metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return nil, fmt.Errorf("list installed bundles in namespace %s: %w", c.namespace, err)
	}
	all := make([]Installed, 0, len(found.Items))
	for _, cm := range found.Items {
		one, err := readInstalled(&cm)
		if err != nil {
			return nil, fmt.Errorf("list installed bundles: configmap %s/%s: %w", cm.Namespace, cm.Name, err)
		}
		all = append(all, one)
	}
	slices.SortFunc(all, compareInstalled)
	return all, nil
}

func appSelector(runtime string) (labels.Selector, error) {
	isApp, err := labels.NewRequirement(kapp.KappIsAppLabelKey, selection.Exists, nil)
	if err != nil {
		return nil, err
	}
	ours, err := labels.NewRequirement(marks.Runtime, selection.Exists, nil)
	if runtime != "" {
		ours, err = labels.NewRequirement(marks.Runtime, selection.Equals, []string{runtime})
	}
	if err != nil {
		return nil, fmt.Errorf("runtime %q: %w", runtime, err)
	}
	return labels.NewSelector().Add(*isApp, *ours), nil
}

func readInstalled(cm *corev1.ConfigMap) (Installed, error) {
	meta, err := kapp.NewAppMetaFromData(cm.Data)
	if err != nil {
		return Installed{}, err
	}
	layer, err := strconv.Atoi(cm.Labels[labelLayer])
	if err != nil {
		return Installed{}, fmt.Errorf("label %s: %w", labelLayer, err)
	}
	order, err := strconv.Atoi(cm.Labels[labelOrder])
	if err != nil {
		return Installed{}, fmt.Errorf("label %s: %w", labelOrder, err)
	}
	runtime, bundle := cm.Labels[marks.Runtime], cm.Labels[marks.Bundle]
	return Installed{
		Runtime:        runtime,
		Bundle:         cmp.Or(bundle, runtime),
		App:            strings.TrimSuffix(cm.Name, kapp.AppSuffix),
		Layer:          layer,
		Version:        cm.Annotations[annotationVersion],
		Digest:         cm.Annotations[annotationDigest],
		RuntimeVersion: cm.Annotations[annotationRuntimeVersion],
		RuntimeDigest:  cm.Annotations[annotationRuntimeDigest],
		Complete:       meta.LastChangeName != "" && cm.Annotations[annotationChange] == meta.LastChangeName,
		Changed:        meta.LastChange.StartedAt,
		Needs:          strings.FieldsFunc(cm.Annotations[annotationNeeds], func(r rune) bool { return r == ',' }),
		alone:          bundle == "",
		order:          order,
		configMap:      cm.Name,
		label:          meta.LabelValue,
		change:         meta.LastChangeName,
		labels:         cm.Labels,
		notes:          cm.Annotations,
		record:         cm,
	}, nil
}

// compareInstalled compares layers before places: after an upgrade that was interrupted, places
// are those of two versions.
func compareInstalled(a, b Installed) int {
	return cmp.Or(
		cmp.Compare(a.Runtime, b.Runtime),
		cmp.Compare(a.Layer, b.Layer),
		cmp.Compare(a.order, b.order),
		cmp.Compare(a.App, b.App),
	)
}

// appOf finds the app that a label of kapp belongs to, in whichever namespace.
func (c *Cluster) appOf(ctx context.Context, key, value string) (app, namespace string) {
	all, err := c.client.CoreV1().ConfigMaps("").List(apiserver.WithoutLogs(ctx), metav1.ListOptions{LabelSelector: kapp.KappIsAppLabelKey})
	if err != nil {
		return "", ""
	}
	for _, cm := range all.Items {
		if meta, err := kapp.NewAppMetaFromData(cm.Data); err == nil && meta.LabelKey == key && meta.LabelValue == value {
			return strings.TrimSuffix(cm.Name, kapp.AppSuffix), cm.Namespace
		}
	}
	return "", ""
}
