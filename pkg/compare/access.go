package compare

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/component-helpers/auth/rbac/validation"

	"krtpkg.dev/krtpkg/pkg/deploy"
)

// roleKey is a role by its kind, and its namespace.
type roleKey struct{ kind, namespace, name string }

// role is a Role or a ClusterRole.
type role struct {
	Rules           []rbacv1.PolicyRule     `json:"rules"`
	AggregationRule *rbacv1.AggregationRule `json:"aggregationRule"`
}

// readTyped reads an object as the API server does, by the exact names of fields.
func readTyped[T any](object map[string]any) (typed T, err error) {
	if object == nil {
		return typed, nil
	}
	err = runtime.DefaultUnstructuredConverter.FromUnstructured(object, &typed)
	return typed, err
}

// learnRole notes whether a role gives control of the cluster.
func (f *riskFinder) learnRole(c *deploy.ManifestChange) {
	if c.After == nil || c.Kind != "Role" && c.Kind != "ClusterRole" || !strings.HasPrefix(c.APIVersion, "rbac.authorization.k8s.io/") {
		return
	}
	r, err := readTyped[role](c.After)
	isCritical := err != nil
	for _, rule := range r.Rules {
		isCritical = isCritical || len(dangersOf(rule)) > 0
	}
	key := roleKey{c.Kind, c.Namespace, c.Name}
	f.roles[key] = isCritical
	if r.AggregationRule != nil {
		f.aggregated[key] = true
	}
}

// maxAtoms is how many single rights are compared; a rule may stand for any number.
const maxAtoms = 50_000

// countAtoms returns how many single rights rules stand for.
func countAtoms(rules []rbacv1.PolicyRule) (n float64) {
	for _, r := range rules {
		n += float64(len(r.Verbs)) * (float64(len(r.APIGroups))*float64(len(r.Resources))*float64(max(len(r.ResourceNames), 1)) + float64(len(r.NonResourceURLs)))
	}
	return n
}

// maxComparedTexts is how many texts of the old rules are read to compare a role, all rights together.
const maxComparedTexts = 20_000_000

// countTexts returns how many texts rules have.
func countTexts(rules []rbacv1.PolicyRule) (n float64) {
	for _, r := range rules {
		n += float64(1 + len(r.Verbs) + len(r.APIGroups) + len(r.Resources) + len(r.ResourceNames) + len(r.NonResourceURLs))
	}
	return n
}

// lookAtRole finds what a role allows now and did not allow before.
func (f *riskFinder) lookAtRole() {
	was, err := readTyped[role](f.change.Before)
	if err != nil {
		was = role{} // the cluster would not have it
	}
	now, err := readTyped[role](f.change.After)
	if err != nil {
		f.addRisk(Critical, AreaAccess, "cannot be read: %v", err)
		return
	}
	if atoms := countAtoms(now.Rules); atoms > maxAtoms || atoms*countTexts(was.Rules) > maxComparedTexts {
		f.addRisk(Critical, AreaAccess, "has rules for %.0f single rights, too many to compare: see its difference", atoms)
		return
	}
	_, uncovered := validation.Covers(was.Rules, now.Rules)
	var others []string
	for _, grant := range groupGrants(uncovered) {
		if dangers := dangersOf(grant.policyRule()); len(dangers) > 0 {
			f.addRisk(Critical, AreaAccess, "may now %s: %s", grant, strings.Join(dangers, ", "))
		} else {
			others = append(others, grant.String())
		}
	}
	if len(others) > 0 {
		f.addRisk(Notable, AreaAccess, "may now %s", strings.Join(shortenList(others), "; "))
	}
	f.lookAtAggregation(was, now)
}

// shortenList returns the first texts of a list, and how many more it has.
func shortenList(texts []string) []string {
	if more := len(texts) - maxGrants; more > 0 {
		return append(texts[:maxGrants:maxGrants], fmt.Sprintf("and %d more", more))
	}
	return texts
}

// aggregates begin the labels by which a ClusterRole becomes part of another.
const aggregates = "rbac.authorization.k8s.io/aggregate-to-"

// maxGrants is how many grants are named that give no control of the cluster.
const maxGrants = 5

func (f *riskFinder) lookAtAggregation(was, now role) {
	if now.AggregationRule != nil && !reflect.DeepEqual(was.AggregationRule, now.AggregationRule) {
		f.addRisk(Notable, AreaAccess, "takes over the rules of the roles that it selects by label, in aggregationRule")
	}
	metadata, _ := f.change.After["metadata"].(map[string]any)
	labels, _ := metadata["labels"].(map[string]any)
	for _, label := range slices.Sorted(maps.Keys(labels)) {
		into, is := strings.CutPrefix(label, aggregates)
		if is && labels[label] == "true" && textAt(f.change.Before, "metadata", "labels", label) != "true" {
			f.addRisk(Notable, AreaAccess, "gives its rules to everyone with role %s", into)
		}
	}
}

// grant is what may be done with some resources.
type grant struct {
	group, resource, resourceName, url string
	verbs                              []string
}

// groupGrants collects single rights by what they are for.
func groupGrants(atoms []rbacv1.PolicyRule) []grant {
	all, verbs := map[string]*grant{}, map[string]map[string]bool{}
	for _, a := range atoms {
		g := grant{group: first(a.APIGroups), resource: first(a.Resources), resourceName: first(a.ResourceNames), url: first(a.NonResourceURLs)}
		key := strings.Join([]string{g.resource, g.group, g.resourceName, g.url}, "\x00")
		if all[key] == nil {
			all[key], verbs[key] = &g, map[string]bool{}
		}
		verbs[key][first(a.Verbs)] = true
	}
	var grants []grant
	for _, key := range slices.Sorted(maps.Keys(all)) {
		g := *all[key]
		g.verbs = slices.Sorted(maps.Keys(verbs[key]))
		grants = append(grants, g)
	}
	return grants
}

func first(texts []string) string {
	if len(texts) == 0 {
		return ""
	}
	return texts[0]
}

func (g grant) policyRule() rbacv1.PolicyRule {
	r := rbacv1.PolicyRule{Verbs: g.verbs}
	if g.url != "" {
		r.NonResourceURLs = []string{g.url}
		return r
	}
	r.APIGroups, r.Resources = []string{g.group}, []string{g.resource}
	if g.resourceName != "" {
		r.ResourceNames = []string{g.resourceName}
	}
	return r
}

// String is like "get, list on secrets (core)".
func (g grant) String() string {
	verbs := strings.Join(g.verbs, ", ")
	switch {
	case g.url != "":
		return fmt.Sprintf("%s on URL %s", verbs, g.url)
	case g.resourceName != "":
		return fmt.Sprintf("%s on %s %s (%s)", verbs, g.resource, g.resourceName, cmp.Or(g.group, "core"))
	}
	return fmt.Sprintf("%s on %s (%s)", verbs, g.resource, cmp.Or(g.group, "core"))
}

// writes are the verbs that change something.
var writes = []string{"create", "update", "patch", "*"}

// reads are the verbs that show what is in a resource.
var reads = []string{"get", "list", "watch", "*"}

// danger is a right by which its owner can get others: Kubernetes, "Role Based Access Control Good Practices".
type danger struct {
	group     string
	resources []string
	verbs     []string
	text      string
	// despiteNames is set where the right is as dangerous for objects that are named.
	despiteNames bool
}

var dangers = []danger{
	{"", []string{"secrets"}, reads, "reads credentials", false},
	{"", []string{"nodes/proxy"}, []string{"get", "create", "*"}, "runs commands in all pods of a node", true},
	{"", []string{"pods/exec"}, []string{"get", "create", "*"}, "runs commands in pods", false},
	{"", []string{"pods/attach"}, []string{"get", "create", "*"}, "reaches into pods", false},
	{"", []string{"pods/ephemeralcontainers"}, writes, "runs commands in pods", false},
	{"", []string{"pods", "podtemplates", "replicationcontrollers"}, writes, makesPods, false},
	{"apps", []string{"deployments", "daemonsets", "statefulsets", "replicasets"}, writes, makesPods, false},
	{"batch", []string{"jobs", "cronjobs"}, writes, makesPods, false},
	{"", []string{"namespaces"}, []string{"update", "patch", "*"}, "changes what namespaces allow their pods", false},
	{"", []string{"serviceaccounts/token"}, []string{"create", "*"}, "makes tokens of others", true},
	{"", []string{"persistentvolumes"}, writes, "reaches the files of nodes", false},
	{rbacv1.GroupName, []string{"roles", "clusterroles"}, writes, "changes roles", true},
	{rbacv1.GroupName, []string{"rolebindings", "clusterrolebindings"}, writes, "binds roles", true},
	{"admissionregistration.k8s.io", []string{"mutatingwebhookconfigurations"}, writes, "sees and changes all requests", true},
	{"admissionregistration.k8s.io", []string{"validatingwebhookconfigurations"}, writes, "sees and refuses all requests", true},
	{"certificates.k8s.io", []string{"certificatesigningrequests/approval"}, []string{"update", "patch", "*"}, "approves certificates", false},
	{"certificates.k8s.io", []string{"signers"}, []string{"approve", "sign", "*"}, "signs certificates", true},
}

// makesPods is why it is dangerous to write workloads.
const makesPods = "runs pods with any service account and Secret of the namespace"

// dangersOf returns why a rule gives control of a cluster; none if it doesn't.
func dangersOf(rule rbacv1.PolicyRule) (texts []string) {
	add := func(text string) {
		if !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	isAny := func(list []string) bool { return slices.Contains(list, "*") }
	hasVerb := func(verbs ...string) bool {
		return slices.ContainsFunc(rule.Verbs, func(v string) bool { return slices.Contains(verbs, v) })
	}
	if isAny(rule.Verbs) {
		add("any verb")
	}
	if isAny(rule.Resources) && isAny(rule.APIGroups) {
		add("any resource of any API group")
	} else if isAny(rule.Resources) {
		add("any resource")
	} else if isAny(rule.APIGroups) {
		add("any API group")
	}
	if isAny(rule.NonResourceURLs) {
		add("any URL")
	}
	for _, verb := range []string{"escalate", "bind", "impersonate"} {
		if hasVerb(verb) {
			add(verb)
		}
	}
	for _, resource := range rule.Resources {
		if below, is := strings.CutPrefix(resource, "*/"); is {
			add(below + " of any resource")
		}
	}
	for _, d := range dangers {
		if len(rule.ResourceNames) > 0 && !d.despiteNames {
			continue // few objects are not control
		}
		isMeant := func(resource string) bool { return slices.Contains(d.resources, resource) }
		if hasVerb(d.verbs...) && slices.Contains(rule.APIGroups, d.group) && slices.ContainsFunc(rule.Resources, isMeant) {
			add(d.text)
		}
	}
	return texts
}

// binding is a RoleBinding or a ClusterRoleBinding.
type binding struct {
	Subjects []rbacv1.Subject `json:"subjects"`
	RoleRef  rbacv1.RoleRef   `json:"roleRef"`
}

// learnBinding notes in which namespaces a role was bound to a subject.
func (f *riskFinder) learnBinding(c *deploy.ManifestChange) {
	if c.Before == nil || c.Kind != "RoleBinding" || !strings.HasPrefix(c.APIVersion, "rbac.authorization.k8s.io/") {
		return
	}
	b, err := readTyped[binding](c.Before)
	if err != nil {
		return
	}
	for _, s := range b.Subjects {
		key := describeSubject(s, c.Namespace) + " " + describeRole(b.RoleRef)
		f.bound[key] = append(f.bound[key], c.Namespace)
	}
}

// lookAtBinding finds the subjects that get a role.
func (f *riskFinder) lookAtBinding() {
	c := f.change
	was, err := readTyped[binding](c.Before)
	if err != nil {
		was = binding{}
	}
	now, err := readTyped[binding](c.After)
	if err != nil {
		f.addRisk(Critical, AreaAccess, "cannot be read: %v", err)
		return
	}
	had := map[string]bool{}
	for _, s := range was.Subjects {
		had[describeSubject(s, c.Namespace)] = was.RoleRef.Kind == now.RoleRef.Kind && was.RoleRef.Name == now.RoleRef.Name
	}
	where := "in namespace " + cmp.Or(c.Namespace, "of the runtime")
	if c.Kind == "ClusterRoleBinding" {
		where = "in the whole cluster"
	}
	for _, s := range now.Subjects {
		subject := describeSubject(s, c.Namespace)
		if had[subject] {
			continue
		}
		text := fmt.Sprintf("%s gets %s %s", subject, describeRole(now.RoleRef), where)
		severity := Notable
		if f.isCriticalRole(now.RoleRef) {
			severity = Critical
		} else if !f.isKnownRole(now.RoleRef) {
			text += ", a role that did not change here: look at what it allows"
		} else if f.aggregated[f.keyOf(now.RoleRef)] {
			text += ", a role that takes its rules from others: look at what it allows"
		}
		if isEveryone(s) {
			severity, text = Critical, text+": that is everyone"
		}
		if before := f.bound[subject+" "+describeRole(now.RoleRef)]; c.Kind == "ClusterRoleBinding" && len(before) > 0 {
			severity, text = Critical, text+", and had it before only in namespace "+strings.Join(slices.Compact(before), ", ")
		}
		f.addRisk(severity, AreaAccess, "%s", text)
	}
}

// isCriticalRole reports whether a role gives control: one of the cluster's own, or of the runtime.
func (f *riskFinder) isCriticalRole(ref rbacv1.RoleRef) bool {
	isCritical, isOwn := f.roles[f.keyOf(ref)]
	if ref.Kind != "ClusterRole" {
		return isCritical
	}
	switch {
	case slices.Contains([]string{"cluster-admin", "admin", "edit"}, ref.Name):
		return true
	case slices.Contains(harmlessRoles, ref.Name), !strings.HasPrefix(ref.Name, "system:"):
		return isCritical
	case isOwn && !slices.ContainsFunc(systemRoles, func(prefix string) bool { return strings.HasPrefix(ref.Name, prefix) }):
		return isCritical
	}
	return true
}

// harmlessRoles are those that Kubernetes has for its own parts and that give no control.
var harmlessRoles = []string{
	"system:discovery", "system:basic-user", "system:public-info-viewer", "system:auth-delegator", "system:monitoring",
	"system:service-account-issuer-discovery",
}

// systemRoles begin the names of roles to which an API server adds again what a manifest takes from them.
var systemRoles = []string{
	"system:controller:", "system:kube-", "system:node", "system:kubelet-api-admin", "system:certificates.k8s.io:",
	"system:persistent-volume-provisioner", "system:volume-scheduler",
}

// isKnownRole reports whether it is known what a role allows: one of Kubernetes' own, or among what was compared.
func (f *riskFinder) isKnownRole(ref rbacv1.RoleRef) bool {
	if ref.Kind == "ClusterRole" && (ref.Name == "view" || slices.Contains(harmlessRoles, ref.Name)) {
		return true
	}
	_, is := f.roles[f.keyOf(ref)]
	return is
}

func (f *riskFinder) keyOf(ref rbacv1.RoleRef) roleKey {
	key := roleKey{kind: ref.Kind, name: ref.Name}
	if ref.Kind == "Role" {
		key.namespace = f.change.Namespace
	}
	return key
}

// isEveryone reports whether a subject stands for all users, or all service accounts.
func isEveryone(s rbacv1.Subject) bool {
	return s.Kind == "User" && s.Name == "system:anonymous" ||
		s.Kind == "Group" && slices.Contains([]string{"system:unauthenticated", "system:authenticated", "system:serviceaccounts"}, s.Name)
}

func describeSubject(s rbacv1.Subject, namespace string) string {
	if s.Kind == "ServiceAccount" {
		return fmt.Sprintf("ServiceAccount %s/%s", cmp.Or(s.Namespace, namespace), s.Name)
	}
	return s.Kind + " " + s.Name
}

func describeRole(ref rbacv1.RoleRef) string { return ref.Kind + " " + ref.Name }
