package gate_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// Real clients get through the gate what was signed, as from the registry itself, and learn why they get nothing else. What they ask for
// a second time does not reach upstream.
func TestClients(t *testing.T) {
	t.Parallel()
	hack.SkipIfShort(t)
	w := newWorld(t, registrytest.Options{})
	vendor, repo := w.repository("vendor/edge"), w.repository("krt/edge")
	index, err := imagetest.StandIn("ghcr.io/example/web:1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	at, err := name.NewTag(vendor.String()+":web", name.Insecure)
	if err == nil {
		err = remote.WriteIndex(at, index)
	}
	if err != nil {
		t.Fatal(err)
	}
	image, err := vendor.Resolve(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	r := w.pushRuntimeOf(vendor, "edge", "1.0.0", "first", image)
	w.sign(vendor, r.root)
	if _, err := transfer.Copy(t.Context(), []transfer.Source{{Store: vendor, Root: r.root, Tags: []string{"1.0.0"}}}, repo, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	w.pushRuntime(repo, "edge", "6.6.6", "evil", "6.6.6")

	o := w.quick()
	o.Refresh = time.Minute
	s := w.serve(o)
	host := strings.TrimPrefix(s.url, "http://")
	site := registrytest.StartRegistry(t, registrytest.Options{})
	from, evil, to := host+"/edge:1.0.0", host+"/edge:6.6.6", site.Host+"/"
	key := filepath.Join(w.dir, "release.pub")
	regctl := append(site.Env(t), "REGCTL_CONFIG="+filepath.Join(t.TempDir(), "regctl.json"))
	registrytest.RunTool(t, regctl, registrytest.BuildTool(t, "regctl"), "registry", "set", "--skip-check", "--tls", "disabled", host)
	registrytest.RunTool(t, regctl, registrytest.BuildTool(t, "regctl"), "registry", "set", "--skip-check", "--tls", "disabled", site.Host)
	for what, c := range map[string]struct {
		tool    string
		env     []string
		command func(from string) []string
		// arrives is the repository at the site that has all of it then; empty for what only reads.
		arrives string
	}{
		"imgpkg": {"imgpkg", nil, func(from string) []string {
			return []string{"copy", "-b", from, "--to-repo", to + "imgpkg", "--registry-insecure"}
		}, "imgpkg"},
		"imgpkg, signed": {"imgpkg", nil, func(from string) []string {
			return []string{"copy", "-b", from, "--to-repo", to + "signed", "--cosign-signatures", "--registry-insecure"}
		}, "signed"},
		"oras": {"oras", nil, func(from string) []string {
			return []string{"cp", "-r", "--from-plain-http", "--to-plain-http", from, to + "oras:1.0.0"}
		}, "oras"},
		"oras, list":    {"oras", nil, func(from string) []string { return []string{"discover", "--plain-http", from} }, ""},
		"crane":         {"crane", nil, func(from string) []string { return []string{"copy", "--insecure", from, to + "crane:1.0.0"} }, ""},
		"crane, digest": {"crane", nil, func(from string) []string { return []string{"digest", "--insecure", from} }, ""},
		"regctl": {"regctl", regctl, func(from string) []string {
			return []string{"image", "copy", "--referrers", "--digest-tags", from, to + "regctl:1.0.0"}
		}, "regctl"},
		"cosign 2": {"cosign2", nil, func(from string) []string {
			return []string{"verify", "--insecure-ignore-tlog", "--trusted-root", w.emptyRoot(), "--key", key, "--allow-http-registry", from}
		}, ""},
		"cosign 3": {"cosign3", nil, func(from string) []string {
			return []string{"verify", "--insecure-ignore-tlog", "--key", key, "--allow-http-registry", from}
		}, ""},
		"skopeo": {"readers", nil, func(from string) []string {
			return []string{"pull", strings.Replace(from, ":1.0.0", "@"+r.image.Digest.String(), 1), filepath.Join(t.TempDir(), "dir")}
		}, ""},
	} {
		t.Run(what, func(t *testing.T) {
			env := append(site.Env(t), c.env...)
			tool := registrytest.BuildTool(t, c.tool)
			registrytest.RunTool(t, env, tool, c.command(from)...)
			w.countRequests()
			registrytest.RunTool(t, env, tool, c.command(from)...)
			if n := w.countRequests(); n > 0 {
				t.Errorf("%d requests reach upstream", n)
			}
			if c.arrives != "" {
				whole, err := w.client.Repository(t.Context(), site.Host+"/"+c.arrives)
				if err != nil {
					t.Fatal(err)
				}
				for _, d := range []digest.Digest{r.root.Digest, r.inner.Digest, r.image.Digest} {
					if _, err := whole.Resolve(t.Context(), d.String()); err != nil {
						t.Errorf("it lacks %s: %v", d, err)
					}
				}
			}
			said, err := runFailing(t, env, tool, c.command(evil)...)
			if err == nil || !strings.Contains(said, "no signature found") && !strings.Contains(strings.ToLower(said), "denied") && !strings.Contains(said, "403") {
				t.Errorf("of what nobody signed it says %q, %v", said, err)
			}
		})
	}
	t.Run("krtpkg", func(t *testing.T) {
		through, err := w.client.Repository(t.Context(), host+"/edge")
		if err != nil {
			t.Fatal(err)
		}
		dst, err := w.client.Repository(t.Context(), site.Host+"/krtpkg")
		if err != nil {
			t.Fatal(err)
		}
		report, err := transfer.Copy(t.Context(), []transfer.Source{{Store: through, Root: r.root, Tags: []string{"1.0.0"}}}, dst, transfer.Options{})
		if err != nil || len(report.Attached) == 0 || report.Roots[0].Images != 1 {
			t.Errorf("%+v, %v", report, err)
		}
	})
}
