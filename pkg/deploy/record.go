package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"gopkg.in/yaml.v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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
	// Values is the digest of the values, "" if there are none.
	Values string `yaml:"values,omitempty" json:"values,omitempty"`
	State  State  `yaml:"state" json:"state"`
	// Reason is why it failed or where it paused.
	Reason  string    `yaml:"reason,omitempty" json:"reason,omitempty"`
	Started time.Time `yaml:"started" json:"started"`
	Ended   time.Time `yaml:"ended,omitempty" json:"ended,omitzero"`
	By      string    `yaml:"by" json:"by"`
	// Alone is true for a bundle that was applied without a runtime.
	Alone bool `yaml:"alone,omitempty" json:"alone,omitempty"`
	// Bundles are those of the revision, in order. Only of the newest it is known, and only if
	// it was recorded since this is.
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

// historyLimit is how many revisions are kept.
const historyLimit = 10

// stateName returns that of the ConfigMap, the Lease and, with a suffix, the Secrets of a runtime.
// It cannot be that of a kapp app, which has at most one dot.
func stateName(runtime string) string { return runtime + ".krtpkg.dev" }

func valuesName(runtime string, d digest.Digest) string {
	return stateName(runtime) + ".values." + d.Encoded()[:16]
}

const (
	labelRecord  = "krtpkg.dev/record" // on what is not an app: "runtime" or "values"
	recordKey    = "revisions.yaml"
	valuesKey    = "values.yaml"
	valuesSource = "krtpkg.dev/values"
)

// revisionRecord is the history of a runtime as it is on the cluster.
type revisionRecord struct {
	revisions []Revision // the newest first
	configMap *corev1.ConfigMap
}

// History returns the revisions of a runtime, the newest first, at most ten.
//
// Errors: [ErrNotInstalled].
func (c *Cluster) History(ctx context.Context, runtime string) ([]Revision, error) {
	r, err := c.readRevisions(ctx, runtime)
	if err == nil && len(r.revisions) == 0 {
		err = c.notInstalled(ctx, runtime)
	}
	if err != nil {
		return nil, err
	}
	if r.revisions[0], err = c.settleState(ctx, runtime, r.revisions[0]); err != nil {
		return nil, err
	}
	return r.revisions, nil
}

// settleState tells an apply that was interrupted from one that goes on.
func (c *Cluster) settleState(ctx context.Context, runtime string, newest Revision) (Revision, error) {
	if newest.State != InProgress {
		return newest, nil
	}
	held, err := c.client.CoordinationV1().Leases(c.namespace).Get(withoutLogs(ctx), stateName(runtime), metav1.GetOptions{})
	if err == nil && !isExpired(held) || apierrors.IsForbidden(err) {
		return newest, nil
	}
	if ignoreNotFound(err) != nil {
		return newest, fmt.Errorf("look at lease %s/%s: %w", c.namespace, stateName(runtime), err)
	}
	// It may have ended between the two looks: how it ended is recorded first.
	now, err := c.readRevisions(ctx, runtime)
	if err != nil {
		return newest, err
	}
	if now.newestRevision().State != InProgress {
		return now.newestRevision(), nil
	}
	newest.State = Interrupted
	return newest, nil
}

// Runtimes returns the newest revision of every runtime in the namespace, by name.
func (c *Cluster) Runtimes(ctx context.Context) (map[string]Revision, error) {
	all, err := c.configMaps().List(withoutLogs(ctx), metav1.ListOptions{LabelSelector: labelRecord + "=runtime"})
	if err != nil {
		return nil, fmt.Errorf("list runtimes, namespace %s: %w", c.namespace, err)
	}
	found := map[string]Revision{}
	for _, cm := range all.Items {
		r, err := readRecord(&cm)
		if err != nil {
			return nil, err
		}
		if len(r.revisions) > 0 {
			found[cm.Labels[labelRuntime]] = r.revisions[0]
		}
	}
	return found, nil
}

func (c *Cluster) readRevisions(ctx context.Context, runtime string) (*revisionRecord, error) {
	cm, err := c.configMaps().Get(withoutLogs(ctx), stateName(runtime), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return &revisionRecord{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the record of runtime %s: %w", runtime, err)
	}
	return readRecord(cm)
}

func readRecord(cm *corev1.ConfigMap) (*revisionRecord, error) {
	r := &revisionRecord{configMap: cm}
	if err := yaml.Unmarshal([]byte(cm.Data[recordKey]), &r.revisions); err != nil {
		return nil, fmt.Errorf("configmap %s/%s, %s: %w", cm.Namespace, cm.Name, recordKey, err)
	}
	return r, nil
}

// newestRevision returns the last revision; the zero one if there is none.
func (r *revisionRecord) newestRevision() Revision {
	if len(r.revisions) == 0 {
		return Revision{}
	}
	return r.revisions[0]
}

// holdsRevision reports whether the newest revision is the wanted one, and was applied.
func (r *revisionRecord) holdsRevision(next Revision) bool {
	n := r.newestRevision()
	return n.State == Complete && n.sameAs(next)
}

func (r Revision) sameAs(o Revision) bool {
	return r.Digest == o.Digest && r.Values == o.Values && r.Version == o.Version && r.Origin == o.Origin
}

// withRevision returns the revisions with a next one, which replaces the newest if it is the same.
func (r *revisionRecord) withRevision(next Revision) []Revision {
	rest := r.revisions
	next.Number = 1
	if n := r.newestRevision(); n.Number > 0 {
		next.Number = n.Number + 1
		if n.sameAs(next) {
			next.Number, rest = n.Number, rest[1:]
		}
	}
	all := append([]Revision{next}, rest...)
	for i := range all[1:] {
		all[i+1].Bundles = nil // the room of a record has an end
	}
	return all[:min(len(all), historyLimit)]
}

// saveRevisions writes the revisions, unless someone else has written meanwhile, and forgets values
// that no revision has any more.
func (c *Cluster) saveRevisions(ctx context.Context, runtime string, r *revisionRecord, revisions []Revision) error {
	data, err := yaml.Marshal(revisions)
	if err != nil {
		return err
	}
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Name: stateName(runtime), Namespace: c.namespace,
		Labels: map[string]string{labelRuntime: runtime, labelRecord: "runtime"},
	}}
	if r.configMap != nil {
		cm = r.configMap.DeepCopy()
	}
	newest := revisions[0]
	cm.Data = map[string]string{
		recordKey: string(data), "version": newest.Version, "digest": newest.Digest, "state": string(newest.State),
	}
	if r.configMap == nil {
		cm, err = c.configMaps().Create(withoutLogs(ctx), cm, metav1.CreateOptions{})
	} else {
		cm, err = c.configMaps().Update(withoutLogs(ctx), cm, metav1.UpdateOptions{})
	}
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("the record of runtime %s was changed in the meantime: apply again", runtime)
	}
	if err != nil {
		return fmt.Errorf("record runtime %s in configmap %s/%s: %w", runtime, c.namespace, stateName(runtime), err)
	}
	r.configMap, r.revisions = cm, revisions
	return c.forgetValues(ctx, runtime, func(d string) bool {
		return slices.ContainsFunc(revisions, func(v Revision) bool { return v.Values == d })
	})
}

// Values returns the values of a revision of a runtime, as they were written; of the newest for
// 0. It returns nothing for a revision without values, and for a runtime that is not installed.
func (c *Cluster) Values(ctx context.Context, runtime string, revision int) ([]byte, error) {
	r, err := c.readRevisions(ctx, runtime)
	if err != nil {
		return nil, err
	}
	for _, v := range r.revisions {
		if revision != 0 && v.Number != revision {
			continue
		}
		if v.Values == "" {
			return nil, nil
		}
		return c.readValues(ctx, runtime, digest.Digest(v.Values))
	}
	if revision != 0 {
		return nil, fmt.Errorf("runtime %s has no revision %d: see krtpkg history", runtime, revision)
	}
	return nil, nil
}

func (c *Cluster) readValues(ctx context.Context, runtime string, d digest.Digest) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("the record of runtime %s: values %q: %w", runtime, d, err)
	}
	name := valuesName(runtime, d)
	secret, err := c.client.CoreV1().Secrets(c.namespace).Get(withoutLogs(ctx), name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read the values of runtime %s: %w", runtime, err)
	}
	data := secret.Data[valuesKey]
	if digest.FromBytes(data) != d {
		return nil, fmt.Errorf("secret %s/%s does not hold the recorded values (%s): it was changed", c.namespace, name, d)
	}
	return data, nil
}

// keepValues makes sure that values are on the cluster, in a Secret named by their digest.
func (c *Cluster) keepValues(ctx context.Context, runtime string, values []byte) error {
	if len(values) == 0 {
		return nil
	}
	name := valuesName(runtime, digest.FromBytes(values))
	immutable := true
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{labelRuntime: runtime, labelRecord: "values"}},
		Type:       valuesSource, Immutable: &immutable, Data: map[string][]byte{valuesKey: values},
	}
	_, err := c.client.CoreV1().Secrets(c.namespace).Create(withoutLogs(ctx), secret, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = c.readValues(ctx, runtime, digest.FromBytes(values))
	}
	if err != nil {
		return fmt.Errorf("store the values of runtime %s in secret %s/%s: %w", runtime, c.namespace, name, err)
	}
	return nil
}

func (c *Cluster) forgetValues(ctx context.Context, runtime string, needed func(digest string) bool) error {
	secrets := c.client.CoreV1().Secrets(c.namespace)
	all, err := secrets.List(withoutLogs(ctx), metav1.ListOptions{LabelSelector: labelRuntime + "=" + runtime + "," + labelRecord + "=values"})
	if err != nil {
		return fmt.Errorf("list the values of runtime %s: %w", runtime, err)
	}
	var errs []error
	for _, s := range all.Items {
		if !needed(digest.FromBytes(s.Data[valuesKey]).String()) {
			errs = append(errs, ignoreNotFound(secrets.Delete(withoutLogs(ctx), s.Name, metav1.DeleteOptions{})))
		}
	}
	return errors.Join(errs...)
}

// removeRecords removes all that is recorded of a runtime.
func (c *Cluster) removeRecords(ctx context.Context, runtime string) error {
	return errors.Join(
		c.forgetValues(ctx, runtime, func(string) bool { return false }),
		c.forgetHooks(ctx, runtime),
		ignoreNotFound(c.configMaps().Delete(withoutLogs(ctx), stateName(runtime), metav1.DeleteOptions{})),
	)
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// oneLine keeps a reason short enough for a record.
func oneLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	if runes := []rune(line); len(runes) > 300 {
		line = string(runes[:300]) + "…"
	}
	return line
}

// applyJournal is what one apply does to the record: it begins at the first write.
type applyJournal struct {
	cluster *Cluster
	runtime string
	record  *revisionRecord
	next    Revision
	values  []byte
	lasts   time.Duration
	lost    func(error)

	mu    sync.Mutex
	begun bool
	err   error
	lock  *runtimeLock
}

// endTime is how long an apply that was interrupted takes at most to say so.
const endTime = 5 * time.Second

// beginChange takes the lock and records that a change has begun, once for all that call it.
func (j *applyJournal) beginChange(ctx context.Context) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.begun {
		j.begun, j.err = true, j.writeBegin(ctx)
	}
	return j.err
}

func (j *applyJournal) writeBegin(ctx context.Context) error {
	var err error
	if j.lock, err = j.cluster.acquireLock(ctx, j.runtime, j.lasts, j.lost); err != nil {
		return err
	}
	if err := j.cluster.keepValues(ctx, j.runtime, j.values); err != nil {
		return err
	}
	j.next.State, j.next.Started, j.next.By = InProgress, currentTime(), holderName()
	return j.cluster.saveRevisions(ctx, j.runtime, j.record, j.record.withRevision(j.next))
}

// endChange records how it ended, if it began, and gives the lock back. It works after the end of the
// apply's context, but does not wait for an API server then.
func (j *applyJournal) endChange(ctx context.Context, state State, reason string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	defer j.lock.releaseLease()
	if !j.begun || j.err != nil {
		return nil // an error was that of the apply
	}
	limit := endTime
	if ctx.Err() == nil {
		limit += j.cluster.retryTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	revisions := slices.Clone(j.record.revisions)
	revisions[0].State, revisions[0].Reason, revisions[0].Ended = state, oneLine(reason), currentTime()
	return j.cluster.saveRevisions(ctx, j.runtime, j.record, revisions)
}

func currentTime() time.Time { return time.Now().UTC().Truncate(time.Second) }

// Read reads a key of a ConfigMap or, if kind is "secret", of a Secret in the cluster's namespace.
func (c *Cluster) Read(ctx context.Context, kind, name, key string) ([]byte, error) {
	var data map[string][]byte
	if kind == "secret" {
		secret, err := c.client.CoreV1().Secrets(c.namespace).Get(withoutLogs(ctx), name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		data = secret.Data
	} else {
		cm, err := c.configMaps().Get(withoutLogs(ctx), name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		data = cm.BinaryData
		if text, there := cm.Data[key]; there {
			return []byte(text), nil
		}
	}
	if _, there := data[key]; !there {
		return nil, fmt.Errorf("%s %s/%s has no key %s", kind, c.namespace, name, key)
	}
	return data[key], nil
}
