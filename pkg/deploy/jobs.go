package deploy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"github.com/opencontainers/go-digest"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
)

// A Job with spec.ttlSecondsAfterFinished is deleted by Kubernetes some time after it ended. That
// it is not there does not mean that it is to run again: what has run is remembered by the digest
// of its manifest, a line "NAMESPACE/NAME DIGEST" for each Job in annotationDone.

// doneJobs are Jobs that ended well, by namespace and name, with the digests of their manifests.
type doneJobs map[string]string

func readDoneJobs(text string) doneJobs {
	done := doneJobs{}
	for line := range strings.Lines(text) {
		if name, digest, found := strings.Cut(strings.TrimSpace(line), " "); found {
			done[name] = digest
		}
	}
	return done
}

func (d doneJobs) String() string {
	lines := make([]string, 0, len(d))
	for name, digest := range d {
		lines = append(lines, name+" "+digest+"\n")
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// hasDone reports whether a resource that was applied is a Job that is done.
func (d doneJobs) hasDone(id ResourceID) bool {
	return id.Kind == "Job" && id.APIGroup() == batchv1.GroupName && d[id.Namespace+"/"+id.Name] != ""
}

// doneJobs returns those of all bundles of the runtime: one may have moved.
func (s *session) doneJobs() doneJobs {
	all := doneJobs{}
	for _, i := range s.allInstalled() {
		for name, digest := range readDoneJobs(i.notes[annotationDone]) {
			all[name] = digest
		}
	}
	return all
}

func (s *session) allInstalled() []Installed {
	all := slices.Clone(s.leaving)
	for _, j := range s.jobs {
		if j.was != nil {
			all = append(all, *j.was)
		}
	}
	return all
}

// ttlJobs returns the Jobs with a TTL, which Kubernetes deletes when they are done, with the digests of what
// their author wrote. It leaves out Jobs that nobody waits for: they are not known to be done.
func ttlJobs(resources []kappres.Resource, namespace string) (doneJobs, error) {
	found := doneJobs{}
	for _, r := range resources {
		_, unwatched := r.Annotations()["kapp.k14s.io/disable-wait"]
		if !hasTTL(r) || unwatched || isHook(r) {
			continue
		}
		data, err := r.AsCompactBytes()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", idOf(r), err)
		}
		found[cmp.Or(r.Namespace(), namespace)+"/"+r.Name()] = digest.FromBytes(data).String()
	}
	return found, nil
}

// hasTTL reports whether a resource is a Job that Kubernetes deletes some time after it has finished.
func hasTTL(r kappres.Resource) bool {
	if r.Kind() != "Job" || r.APIGroup() != batchv1.GroupName {
		return false
	}
	_, found, _ := unstructured.NestedFieldNoCopy(r.UnstructuredObject(), "spec", "ttlSecondsAfterFinished")
	return found
}

// splitDone takes out the Jobs that have run before as they are now: whether they are still there
// does not matter.
func splitDone(resources []kappres.Resource, now, before doneJobs) (rest []kappres.Resource, done []ResourceID) {
	for _, r := range resources {
		key := r.Namespace() + "/" + r.Name()
		if hasTTL(r) && now[key] != "" && now[key] == before[key] {
			done = append(done, idOf(r))
		} else {
			rest = append(rest, r)
		}
	}
	return rest, done
}

// refuseGeneratedNames refuses what would be created again by each apply.
func refuseGeneratedNames(resources []kappres.Resource) error {
	for _, r := range resources {
		u := unstructured.Unstructured{Object: r.UnstructuredObject()}
		if u.GetName() == "" && u.GetGenerateName() != "" {
			return fmt.Errorf("%s %q (%s) has metadata.generateName, so each apply would create another one: give it a name (%s)",
				r.Kind(), u.GetGenerateName(), r.APIVersion(), r.Origin())
		}
	}
	return nil
}

// finishedJobs finds Jobs as done that Kubernetes has deleted before anyone saw them end.
type finishedJobs struct {
	kappres.Resources
	cluster *Cluster
	since   time.Time
}

// Get returns what kapp waits by.
func (f finishedJobs) Get(r kappres.Resource) (kappres.Resource, error) {
	there, err := f.Resources.Get(r)
	if !apierrors.IsNotFound(err) || !hasTTL(r) {
		return there, err
	}
	if !f.hasCompleted(r) {
		return nil, err
	}
	done := r.DeepCopy()
	_ = unstructured.SetNestedSlice(done.UnstructuredObject(), []any{
		map[string]any{"type": string(batchv1.JobComplete), "status": string(corev1.ConditionTrue)},
	}, "status", "conditions")
	return done, nil
}

// hasCompleted looks for the event that the Job's controller writes.
func (f finishedJobs) hasCompleted(r kappres.Resource) bool {
	ctx, cancel := context.WithTimeout(context.Background(), symptomTime) // kapp has no context to give
	defer cancel()
	events, err := f.cluster.client.CoreV1().Events(r.Namespace()).List(apiserver.WithoutLogs(ctx), metav1.ListOptions{
		FieldSelector: "involvedObject.kind=Job,reason=Completed,involvedObject.name=" + r.Name(),
	})
	return err == nil && slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return !eventTime(&e).Before(f.since) })
}
