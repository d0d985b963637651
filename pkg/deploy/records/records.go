// Package records keeps what a cluster knows of its runtimes besides what is applied: the revisions of each, their
// values, the hooks that run when a bundle is deleted, and the lock that lets one process at a time change a runtime.
//
// The revisions of a runtime are in a ConfigMap "<runtime>.krtpkg.dev", the values and the hooks in Secrets next to it, the
// lock is a Lease of that name. Any kubectl can read them. Call [Store.Read] to begin, and [Journal] to change
// a runtime: it takes the lock and records how the change began and ended.
package records

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/marks"
)

// Store is where the records of one namespace are.
type Store struct {
	Client    kubernetes.Interface
	Namespace string
	// RetryTimeout is how long an API server that does not answer is waited for at the end of a change.
	RetryTimeout time.Duration
}

// State is how far a revision came.
type State string

// The states of a revision.
const (
	InProgress State = "in progress" // or its apply was killed
	Complete   State = "complete"
	Incomplete State = "failed" // the next apply goes on
	Paused     State = "paused"
	// Interrupted is never recorded: it is what InProgress means once nobody holds the lock.
	Interrupted State = "interrupted"
)

// Origin is what is known of a runtime besides what is in it. It is recorded with the revision.
type Origin struct {
	// Reference is where it came from, by digest: REGISTRY/REPOSITORY@DIGEST.
	Reference string `yaml:"reference,omitempty" json:"reference,omitempty"`
	// Verified says who signed it, and by which key or identity that was seen.
	Verified string `yaml:"verified,omitempty" json:"verified,omitempty"`
}

// Revision is one version of a runtime, with one set of values, that was put onto the cluster.
type Revision struct {
	Number  int    `yaml:"revision" json:"revision"`
	Version string `yaml:"version" json:"version"`
	Digest  string `yaml:"digest" json:"digest"`
	Origin  `yaml:",inline"`
	// Values is the digest of the values, or "" for a revision without values.
	Values string `yaml:"values,omitempty" json:"values,omitempty"`
	State  State  `yaml:"state" json:"state"`
	// Reason is why it failed or where it paused.
	Reason  string    `yaml:"reason,omitempty" json:"reason,omitempty"`
	Started time.Time `yaml:"started" json:"started"`
	Ended   time.Time `yaml:"ended,omitempty" json:"ended,omitzero"`
	By      string    `yaml:"by" json:"by"`
	// Alone is true for a bundle that was applied without a runtime.
	Alone bool `yaml:"alone,omitempty" json:"alone,omitempty"`
	// Bundles are the bundles of the revision, in order. They are set only in the newest revision, and only if a
	// version of krtpkg recorded it that knows this field.
	Bundles []RevisionBundle `yaml:"bundles,omitempty" json:"bundles,omitempty"`
}

// RevisionBundle is a bundle of a revision.
type RevisionBundle struct {
	Bundle  string `yaml:"bundle" json:"name"`
	App     string `yaml:"app" json:"app"`
	Layer   int    `yaml:"layer" json:"layer"`
	Version string `yaml:"version,omitempty" json:"version,omitempty"`
	Digest  string `yaml:"digest,omitempty" json:"digest,omitempty"`
}

// MaxRevisions is how many revisions of a runtime are kept.
const MaxRevisions = 10

// labelRecord is on what is not an app: "runtime", "values" or "hooks".
const labelRecord = "krtpkg.dev/record"

// revisionsKey is the key of the ConfigMap with the revisions, as YAML.
const revisionsKey = "revisions.yaml"

// ObjectName returns the name of the ConfigMap and the Lease of a runtime and, with a suffix, of its Secrets. It cannot
// be that of a kapp app, which has at most one dot.
func ObjectName(runtime string) string { return runtime + ".krtpkg.dev" }

// History is the record of a runtime as it is on the cluster; an empty one for a runtime without a record.
type History struct {
	Revisions []Revision // the newest first
	configMap *corev1.ConfigMap
}

// SettleState returns the newest revision with its state settled: an apply that was interrupted is told from one that goes on.
func (s Store) SettleState(ctx context.Context, runtime string, newest Revision) (Revision, error) {
	if newest.State != InProgress {
		return newest, nil
	}
	held, err := s.Client.CoordinationV1().Leases(s.Namespace).Get(apiserver.WithoutLogs(ctx), ObjectName(runtime), metav1.GetOptions{})
	if err == nil && !isExpired(held) || apierrors.IsForbidden(err) {
		return newest, nil
	}
	if apiserver.IgnoreNotFound(err) != nil {
		return newest, fmt.Errorf("look at lease %s/%s: %w", s.Namespace, ObjectName(runtime), err)
	}
	// It may have ended between the two looks: how it ended is recorded first.
	now, err := s.Read(ctx, runtime)
	if err != nil {
		return newest, err
	}
	if now.Newest().State != InProgress {
		return now.Newest(), nil
	}
	newest.State = Interrupted
	return newest, nil
}

// Runtimes returns the newest revision of every runtime in the namespace, by name.
func (s Store) Runtimes(ctx context.Context) (map[string]Revision, error) {
	all, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	found := map[string]Revision{}
	for _, r := range all {
		if len(r.Revisions) > 0 {
			found[r.Name] = r.Revisions[0]
		}
	}
	return found, nil
}

// Runtime is the history of a runtime.
type Runtime struct {
	Namespace, Name string
	// Revisions are the newest first.
	Revisions []Revision
}

// List returns the histories of all runtimes in the namespace, or in all namespaces if it is "", by namespace and name.
// A record that cannot be read is an error: nothing is known of what it names.
func (s Store) List(ctx context.Context) ([]Runtime, error) {
	all, err := s.listConfigMaps(ctx, labelRecord+"=runtime")
	if err != nil {
		return nil, err
	}
	found := make([]Runtime, len(all))
	for i, cm := range all {
		r, err := readRecord(&cm)
		if err != nil {
			return nil, err
		}
		found[i] = Runtime{cm.Namespace, cm.Labels[marks.Runtime], r.Revisions}
	}
	slices.SortFunc(found, func(a, b Runtime) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return found, nil
}

// listConfigMaps returns the ConfigMaps of runtimes in the namespace, or in all namespaces if it is "".
func (s Store) listConfigMaps(ctx context.Context, selector string) ([]corev1.ConfigMap, error) {
	all, err := s.configMaps().List(apiserver.WithoutLogs(ctx), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		where := "all namespaces"
		if s.Namespace != "" {
			where = "namespace " + s.Namespace
		}
		return nil, fmt.Errorf("list the records of runtimes in %s: %w", where, err)
	}
	return all.Items, nil
}

func (s Store) configMaps() typedcorev1.ConfigMapInterface {
	return s.Client.CoreV1().ConfigMaps(s.Namespace)
}

// Read returns the record of a runtime.
func (s Store) Read(ctx context.Context, runtime string) (*History, error) {
	cm, err := s.configMaps().Get(apiserver.WithoutLogs(ctx), ObjectName(runtime), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return &History{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the record of runtime %s: %w", runtime, err)
	}
	return readRecord(cm)
}

func readRecord(cm *corev1.ConfigMap) (*History, error) {
	r := &History{configMap: cm}
	if err := yaml.Unmarshal([]byte(cm.Data[revisionsKey]), &r.Revisions); err != nil {
		return nil, fmt.Errorf("configmap %s/%s, %s: %w", cm.Namespace, cm.Name, revisionsKey, err)
	}
	return r, nil
}

// Newest returns the last revision; the zero one if there is none.
func (r *History) Newest() Revision {
	if len(r.Revisions) == 0 {
		return Revision{}
	}
	return r.Revisions[0]
}

// IsApplied reports whether the newest revision is the wanted one, and was applied.
func (r *History) IsApplied(next Revision) bool {
	n := r.Newest()
	return n.State == Complete && n.sameAs(next)
}

func (r Revision) sameAs(o Revision) bool {
	return r.Digest == o.Digest && r.Values == o.Values && r.Version == o.Version && r.Origin == o.Origin
}

// addRevision returns the revisions with a next one, which replaces the newest if it is the same.
func (r *History) addRevision(next Revision) []Revision {
	rest := r.Revisions
	next.Number = 1
	if n := r.Newest(); n.Number > 0 {
		next.Number = n.Number + 1
		if n.sameAs(next) {
			next.Number, rest = n.Number, rest[1:]
		}
	}
	all := append([]Revision{next}, rest...)
	for i := range all[1:] {
		all[i+1].Bundles = nil // the room of a record has an end
	}
	return all[:min(len(all), MaxRevisions)]
}

// saveRevisions writes the revisions, unless someone else has written meanwhile, and forgets values
// that no revision has any more.
func (s Store) saveRevisions(ctx context.Context, runtime string, r *History, revisions []Revision) error {
	data, err := yaml.Marshal(revisions)
	if err != nil {
		return err
	}
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Name: ObjectName(runtime), Namespace: s.Namespace,
		Labels: map[string]string{marks.Runtime: runtime, labelRecord: "runtime"},
	}}
	if r.configMap != nil {
		cm = r.configMap.DeepCopy()
	}
	newest := revisions[0]
	cm.Data = map[string]string{
		revisionsKey: string(data), "version": newest.Version, "digest": newest.Digest, "state": string(newest.State),
	}
	if r.configMap == nil {
		cm, err = s.configMaps().Create(apiserver.WithoutLogs(ctx), cm, metav1.CreateOptions{})
	} else {
		cm, err = s.configMaps().Update(apiserver.WithoutLogs(ctx), cm, metav1.UpdateOptions{})
	}
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("the record of runtime %s was changed in the meantime: apply again", runtime)
	}
	if err != nil {
		return fmt.Errorf("record runtime %s in configmap %s/%s: %w", runtime, s.Namespace, ObjectName(runtime), err)
	}
	r.configMap, r.Revisions = cm, revisions
	return s.removeValues(ctx, runtime, func(d string) bool {
		return slices.ContainsFunc(revisions, func(v Revision) bool { return v.Values == d })
	})
}

// Remove removes all that is recorded of a runtime.
func (s Store) Remove(ctx context.Context, runtime string) error {
	return errors.Join(
		s.removeValues(ctx, runtime, func(string) bool { return false }),
		s.removeAllHooks(ctx, runtime),
		apiserver.IgnoreNotFound(s.configMaps().Delete(apiserver.WithoutLogs(ctx), ObjectName(runtime), metav1.DeleteOptions{})),
	)
}

// OtherNamespaces returns the other namespaces that have a runtime; none of those that this user
// may not see.
func (s Store) OtherNamespaces(ctx context.Context, runtime string) []string {
	namespaces, err := s.ListNamespaces(ctx, runtime)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(namespaces, func(namespace string) bool { return namespace == s.Namespace })
}

// ListNamespaces returns the namespaces that have a runtime, or any for "", in order: its record, or an app of it, which is
// there also without a record. The user must be allowed to list ConfigMaps in all namespaces.
func (s Store) ListNamespaces(ctx context.Context, runtime string) ([]string, error) {
	selector := marks.Runtime
	if runtime != "" {
		selector += "=" + runtime
	}
	s.Namespace = metav1.NamespaceAll
	all, err := s.listConfigMaps(ctx, selector)
	if err != nil {
		return nil, err
	}
	var namespaces []string
	for _, cm := range all {
		if _, isApp := cm.Labels[marks.IsApp]; isApp || cm.Labels[labelRecord] == "runtime" {
			namespaces = append(namespaces, cm.Namespace)
		}
	}
	slices.Sort(namespaces)
	return slices.Compact(namespaces), nil
}

// NameSome returns the first few of some names, and how many more there are.
func NameSome(names []string) string {
	text := strings.Join(names[:min(len(names), 3)], ", ")
	if more := len(names) - 3; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// ShortenReason keeps a reason short enough for a record.
func ShortenReason(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	if runes := []rune(line); len(runes) > 300 {
		line = string(runes[:300]) + "…"
	}
	return line
}
