package cli_test

import (
	"net/http"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// checkGate has the gate run as its ready bundle on the cluster says: with the policy of the ConfigMap and its flags it
// serves the registry of the values, and is ready where the probes look.
func (r *ready) checkGate() {
	t := r.site.t
	t.Helper()
	trust, err := r.client.CoreV1().ConfigMaps("krtpkg-gate").Get(t.Context(), "trust", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	gate, err := r.client.AppsV1().StatefulSets("krtpkg-gate").Get(t.Context(), "gate", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	main := gate.Spec.Template.Spec.Containers[0]
	if main.Args[0] != "serve" || !slices.Contains(main.Args, "--listen=:5000") || !slices.Contains(main.Args, "--upstream=registry.example/krt") ||
		main.Ports[0].ContainerPort != 5000 || gate.Status.ReadyReplicas != 1 {
		t.Errorf("it runs %q at %v, %d ready", main.Args, main.Ports, gate.Status.ReadyReplicas)
	}
	if !strings.HasPrefix(main.Image, r.edge.Host+"/") {
		t.Errorf("it runs %s", main.Image)
	}
	r.write("gate/trust.yaml", trust.Data["trust.yaml"])
	folders := map[string]string{}
	for _, m := range main.VolumeMounts {
		folders[m.MountPath] = m.Name
	}
	for _, folder := range []string{"/etc/gate", "/var/lib/gate"} {
		if folders[folder] == "" {
			t.Errorf("nothing is at %s", folder)
		}
	}
	var args []string
	for _, arg := range main.Args[1:] {
		if !strings.HasPrefix(arg, "--listen=") && !strings.HasPrefix(arg, "--state=") { // as startGate says
			args = append(args, strings.NewReplacer("/etc/gate/", r.path("gate")+"/", "/var/lib/gate/", r.path("gate")+"/").Replace(arg))
		}
	}
	process := r.startGate(args...)
	defer process.end()
	for what, path := range map[string]string{"readiness": main.ReadinessProbe.HTTPGet.Path, "liveness": main.LivenessProbe.HTTPGet.Path} {
		answer, err := http.Get("http://" + process.host + path)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Errorf("%s: %s is answered with %s", what, path, answer.Status)
		}
	}
}
