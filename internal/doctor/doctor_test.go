package doctor_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/internal/doctor"
	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/registry"
)

// examine returns what does not work on a registry.
func examine(t *testing.T, o registrytest.Options) (missing []string, report *doctor.Report) {
	t.Helper()
	r := registrytest.StartRegistry(t, o)
	login, err := os.ReadFile(filepath.Join(r.DockerConfig(t), "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := registry.New(registry.Options{CAFile: r.CAFile, Logins: [][]byte{login}})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := client.Repository(t.Context(), r.Host+"/created/scratch")
	if err != nil {
		t.Fatal(err)
	}
	second, err := client.Repository(t.Context(), r.Host+"/created/scratch/krtpkg-doctor")
	if err != nil {
		t.Fatal(err)
	}
	if report, err = doctor.Examine(t.Context(), repo, second); err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Findings {
		if !f.Works {
			missing = append(missing, f.Capability)
			if f.Reason == "" {
				t.Errorf("%s: no reason", f.Capability)
			}
		}
	}
	return missing, report
}

// What real registries cannot do, and nothing else.
func TestRealRegistries(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		options registrytest.Options
		missing []string
	}{
		{registrytest.Options{Kind: registrytest.Distribution3}, []string{"referrers API", "indexes that lack a manifest"}},
		{registrytest.Options{Kind: registrytest.Distribution3, TLS: true}, []string{"referrers API", "indexes that lack a manifest"}},
		{registrytest.Options{Kind: registrytest.Distribution2}, []string{"referrers API", "indexes that lack a manifest", "deletes of tags"}},
		{registrytest.Options{Kind: registrytest.Olareg}, []string{"indexes that lack a manifest"}},
		{registrytest.Options{Kind: registrytest.Olareg, NoReferrers: true}, []string{"referrers API", "indexes that lack a manifest"}},
		{registrytest.Options{Kind: registrytest.GGCR}, []string{"status of uploads", "mounts across repositories", "indexes that lack a manifest"}},
		{registrytest.Options{Kind: registrytest.GGCR, NoReferrers: true}, []string{"status of uploads", "mounts across repositories", "referrers API", "indexes that lack a manifest"}},
	} {
		t.Run(c.options.String(), func(t *testing.T) {
			t.Parallel()
			missing, report := examine(t, c.options)
			if !slices.Equal(missing, c.missing) {
				t.Errorf("missing %q, want %q", missing, c.missing)
			}
			if failing := report.FailedCapabilities(); len(failing) > 0 {
				t.Errorf("%q fail", failing)
			}
		})
	}
}

// Each quirk is told, and what follows from it for signatures.
func TestQuirks(t *testing.T) {
	t.Parallel()
	const noAPI, holes = "referrers API", "indexes that lack a manifest"
	for _, o := range registrytest.QuirkyOptions() {
		t.Run(o.String(), func(t *testing.T) {
			t.Parallel()
			missing, report := examine(t, o)
			var want []string
			deviation, limit := "", ""
			switch quirk := o.Quirks[0]; quirk {
			case registrytest.Referrers401, registrytest.Referrers403:
				want, deviation = []string{noAPI}, "the referrers API is forbidden to users who may read"
			case registrytest.ReferrersHTML:
				want, deviation = []string{noAPI}, "a request for the referrers API, which is missing, is answered with something else"
			case registrytest.Referrers400, registrytest.Referrers405, registrytest.Referrers406, registrytest.Referrers501:
				want, deviation = []string{noAPI}, "is answered with "+strings.TrimPrefix(string(quirk), "referrers-")+" instead of 404"
			case registrytest.ForbiddenTags:
				deviation = "tags that do not exist are forbidden to users who may read"
			case registrytest.HeadWithoutDigest, registrytest.HeadWithoutLength:
				deviation = "HEAD of a manifest lacks"
			case registrytest.HeadRefused:
				deviation = "HEAD of a manifest is refused with 405"
			case registrytest.PlainMediaTypes:
				deviation = "manifests are served as \"application/json"
			case registrytest.OtherStatuses:
				deviation = "is answered with 200 instead of 201"
			case registrytest.LocationsWithoutScheme:
				deviation = "Location of an upload has no scheme"
			case registrytest.NegotiateFirst, registrytest.NegotiateHeader:
				deviation = "several challenges are offered"
			case registrytest.BareLinks:
				deviation = "links to further pages lack"
			case registrytest.ImmutableTags:
				want = []string{"tags that move"}
				if o.NoReferrers {
					want, limit = []string{noAPI, "tags that move", "further signatures"}, "only one run can sign and attest"
				}
			}
			want = append(want, holes)
			slices.Sort(want)
			slices.Sort(missing)
			if !slices.Equal(missing, want) {
				t.Errorf("missing %q, want %q", missing, want)
			}
			if told := strings.Join(report.Deviations, "\n"); !strings.Contains(told, deviation) || deviation == "" && told != "" {
				t.Errorf("deviations %q, want %q", told, deviation)
			}
			if limits := strings.Join(report.SigningLimits(), "; "); !strings.Contains(limits, limit) || limit == "" && limits != "" {
				t.Errorf("limits %q, want %q", limits, limit)
			}
			if failing := report.FailedCapabilities(); len(failing) > 0 {
				t.Errorf("%q fail", failing)
			}
		})
	}
}

// What a registry refuses is found to be refused.
func TestRefusals(t *testing.T) {
	t.Parallel()
	refuse := func(is func(r *http.Request, body string) bool, status int) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					panic(http.ErrAbortHandler)
				}
				if is(r, string(body)) {
					http.Error(w, "refused", status)
					return
				}
				r.Body = io.NopCloser(strings.NewReader(string(body)))
				next.ServeHTTP(w, r)
			})
		}
	}
	for _, c := range []struct {
		name       string
		middleware func(http.Handler) http.Handler
		want       []string
		failing    bool
	}{
		{"no PATCH", refuse(func(r *http.Request, _ string) bool { return r.Method == http.MethodPatch }, 405), []string{"blobs in chunks", "status of uploads"}, false},
		{"no second part", func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				start, _, _ := strings.Cut(r.Header.Get("Content-Range"), "-")
				first, err := strconv.Atoi(start)
				if r.Method != http.MethodPatch || err != nil || first == 0 {
					next.ServeHTTP(w, r)
					return
				}
				w.Header().Set("Location", r.URL.RequestURI())
				w.Header().Set("Range", fmt.Sprintf("0-%d", first-1))
				w.WriteHeader(http.StatusCreated)
			})
		}, []string{"blobs in chunks"}, false},
		{"no subjects", refuse(func(r *http.Request, body string) bool { return strings.Contains(body, `"subject":{`) }, 405), []string{"manifests with a subject", "referrers API", "indexes with artifactType and subject"}, false},
		{"no nested indexes", refuse(func(r *http.Request, body string) bool {
			return strings.Contains(body, `"manifests":[{"mediaType":"application/vnd.oci.image.index`)
		}, 400), []string{"indexes of indexes"}, false},
		{"no artifactType", refuse(func(r *http.Request, body string) bool { return strings.Contains(body, `"artifactType"`) }, 400), []string{"manifests with artifactType"}, true},
		{"no tags", refuse(func(r *http.Request, _ string) bool {
			return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") && !strings.Contains(r.URL.Path, "/manifests/sha256:")
		}, 403), []string{"tags", "tags as signatures have them", "tags that move", "lists of tags"}, true},
		{"no lists of tags", refuse(func(r *http.Request, _ string) bool { return strings.HasSuffix(r.URL.Path, "/tags/list") }, 500), []string{"lists of tags"}, false},
		{"tags that stay", func(next http.Handler) http.Handler {
			set := map[string]bool{}
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if _, tag, ok := strings.Cut(r.URL.Path, "/manifests/krtpkg-doctor-"); ok && r.Method == http.MethodPut {
					if set[tag] {
						http.Error(w, "the tag is immutable", http.StatusConflict)
						return
					}
					set[tag] = true
				}
				next.ServeHTTP(w, r)
			})
		}, []string{"tags that move"}, false},
		{"no check of digests", func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				answer := httptest.NewRecorder()
				next.ServeHTTP(answer, r)
				if answer.Code == http.StatusBadRequest && r.URL.Query().Has("digest") {
					answer.Code = http.StatusCreated
				}
				for key, values := range answer.Header() {
					w.Header()[key] = values
				}
				w.WriteHeader(answer.Code)
				w.Write(answer.Body.Bytes())
			})
		}, []string{"wrong digests refused"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			missing, report := examine(t, registrytest.Options{Kind: registrytest.Olareg, Middleware: c.middleware})
			for _, want := range c.want {
				if !slices.Contains(missing, want) {
					t.Errorf("%q is not among what is missing: %q", want, missing)
				}
			}
			if c.failing != (len(report.FailedCapabilities()) > 0) {
				t.Errorf("%q fail", report.FailedCapabilities())
			}
		})
	}
}

// Who may not write is told so.
func TestNoRights(t *testing.T) {
	t.Parallel()
	r := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg, Auth: registrytest.Basic})
	client, err := registry.New(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := client.Repository(t.Context(), r.Host+"/krt/scratch")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := doctor.Examine(t.Context(), repo, repo); err == nil || !strings.Contains(err.Error(), "push a blob to "+r.Host+"/krt/scratch") {
		t.Errorf("got %v", err)
	}
}
