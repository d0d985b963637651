package assemble_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/assemble"
)

// A chart that another needs and does not have is taken from where the definition says, pinned.
func TestChartsThatAChartNeeds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	for _, f := range [][2]string{
		{"charts-1/common/Chart.yaml", "apiVersion: v2\nname: common\nversion: 1.2.0\ntype: library\n"},
		{"charts-1/common/templates/_lib.tpl", `{{ define "common.name" }}from-common{{ end }}`},
	} {
		if err := w.WriteHeader(&tar.Header{Name: f[0], Mode: 0o644, Size: int64(len(f[1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	place(t, filepath.Join(dir, "common.tar"), packed.Bytes())
	place(t, filepath.Join(dir, "chart/Chart.yaml"), []byte("apiVersion: v2\nname: web\nversion: 1.0.0\ndependencies: [{name: common, version: 1.x.x, repository: 'https://charts.example'}]\n"))
	place(t, filepath.Join(dir, "chart/templates/a.yaml"), []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ include \"common.name\" . }}}\n"))
	define := func(dependency string) {
		place(t, filepath.Join(dir, "bundle.yaml"), []byte("apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: web, version: 1.0.0}\n"+
			"spec:\n  layer: 6\n  sources:\n  - dir: chart\n    template: helm\n    dependencies: ["+dependency+"]\n"))
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(packed.Bytes()))
	define("{name: common, archive: common.tar, root: charts-1/common, sha256: " + sum + "}")
	files, err := assemble.RenderManifests(t.Context(), dir, options())
	if err != nil || len(files) != 1 || !strings.Contains(string(files[0].Data), "name: from-common") {
		t.Errorf("got %v, %v", files, err)
	}
	if _, err := assemble.Build(t.Context(), dir, options()); err != nil {
		t.Error(err)
	}
	for dependency, want := range map[string]string{
		"{name: common, archive: common.tar, root: charts-1/common}":                   "dependency common: want its commit or the sha256 of its archive",
		"{name: common, archive: common.tar, sha256: " + strings.Repeat("a", 64) + "}": "common.tar has sha256 " + sum + ", want aaa",
		"{name: common}": "dependency common: want exactly one of git, archive and repository",
		"{name: common, archive: ../x.tar, sha256: " + sum + "}":                                  `dependency common: archive "../x.tar" leaves its folder`,
		"{name: common, git: 'https://a:b@c.example/x', commit: " + strings.Repeat("a", 40) + "}": "dependency common: git contains a login",
	} {
		define(dependency)
		_, err := assemble.RenderManifests(t.Context(), dir, options())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", dependency, err, want)
		}
	}
}

// Of a source that is over limits, a kustomization takes what it uses.
func TestKustomizationInALargeArchive(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	pack := func(name, data string) {
		if err := errors.Join(w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}), copyString(w, data)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20_001 {
		pack(fmt.Sprintf("src/%d/%d.c", i%100, i), "")
	}
	pack("deploy/east/kustomization.yaml", "resources: [../base]\nnamePrefix: east-\n")
	pack("deploy/base/kustomization.yaml", "resources: [pod.yaml]\n")
	pack("deploy/base/pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: ghcr.io/example/web:1.0}]}\n")
	pack("plain/x.yaml", "apiVersion: x.example/v1\nkind: X\nmetadata: {name: x}\nspec: {plugin: ghcr.io/example/plugin:1.0}\n")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	place(t, filepath.Join(dir, "many.tar"), packed.Bytes())
	define := func(source string) {
		place(t, filepath.Join(dir, "bundle.yaml"), []byte("apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: web, version: 1.0.0}\n"+
			"spec:\n  layer: 6\n  sources: [{archive: many.tar, sha256: "+fmt.Sprintf("%x", sha256.Sum256(packed.Bytes()))+", "+source+"}]\n"))
	}
	define("root: deploy/east, template: kustomize")
	files, err := assemble.RenderManifests(t.Context(), dir, options())
	if err != nil || len(files) != 1 || !strings.Contains(string(files[0].Data), "name: east-a") {
		t.Errorf("got %v, %v", files, err)
	}
	define("root: src, template: ytt")
	if _, err := assemble.RenderManifests(t.Context(), dir, options()); err == nil || !strings.Contains(err.Error(), "more than 20000 files are picked") {
		t.Errorf("all files of a folder are templates: got %v", err)
	}
	// A place in a source is that in the whole of it.
	define("root: plain")
	if _, err := assemble.Build(t.Context(), dir, options()); err == nil || !strings.Contains(err.Error(), "many.tar/plain/x.yaml:4:16: X x: spec.plugin") {
		t.Errorf("got %v", err)
	}
}

func copyString(w io.Writer, text string) error {
	_, err := io.WriteString(w, text)
	return err
}
