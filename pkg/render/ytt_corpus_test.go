package render_test

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/internal/corpus"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/render"
)

const labelled = `#@ load("@ytt:overlay", "overlay")
#@overlay/match by=overlay.subset({"kind": "Deployment"})
---
metadata:
  #@overlay/match missing_ok=True
  annotations:
    #@overlay/match missing_ok=True
    example.com/site: east
`

// helpers stands in for a file of Pinniped's that the corpus lacks.
const helpers = `#@ load("@ytt:data", "data")
#@ load("@ytt:template", "template")
#@ def defaultResourceName():
#@   return data.values.app_name
#@ end
#@ def defaultResourceNameWithSuffix(suffix):
#@   return data.values.app_name + "-" + suffix
#@ end
#@ def namespace():
#@   return data.values.into_namespace or data.values.namespace
#@ end
#@ def pinnipedDevAPIGroupWithPrefix(prefix):
#@   return prefix + "." + data.values.api_group_suffix
#@ end
#@ def defaultLabel():
app: #@ data.values.app_name
#@ end
#@ def deploymentPodLabel():
deployment.pinniped.dev: #@ data.values.app_name
#@ end
#@ def labels():
_: #@ template.replace(defaultLabel())
#@ end
#@ def hasUnixNetworkEndpoint():
#@   return False
#@ end
#@ def getPinnipedConfigMapData():
#@   return {"names": {"defaultTLSCertificateSecret": defaultResourceNameWithSuffix("default-tls-certificate")}}
#@ end
#@ def getAndValidateLogLevel():
#@   return data.values.log_level
#@ end
`

// Pinniped's templates become what ytt writes, with values in order and with overlays, and
// their schema is what ytt says it is.
func TestYTTAsTheTool(t *testing.T) {
	t.Parallel()
	pinniped := filepath.Join(corpus.FirstDir(t), "3-cluster-services/authentication/pinniped/deploy")
	ytt := tool(t, "ytt")
	for name, c := range map[string]struct {
		dir      string
		values   []string
		overlays []bundle.File
		files    int
	}{
		"concierge":              {dir: "concierge", files: 5},
		"concierge with values":  {dir: "concierge", values: []string{"replicas: 5\nnamespace: one\n", "namespace: two\nlog_level: debug\n"}, files: 5},
		"concierge with overlay": {dir: "concierge", overlays: []bundle.File{{Path: "site.yaml", Data: []byte(labelled)}}, files: 5},
		"supervisor":             {dir: "supervisor", files: 8},
		"supervisor with values": {dir: "supervisor", values: []string{"custom_labels: {team: auth}\nservice_https_nodeport_port: 443\n"}, files: 9},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			top, out := t.TempDir(), t.TempDir()
			dir := filepath.Join(top, "templates")
			files := append(readTree(t, filepath.Join(pinniped, c.dir)), bundle.File{Path: "helpers.lib.yaml", Data: []byte(helpers)})
			write(t, dir, files)
			args := []string{"-f", dir}
			in := render.Input{Source: &bundle.Source{Template: bundle.TemplateYTT}, Files: files, Overlays: c.overlays}
			if len(c.overlays) > 0 {
				write(t, filepath.Join(top, "overlays"), c.overlays)
				args = append(args, "-f", filepath.Join(top, "overlays"))
			}
			schema, err := run(t, ytt, append(args, "--data-values-schema-inspect", "-o", "openapi-v3")...)
			if err != nil {
				t.Fatal(err)
			}
			for i, v := range c.values {
				file := string(rune('a'+i)) + ".yaml"
				write(t, top, []bundle.File{{Path: file, Data: []byte(v)}})
				args = append(args, "--data-values-file", filepath.Join(top, file))
				in.Values = append(in.Values, []byte(v))
			}
			if _, err := run(t, ytt, append(args, "--output-files", out)...); err != nil {
				t.Fatal(err)
			}
			got, err := render.RenderStable(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string][]byte{}
			for _, f := range readTree(t, out) {
				want[f.Path] = f.Data
			}
			if len(got) != c.files || len(want) != c.files {
				t.Errorf("%d files, the tool has %d, want %d", len(got), len(want), c.files)
			}
			for _, f := range got {
				same(t, f.Data, want[f.Path])
			}
			if len(c.overlays) > 0 && !strings.Contains(text(got), "example.com/site: east") {
				t.Error("the overlay is not in it")
			}
			sameSchema(t, in, schema)
		})
	}
}

func sameSchema(t *testing.T, in render.Input, document []byte) {
	t.Helper()
	data, err := render.ValuesSchema(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	var got any
	var want struct {
		Components struct {
			Schemas struct {
				DataValues any `yaml:"dataValues"`
			}
		}
	}
	if err := yaml.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(document, &want); err != nil {
		t.Fatal(err)
	}
	if want.Components.Schemas.DataValues == nil || !reflect.DeepEqual(got, want.Components.Schemas.DataValues) {
		t.Errorf("got %s\nwant %s", data, document)
	}
}
