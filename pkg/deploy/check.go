package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
)

// Severity is how bad a finding is.
type Severity string

// The severities.
const (
	Wrong   Severity = "error" // the apply would fail, or do harm
	Warning Severity = "warning"
)

// Finding is something that a look before an apply has found.
type Finding struct {
	Severity Severity `json:"severity"`
	// Check is what was looked at, one of [Checks] or "kapp".
	Check    string `json:"check"`
	Bundle   string `json:"bundle,omitempty"`
	Resource string `json:"resource,omitempty"`
	Message  string `json:"message"`

	cause error // what it was found from, if that is an error
	fixed bool  // to leave the check out would not help
}

func (f Finding) String() string {
	at := make([]string, 0, 2)
	for _, part := range []string{f.Bundle, f.Resource} {
		if part != "" {
			at = append(at, part)
		}
	}
	text := f.Message
	if len(at) > 0 {
		text = strings.Join(at, ", ") + ": " + text
	}
	return fmt.Sprintf("%s (%s): %s", f.Severity, f.Check, text)
}

// The checks that a look before an apply does.
const (
	CheckKubernetes = "kubernetes" // the cluster's version against the bundles' ranges
	CheckAPI        = "api"        // kinds that are served, removed, or deprecated
	CheckAccess     = "access"     // permissions
	CheckTwice      = "twice"      // one resource in two bundles
	CheckDefaults   = "defaults"   // two default classes of a kind
	CheckWorkloads  = "workloads"  // replicas that two set, budgets that allow no eviction
	CheckImages     = "images"     // by the caller: that images are where the references point to
	CheckPlatforms  = "platforms"  // images' platforms against those of the nodes
	CheckDryRun     = "dry-run"    // what the API server would refuse, and what cannot be changed
	// by Plan: what changes of CustomResourceDefinitions do to resources that exist
	CheckDefinitions = "definitions"
	CheckDowngrade   = "downgrade"  // an older version over a newer one: a warning
	CheckNamespaces  = "namespaces" // that they are there to stay, and take the records; not to be skipped
	CheckForeign     = "foreign"    // by Plan: what others have put into what would be deleted
)

// Checks are those that can be skipped.
var Checks = []string{CheckKubernetes, CheckAPI, CheckAccess, CheckTwice, CheckDefaults, CheckWorkloads, CheckImages, CheckPlatforms, CheckDryRun, CheckDefinitions}

// CheckOptions are for Check and Plan. The zero value works.
type CheckOptions struct {
	Options
	// Skip are checks not to do.
	Skip []string
	// Images are those that the runtime's pods run, with their platforms.
	Images []Image
	// TakeOver and DeleteForeign are as in [ApplyOptions].
	TakeOver, DeleteForeign bool
}

// Image is one that a bundle runs.
type Image struct {
	Bundle, Name string
	// Platforms are those that it is for, as OS/ARCHITECTURE; none if that is not known.
	Platforms []string
}

// ErrFindings means that a look before an apply has found something wrong.
var ErrFindings = errors.New("the cluster is not ready")

// FindingsError lists what keeps a runtime from being applied. It is [ErrFindings], and what it was
// found from.
type FindingsError struct{ Findings []Finding }

func (e *FindingsError) Error() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%v:", ErrFindings)
	for _, f := range e.Findings {
		text.WriteString("\n  " + strings.ReplaceAll(f.String(), "\n", "\n    "))
	}
	return text.String()
}

func (e *FindingsError) Unwrap() []error {
	causes := []error{ErrFindings}
	for _, f := range e.Findings {
		if f.cause != nil {
			causes = append(causes, f.cause)
		}
	}
	return causes
}

// SkippableChecks returns the checks to leave out so that nothing is found; none if that is not possible.
func (e *FindingsError) SkippableChecks() []string {
	var names []string
	for _, f := range e.Findings {
		if f.fixed || !slices.Contains(Checks, f.Check) {
			return nil
		}
		if !slices.Contains(names, f.Check) {
			names = append(names, f.Check)
		}
	}
	return names
}

// RefuseFindings gives a [*FindingsError] that lists what is wrong, or nil if there are only warnings.
func RefuseFindings(findings []Finding) error {
	wrong := slices.DeleteFunc(slices.Clone(findings), func(f Finding) bool { return f.Severity != Wrong })
	if len(wrong) == 0 {
		return nil
	}
	return &FindingsError{Findings: wrong}
}

// Check looks whether the cluster is ready for a runtime, without what depends on its
// resources' differences ([Cluster.Plan] looks at these, too). It writes nothing.
func (c *Cluster) Check(ctx context.Context, rt Runtime, opts CheckOptions) ([]Finding, error) {
	s, err := c.newSession(ctx, rt, opts.Options)
	if err != nil {
		return nil, err
	}
	return s.runChecks(ctx, opts)
}

func (s *session) runChecks(ctx context.Context, opts CheckOptions) ([]Finding, error) {
	in, err := s.inspectCluster(ctx)
	if err != nil {
		return nil, err
	}
	var findings []Finding
	for _, one := range []struct {
		name string
		do   func(context.Context, *clusterView) ([]Finding, error)
	}{
		{CheckNamespaces, s.checkNamespaces},
		{CheckDowngrade, s.checkDowngrade},
		{CheckKubernetes, s.checkVersion},
		{CheckAPI, s.checkAPI},
		{CheckTwice, s.checkTwice},
		{CheckDefaults, s.checkDefaults},
		{CheckWorkloads, s.checkWorkloads},
		{CheckAccess, s.checkAccess},
		{CheckPlatforms, func(ctx context.Context, _ *clusterView) ([]Finding, error) {
			return s.checkPlatforms(ctx, opts.Images)
		}},
	} {
		if slices.Contains(opts.Skip, one.name) && one.name != CheckNamespaces {
			continue
		}
		found, err := one.do(ctx, in)
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

// clusterView is what the checks share.
type clusterView struct {
	resources [][]ResourceID     // by job
	defaults  [][]ResourceID     // the default classes among them
	defined   [][]kindDefinition // by job
	aggregate []map[schema.GroupVersion]bool
	served    map[schema.GroupVersionKind]metav1.APIResource
}

func (s *session) inspectCluster(ctx context.Context) (*clusterView, error) {
	served, err := s.servedKinds(ctx)
	if err != nil {
		return nil, err
	}
	in := &clusterView{served: served}
	for _, j := range s.jobs {
		resources, err := readResources(j.unit.Manifests)
		if err != nil {
			return nil, &Error{Op: "read", Bundle: j.newOutcome().Bundle, Layer: j.unit.Layer, Err: err}
		}
		ids := make([]ResourceID, 0, len(resources))
		var defaults []ResourceID
		aggregate := map[schema.GroupVersion]bool{}
		for _, r := range resources {
			if r.APIGroup() == configGroup && r.Kind() == "Config" {
				continue // for kapp, not for the cluster
			}
			if r.Kind() == "APIService" {
				version, group, _ := strings.Cut(r.Name(), ".")
				aggregate[schema.GroupVersion{Group: group, Version: version}] = true
			}
			ids = append(ids, idOf(r))
			if isDefault(r) {
				defaults = append(defaults, idOf(r))
			}
		}
		in.resources, in.defaults = append(in.resources, ids), append(in.defaults, defaults)
		defined, err := readDefinitions(resources)
		if err != nil {
			return nil, &Error{Op: "read", Bundle: j.newOutcome().Bundle, Layer: j.unit.Layer, Err: err}
		}
		in.defined = append(in.defined, defined)
		in.aggregate = append(in.aggregate, aggregate)
	}
	return in, nil
}

// servedKinds returns all that the API server has now.
func (s *session) servedKinds(ctx context.Context) (map[schema.GroupVersionKind]metav1.APIResource, error) {
	_, lists, err := s.engine.served.askKinds(ctx, s.cluster.client.Discovery())
	if err != nil && len(lists) == 0 {
		return nil, fmt.Errorf("discover the APIs of %s: %w", s.cluster.Server(), err)
	}
	served := map[schema.GroupVersionKind]metav1.APIResource{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for _, r := range list.APIResources {
			if !strings.Contains(r.Name, "/") {
				r.Group, r.Version = gv.Group, gv.Version
				served[gv.WithKind(r.Kind)] = r
			}
		}
	}
	return served, nil
}

func (s *session) checkVersion(ctx context.Context, _ *clusterView) ([]Finding, error) {
	info, err := s.cluster.client.Discovery().ServerVersionWithContext(apiserver.WithoutLogs(ctx))
	if err != nil {
		return nil, fmt.Errorf("ask %s for its version: %w", s.cluster.Server(), err)
	}
	parsed, err := semver.NewVersion(info.GitVersion)
	if err != nil {
		return []Finding{{Severity: Warning, Message: fmt.Sprintf("the cluster's version %q is invalid", info.GitVersion)}}, nil
	}
	// What distributions add after a dash is not a pre-release: v1.34.2-eks-1234.
	plain := semver.New(parsed.Major(), parsed.Minor(), parsed.Patch(), "", "")
	var found []Finding
	for _, j := range s.jobs {
		if j.unit.Kubernetes == "" {
			continue
		}
		wanted, err := semver.NewConstraint(j.unit.Kubernetes)
		if err != nil {
			return nil, fmt.Errorf("bundle %s: kubernetes %q: %w", j.newOutcome().Bundle, j.unit.Kubernetes, err)
		}
		if !wanted.Check(plain) {
			found = append(found, Finding{Severity: Wrong, Bundle: j.newOutcome().Bundle,
				Message: fmt.Sprintf("requires Kubernetes %s, but the cluster is %s", j.unit.Kubernetes, info.GitVersion)})
		}
	}
	return found, nil
}

// lifecycle is what Kubernetes' own types know of their end.
type (
	deprecated interface{ APILifecycleDeprecated() (major, minor int) }
	removed    interface{ APILifecycleRemoved() (major, minor int) }
	replaced   interface {
		APILifecycleReplacement() schema.GroupVersionKind
	}
)

func (s *session) checkAPI(_ context.Context, in *clusterView) ([]Finding, error) {
	var found []Finding
	brought := map[schema.GroupVersionKind]string{}
	groups := map[schema.GroupVersion]bool{}
	for i, j := range s.jobs {
		for _, d := range in.defined[i] {
			for _, v := range d.versions {
				brought[d.WithVersion(v)] = j.newOutcome().Bundle
			}
		}
		for gv := range in.aggregate[i] {
			groups[gv] = true
		}
		said := map[schema.GroupVersionKind]bool{}
		for _, r := range in.resources[i] {
			gvk := schema.FromAPIVersionAndKind(r.APIVersion, r.Kind)
			if said[gvk] {
				continue
			}
			_, served := in.served[gvk]
			served = served || brought[gvk] != "" || groups[gvk.GroupVersion()]
			if f, is := judgeKind(gvk, served); is {
				f.Bundle, f.Resource = j.newOutcome().Bundle, r.String()
				if later := s.broughtLater(in, i, gvk); later != "" && !served {
					f.Message += fmt.Sprintf("; bundle %s defines it, but later: require it", later)
				}
				found, said[gvk] = append(found, f), true
			}
		}
	}
	return found, nil
}

func (s *session) broughtLater(in *clusterView, at int, gvk schema.GroupVersionKind) string {
	for i := at + 1; i < len(s.jobs); i++ {
		for _, d := range in.defined[i] {
			if d.GroupKind == gvk.GroupKind() {
				return s.jobs[i].newOutcome().Bundle
			}
		}
	}
	return ""
}

// judgeKind returns what is wrong with a kind, by whether it is served and what its type knows.
func judgeKind(gvk schema.GroupVersionKind, served bool) (Finding, bool) {
	var hint string
	typed, err := scheme.Scheme.New(gvk)
	if err == nil {
		if r, is := typed.(replaced); is && r.APILifecycleReplacement().Kind != "" {
			hint = "; use " + r.APILifecycleReplacement().GroupVersion().String()
		}
	}
	if !served {
		if r, is := typed.(removed); err == nil && is {
			major, minor := r.APILifecycleRemoved()
			return Finding{Severity: Wrong, fixed: true, Message: fmt.Sprintf("%s %s was removed in Kubernetes %d.%d%s", gvk.GroupVersion(), gvk.Kind, major, minor, hint)}, true
		}
		return Finding{Severity: Wrong, Message: fmt.Sprintf("the cluster does not serve %s %s, and no earlier bundle defines it%s", gvk.GroupVersion(), gvk.Kind, hint)}, true
	}
	if d, is := typed.(deprecated); err == nil && is {
		major, minor := d.APILifecycleDeprecated()
		text := fmt.Sprintf("%s %s is deprecated since Kubernetes %d.%d", gvk.GroupVersion(), gvk.Kind, major, minor)
		if r, is := typed.(removed); is {
			major, minor := r.APILifecycleRemoved()
			text += fmt.Sprintf(" and removed in %d.%d", major, minor)
		}
		// Versions that still are the newest are generated with dates, too.
		if hint != "" {
			return Finding{Severity: Warning, Message: text + hint}, true
		}
	}
	return Finding{}, false
}

// checkTwice finds resources that are in two bundles, each of which would undo what the other does.
func (s *session) checkTwice(_ context.Context, in *clusterView) ([]Finding, error) {
	var found []Finding
	owners := map[ResourceID]string{}
	kinds := s.knownPlurals(in)
	for i, j := range s.jobs {
		for _, r := range in.resources[i] {
			key := r
			key.APIVersion = r.apiGroup()
			// What is in no namespace is one thing, whatever namespace is written there.
			if kind, known := kinds[schema.GroupKind{Group: r.apiGroup(), Kind: r.Kind}]; known && !kind.namespaced {
				key.Namespace = ""
			}
			bundle := j.newOutcome().Bundle
			if owner, twice := owners[key]; twice && owner != bundle {
				found = append(found, Finding{Severity: Wrong, Bundle: bundle, Resource: r.String(), Message: "bundle " + owner + " has it, too"})
			}
			owners[key] = cmp.Or(owners[key], bundle)
		}
	}
	return found, nil
}

// knownPlurals returns the kinds that are served, or brought by the runtime.
func (s *session) knownPlurals(in *clusterView) map[schema.GroupKind]kindDefinition {
	all := map[schema.GroupKind]kindDefinition{}
	for gvk, r := range in.served {
		all[gvk.GroupKind()] = kindDefinition{GroupKind: gvk.GroupKind(), plural: r.Name, namespaced: r.Namespaced}
	}
	for _, defined := range in.defined {
		for _, d := range defined {
			all[d.GroupKind] = d
		}
	}
	return all
}

func (s *session) checkPlatforms(ctx context.Context, images []Image) ([]Finding, error) {
	if len(images) == 0 {
		return nil, nil
	}
	nodes, err := s.cluster.client.CoreV1().Nodes().List(apiserver.WithoutLogs(ctx), metav1.ListOptions{})
	if apierrors.IsForbidden(err) {
		return []Finding{{Severity: Warning, Message: "this user may not list nodes, so their platforms are unknown"}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the nodes: %w", err)
	}
	var have []string
	for _, n := range nodes.Items {
		platform := n.Status.NodeInfo.OperatingSystem + "/" + n.Status.NodeInfo.Architecture
		if platform != "/" && !slices.Contains(have, platform) {
			have = append(have, platform)
		}
	}
	slices.Sort(have)
	var found []Finding
	for _, image := range images {
		if len(image.Platforms) == 0 || len(have) == 0 {
			continue
		}
		var without []string
		for _, platform := range have {
			if !slices.Contains(image.Platforms, platform) {
				without = append(without, platform)
			}
		}
		f := Finding{Severity: Warning, Bundle: image.Bundle}
		if len(without) == len(have) {
			f.Severity = Wrong
		}
		f.Message = fmt.Sprintf("image %s is for %s, but there are nodes of %s", image.Name, strings.Join(image.Platforms, ", "), strings.Join(without, ", "))
		if len(without) > 0 {
			found = append(found, f)
		}
	}
	return found, nil
}
