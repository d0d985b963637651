package preflight

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
)

// Verbs that kapp needs of what it applies: of the kind, and of the resource by its name.
var (
	kindVerbs = []string{"list", "create"}
	nameVerbs = []string{"get", "update", "patch", "delete"}
)

// confirmations is how many single permissions are asked for at most: what the rules of a user
// do not show may be allowed by something else than RBAC.
const confirmations = 100

// permissionChecker finds out what this user may.
type permissionChecker struct {
	cluster Cluster
	rules   map[string][]authorizationv1.ResourceRule // by namespace
	left    int
}

func (in *inspection) checkAccess(ctx context.Context) ([]Finding, error) {
	home := in.cluster.Namespace
	ask := &permissionChecker{cluster: in.cluster, rules: map[string][]authorizationv1.ResourceRule{}, left: confirmations}
	if all, err := ask.askServer(ctx, authorizationv1.ResourceAttributes{Verb: "*", Group: "*", Version: "*", Resource: "*"}); err != nil || all {
		return nil, err
	}
	type place struct{ bundle, group, resource, namespace string }
	lacking := map[place][]string{}
	var order []place
	check := func(p place, name string, verbs []string) error {
		for _, verb := range verbs {
			ok, err := ask.isAllowed(ctx, authorizationv1.ResourceAttributes{Verb: verb, Group: p.group, Resource: p.resource, Namespace: p.namespace, Name: name})
			if err != nil {
				return err
			}
			if !ok && !slices.Contains(lacking[p], verb) {
				if lacking[p] == nil {
					order = append(order, p)
				}
				lacking[p] = append(lacking[p], verb)
			}
		}
		return nil
	}
	for _, state := range []place{{"", "", "configmaps", home}, {"", "", "secrets", home}} {
		if err := check(state, "", slices.Concat(kindVerbs, nameVerbs)); err != nil {
			return nil, err
		}
	}
	leases := place{"", "coordination.k8s.io", "leases", home}
	if err := check(leases, "", []string{"get", "create", "update", "delete"}); err != nil {
		return nil, err
	}
	kinds := in.knownKinds()
	for _, b := range in.bundles {
		for _, r := range b.resources {
			kind, known := kinds[schema.GroupKind{Group: r.APIGroup(), Kind: r.Kind}]
			if !known {
				continue // checkAPI says so
			}
			p := place{bundle: b.Name, group: r.APIGroup(), resource: kind.Plural}
			if kind.Namespaced {
				p.namespace = cmp.Or(r.Namespace, home)
			}
			if err := check(p, "", kindVerbs); err != nil {
				return nil, err
			}
			if err := check(p, r.Name, nameVerbs); err != nil {
				return nil, err
			}
		}
	}
	var found []Finding
	for _, p := range order {
		where := "in all namespaces"
		if p.namespace != "" {
			where = "in namespace " + p.namespace
		}
		what := schema.GroupResource{Group: p.group, Resource: p.resource}
		found = append(found, Finding{Severity: SeverityWarning, Bundle: p.bundle,
			Message: fmt.Sprintf("this user may not %s %s %s; krtpkg rbac prints the required role", strings.Join(lacking[p], ", "), what, where)})
	}
	return found, nil
}

// isAllowed looks into the user's rules, and asks where they do not say yes.
func (a *permissionChecker) isAllowed(ctx context.Context, want authorizationv1.ResourceAttributes) (bool, error) {
	namespace := cmp.Or(want.Namespace, a.cluster.Namespace)
	rules, known := a.rules[namespace]
	if !known {
		review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}
		answer, err := a.cluster.Client.AuthorizationV1().SelfSubjectRulesReviews().Create(apiserver.WithoutLogs(ctx), review, metav1.CreateOptions{})
		if err != nil {
			return false, fmt.Errorf("ask %s for permissions: %w", a.cluster.Server, err)
		}
		rules = answer.Status.ResourceRules
		a.rules[namespace] = rules
	}
	has := func(list []string, one string) bool {
		return slices.Contains(list, one) || slices.Contains(list, "*")
	}
	if slices.ContainsFunc(rules, func(r authorizationv1.ResourceRule) bool {
		return has(r.Verbs, want.Verb) && has(r.APIGroups, want.Group) && has(r.Resources, want.Resource) &&
			(len(r.ResourceNames) == 0 || want.Name != "" && slices.Contains(r.ResourceNames, want.Name))
	}) {
		return true, nil
	}
	if a.left--; a.left < 0 {
		return true, nil // enough is known to be wrong
	}
	return a.askServer(ctx, want)
}

// askServer asks for one permission.
func (a *permissionChecker) askServer(ctx context.Context, want authorizationv1.ResourceAttributes) (bool, error) {
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &want}}
	answer, err := a.cluster.Client.AuthorizationV1().SelfSubjectAccessReviews().Create(apiserver.WithoutLogs(ctx), review, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("ask %s for permissions: %w", a.cluster.Server, err)
	}
	return answer.Status.Allowed, nil
}
