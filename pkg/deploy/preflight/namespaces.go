package preflight

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/marks"
	"krtpkg.dev/krtpkg/pkg/deploy/records"
)

// checkNamespaces looks at the namespaces that the runtime needs: that of the records must be
// there and take them, and none may be about to go. It tells of a runtime of the same name in
// another one, too, which may be what was meant.
func (in *inspection) checkNamespaces(ctx context.Context) ([]Finding, error) {
	c := in.cluster
	found, err := in.checkRecords(ctx)
	if err != nil {
		return nil, err
	}
	used := map[string]Finding{c.Namespace: {}}
	for _, b := range in.bundles {
		for _, r := range b.resources {
			name := r.Namespace
			if r.Kind == "Namespace" && r.APIGroup() == "" {
				name = r.Name
			}
			if _, known := used[name]; name != "" && !known {
				used[name] = Finding{Bundle: b.Name, Resource: r.String()}
			}
		}
	}
	get := c.namespaceGetter(ctx, len(used))
	for _, name := range slices.Sorted(maps.Keys(used)) {
		namespace, err := get(name)
		if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
			continue // the runtime may bring it
		}
		if err != nil {
			return nil, fmt.Errorf("look at namespace %s: %w", name, err)
		}
		if namespace.DeletionTimestamp != nil {
			f := used[name]
			f.Severity, f.Message = SeverityError, "namespace "+name+" is being deleted, since "+formatTime(namespace.DeletionTimestamp)+heldBy(namespace)
			found = append(found, f)
		}
	}
	if !in.runtime.IsInstalled && len(in.runtime.Revisions) == 0 {
		if others := c.Records.OtherNamespaces(ctx, in.runtime.Name); len(others) > 0 {
			found = append(found, Finding{Severity: SeverityWarning, Message: fmt.Sprintf(
				"%s is installed in namespace %s; this would install it in namespace %s, too. To upgrade it, pass --namespace %s",
				in.runtime.Name, records.NameSome(others), c.Namespace, others[0])})
		}
	}
	return found, nil
}

// heldBy returns what a namespace that is being deleted waits for.
func heldBy(namespace *corev1.Namespace) string {
	var why []string
	for _, c := range namespace.Status.Conditions {
		if c.Status == corev1.ConditionTrue && c.Message != "" {
			why = append(why, records.ShortenReason(c.Message))
		}
	}
	if len(why) == 0 {
		return ""
	}
	return ": " + strings.Join(why, "; ")
}

func formatTime(t *metav1.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// checkRecords finds out whether the records could be written, by dry runs: a webhook may fail, a
// quota be used up, the namespace be missing.
func (in *inspection) checkRecords(ctx context.Context) ([]Finding, error) {
	c, dry := in.cluster, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	meta := metav1.ObjectMeta{Name: records.ObjectName(in.runtime.Name) + ".probe", Labels: map[string]string{marks.Runtime: in.runtime.Name}}
	var found []Finding
	for _, one := range []struct {
		kind string
		try  func() error
	}{
		{"leases", func() error {
			_, err := c.Client.CoordinationV1().Leases(c.Namespace).Create(apiserver.WithoutLogs(ctx), &coordinationv1.Lease{ObjectMeta: meta}, dry)
			return err
		}},
		{"configmaps", func() error {
			_, err := c.Client.CoreV1().ConfigMaps(c.Namespace).Create(apiserver.WithoutLogs(ctx), &corev1.ConfigMap{ObjectMeta: meta}, dry)
			return err
		}},
		{"secrets", func() error {
			if !in.runtime.HasValues {
				return nil
			}
			_, err := c.Client.CoreV1().Secrets(c.Namespace).Create(apiserver.WithoutLogs(ctx), &corev1.Secret{ObjectMeta: meta}, dry)
			return err
		}},
	} {
		err := one.try()
		if err == nil || apierrors.IsForbidden(err) && !isAdmission(err) {
			continue // permissions are looked at on their own
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if apierrors.IsNotFound(err) {
			return []Finding{{Severity: SeverityError, Message: fmt.Sprintf(
				"namespace %s for the records does not exist: create it, or pass --namespace", c.Namespace)}}, nil
		}
		if strings.Contains(err.Error(), "does not support dry run") {
			continue
		}
		found = append(found, Finding{Severity: SeverityError, Message: fmt.Sprintf(
			"%s of the records cannot be written in namespace %s: %s", one.kind, c.Namespace, records.ShortenReason(err.Error()))})
	}
	return found, nil
}

// isAdmission tells what admission refuses from what permissions do.
func isAdmission(err error) bool {
	text := err.Error()
	return strings.Contains(text, "exceeded quota") || strings.Contains(text, "denied the request") || strings.Contains(text, "webhook")
}

const (
	// FewNamespaces are asked for by name, also by those who may list them all.
	FewNamespaces = 3
	// ListPage is how many objects are listed at a time. Where there are more namespaces, those that are of concern are
	// asked for.
	ListPage = 500
)

// namespaceGetter returns a function that returns a namespace, as the API server does: from one list of all if it is to
// be called more than a few times, where that is allowed.
func (c Cluster) namespaceGetter(ctx context.Context, calls int) func(name string) (*corev1.Namespace, error) {
	namespaces := c.Client.CoreV1().Namespaces()
	if calls > FewNamespaces {
		list, err := namespaces.List(apiserver.WithoutLogs(ctx), metav1.ListOptions{Limit: ListPage})
		if err == nil && list.Continue == "" {
			return func(name string) (*corev1.Namespace, error) {
				i := slices.IndexFunc(list.Items, func(n corev1.Namespace) bool { return n.Name == name })
				if i < 0 {
					return nil, apierrors.NewNotFound(corev1.Resource("namespaces"), name)
				}
				return &list.Items[i], nil
			}
		}
	}
	return func(name string) (*corev1.Namespace, error) {
		return namespaces.Get(apiserver.WithoutLogs(ctx), name, metav1.GetOptions{})
	}
}
