package source_test

import (
	"archive/tar"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/source"
)

// chart packs one, with its version as content and a link.
func chart(t *testing.T, version string) string {
	t.Helper()
	return string(gzipOf(t, tarOf(t, item{name: "web/Chart.yaml", data: version}, item{name: "web/templates/_x.tpl"},
		item{name: "web/crds/x.yaml", kind: tar.TypeSymlink, to: "../files/x.yaml"}, item{name: "web/files/x.yaml"})))
}

const index = `apiVersion: v1
entries:
  broken: {not: a list}
  web:
    - {version: 1.9.0, urls: [charts/web-1.9.0.tgz], digest: DIGEST-1.9.0}
    - {version: 1.10.0-rc.1, urls: ["https://elsewhere.example/web.tgz"]}
    - {version: v1.10.0, urls: [charts/web-1.10.0.tgz, https://other.example/web.tgz], digest: "sha256:DIGEST-1.10.0"}
    - {version: not-semver, urls: [charts/x.tgz]}
    - {version: 1.8.0, urls: []}
    - {version: 1.2.0, urls: ["file:///etc/hostname"]}
    - {version: 1.1.0, urls: ["http://charts.example/plain.tgz"]}
    - {version: 1.0.0+build.1, urls: [/elsewhere/web-1.0.0.tgz], digest: DIGEST-wrong}
`

func indexed(t *testing.T) string {
	return strings.NewReplacer("DIGEST-1.9.0", sum(chart(t, "1.9.0")), "DIGEST-1.10.0", sum(chart(t, "1.10.0")), "DIGEST-wrong", sum("wrong")).Replace(index)
}

func checkChart(t *testing.T, got *source.Tree, err error, version string) {
	t.Helper()
	if err != nil {
		t.Error(err)
		return
	}
	if !slices.Equal(paths(got), []string{"Chart.yaml", "crds/x.yaml", "files/x.yaml", "templates/_x.tpl"}) || contents(got)["Chart.yaml"] != version || contents(got)["crds/x.yaml"] != "web/files/x.yaml" {
		t.Errorf("got %v", contents(got))
	}
	if want := sum(chart(t, version)); got.SHA256 != want {
		t.Errorf("got %s, want %s", got.SHA256, want)
	}
}

func TestChartRepository(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		asked.Add(1)
		files := map[string]string{
			"/stable/index.yaml": indexed(t), "/stable/charts/web-1.9.0.tgz": chart(t, "1.9.0"),
			"/stable/charts/web-1.10.0.tgz": chart(t, "1.10.0"), "/elsewhere/web-1.0.0.tgz": chart(t, "1.0.0"),
		}
		data, ok := files[request.URL.Path]
		if user, password, _ := request.BasicAuth(); !ok || user+password != "usersecret" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		fmt.Fprint(w, data)
	}))
	defer server.Close()
	repository := strings.Replace(server.URL, "://", "://user:secret@", 1) + "/stable"
	fetcher := source.Fetcher{Client: server.Client(), Cache: t.TempDir()}

	got, err := fetcher.ListChartVersions(t.Context(), repository+"/", "web")
	if err != nil {
		t.Fatal(err)
	}
	want := []source.ChartVersion{
		{Version: "v1.10.0", SHA256: sum(chart(t, "1.10.0")), URL: repository + "/charts/web-1.10.0.tgz"},
		{Version: "1.10.0-rc.1", URL: "https://elsewhere.example/web.tgz"},
		{Version: "1.9.0", SHA256: sum(chart(t, "1.9.0")), URL: repository + "/charts/web-1.9.0.tgz"},
		{Version: "1.2.0", URL: "file:///etc/hostname"},
		{Version: "1.1.0", URL: "http://charts.example/plain.tgz"},
		{Version: "1.0.0+build.1", SHA256: sum("wrong"), URL: strings.TrimSuffix(repository, "/stable") + "/elsewhere/web-1.0.0.tgz"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}

	tree, err := fetcher.FetchChart(t.Context(), repository, "web", "1.9.0", "")
	checkChart(t, tree, err, "1.9.0")
	tree, err = fetcher.FetchChart(t.Context(), repository+"/", "web", "v1.10.0", sum(chart(t, "1.10.0")))
	checkChart(t, tree, err, "1.10.0")
	before := asked.Load()
	tree, err = fetcher.FetchChart(t.Context(), repository, "web", "v1.10.0", sum(chart(t, "1.10.0")))
	checkChart(t, tree, err, "1.10.0")
	if asked.Load() != before {
		t.Error("what is in the cache is asked for")
	}

	for _, c := range []struct{ chart, version, sha256, want string }{
		{"web", "1.0.0+build.1", "", "has sha256 " + sum(chart(t, "1.0.0")) + ", want " + sum("wrong")},
		{"web", "1.9.0", sum("another"), "want " + sum("another")},
		{"web", "1.10.0", "", "version not found in the repository"},
		{"web", "^1", "", "version not found in the repository"},
		{"web", "1.2.0", "", "fetch file:///etc/hostname: only https is allowed"},
		{"web", "1.1.0", "", "fetch http://charts.example/plain.tgz: only https is allowed"},
		{"none", "1.0.0", "", "has no chart none"},
		{"broken", "1.0.0", "", "chart broken: yaml: unmarshal errors"},
	} {
		_, err := fetcher.FetchChart(t.Context(), repository, c.chart, c.version, c.sha256)
		prefix := "chart " + server.URL + "/stable/" + c.chart + " " + c.version + ": "
		if err == nil || !strings.HasPrefix(err.Error(), prefix) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v, want %s", err, c.want)
		}
		var wrong *source.DigestError
		if strings.Contains(c.want, "want ") != errors.As(err, &wrong) {
			t.Errorf("got %v", err)
		}
	}
}

// A chart repository may be a folder behind a mirror.
func TestChartRepositoryInAFolder(t *testing.T) {
	t.Parallel()
	dir := tree(t, "charts/x")
	for name, data := range map[string]string{"index.yaml": indexed(t), "charts/web-1.9.0.tgz": chart(t, "tampered"), "charts/web-1.10.0.tgz": chart(t, "1.10.0")} {
		if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(name)), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fetcher := source.Fetcher{Mirrors: []source.Mirror{{Prefix: "https://charts.example/", Replacement: dir + "/"}}}
	got, err := fetcher.FetchChart(t.Context(), "https://charts.example", "web", "v1.10.0", "")
	checkChart(t, got, err, "1.10.0")
	var wrong *source.DigestError
	if _, err := fetcher.FetchChart(t.Context(), "https://charts.example", "web", "1.9.0", ""); !errors.As(err, &wrong) || wrong.Got != sum(chart(t, "tampered")) {
		t.Errorf("got %v", err)
	}
	for data, want := range map[string]string{
		"entries: [": "index of https://charts.example: yaml: ",
		"a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d]\nentries: {web: [*e, *e, *e, *e, *e, *e, *e]}": "index of https://charts.example: ",
	} {
		if err := os.WriteFile(filepath.Join(dir, "index.yaml"), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := fetcher.ListChartVersions(t.Context(), "https://charts.example", "web"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestChartsInARegistry(t *testing.T) {
	t.Parallel()
	r := registrytest.StartRegistry(t, registrytest.Options{})
	repo, err := r.Repository("charts/web")
	if err != nil {
		t.Fatal(err)
	}
	packed := func(version string) blobOf { return blobOf{mediaType: helmLayer, data: []byte(chart(t, version))} }
	for _, version := range []string{"1.9.0", "v1.10.0", "1.10.0-rc.1", "1.0.0_build.1"} {
		push(t, repo, version, blobOf{mediaType: "application/vnd.cncf.helm.chart.provenance.v1.prov", data: []byte("signature")}, packed(version))
	}
	for _, tag := range []string{"latest", "1", "1.9", "sha256-" + sum("") + ".sig"} {
		push(t, repo, tag, packed("moves"))
	}
	push(t, repo, "0.1.0", blobOf{mediaType: fluxLayer, data: []byte(chart(t, "0.1.0"))})
	push(t, repo, "0.2.0", blobOf{mediaType: helmLayer, data: gzipOf(t, tarOf(t, item{name: "Chart.yaml"}))})

	repository := "oci://" + r.Host + "/charts"
	fetcher := source.Fetcher{Registry: registries{r}}
	got, err := fetcher.ListChartVersions(t.Context(), repository, "web")
	if err != nil {
		t.Fatal(err)
	}
	var versions []string
	for _, v := range got {
		versions = append(versions, v.Version)
		if v.SHA256 != "" {
			t.Errorf("%s has a digest", v.Version)
		}
	}
	if want := []string{"v1.10.0", "1.10.0-rc.1", "1.9.0", "1.0.0+build.1", "0.2.0", "0.1.0"}; !slices.Equal(versions, want) {
		t.Errorf("got %v", versions)
	}
	tree, err := fetcher.FetchChart(t.Context(), repository+"/", "web", "1.9.0", "")
	checkChart(t, tree, err, "1.9.0")
	tree, err = fetcher.FetchChart(t.Context(), "oci://"+r.Host, "charts/web", "1.0.0+build.1", sum(chart(t, "1.0.0_build.1")))
	checkChart(t, tree, err, "1.0.0_build.1")
	for _, c := range []struct{ version, sha256, want string }{
		{"1.9.0", sum("another"), "has sha256 " + sum(chart(t, "1.9.0")) + ", want " + sum("another")},
		{"0.1.0", "", "is not a Helm chart: no layer of type " + helmLayer},
		{"0.2.0", "", "Chart.yaml is outside of the chart's folder"},
		{"3.0.0", "", "not found"},
	} {
		_, err := fetcher.FetchChart(t.Context(), repository, "web", c.version, c.sha256)
		if err == nil || !strings.HasPrefix(err.Error(), "chart "+repository+"/web "+c.version+": ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	for _, nowhere := range []source.Fetcher{{}, {Registry: stores{memory.New()}}} {
		_, err := nowhere.ListChartVersions(t.Context(), repository, "web")
		_, failed := nowhere.FetchChart(t.Context(), repository, "web", "1.9.0", "")
		if err == nil || failed == nil || !strings.Contains(err.Error(), "web") {
			t.Errorf("got %v and %v", err, failed)
		}
	}
}
