package deploy

import (
	"errors"
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func passingJob(name, image string, ttl int) string {
	return fmt.Sprintf(`apiVersion: batch/v1
kind: Job
metadata: {name: %s}
spec:
  ttlSecondsAfterFinished: %d
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: "registry.example/app:%s"}]`, name, ttl, image)
}

// A Job that Kubernetes deletes when it is done is done: it is not missing, and it does not run
// again until it changes.
func TestPassingJobs(t *testing.T) {
	jobs := schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}
	for _, ttl := range []int{0, 1} {
		t.Run(fmt.Sprint(ttl), func(t *testing.T) {
			r := newRig(t)
			rt := func(image string) Runtime {
				return Runtime{Name: "edge", Version: image, Units: []Unit{
					unit(1, "db", "1", passingJob("migrate", image, ttl), configMap("db", "1")), unit(2, "app", "1", configMap("app", image)),
				}}
			}
			gone := func() {
				t.Helper()
				r.eventually("the job is gone", func() error {
					if r.exists(jobs, "migrate") {
						return errors.New("it is there")
					}
					return nil
				})
			}
			completed := func() int {
				t.Helper()
				events, err := r.client.CoreV1().Events(r.namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Job,reason=Completed"})
				if err != nil {
					t.Fatal(err)
				}
				return len(events.Items)
			}
			r.apply(rt("1"))
			gone()
			all, err := r.Status(t.Context(), "edge", quick())
			if err != nil || all[0].Health() != Healthy || all[0].HasDrifted() || len(all[0].Bundles[0].Done) != 1 || all[0].Bundles[0].Resources != 2 {
				t.Errorf("status %+v, %v", all, err)
			}
			plan, err := r.Plan(t.Context(), rt("1"), CheckOptions{})
			if err != nil || plan.HasChanges() {
				t.Errorf("plan of the same: %s, %v", planned(plan), err)
			}
			r.apply(rt("1"))
			if n := completed(); n != 1 {
				t.Errorf("the job ran %d times", n)
			}
			time.Sleep(time.Second) // events have seconds
			r.apply(rt("2"))
			gone()
			if n := completed(); n != 2 {
				t.Errorf("a job that changed, and its predecessor, ran %d times", n)
			}
			// It may move to another bundle.
			moved := rt("2")
			moved.Units[0] = unit(1, "db", "2", configMap("db", "1"))
			moved.Units[1] = unit(2, "app", "2", configMap("app", "2"), passingJob("migrate", "2", ttl))
			r.apply(moved)
			if n := completed(); n != 2 {
				t.Errorf("after it moved to another bundle it has run %d times", n)
			}
			r.deleted("edge")
		})
	}
}

func TestGeneratedNames(t *testing.T) {
	r := newRig(t)
	r.refused(Runtime{Name: "edge", Units: []Unit{unit(1, "a", "1", configMap("a", "1"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: run-}")}},
		`a: ConfigMap "run-" (v1) has metadata.generateName`)
}
