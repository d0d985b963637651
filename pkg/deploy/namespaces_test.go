package deploy

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"krtpkg.dev/krtpkg/pkg/deploy/records"
)

// A runtime is where its apps are, also without a record.
func TestNamespacesOfRuntimesWithoutRecord(t *testing.T) {
	r := newRig(t)
	const name = "unrecorded"
	r.apply(Runtime{Name: name, Version: "1", Units: []Unit{unit(1, "app", "1", configMap("a", "b"))}})
	for _, step := range []struct {
		what string
		do   func() error
		want []string
	}{
		{"with a record", func() error { return nil }, []string{r.namespace}},
		{"without", func() error {
			return r.configMaps().Delete(t.Context(), records.ObjectName(name), metav1.DeleteOptions{})
		}, []string{r.namespace}},
		{"deleted", func() error {
			_, err := r.Delete(t.Context(), name, DeleteOptions{Options: quick()})
			return err
		}, nil},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		got, err := r.ListNamespaces(t.Context(), name)
		if err != nil || !slices.Equal(got, step.want) {
			t.Errorf("%s: in %q, want %q, error %v", step.what, got, step.want, err)
		}
		if all, err := r.ListNamespaces(t.Context(), ""); err != nil || slices.Contains(all, r.namespace) != (step.want != nil) {
			t.Errorf("%s: runtimes in %q, error %v", step.what, all, err)
		}
	}
}
