package cli_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/fluxtest"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

var (
	kindSource        = schema.GroupVersionKind{Group: "source.toolkit.fluxcd.io", Version: "v1", Kind: "OCIRepository"}
	kindKustomization = schema.GroupVersionKind{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Kind: "Kustomization"}
	kindConfigMap     = schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}
)

// stall is a runtime of plain manifests, in a version of its own: a namespace, rules for kapp
// next to settings, and a workload that has images in several places.
func (s *site) stall(version string) {
	s.write(
		"stall-"+version+"/runtime.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Runtime\nmetadata: {name: stall, version: "+version+"}\n"+
			"spec: {bundles: [{path: base}, {path: web}]}\n",
		"stall-"+version+"/base/bundle.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: base, version: 1.0.0}\nspec: {layer: 3, sources: [{dir: base}]}\n",
		"stall-"+version+"/base/base/base.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: stall}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: base, namespace: stall}\ndata: {text: \"${LEFT} $(ALONE) $$\"}\n"+`---
apiVersion: apps/v1
kind: Deployment
metadata: {name: gate, namespace: stall}
spec:
  minReadySeconds: 8
  selector: {matchLabels: {app: gate}}
  template:
    metadata: {labels: {app: gate}}
    spec: {containers: [{name: main, image: "ghcr.io/example/web:1.0"}]}
`,
		"stall-"+version+"/base/base/rules.yaml", "apiVersion: kapp.k14s.io/v1alpha1\nkind: Config\nminimumRequiredVersion: 0.30.0\n",
		"stall-"+version+"/web/bundle.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: web, version: "+version+"}\nspec: {layer: 6, sources: [{file: web.yaml}]}\n",
		"stall-"+version+"/web/web.yaml", `apiVersion: v1
kind: List
items:
  - apiVersion: apps/v1
    kind: Deployment
    metadata: {name: web, namespace: stall, annotations: {version: "`+version+`"}}
    spec:
      replicas: 2
      selector: {matchLabels: {app: web}}
      template:
        metadata: {labels: {app: web}}
        spec:
          containers:
            - {name: main, image: "ghcr.io/example/web:1.0", args: ["--helper=ghcr.io/example/helper:1.0", "$(GREETING) ${KEPT}"]}
  - apiVersion: v1
    kind: ConfigMap
    metadata: {name: web, namespace: stall}
    data:
      pod.yaml: |
        apiVersion: v1
        kind: Pod
        metadata: {name: "${NAME}"}
        spec: {containers: [{name: main, image: "ghcr.io/example/helper:1.0"}]}
`)
	s.ok("build", "-f", "stall-"+version)
}

// ready waits for Flux to be done with the last change of a resource, well or not, and gives its
// condition's message.
func (c *carvel) ready(kind schema.GroupVersionKind, namespace, name, wanted string) (message string) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%s %s is ready: %s", kind.Kind, name, wanted), func() error {
		u, err := c.get(kind, namespace, name)
		if err != nil {
			return err
		}
		if observed, _, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration"); observed != u.GetGeneration() {
			return errors.New("its last change has not been seen")
		}
		status, said := condition(u, "Ready")
		if message = said; status != wanted {
			return fmt.Errorf("%q: %s", status, said)
		}
		return nil
	})
	return message
}

// A runtime as Flux has it: verified by Flux itself, followed by tag and by range, from the
// registry of its vendor and then from that of the site.
func TestFlux(t *testing.T) {
	t.Parallel()
	c := newControlled(t, clustertest.Start(t))
	fluxtest.Start(t, c.cluster)
	vendor := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3})
	mirror := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg, TLS: true, Auth: registrytest.Basic})
	s := newSite(t, "ghcr.io/example/web:1.0", "ghcr.io/example/helper:1.0")
	s.env = append(s.env, "KUBECONFIG="+c.cluster.Kubeconfig)
	repository := vendor.Host + "/krt/stall"
	for _, version := range []string{"1.0.0", "1.1.0", "1.2.0"} {
		s.stall(version)
		s.ok("push", "oci:dist:"+version, repository+":"+version)
		if version != "1.2.0" {
			s.ok("sign", "--key", "cosign.key", repository+":"+version)
		}
	}
	promote := func(version string) {
		s.t.Helper()
		s.ok("promote", "--trust-key", "cosign.pub", "--key", "cosign.key", "--to", "stable", repository+":"+version)
	}
	flux := func(reference string, more ...string) {
		s.t.Helper()
		c.apply(s.ok(append([]string{"packages", "flux", "--key", "cosign.pub", reference, "--interval", "5s"}, more...)...))
	}

	promote("1.0.0")
	flux(repository+":stable", "--follow")
	if message := c.ready(kindSource, fluxtest.Namespace, "stall", "True"); !strings.Contains(message, "stable") {
		t.Errorf("the source says %q", message)
	}
	c.ready(kindKustomization, fluxtest.Namespace, "stall", "True")
	c.stallRuns("1.0.0", repository)
	c.stallWaited()
	u, err := c.get(kindSource, fluxtest.Namespace, "stall")
	if err != nil {
		t.Fatal(err)
	}
	if conditions := fmt.Sprint(u.Object["status"]); !strings.Contains(conditions, "verified signature") {
		t.Errorf("Flux has not verified it: %s", conditions)
	}
	if base, err := c.get(kindConfigMap, "stall", "base"); err != nil || fmt.Sprint(base.Object["data"]) != "map[text:${LEFT} $(ALONE) $$]" {
		t.Errorf("base: %v %v", base, err)
	}

	// The channel moves, and Flux follows.
	promote("1.1.0")
	c.stallRuns("1.1.0", repository)

	// What nobody has signed is not taken, though the tag is there.
	registrytest.RunTool(t, nil, registrytest.BuildTool(t, "crane"), "tag", "--insecure", repository+":1.2.0", "stable")
	if message := c.ready(kindSource, fluxtest.Namespace, "stall", "False"); !strings.Contains(message, "signature") {
		t.Errorf("the source says %q", message)
	}
	c.stallRuns("1.1.0", repository)
	s.refused(3, "no signature", "packages", "flux", "--key", "cosign.pub", repository+":stable", "--follow")

	// The newest of a range is the unsigned one; below it they are signed.
	flux(repository+":1.0.0", "--constraints", "<1.1.0")
	c.ready(kindSource, fluxtest.Namespace, "stall", "True")
	c.stallRuns("1.0.0", repository)

	// Through a gate the newest of a range is the newest that is signed.
	gate := s.startGate("--upstream", vendor.Host+"/krt", "--key", "cosign.pub", "--refresh", "1s")
	flux(gate.host+"/stall:1.0.0", "--constraints", ">=1.0.0")
	c.ready(kindSource, fluxtest.Namespace, "stall", "True")
	c.stallRuns("1.1.0", gate.host+"/stall")

	// From the site's registry alone, by the digest.
	s.env = append(s.env, mirror.Env(t)...)
	at := mirror.Host + "/mirror/stall"
	s.ok("copy", repository+":1.1.0", at+":1.1.0")
	if err := vendor.Close(); err != nil {
		t.Fatal(err)
	}
	c.apply(fmt.Sprintf("{apiVersion: v1, kind: Secret, type: kubernetes.io/dockerconfigjson, metadata: {name: login, namespace: flux-system}, stringData: {.dockerconfigjson: '{\"auths\": {%q: {\"username\": %q, \"password\": %q}}}'}}",
		mirror.Host, mirror.Username, mirror.Password))
	flux(at+":1.1.0", "--pull-secret", "login", "--registry-ca", mirror.CAFile)
	c.ready(kindSource, fluxtest.Namespace, "stall", "True")
	c.ready(kindKustomization, fluxtest.Namespace, "stall", "True")
	c.stallRuns("1.1.0", at)

	if err := c.at(kindKustomization, fluxtest.Namespace).Delete(context.Background(), "stall", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.gone(kindNamespace, "", "stall")
	c.gone(kindKustomization, fluxtest.Namespace, "stall.web")
	c.gone(kindKustomization, fluxtest.Namespace, "stall")
}
