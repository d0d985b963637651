// Package preflight finds what would keep a runtime from being applied, or do harm, before anything is written: an API
// that the cluster does not serve, a version of Kubernetes outside of a bundle's range, one resource in two bundles,
// missing permissions, an older version over a newer one.
//
// Programs call deploy.Cluster.Check or deploy.Cluster.Plan, which call [FindProblems] with what they know of the
// runtime and the cluster. Pass what they return to [RefuseFindings], which makes an error of what is wrong and passes
// over warnings. A plan adds what depends on the changes of single resources: it calls [FindDefinitionChanges] for each
// CustomResourceDefinition that changes, and [Refusal.Judge] for each dry run that the API server refuses.
//
// Nothing here writes to a cluster; the requests that would are dry runs. What a check finds is a [Finding], an error is
// only what keeps it from looking.
package preflight

import (
	"context"
	"slices"
	"strings"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy/records"
	"krtpkg.dev/krtpkg/pkg/resources"
)

// Cluster is the cluster that a runtime is to be applied to.
type Cluster struct {
	Client kubernetes.Interface
	// Server is the address of the API server, for messages.
	Server string
	// Namespace is where the records of the runtime are, and where resources belong that name no namespace.
	Namespace string
	// Served are the kinds that the API server has now.
	Served map[schema.GroupVersionKind]metav1.APIResource
	// Records finds runtimes in other namespaces.
	Records RuntimeFinder
}

// RuntimeFinder finds runtimes by their records, as [records.Store] does.
type RuntimeFinder interface {
	// OtherNamespaces returns the other namespaces with a runtime of that name; none of those that this user may not see.
	OtherNamespaces(ctx context.Context, runtime string) []string
}

// Runtime is what is to be applied, and what the cluster has of it.
type Runtime struct {
	bundle.Release
	// HasValues reports whether a Secret is to hold its values.
	HasValues bool
	// Bundles are in the order in which they are applied.
	Bundles []Bundle
	// Revisions are those that the cluster has recorded, the newest first.
	Revisions []records.Revision
	// IsInstalled reports whether the cluster has any bundle of it.
	IsInstalled bool
}

// Bundle is a bundle of a runtime.
type Bundle struct {
	// Name is that of the runtime for a bundle that is applied without one.
	Name string
	// Version is to be applied, Installed is on the cluster. Both may be empty.
	Version, Installed string
	// Kubernetes is the range of cluster versions that it runs on, as semver has it; "" for any.
	Kubernetes string
	// Read returns its resources, and the kinds that it defines. It is called once, and what it returns is not kept.
	Read func() ([]kappres.Resource, []resources.Definition, error)
}

// Options are for [FindProblems]. The zero value works.
type Options struct {
	// Skip are checks not to do. [CheckNamespaces] is always done.
	Skip []string
	// Images are those that the runtime's pods run, with their platforms.
	Images []Image
}

// FindProblems does the checks that need no plan, in a fixed order. An error of [Bundle.Read] is returned as it is.
func FindProblems(ctx context.Context, cluster Cluster, runtime Runtime, opts Options) ([]Finding, error) {
	in := &inspection{cluster: cluster, runtime: runtime, images: opts.Images}
	for _, b := range runtime.Bundles {
		all, defined, err := b.Read()
		if err != nil {
			return nil, err
		}
		in.bundles = append(in.bundles, inspectBundle(b, all, defined, cluster.Namespace))
	}
	var findings []Finding
	for _, one := range []struct {
		name string
		do   func(context.Context) ([]Finding, error)
	}{
		{CheckNamespaces, in.checkNamespaces},
		{CheckDowngrade, in.checkDowngrade},
		{CheckKubernetes, in.checkKubernetes},
		{CheckAPI, in.checkAPI},
		{CheckTwice, in.checkTwice},
		{CheckDefaults, in.checkDefaults},
		{CheckWorkloads, in.checkWorkloads},
		{CheckAccess, in.checkAccess},
		{CheckPlatforms, in.checkPlatforms},
	} {
		if slices.Contains(opts.Skip, one.name) && one.name != CheckNamespaces {
			continue
		}
		found, err := one.do(ctx)
		if err != nil {
			return nil, err
		}
		for i := range found {
			found[i].Check = one.name
		}
		findings = append(findings, found...)
	}
	return findings, nil
}

// inspection is what the checks of one runtime share.
type inspection struct {
	cluster Cluster
	runtime Runtime
	images  []Image
	bundles []inspectedBundle
}

// inspectedBundle is what the checks look at of a bundle.
type inspectedBundle struct {
	Bundle
	resources []resources.ResourceID
	defaults  []resources.ResourceID // the default classes among them
	defined   []resources.Definition
	aggregate map[schema.GroupVersion]bool // served by API servers of its own
	workloads []*workload
	scalers   []scaler
	budgets   []budget
}

func inspectBundle(b Bundle, all []kappres.Resource, defined []resources.Definition, namespace string) inspectedBundle {
	in := inspectedBundle{Bundle: b, defined: defined, aggregate: map[schema.GroupVersion]bool{}}
	for _, r := range all {
		if resources.IsConfig(r) {
			continue // for kapp, not for the cluster
		}
		if r.Kind() == "APIService" {
			version, group, _ := strings.Cut(r.Name(), ".")
			in.aggregate[schema.GroupVersion{Group: group, Version: version}] = true
		}
		in.resources = append(in.resources, resources.IDOf(r))
		if isDefault(r) {
			in.defaults = append(in.defaults, resources.IDOf(r))
		}
		in.addWorkload(r, namespace)
	}
	return in
}
