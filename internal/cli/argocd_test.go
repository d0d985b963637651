package cli_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"krtpkg.dev/krtpkg/internal/argocdtest"
	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

var kindApplication = schema.GroupVersionKind{Group: "argoproj.io", Version: "v1alpha1", Kind: "Application"}

// A runtime as Argo CD has it, from the registry of its vendor and then from that of the site.
func TestArgoCD(t *testing.T) {
	t.Parallel()
	c := newControlled(t, clustertest.Start(t))
	installation := argocdtest.Start(t, c.cluster)
	vendor := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3})
	mirror := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg, TLS: true, Auth: registrytest.Basic})
	s := newSite(t, "ghcr.io/example/web:1.0", "ghcr.io/example/helper:1.0")
	s.env = append(s.env, "KUBECONFIG="+c.cluster.Kubeconfig)
	repository := vendor.Host + "/krt/stall"
	for _, version := range []string{"1.0.0", "1.1.0"} {
		s.stall(version)
		s.ok("push", "oci:dist:"+version, repository+":"+version)
		s.ok("sign", "--key", "cosign.key", repository+":"+version)
	}
	argocd := func(reference string, more ...string) {
		t.Helper()
		c.apply(s.ok(append([]string{"packages", "argocd", "--key", "cosign.pub", reference}, more...)...))
	}
	running := func(version, place string) {
		t.Helper()
		for _, name := range []string{"stall", "stall.base", "stall.web"} {
			c.synced(name)
		}
		c.stallRuns(version, place)
	}
	c.apply(s.ok("packages", "config", "--argocd", argocdtest.Namespace))
	promote := func(version string) {
		t.Helper()
		s.ok("promote", "--trust-key", "cosign.pub", "--key", "cosign.key", "--to", "stable", repository+":"+version)
	}
	promote("1.0.0")
	argocd(repository+":stable", "--follow")
	running("1.0.0", repository)
	if base, err := c.get(kindConfigMap, "stall", "base"); err != nil || fmt.Sprint(base.Object["data"]) != "map[text:${LEFT} $(ALONE) $$]" {
		t.Errorf("base: %v %v", base, err)
	}
	c.stallWaited()

	// The channel moves; Argo CD goes on once what it stands for has been verified.
	promote("1.1.0")
	s.ok("packages", "argocd", "--key", "cosign.pub", repository+":stable", "--follow")
	running("1.1.0", repository)

	// Through a gate, whose tag goes on only to what is signed: the manifests for Argo CD are there already.
	gate := s.startGate("--upstream", vendor.Host+"/krt", "--key", "cosign.pub", "--refresh", "1s")
	argocd(gate.host + "/stall:1.1.0")
	running("1.1.0", gate.host+"/stall")

	// From the site's registry alone, behind a login and a private authority, which a copy has brought the
	// manifests for Argo CD to.
	s.env = append(s.env, mirror.Env(t)...)
	at := mirror.Host + "/mirror/stall"
	s.ok("copy", repository+":1.1.0", at+":1.1.0")
	before := registrytest.RunTool(t, mirror.Env(t), registrytest.BuildTool(t, "oras"), "discover", "--ca-file", mirror.CAFile, "--format", "json", at+":1.1.0")
	if !strings.Contains(before, "application/vnd.krtpkg.argocd.v1") {
		t.Errorf("the copy has not brought the manifests for Argo CD:\n%s", before)
	}
	if err := vendor.Close(); err != nil {
		t.Fatal(err)
	}
	c.apply(s.ok("packages", "config", "--argocd", argocdtest.Namespace, "--ca", mirror.CAFile, "--registry", mirror.Host))
	c.apply(fmt.Sprintf("{apiVersion: v1, kind: Secret, metadata: {name: login, namespace: argocd, labels: {argocd.argoproj.io/secret-type: repo-creds}}, stringData: {type: oci, url: %q, username: %q, password: %q}}",
		"oci://"+mirror.Host+"/mirror", mirror.Username, mirror.Password))
	authorities, err := c.get(kindConfigMap, argocdtest.Namespace, "argocd-tls-certs-cm")
	if err != nil {
		t.Fatal(err)
	}
	installation.Authorities(t, authorities.Object["data"].(map[string]any))
	argocd(at + ":1.1.0")
	running("1.1.0", at)

	if err := c.at(kindApplication, argocdtest.Namespace).Delete(t.Context(), "stall", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.gone(kindNamespace, "", "stall")
	c.gone(kindApplication, argocdtest.Namespace, "stall")
}

// synced waits until an Application is as its source says, and healthy.
func (c *carvel) synced(name string) {
	c.t.Helper()
	c.eventually("Application "+name+" is synced and healthy", func() error {
		u, err := c.get(kindApplication, argocdtest.Namespace, name)
		if err != nil {
			return err
		}
		if lacks := outOfSync(u); lacks != "" {
			return errors.New(lacks)
		}
		return nil
	})
}

// outOfSync returns what an Application lacks to be as its source says, and healthy; "" for nothing.
func outOfSync(u *unstructured.Unstructured) string {
	sync, _, _ := unstructured.NestedString(u.Object, "status", "sync", "status")
	health, _, _ := unstructured.NestedString(u.Object, "status", "health", "status")
	if sync == "Synced" && health == "Healthy" {
		return ""
	}
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	operation, _, _ := unstructured.NestedString(u.Object, "status", "operationState", "message")
	return fmt.Sprintf("%s, %s: %v; %s", sync, health, conditions, operation)
}

// stallWaited looks whether the layer above came once the one below was ready, which takes it seconds.
func (c *carvel) stallWaited() {
	c.t.Helper()
	var made [2]time.Time
	for i, name := range []string{"gate", "web"} {
		u, err := c.get(kindDeployment, "stall", name)
		if err != nil {
			c.t.Fatal(err)
		}
		made[i] = u.GetCreationTimestamp().Time
	}
	if made[1].Sub(made[0]) < 7*time.Second {
		c.t.Errorf("web came at %s, and what it waits for at %s", made[1], made[0])
	}
}

// stallRuns waits for a version of the stall with its images at a place, wherever they are named.
func (c *carvel) stallRuns(version, place string) {
	c.t.Helper()
	c.eventually("web "+version+" runs", func() error {
		d, err := c.get(kindDeployment, "stall", "web")
		if err != nil {
			return err
		}
		m, err := c.get(kindConfigMap, "stall", "web")
		if err != nil {
			return err
		}
		ready, _, _ := unstructured.NestedInt64(d.Object, "status", "readyReplicas")
		containers, _, _ := unstructured.NestedSlice(d.Object, "spec", "template", "spec", "containers")
		text, err := json.Marshal([]any{containers, m.Object["data"]})
		if err != nil {
			return err
		}
		said := string(text)
		switch {
		case d.GetAnnotations()["version"] != version || ready != 2:
			return fmt.Errorf("version %s, %d ready", d.GetAnnotations()["version"], ready)
		case strings.Count(said, place+"@sha256:") != 3 || strings.Contains(said, "ghcr.io"):
			return errors.New("images: " + said)
		case !strings.Contains(said, "$(GREETING) ${KEPT}") || !strings.Contains(said, "${NAME}"):
			return errors.New("variables: " + said)
		}
		return nil
	})
}
