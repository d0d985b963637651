package assemble_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/source"
)

const cargoHead = "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: node, version: 1.0.0}\nspec:\n  layer: 1\n"

// upstream is a server of files by path, which counts what it was asked for.
type upstream struct {
	*httptest.Server
	files map[string]string
	asked map[string]int
	// chunked is set to leave out sizes.
	chunked bool
}

func newUpstream(t *testing.T, files map[string]string) *upstream {
	u := &upstream{files: files, asked: map[string]int{}}
	u.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.asked[r.URL.Path]++
		text, has := u.files[strings.TrimPrefix(r.URL.Path, "/")]
		switch {
		case !has:
			http.NotFound(w, r)
		case u.chunked:
			w.(http.Flusher).Flush()
			fallthrough
		default:
			_, _ = io.WriteString(w, text)
		}
	}))
	t.Cleanup(u.Close)
	return u
}

// cargoOptions build into a folder.
func cargoOptions(t *testing.T, dir string, u *upstream) assemble.Options {
	t.Helper()
	store, err := layout.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	o := assemble.Options{Store: store, Images: resolver{}}
	if u != nil {
		o.Sources = source.Fetcher{Client: u.Client()}
	}
	return o
}

func sumOf(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

func writeTree(t *testing.T, dir string, files ...string) {
	t.Helper()
	for i := 0; i < len(files); i += 2 {
		file := filepath.Join(dir, files[i])
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(files[i+1]), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// A bundle of files and a chart alone builds, to the same digest on any machine, and what is in the store is not
// fetched again.
func TestBuildCargo(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, map[string]string{"amd64/tool": "a tool", "arm64/tool": "another tool"})
	var first string
	for _, chunked := range []bool{false, true} {
		u.chunked = chunked
		dir := t.TempDir()
		writeTree(t, dir, "bundle.yaml", cargoHead+fmt.Sprintf(`  files:
    - {url: %[1]q, sha256: %[2]s, platform: linux/amd64, mode: "0755"}
    - {url: %[3]q, sha256: %[4]s, platform: linux/arm64, mode: "0755"}
    - {path: firmware/nic.bin}
  charts:
    - {dir: web}
`, u.URL+"/amd64/tool", sumOf("a tool"), u.URL+"/arm64/tool", sumOf("another tool")),
			"firmware/nic.bin", "a firmware", "web/Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.2.0\n",
			"web/.helmignore", "drafts/\n", "web/drafts/x.yaml", "x", "web/templates/a.yaml", "a: b\n")
		o := cargoOptions(t, filepath.Join(dir, "dist"), u)
		built, err := assemble.Build(t.Context(), dir, o)
		if err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = built.Descriptor.Digest.String()
		}
		// A URL is in the definition, and so is the port of this test's server.
		if again := built.Descriptor.Digest.String(); again != first {
			t.Errorf("chunked %v: %s, want %s", chunked, again, first)
		}
		for _, item := range built.ListCargo() {
			var out bytes.Buffer
			if err := item.CopyTo(t.Context(), o.Store, &out); err != nil {
				t.Error(err)
			}
			if item.Chart != nil {
				if names := listPacked(t, &out); names != "web/.helmignore web/Chart.yaml web/templates/a.yaml" {
					t.Errorf("the packed chart has %s", names)
				}
			}
		}
	}
}

// listPacked returns the names in a packed chart.
func listPacked(t *testing.T, r io.Reader) string {
	t.Helper()
	zip, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for archive := tar.NewReader(zip); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return strings.Join(names, " ")
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, header.Name)
	}
}

// What is not what the definition or the lock file has is refused, and leaves no file in the store.
func TestBuildRefusesOtherCargo(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, map[string]string{"tool": "a tool"})
	for name, of := range map[string]struct{ spec, want string }{
		"another digest":            {"  files: [{url: URL/tool, sha256: " + sumOf("other") + "}]", "has sha256 " + sumOf("a tool") + ", want " + sumOf("other")},
		"no pin":                    {"  files: [{url: URL/tool}]", "remote sources must be pinned"},
		"another size":              {"  files: [{url: URL/tool, size: 5, sha256: " + sumOf("a tool") + "}]", "tool has 6 bytes, want 5"},
		"nothing there":             {"  files: [{url: URL/gone, sha256: " + sumOf("a tool") + "}]", "404"},
		"no such file":              {"  files: [{path: gone}]", "gone does not exist"},
		"a folder":                  {"  files: [{path: web}]", "is a folder"},
		"a link that leads out":     {"  files: [{path: out}]", "leads out"},
		"another local digest":      {"  files: [{path: bundle.yaml, sha256: " + sumOf("x") + "}]", "has sha256"},
		"an artifact of the author": {"  files: [{path: bundle.yaml, artifact: 'sha256:" + sumOf("x") + "'}]", "artifact is for the build to set"},
		"no chart":                  {"  charts: [{dir: web}]", "no Chart.yaml"},
		"an unpinned chart":         {"  charts: [{archive: URL/tool}]", "remote sources must be pinned"},
		"not a packed chart":        {"  charts: [{archive: URL/tool, sha256: " + sumOf("a tool") + "}]", "tool"},
	} {
		dir := t.TempDir()
		writeTree(t, dir, "web/a", "")
		if err := os.Symlink("/etc/hostname", filepath.Join(dir, "out")); err != nil {
			t.Fatal(err)
		}
		writeTree(t, dir, "bundle.yaml", cargoHead+strings.ReplaceAll(of.spec, "URL", u.URL)+"\n")
		o := cargoOptions(t, filepath.Join(dir, "dist"), u)
		_, err := assemble.Build(t.Context(), dir, o)
		if err == nil || !strings.Contains(err.Error(), of.want) || !strings.Contains(err.Error(), "bundle.yaml:") {
			t.Errorf("%s: %v, want %s", name, err, of.want)
		}
		found, _ := filepath.Glob(filepath.Join(dir, "dist/blobs/sha256/*"))
		if left, _ := filepath.Glob(filepath.Join(dir, "dist/ingest/*")); len(left)+len(found) > 0 {
			t.Errorf("%s: left %v %v", name, found, left)
		}
	}
}

// update pins what has no digest, and leaves alone what its author pinned; the build keeps to it.
func TestUpdateCargo(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, map[string]string{"tool": "a tool", "pinned": "another one"})
	dir := t.TempDir()
	writeTree(t, dir, "bundle.yaml", cargoHead+strings.ReplaceAll("  files:\n  - {url: URL/tool}\n  - {url: URL/pinned, sha256: "+sumOf("pinned by its author")+"}\n  - {path: nic.bin}\n  charts: [{dir: web}]\n", "URL", u.URL),
		"nic.bin", "a firmware", "web/Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.2.0\n")
	o := cargoOptions(t, filepath.Join(dir, "dist"), u)
	moves, err := assemble.Update(t.Context(), dir, false, o)
	if err != nil || len(moves) != 3 {
		t.Fatalf("moves %+v, %v", moves, err)
	}
	lock, err := os.ReadFile(filepath.Join(dir, "bundle.lock.yaml"))
	if err != nil || !strings.Contains(string(lock), "sha256: "+sumOf("a tool")+"\n    size: 6") || !strings.Contains(string(lock), sumOf("a firmware")) {
		t.Errorf("lock file:\n%s", lock)
	}
	if u.asked["/pinned"] > 0 {
		t.Error("a file that its author pinned was fetched")
	}
	if found, err := assemble.ListOutdated(t.Context(), dir, o); err != nil || len(found.Moves) > 0 {
		t.Errorf("outdated: %+v, %v", found, err)
	}
	u.files["pinned"] = "pinned by its author"
	o.Locked = true
	if _, err := assemble.Build(t.Context(), dir, o); err != nil {
		t.Error(err)
	}
	asked := u.asked["/tool"]
	if _, err := assemble.Build(t.Context(), dir, o); err != nil || u.asked["/tool"] > asked {
		t.Errorf("what the store has was fetched again: %v", err)
	}
	for file, of := range map[string]string{"nic.bin": "nic.bin is now", "web/Chart.yaml": "web is now"} {
		was, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		writeTree(t, dir, file, string(was)+"\n# changed\n")
		var moved *assemble.MovedError
		if _, err := assemble.Build(t.Context(), dir, o); !errors.As(err, &moved) || !strings.Contains(err.Error(), of) {
			t.Errorf("changed %s: %v", file, err)
		}
		writeTree(t, dir, file, string(was))
	}
	u.files["tool"] = "a newer tool"
	if found, err := assemble.ListOutdated(t.Context(), dir, o); err != nil || len(found.Moves) != 1 || found.Moves[0].Kind != "file" || found.Moves[0].To != "sha256:"+sumOf("a newer tool") {
		t.Errorf("outdated: %+v, %v", found, err)
	}
	o = cargoOptions(t, filepath.Join(dir, "other"), u)
	var moved *assemble.MovedError
	if _, err := assemble.Build(t.Context(), dir, o); !errors.As(err, &moved) {
		t.Errorf("a build that takes what the lock file does not have: %v", err)
	}
}

// Charts of repositories are pinned to a version of the range.
func TestUpdateChartCargo(t *testing.T) {
	t.Parallel()
	packed := map[string]string{}
	for _, version := range []string{"1.2.0", "1.3.0", "2.0.0"} {
		packed["web-"+version+".tgz"] = packChart(t, "apiVersion: v2\nname: web\nversion: "+version+"\ndescription: A web server\n")
	}
	packed["index.yaml"] = "apiVersion: v1\nentries:\n  web:\n"
	for _, version := range []string{"1.2.0", "1.3.0", "2.0.0"} {
		packed["index.yaml"] += fmt.Sprintf("  - {version: %[1]s, urls: [web-%[1]s.tgz], digest: %[2]s}\n", version, sumOf(packed["web-"+version+".tgz"]))
	}
	u := newUpstream(t, packed)
	dir := t.TempDir()
	writeTree(t, dir, "bundle.yaml", cargoHead+"  charts: [{chart: web, repository: '"+u.URL+"', version: ^1.2.0}]\n")
	o := cargoOptions(t, filepath.Join(dir, "dist"), u)
	if _, err := assemble.Build(t.Context(), dir, o); err == nil || !strings.Contains(err.Error(), "remote sources must be pinned") {
		t.Errorf("without a pin: %v", err)
	}
	if moves, err := assemble.Update(t.Context(), dir, false, o); err != nil || len(moves) != 1 || moves[0].To != "1.3.0" || moves[0].Newest != "2.0.0" {
		t.Fatalf("%+v, %v", moves, err)
	}
	built, err := assemble.Build(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if c := built.Bundle.Spec.Charts[0]; c.Version != "1.3.0" || c.SHA256 != sumOf(packed["web-1.3.0.tgz"]) || built.Cargo[0].Reference != "krtpkg.invalid/charts/web:1.3.0" {
		t.Errorf("built %+v, %v", c, built.Cargo)
	}
	if moves, err := assemble.Update(t.Context(), dir, true, o); err != nil || len(moves) != 1 || moves[0].To != "2.0.0" {
		t.Fatalf("%+v, %v", moves, err)
	}
	definition, err := os.ReadFile(filepath.Join(dir, "bundle.yaml"))
	if err != nil || !strings.Contains(string(definition), "version: 2.0.0") {
		t.Errorf("definition:\n%s", definition)
	}
	if built, err = assemble.Build(t.Context(), dir, o); err != nil || built.Bundle.Spec.Charts[0].Version != "2.0.0" {
		t.Errorf("built %+v, %v", built, err)
	}
}

func packChart(t *testing.T, chart string) string {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	w := tar.NewWriter(zip)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "web/Chart.yaml", Mode: 0o644, Size: int64(len(chart))})
	_, wrote := io.WriteString(w, chart)
	if err := errors.Join(err, wrote, w.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// A runtime that takes a bundle which was built before has its files.
func TestRuntimeTakesCargoOfBuiltBundles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeTree(t, dir, "node/bundle.yaml", cargoHead+"  files: [{path: tool, platform: linux/amd64}]\n  charts: [{dir: web}]\n", "node/tool", "a tool",
		"node/web/Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.2.0\n")
	from := cargoOptions(t, filepath.Join(dir, "before"), nil)
	before, err := assemble.Build(t.Context(), filepath.Join(dir, "node"), from)
	if err != nil {
		t.Fatal(err)
	}
	writeTree(t, dir, "runtime.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Runtime\nmetadata: {name: edge, version: 1.0.0}\nspec: {provided: [cni], bundles: [{ref: 'oci:before@"+before.Descriptor.Digest.String()+"'}]}\n")
	o := cargoOptions(t, filepath.Join(dir, "dist"), nil)
	o.Open = func(context.Context, string, string) (content.Fetcher, ocispec.Descriptor, error) {
		return from.Store, before.Descriptor, nil
	}
	built, err := assemble.Build(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range built.Bundles[0].ListCargo() {
		if err := item.CopyTo(t.Context(), o.Store, io.Discard); err != nil {
			t.Error(err)
		}
	}
	if len(built.LeftOut) > 0 || len(built.Files) > 0 {
		t.Errorf("what controllers get: %v, left out %v", built.Files, built.LeftOut)
	}
}

// What a rebuild finds in its store counts by the size that is there, not by the one that a server or a definition tells.
func TestRebuildKeepsSizes(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, map[string]string{"tool": "a tool"})
	dir := t.TempDir()
	define := func(size string) {
		writeTree(t, dir, "bundle.yaml", cargoHead+"  files: [{url: '"+u.URL+"/tool', sha256: "+sumOf("a tool")+size+"}]\n")
	}
	define("")
	o := cargoOptions(t, filepath.Join(dir, "dist"), u)
	if _, err := assemble.Build(t.Context(), dir, o); err != nil {
		t.Fatal(err)
	}
	for _, of := range []struct {
		page, size string
		chunked    bool
		want       string
	}{
		{"<html>Sorry</html>", "", false, "has 6 bytes, want 18"},
		{"<html>Sorry</html>", "", true, "has 6 bytes, want 18"},
		{"", "", false, "has 6 bytes, want 0"},
		{"a tool", ", size: 5", false, "has 6 bytes, want 5"},
		{"a tool", ", size: 7", false, "has 6 bytes, want 7"},
	} {
		u.files["tool"], u.chunked = of.page, of.chunked
		define(of.size)
		if _, err := assemble.Build(t.Context(), dir, o); err == nil || !strings.Contains(err.Error(), of.want) {
			t.Errorf("%+v: %v", of, err)
		}
	}
	// A stream need not end.
	u.files["tool"], u.chunked = "a tool and more", true
	define(", size: 6")
	if _, err := assemble.Build(t.Context(), dir, cargoOptions(t, filepath.Join(dir, "other"), u)); err == nil || !strings.Contains(err.Error(), "tool has more than 6 bytes, want 6") {
		t.Errorf("a longer stream: %v", err)
	}
}

// Two charts or a chart and a file that would be one at the site are refused where the definition has them, since no
// bundle with both can be opened.
func TestBuildRefusesChartsOfOneName(t *testing.T) {
	t.Parallel()
	const web = "apiVersion: v2\nname: web\nversion: 1.2.0\n"
	for spec, want := range map[string]string{
		"  charts: [{dir: a}, {dir: b}]":                         "chart web 1.2.0 from b is fetched as web-1.2.0.tgz, and so is the chart from a",
		"  files: [{path: web-1.2.0.tgz}]\n  charts: [{dir: a}]": "and so is a file",
		"  charts: [{dir: needy}]":                               "needs db 1.0.0, which is not under charts/",
	} {
		dir := t.TempDir()
		writeTree(t, dir, "bundle.yaml", cargoHead+spec+"\n", "a/Chart.yaml", web, "b/Chart.yaml", web+"description: another\n", "web-1.2.0.tgz", "",
			"needy/Chart.yaml", web+"dependencies: [{name: db, version: 1.0.0, condition: db.enabled}]\n", "needy/values.yaml", "db: {enabled: false}\n")
		_, err := assemble.Build(t.Context(), dir, cargoOptions(t, filepath.Join(dir, "dist"), nil))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "bundle.yaml:") {
			t.Errorf("%s: %v, want %s", spec, err, want)
		}
	}
	dir := t.TempDir()
	writeTree(t, dir, "runtime.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Runtime\nmetadata: {name: edge, version: 1.0.0}\nspec: {provided: [cni], bundles: [{path: a}, {path: b}]}\n",
		"a/bundle.yaml", cargoHead+"  charts: [{dir: web}]\n", "a/web/Chart.yaml", web,
		"b/bundle.yaml", strings.Replace(cargoHead, "node", "other", 1)+"  charts: [{dir: web}]\n", "b/web/Chart.yaml", web+"description: another\n")
	_, err := assemble.Build(t.Context(), dir, cargoOptions(t, filepath.Join(dir, "dist"), nil))
	if err == nil || !strings.Contains(err.Error(), "bundles node and other have chart web 1.2.0 with different content") {
		t.Errorf("a runtime with two charts of one name: %v", err)
	}
}

// A chart that is published again under its version is a move, and an error if its author has its digest. What lies next
// to a definition without a lock file is not outdated.
func TestUpdateRepublishedChart(t *testing.T) {
	t.Parallel()
	publish := func(description string) map[string]string {
		packed := packChart(t, "apiVersion: v2\nname: web\nversion: 1.2.0\ndescription: "+description+"\n")
		return map[string]string{"web-1.2.0.tgz": packed, "index.yaml": "apiVersion: v1\nentries:\n  web:\n  - {version: 1.2.0, urls: [web-1.2.0.tgz]}\n"}
	}
	u := newUpstream(t, publish("one"))
	old := "sha256:" + sumOf(u.files["web-1.2.0.tgz"])
	dir := t.TempDir()
	chart := "  charts: [{chart: web, repository: '" + u.URL + "', version: 1.2.0"
	writeTree(t, dir, "bundle.yaml", cargoHead+"  files: [{path: nic.bin}]\n"+chart+"}, {dir: local}]\n", "nic.bin", "a firmware", "local/Chart.yaml", "apiVersion: v2\nname: local\nversion: 1.0.0\n")
	o := cargoOptions(t, filepath.Join(dir, "dist"), u)
	if found, err := assemble.ListOutdated(t.Context(), dir, o); err != nil || len(found.Moves) != 1 || found.Moves[0].To != "1.2.0" {
		t.Errorf("outdated without a lock file: %+v, %v", found, err)
	}
	if moves, err := assemble.Update(t.Context(), dir, false, o); err != nil || len(moves) != 3 {
		t.Fatalf("%+v, %v", moves, err)
	}
	u.files = publish("two")
	now := "sha256:" + sumOf(u.files["web-1.2.0.tgz"])
	if moves, err := assemble.Update(t.Context(), dir, false, o); err != nil || len(moves) != 1 || moves[0].From != old || moves[0].To != now {
		t.Errorf("published again: %+v, %v", moves, err)
	}
	writeTree(t, dir, "bundle.yaml", cargoHead+chart+", sha256: "+strings.TrimPrefix(old, "sha256:")+"}]\n")
	var other *source.DigestError
	if moves, err := assemble.Update(t.Context(), dir, false, o); !errors.As(err, &other) || !strings.Contains(err.Error(), "web 1.2.0 has sha256") {
		t.Errorf("a digest of its author: %+v, %v", moves, err)
	}
}
