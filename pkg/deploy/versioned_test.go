package deploy

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A versioned Secret gets a version when its content changes, and none for being written as text,
// which the API server keeps otherwise (educates/educates-training-platform issue 1151).
func TestVersionedSecrets(t *testing.T) {
	r := newRig(t)
	manifest := func(value, more string) Runtime {
		secret := "apiVersion: v1\nkind: Secret\nmetadata: {name: config, annotations: {kapp.k14s.io/versioned: ''" + more + "}}\nstringData: {a.yaml: 'key: " + value + "', empty: ''}\ndata: {b: eA==}"
		settings := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, annotations: {kapp.k14s.io/versioned: ''" + more + "}}\ndata: {a: '" + value + "'}"
		job := "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: uses}\nspec: {schedule: '* * * * *', suspend: true, jobTemplate: {spec: {template: {spec: {restartPolicy: Never, volumes: [{name: v, secret: {secretName: config}}, {name: w, configMap: {name: settings}}], containers: [{name: a, image: a}]}}}}}"
		return Runtime{Name: "edge", Version: "1", Units: []Unit{unit(1, "app", "1", secret, settings, job)}}
	}
	versions := func() string {
		list, err := r.dynamic.Resource(secrets).Namespace(r.namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, item := range list.Items {
			if strings.HasPrefix(item.GetName(), "config-ver-") {
				names = append(names, item.GetName())
			}
		}
		return strings.Join(names, " ")
	}
	for i, more := range []string{"", ", kapp.k14s.io/disable-original: ''"} {
		first := manifest("1"+more, more)
		r.apply(first)
		had := versions()
		r.wantNoChanges(first)
		r.apply(first)
		if got := versions(); got != had {
			t.Errorf("%d: applied again the versions are %s, want %s", i, got, had)
		}
		r.apply(manifest("2"+more, more))
		if got := versions(); strings.Count(got, " ") != strings.Count(had, " ")+1 {
			t.Errorf("%d: changed the versions are %s after %s", i, got, had)
		}
		r.wantNoChanges(manifest("2"+more, more))
	}
}
