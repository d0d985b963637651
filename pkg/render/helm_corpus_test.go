package render_test

import (
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/internal/corpus"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/render"
)

// charts are those of the corpus by the folders that they are in: what each cannot do without
// (base), a set of values that changes it, and what the tool and krtpkg alike say of those
// that do not render.
var charts = map[string]struct {
	base, changed string
	with          map[string]string // charts of the corpus that go under charts/
	fails         string
}{
	"bamboo/bamboo":                     {changed: "replicaCount: 0\nbamboo: {service: {port: 81}}\n", with: map[string]string{"common": "../common"}},
	"bitbucket/bitbucket":               {fails: "the chart needs common 1.2.7"},
	"bamboo/common":                     {fails: "chart common is of type library"},
	"bitbucket/common":                  {fails: "chart common is of type library"},
	"falcosidekick/falcosidekick":       {changed: "replicaCount: 5\nwebui: {enabled: true}\n"},
	"polaris/polaris":                   {changed: "webhook: {enable: true}\n"},
	"kyverno-policies/kyverno-policies": {changed: "podSecurityStandard: restricted\nvalidationFailureAction: Enforce\n"},
	"fluent-bit/fluent-bit":             {changed: "kind: Deployment\nreplicaCount: 2\n"},
	// Without a password, it makes a random one.
	"grafana/grafana":                         {base: "adminPassword: secret\n", changed: "replicas: 2\ningress: {enabled: true}\n"},
	"cert-manager/deploy/charts/cert-manager": {changed: "crds: {enabled: true}\nreplicaCount: 3\n"},
	"kubeapps/kubeapps":                       {fails: "the chart needs postgresql 16.x.x and common 2.x.x"},
	"artifact-hub/artifact-hub":               {fails: "the chart needs postgresql 18.0.15"},
	"alertmanager/alertmanager":               {changed: "replicaCount: 3\nservice: {port: 90}\n"},
	"flux-chart/flux2":                        {changed: "imageAutomationController: {create: false}\n"},
	// A file that upstream generates is missing.
	"trivy-operator/deploy/helm": {fails: "YAML parse error on templates/rbac/clusterrole.yaml"},
	// Its schema wants a value that its defaults lack.
	"external-dns/charts/external-dns":             {base: "policy: sync\n", changed: "provider: {name: google}\nlogLevel: debug\n"},
	"aws-ebs-csi-driver/charts/aws-ebs-csi-driver": {changed: "controller: {replicaCount: 5, loggingFormat: json}\n"},
	"velero/velero":                      {changed: "deployNodeAgent: true\nsnapshotsEnabled: false\n"},
	"ingress-nginx/charts/ingress-nginx": {changed: "controller: {kind: DaemonSet, metrics: {enabled: true}}\n"},
}

// Each chart of the corpus becomes what `helm template` prints, byte for byte.
func TestHelmAsTheTool(t *testing.T) {
	t.Parallel()
	top := corpus.FirstDir(t)
	helm := tool(t, "helm")
	compared := 0
	for _, dir := range folders(t, top, "Chart.yaml") {
		name := strings.SplitN(dir, "/", 3)[2]
		c, known := charts[name]
		if !known {
			t.Errorf("chart %s is in no list", name)
			continue
		}
		for set, values := range map[string][]string{"defaults": {c.base}, "changed": {c.base, c.changed}} {
			compared++
			t.Run(name+"/"+set, func(t *testing.T) {
				t.Parallel()
				files := readTree(t, filepath.Join(top, dir))
				for sub, from := range c.with {
					for _, f := range readTree(t, filepath.Join(top, dir, from)) {
						files = append(files, bundle.File{Path: path.Join("charts", sub, f.Path), Data: f.Data})
					}
				}
				got, want, err, wantErr := both(t, helm, files, values, nil)
				if c.fails != "" {
					if wantErr == nil || err == nil || !strings.Contains(err.Error(), c.fails) {
						t.Errorf("got %v\nwant %s\nthe tool says %v", err, c.fails, wantErr)
					}
					return
				}
				if err != nil || wantErr != nil {
					t.Fatalf("got %v\nthe tool says %v", err, wantErr)
				}
				same(t, got, want)
			})
		}
	}
	if compared != 2*len(charts) {
		t.Errorf("%d comparisons, want %d", compared, 2*len(charts))
	}
}

// both renders a chart here and with the tool.
func both(t *testing.T, helm string, files []bundle.File, values []string, options *bundle.Helm) (got, want []byte, err, wantErr error) {
	t.Helper()
	if options == nil {
		options = &bundle.Helm{Release: "rel", Namespace: "ns", Kubernetes: "1.34.0", APIVersions: []string{"monitoring.coreos.com/v1", "example.com/v1"}}
	}
	dir := t.TempDir()
	write(t, dir, files)
	args := []string{"template", "rel", dir, "--namespace", "ns", "--include-crds", "--skip-tests"}
	if options.Kubernetes != "" {
		args = append(args, "--kube-version", options.Kubernetes)
	}
	for _, v := range options.APIVersions {
		args = append(args, "--api-versions", v)
	}
	in := render.Input{Source: &bundle.Source{Template: bundle.TemplateHelm, Helm: options}, Name: "bundle", Files: files}
	valuesDir := t.TempDir()
	for i, v := range values {
		file := filepath.Join(valuesDir, string(rune('a'+i))+".yaml")
		write(t, valuesDir, []bundle.File{{Path: filepath.Base(file), Data: []byte(v)}})
		args = append(args, "--values", file)
		in.Values = append(in.Values, []byte(v))
	}
	want, wantErr = run(t, helm, args...)
	rendered, err := render.RenderStable(t.Context(), in)
	if err != nil {
		return nil, want, err, wantErr
	}
	if len(rendered) != 1 || rendered[0].Path != "manifests.yaml" {
		t.Fatalf("got %d files", len(rendered))
	}
	return rendered[0].Data, want, nil, wantErr
}

func write(t *testing.T, dir string, files []bundle.File) {
	t.Helper()
	for _, f := range files {
		name := filepath.Join(dir, filepath.FromSlash(f.Path))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
