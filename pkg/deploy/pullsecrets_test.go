package deploy

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/fstest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The logins are those of the namespaces where an apply puts the pods.
func TestPullSecretsOfPlacedPods(t *testing.T) {
	r := newRig(t)
	placed := r.namespace + "-placed"
	if _, err := r.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: placed}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, namespace := range []string{r.namespace, placed, "default"} {
		secret := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "placed-pods"}, Type: corev1.SecretTypeDockerConfigJson,
			Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":{}}`)},
		}
		secrets := r.client.CoreV1().Secrets(namespace)
		if _, err := secrets.Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = secrets.Delete(context.Background(), secret.Name, metav1.DeleteOptions{}) })
	}
	const pod = "{apiVersion: v1, kind: Pod, metadata: {name: a%s}, spec: {imagePullSecrets: [{name: placed-pods}], containers: [{name: a, image: a}]}}"
	for _, c := range []struct {
		pod   string
		files map[string]string
		want  string
	}{
		{fmt.Sprintf(pod, ""), nil, r.namespace},
		{fmt.Sprintf(pod, ""), map[string]string{"all.yaml": placed}, placed},
		{fmt.Sprintf(pod, ", namespace: default"), map[string]string{"all.yaml": placed}, "default"},
	} {
		u := Unit{Bundle: "app", Layer: 1, Version: "1", Namespaces: c.files, Manifests: fstest.MapFS{"all.yaml": {Data: []byte(c.pod)}}}
		secrets, err := r.PullSecrets(t.Context(), Runtime{Name: "edge", Version: "1", Units: []Unit{u}})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range secrets {
			got = append(got, s.Namespace)
		}
		if !slices.Equal(got, []string{c.want}) {
			t.Errorf("%s, placed in %v: secrets in %q, want %s", c.pod, c.files, got, c.want)
		}
	}
}
