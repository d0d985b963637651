package deploy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"gopkg.in/yaml.v3"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"krtpkg.dev/krtpkg/pkg/deploy/marks"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/resources"
)

// Access is the least that a user needs to apply a runtime, to upgrade and to delete it.
type Access struct {
	ClusterRole rbacv1.ClusterRole
	// Roles are for namespaces, by their names.
	Roles []rbacv1.Role
	// Bindings bind all of that to the subject.
	ClusterRoleBinding rbacv1.ClusterRoleBinding
	Bindings           []rbacv1.RoleBinding
	// Account is the subject, and Namespaces are those that must be there before the roles in
	// them can be made.
	Account    corev1.ServiceAccount
	Namespaces []corev1.Namespace
	// Unknown are kinds that neither Kubernetes nor the runtime defines: their plural and scope
	// are guessed.
	Unknown []string
}

// clusterScoped are the kinds of Kubernetes itself that have no namespace.
var clusterScoped = map[schema.GroupKind]bool{
	{Kind: "Namespace"}: true, {Kind: "Node"}: true, {Kind: "PersistentVolume"}: true,
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"}: true, {Group: "rbac.authorization.k8s.io", Kind: "ClusterRoleBinding"}: true,
	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: true, {Group: "apiregistration.k8s.io", Kind: "APIService"}: true,
	{Group: "scheduling.k8s.io", Kind: "PriorityClass"}: true, {Group: "node.k8s.io", Kind: "RuntimeClass"}: true,
	{Group: "storage.k8s.io", Kind: "StorageClass"}: true, {Group: "storage.k8s.io", Kind: "CSIDriver"}: true,
	{Group: "storage.k8s.io", Kind: "CSINode"}: true, {Group: "storage.k8s.io", Kind: "VolumeAttachment"}: true,
	{Group: "storage.k8s.io", Kind: "VolumeAttributesClass"}: true, {Group: "networking.k8s.io", Kind: "IngressClass"}: true,
	{Group: "networking.k8s.io", Kind: "ServiceCIDR"}: true, {Group: "networking.k8s.io", Kind: "IPAddress"}: true,
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingWebhookConfiguration"}:   true,
	{Group: "admissionregistration.k8s.io", Kind: "MutatingWebhookConfiguration"}:     true,
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicy"}:        true,
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicyBinding"}: true,
	{Group: "admissionregistration.k8s.io", Kind: "MutatingAdmissionPolicy"}:          true,
	{Group: "admissionregistration.k8s.io", Kind: "MutatingAdmissionPolicyBinding"}:   true,
	{Group: "certificates.k8s.io", Kind: "CertificateSigningRequest"}:                 true,
	{Group: "certificates.k8s.io", Kind: "ClusterTrustBundle"}:                        true,
	{Group: "flowcontrol.apiserver.k8s.io", Kind: "FlowSchema"}:                       true,
	{Group: "flowcontrol.apiserver.k8s.io", Kind: "PriorityLevelConfiguration"}:       true,
	{Group: "resource.k8s.io", Kind: "DeviceClass"}:                                   true,
	{Group: "resource.k8s.io", Kind: "ResourceSlice"}:                                 true,
	{Group: "authentication.k8s.io", Kind: "TokenReview"}:                             true,
	{Group: "authentication.k8s.io", Kind: "SelfSubjectReview"}:                       true,
	{Group: "authorization.k8s.io", Kind: "SubjectAccessReview"}:                      true,
	{Group: "authorization.k8s.io", Kind: "SelfSubjectAccessReview"}:                  true,
	{Group: "authorization.k8s.io", Kind: "SelfSubjectRulesReview"}:                   true,
	{Kind: "ComponentStatus"}: true,
}

// grantSet collect rules for one role, merged by what they are for.
type grantSet map[string]*rbacv1.PolicyRule

func (g grantSet) addRule(verbs []string, group, resource string, names ...string) {
	slices.Sort(verbs)
	key := strings.Join([]string{group, resource, strings.Join(verbs, ","), fmt.Sprint(len(names) > 0)}, "|")
	rule := g[key]
	if rule == nil {
		rule = &rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{group}, Resources: []string{resource}}
		g[key] = rule
	}
	for _, name := range names {
		if !slices.Contains(rule.ResourceNames, name) {
			rule.ResourceNames = append(rule.ResourceNames, name)
		}
	}
	slices.Sort(rule.ResourceNames)
}

// addPolicyRule adds one as it stands in a role.
func (g grantSet) addPolicyRule(r rbacv1.PolicyRule) {
	key, _ := json.Marshal(r) // plain strings
	g["~"+string(key)] = &r
}

func (g grantSet) sortedRules() []rbacv1.PolicyRule {
	var all []rbacv1.PolicyRule
	for _, key := range slices.Sorted(maps.Keys(g)) {
		all = append(all, *g[key])
	}
	return all
}

// LeastAccess computes what a service account needs to apply a runtime that keeps its records in
// a namespace. It is as narrow as Kubernetes allows: who creates cannot be held to names, who
// makes roles must hold what they give, and who makes bindings needs the verb bind. kapp lists
// each kind in all namespaces.
func LeastAccess(rt Runtime, namespace, account string) (*Access, error) {
	if err := rt.validate(); err != nil {
		return nil, err
	}
	placed, err := placeUnits(rt.Units, map[schema.GroupKind]bool{})
	if err != nil {
		return nil, err
	}
	rt.Units = placed
	byNamespace := map[string]grantSet{namespace: {}}
	whole := grantSet{}
	in := func(namespace string) grantSet {
		if byNamespace[namespace] == nil {
			byNamespace[namespace] = grantSet{}
		}
		return byNamespace[namespace]
	}
	var all []kappres.Resource
	for _, u := range rt.Units {
		read, err := readResources(u.Manifests)
		if err != nil {
			return nil, &Error{Op: "read", Bundle: cmp.Or(u.Bundle, rt.Name), Layer: u.Layer, Err: err}
		}
		all = append(all, read...)
		for _, h := range u.Hooks {
			r, err := kappres.NewResourceFromBytes([]byte(h.Manifest))
			if err != nil {
				return nil, &Error{Op: "read", Bundle: cmp.Or(u.Bundle, rt.Name), Layer: u.Layer, Err: err}
			}
			all = append(all, r)
		}
	}
	defined := map[schema.GroupKind]resources.Definition{}
	known, err := resources.ReadDefinitions(all)
	if err != nil {
		return nil, err
	}
	for _, d := range known {
		defined[d.GroupKind] = d
	}
	access := &Access{}
	for _, r := range all {
		if resources.IsConfig(r) {
			continue
		}
		plural, namespaced, known := access.resourceOf(r, defined)
		if !known {
			access.Unknown = append(access.Unknown, r.GroupKind().String())
		}
		group := r.APIGroup()
		whole.addRule([]string{"list", "watch"}, group, plural)
		to := whole
		if namespaced {
			to = in(cmp.Or(r.Namespace(), namespace))
		}
		to.addRule([]string{"create"}, group, plural)
		to.addRule([]string{"get", "update", "patch", "delete"}, group, plural, r.Name())
		if err := access.addRoleGrants(r, whole, to); err != nil {
			return nil, err
		}
	}
	// What kapp looks at to know whether workloads are ready, and what says why they are not.
	for _, made := range made {
		plural, _ := meta.UnsafeGuessKindToResource(made.WithVersion("v1"))
		whole.addRule([]string{"get", "list", "watch"}, made.Group, plural.Resource)
	}
	whole.addRule([]string{"get", "list"}, "", "events")
	whole.addRule([]string{"get"}, "", "pods/log")
	whole.addRule([]string{"get", "list"}, "", "nodes")
	records := in(namespace)
	for _, resource := range []string{"configmaps", "secrets"} {
		records.addRule([]string{"get", "list", "create", "update", "patch", "delete"}, "", resource)
	}
	records.addRule([]string{"get", "create", "update", "delete"}, "coordination.k8s.io", "leases")
	// kapp looks whether a namespace is there before it lists in it.
	whole.addRule([]string{"get", "list"}, "", "namespaces")
	subject := rbacv1.Subject{Kind: "ServiceAccount", Name: account, Namespace: namespace}
	access.bindRoles(rt, subject, whole, byNamespace)
	slices.Sort(access.Unknown)
	access.Unknown = slices.Compact(access.Unknown)
	return access, nil
}

// resourceOf returns the plural of a resource's kind, and whether it has a namespace.
func (a *Access) resourceOf(r kappres.Resource, defined map[schema.GroupKind]resources.Definition) (plural string, namespaced, known bool) {
	gk := r.GroupKind()
	if d, is := defined[gk]; is {
		return d.Plural, d.Namespaced, true
	}
	guess, _ := meta.UnsafeGuessKindToResource(gk.WithVersion(r.GroupVersion().Version))
	own := gk.Group == "" || strings.HasSuffix(gk.Group, ".k8s.io") || !strings.Contains(gk.Group, ".")
	return guess.Resource, !clusterScoped[gk], own
}

// addRoleGrants adds what one needs to make a role or a binding.
func (a *Access) addRoleGrants(r kappres.Resource, whole, to grantSet) error {
	if r.APIGroup() != rbacv1.GroupName {
		return nil
	}
	switch r.Kind() {
	case "ClusterRole", "Role":
		var role rbacv1.ClusterRole
		if err := r.AsUncheckedTypedObj(&role); err != nil {
			return fmt.Errorf("%s: %w", idOf(r), err)
		}
		for _, rule := range role.Rules {
			to.addPolicyRule(rule)
		}
		if role.AggregationRule != nil {
			// Only who may escalate can make a role that gathers others.
			whole.addRule([]string{"escalate"}, rbacv1.GroupName, "clusterroles")
		}
	case "ClusterRoleBinding", "RoleBinding":
		var binding rbacv1.ClusterRoleBinding
		if err := r.AsUncheckedTypedObj(&binding); err != nil {
			return fmt.Errorf("%s: %w", idOf(r), err)
		}
		plural := "roles"
		if binding.RoleRef.Kind == "ClusterRole" {
			plural = "clusterroles"
		}
		to.addRule([]string{"bind"}, rbacv1.GroupName, plural, binding.RoleRef.Name)
	}
	return nil
}

func (a *Access) bindRoles(rt Runtime, subject rbacv1.Subject, whole grantSet, byNamespace map[string]grantSet) {
	name := "krtpkg:" + rt.Name
	label := map[string]string{marks.Runtime: rt.Name}
	kinds := func(kind string) metav1.TypeMeta {
		return metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: kind}
	}
	a.Account = corev1.ServiceAccount{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
		ObjectMeta: metav1.ObjectMeta{Name: subject.Name, Namespace: subject.Namespace},
	}
	a.ClusterRole = rbacv1.ClusterRole{TypeMeta: kinds("ClusterRole"), ObjectMeta: metav1.ObjectMeta{Name: name, Labels: label}, Rules: whole.sortedRules()}
	a.ClusterRoleBinding = rbacv1.ClusterRoleBinding{
		TypeMeta: kinds("ClusterRoleBinding"), ObjectMeta: metav1.ObjectMeta{Name: name, Labels: label},
		Subjects: []rbacv1.Subject{subject}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
	}
	for _, namespace := range slices.Sorted(maps.Keys(byNamespace)) {
		at := metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: label}
		a.Namespaces = append(a.Namespaces, corev1.Namespace{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: namespace},
		})
		a.Roles = append(a.Roles, rbacv1.Role{TypeMeta: kinds("Role"), ObjectMeta: at, Rules: byNamespace[namespace].sortedRules()})
		a.Bindings = append(a.Bindings, rbacv1.RoleBinding{
			TypeMeta: kinds("RoleBinding"), ObjectMeta: at,
			Subjects: []rbacv1.Subject{subject}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		})
	}
}

// ListObjects returns all of it in the order in which they can be created.
func (a *Access) ListObjects() []any {
	var all []any
	for i := range a.Namespaces {
		all = append(all, &a.Namespaces[i])
	}
	all = append(all, &a.Account, &a.ClusterRole, &a.ClusterRoleBinding)
	for i := range a.Roles {
		all = append(all, &a.Roles[i], &a.Bindings[i])
	}
	return all
}

// ListNodes returns [Access.ListObjects] as YAML.
func (a *Access) ListNodes() ([]*yaml.Node, error) {
	objects := a.ListObjects()
	nodes := make([]*yaml.Node, len(objects))
	for i, object := range objects {
		var err error
		if nodes[i], err = manifest.ConvertObject(object); err != nil {
			return nil, err
		}
	}
	return nodes, nil
}

// DefinedNamespaces returns the names of those that a bundle's own manifests make.
func DefinedNamespaces(u Unit) (names []string, err error) {
	resources, err := readResources(u.Manifests)
	if err != nil {
		return nil, &Error{Op: "read", Bundle: u.Bundle, Layer: u.Layer, Err: err}
	}
	for _, r := range resources {
		if r.Kind() == "Namespace" && r.APIGroup() == "" {
			names = append(names, r.Name())
		}
	}
	return names, nil
}

// GrantEverywhere turns rules for some namespaces into rules for the whole cluster: no role can be created in a
// namespace that does not exist yet, and a namespace that the runtime brings must be created by kapp, which
// refuses to take over what someone else has created. Rules for named resources stay as they are.
func (a *Access) GrantEverywhere(namespaces []string) {
	in := func(namespace string) bool { return slices.Contains(namespaces, namespace) }
	for _, role := range a.Roles {
		if in(role.Namespace) {
			a.ClusterRole.Rules = append(a.ClusterRole.Rules, role.Rules...)
		}
	}
	a.Roles = slices.DeleteFunc(a.Roles, func(r rbacv1.Role) bool { return in(r.Namespace) })
	a.Bindings = slices.DeleteFunc(a.Bindings, func(b rbacv1.RoleBinding) bool { return in(b.Namespace) })
	a.Namespaces = slices.DeleteFunc(a.Namespaces, func(n corev1.Namespace) bool { return in(n.Name) })
}
