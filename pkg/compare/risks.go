package compare

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"krtpkg.dev/krtpkg/pkg/deploy"
)

// RiskLevel is how dangerous a risk is.
type RiskLevel string

// The severities.
const (
	// Critical is what gives control of a cluster or a node, loses data, or keeps the new version from being applied.
	Critical RiskLevel = "critical"
	// Notable is any other right that is new, and what gets narrower.
	Notable RiskLevel = "notable"
)

// Area is what a risk is about.
type Area string

// The areas.
const (
	AreaAccess    Area = "access"    // roles and bindings
	AreaWorkload  Area = "workload"  // pods
	AreaNamespace Area = "namespace" // what a namespace allows its pods
	AreaData      Area = "data"      // resources that are deleted with what defines or holds them
	AreaValues    Area = "values"    // what a site has to set
	AreaPlatform  Area = "platform"  // machines and clusters that it no longer runs on
)

// Risk is a change that deserves a look first.
type Risk struct {
	Severity RiskLevel `json:"severity"`
	Area     Area      `json:"area"`
	Bundle   string    `json:"bundle"`
	// Resource is absent for what is not of a resource.
	Resource *deploy.ResourceID `json:"resource,omitempty"`
	Text     string             `json:"text"`
}

// String describes a risk for people.
func (r Risk) String() string {
	at := r.Bundle
	if r.Resource != nil {
		at += ", " + r.Resource.String()
	}
	return at + ": " + r.Text
}

// findRisks looks at all that was compared. Its only error is that of the context.
func (c *Comparison) findRisks(ctx context.Context, all *deploy.Comparison) error {
	f := riskFinder{roles: map[roleKey]bool{}, aggregated: map[roleKey]bool{}, bound: map[string][]string{}}
	f.learnKept(all)
	for i := range all.Changes {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f.change = &all.Changes[i]
		f.lookAt()
	}
	c.Risks = append(c.Risks, f.risks...)
	add := func(severity RiskLevel, area Area, bundleName, format string, args ...any) {
		c.Risks = append(c.Risks, Risk{Severity: severity, Area: area, Bundle: bundleName, Text: fmt.Sprintf(format, args...)})
	}
	for _, v := range c.Values {
		switch {
		case v.Required:
			add(Critical, AreaValues, v.Bundle, "value %s must be set", v.Value)
		case v.Change == Removed:
			add(Notable, AreaValues, v.Bundle, "value %s is gone", v.Value)
		case v.Old != nil && v.New != nil && v.Old.Type != v.New.Type && v.Old.Type != "":
			add(Notable, AreaValues, v.Bundle, "value %s has another type: %s, was %s", v.Value, cmp.Or(v.New.Type, "any"), v.Old.Type)
		}
	}
	for _, k := range c.Kubernetes {
		if len(k.Dropped) > 0 {
			add(Notable, AreaPlatform, k.Bundle, "no longer runs on Kubernetes %s", strings.Join(k.Dropped, ", "))
		}
	}
	for _, i := range c.Images {
		if len(i.LostPlatforms) > 0 {
			add(Critical, AreaPlatform, i.Bundle, "image %s is no longer for %s", i.Repository, strings.Join(i.LostPlatforms, ", "))
		}
	}
	slices.SortStableFunc(c.Risks, func(a, b Risk) int { return cmp.Compare(a.Severity, b.Severity) }) // critical before notable
	return nil
}

// riskFinder collects the risks of resources.
type riskFinder struct {
	risks  []Risk
	change *deploy.ManifestChange
	// roles are those that the new version has: whether they give control of the cluster.
	roles map[roleKey]bool
	// aggregated are those of them that take over the rules of others.
	aggregated map[roleKey]bool
	// bound are the namespaces in which the old version bound a role to a subject.
	bound map[string][]string
}

func (f *riskFinder) addRisk(severity RiskLevel, area Area, format string, args ...any) {
	f.risks = append(f.risks, Risk{
		Severity: severity, Area: area, Bundle: f.change.Bundle, Resource: &f.change.ResourceID, Text: fmt.Sprintf(format, args...),
	})
}

// learnKept notes what changes are held against.
func (f *riskFinder) learnKept(all *deploy.Comparison) {
	for _, list := range [][]deploy.ManifestChange{all.Kept, all.Changes} {
		for i := range list {
			f.learnRole(&list[i])
			f.learnBinding(&list[i])
		}
	}
}

// lookAt finds the risks of one change.
func (f *riskFinder) lookAt() {
	c := f.change
	group, _, _ := strings.Cut(c.APIVersion, "/")
	if !strings.Contains(c.APIVersion, "/") {
		group = ""
	}
	if c.After == nil {
		switch {
		case group == "apiextensions.k8s.io" && c.Kind == "CustomResourceDefinition":
			f.addRisk(Critical, AreaData, "is removed: all resources of its kind are deleted with it")
		case group == "" && c.Kind == "Namespace":
			f.addRisk(Critical, AreaData, "is removed: everything in it is deleted with it")
		case group == "" && c.Kind == "PersistentVolumeClaim":
			f.addRisk(Critical, AreaData, "is removed: its data may be deleted with it")
		case group == "networking.k8s.io" && c.Kind == "NetworkPolicy":
			f.addRisk(Notable, AreaWorkload, "is removed: what it kept from pods may reach them")
		case group == "admissionregistration.k8s.io" && strings.HasPrefix(c.Kind, "Validating"):
			f.addRisk(Notable, AreaAccess, "is removed: nothing is refused by it any more")
		}
		return
	}
	switch {
	case group == "rbac.authorization.k8s.io" && (c.Kind == "Role" || c.Kind == "ClusterRole"):
		f.lookAtRole()
	case group == "rbac.authorization.k8s.io" && (c.Kind == "RoleBinding" || c.Kind == "ClusterRoleBinding"):
		f.lookAtBinding()
	case group == "" && c.Kind == "Namespace":
		f.lookAtNamespace()
	case group == "" && c.Kind == "ServiceAccount":
		f.lookAtAccount()
	case group == "" && c.Kind == "PersistentVolume":
		f.lookAtVolume()
	case group == "admissionregistration.k8s.io" && strings.HasSuffix(c.Kind, "WebhookConfiguration"):
		f.lookAtWebhooks()
	case group == "apiregistration.k8s.io" && c.Kind == "APIService":
		f.lookAtService()
	default:
		f.lookAtPods()
	}
}

// podSecurity are the levels of what a namespace allows its pods.
var podSecurity = map[string]int{"restricted": 0, "baseline": 1, "privileged": 2}

// lookAtNamespace finds a namespace that allows its pods more than before.
func (f *riskFinder) lookAtNamespace() {
	const label = "pod-security.kubernetes.io/enforce"
	now := textAt(f.change.After, "metadata", "labels", label)
	was := textAt(f.change.Before, "metadata", "labels", label)
	before, held := podSecurity[was]
	after, holds := podSecurity[now]
	switch {
	case was == "" && now == "privileged":
		f.addRisk(Notable, AreaNamespace, "allows privileged pods")
	case held && before < podSecurity["privileged"] && (!holds || after > before):
		f.addRisk(Critical, AreaNamespace, "allows its pods more: %s is %s, was %s", label, cmp.Or(now, "not set"), was)
	}
}

// lookAtAccount finds a service account whose pods get a token that they did not get.
func (f *riskFinder) lookAtAccount() {
	if f.change.Before == nil {
		return
	}
	if f.change.Before["automountServiceAccountToken"] == false && f.change.After["automountServiceAccountToken"] != false {
		f.addRisk(Notable, AreaWorkload, "gives its pods a token: automountServiceAccountToken is no longer false")
	}
}

// textAt returns the text at a path of an object, or "" if the path has no text.
func textAt(object map[string]any, path ...string) string {
	var at any = object
	for _, key := range path {
		m, _ := at.(map[string]any)
		at = m[key]
	}
	text, _ := at.(string)
	return text
}
