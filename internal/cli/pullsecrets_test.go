package cli_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

// A plan looks for images with the login that the nodes would pull them with.
func TestPullSecrets(t *testing.T) {
	t.Parallel()
	registry := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg, Auth: registrytest.Basic})
	cluster := clustertest.Borrow(t)
	w := newWatcher(t, cluster)
	s := newSite(t, "ghcr.io/example/web:1.0")
	s.env = append(append(s.env, registry.Env(t)...), "KUBECONFIG="+cluster.Kubeconfig)
	s.write("shop/bundle.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: shop, version: 1.0.0}\nspec: {layer: 6, sources: [{file: all.yaml}]}\n",
		"shop/all.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\nspec:\n  selector: {matchLabels: {app: web}}\n"+
			"  template:\n    metadata: {labels: {app: web}}\n    spec: {containers: [{name: main, image: ghcr.io/example/web:1.0}]}\n")
	s.ok("build", "-f", "shop")
	reference := registry.Host + "/site/shop:1.0.0"
	s.ok("push", "oci:dist:1.0.0", reference)

	ctx := t.Context()
	if _, err := w.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	plan := func(what string, refused bool) {
		t.Helper()
		r := s.run("plan", "--allow-unsigned", reference)
		if said := strings.Contains(r.stdout+r.stderr, "look for image "+registry.Host+"/site/shop@sha256:"); r.code != 0 || said != refused {
			t.Errorf("%s: exit code %d, says that the image can't be seen: %t, want %t\n%s%s", what, r.code, said, refused, r.stdout, r.stderr)
		}
	}
	plan("no pull secret, so with the user's login", false)

	secrets := w.client.CoreV1().Secrets("shop")
	login := func(password string) *corev1.Secret {
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "site"}, Type: corev1.SecretTypeDockerConfigJson,
			StringData: map[string]string{corev1.DockerConfigJsonKey: fmt.Sprintf(`{"auths":{%q:{"username":%q,"password":%q}}}`, registry.Host, registry.Username, password)},
		}
	}
	if _, err := secrets.Create(ctx, login("wrong"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	accounts := w.client.CoreV1().ServiceAccounts("shop")
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}, ImagePullSecrets: []corev1.LocalObjectReference{{Name: "site"}, {Name: "absent"}}}
	if _, err := accounts.Update(ctx, account, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	plan("a pull secret that the registry refuses", true)
	if _, err := secrets.Update(ctx, login(registry.Password), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	plan("the right one", false)

	broken := login("")
	broken.StringData[corev1.DockerConfigJsonKey] = fmt.Sprintf(`{"auths":{%q:{"auth":"not base64"}}}`, registry.Host)
	if _, err := secrets.Update(ctx, broken, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if r := s.run("plan", "--allow-unsigned", reference); r.code != 0 || !strings.Contains(r.stdout+r.stderr, "pull secret site in namespace shop cannot be read") {
		t.Errorf("a secret that is broken: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	t.Run("a repository that gives another runtime", func(t *testing.T) { otherRuntime(s, registry.Host+"/site/settings:1.0.0", reference) })
}

// otherRuntime applies a runtime from the repository that is called so, and puts another one there, which
// the same key signed, under the same tag.
func otherRuntime(s *site, reference, other string) {
	s.write("settings/bundle.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: settings, version: 1.0.0}\nspec: {layer: 6, sources: [{file: all.yaml}]}\n",
		"settings/all.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: shop}\n")
	s.ok("build", "-f", "settings", "--to", "oci:settings-dist")
	s.ok("push", "oci:settings-dist", reference)
	s.ok("sign", "--key", "cosign.key", reference)
	s.ok("sign", "--key", "cosign.key", other)
	s.ok("apply", "--yes", "--key", "cosign.pub", reference)
	s.ok("plan", "--key", "cosign.pub", reference)

	s.write("settings/all.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: shop, labels: {a: b}}\n")
	s.ok("build", "-f", "settings", "--to", "oci:rebuilt")
	s.ok("sign", "--key", "cosign.key", "oci:rebuilt")
	s.ok("copy", "--move-tags", "oci:rebuilt", reference)
	if r := s.run("plan", "--key", "cosign.pub", reference); r.code != 3 || !strings.Contains(r.stderr, "this is another build") {
		s.t.Errorf("another build: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}

	s.ok("copy", "--move-tags", other, reference)
	said := "/site/settings now holds shop, but the cluster's settings was applied from it"
	s.refused(3, said, "plan", "--key", "cosign.pub", reference)
	s.refused(3, said, "apply", "--yes", "--key", "cosign.pub", reference)
	s.refused(3, "signed as shop, want settings", "plan", "--key", "cosign.pub", "--expect-name", "settings", reference)
	s.ok("plan", "--key", "cosign.pub", "--expect-name", "shop", reference)
}
