package source_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/source"
)

// registries reach one registry as internal/registry does.
type registries struct{ *registrytest.Registry }

func (r registries) Origin(_ context.Context, ref name.Reference) (oras.ReadOnlyTarget, string, error) {
	repo, err := r.Repository(ref.Context().RepositoryStr())
	return repo, ref.Identifier(), err
}

// stores gives one store whatever is asked for.
type stores struct{ oras.ReadOnlyTarget }

func (s stores) Origin(_ context.Context, ref name.Reference) (oras.ReadOnlyTarget, string, error) {
	return s.ReadOnlyTarget, ref.Identifier(), nil
}

// blobOf is a layer that a test makes.
type blobOf struct {
	mediaType string
	data      []byte
	title     string
	unpack    bool
}

const (
	imageLayer = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	fluxLayer  = "application/vnd.cncf.flux.content.v1.tar+gzip"
	helmLayer  = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
)

// push makes an artifact under a tag, and says its digest.
func push(t *testing.T, store oras.Target, tag string, layers ...blobOf) ocispec.Descriptor {
	t.Helper()
	put := func(desc ocispec.Descriptor, data []byte) ocispec.Descriptor {
		if exists, err := store.Exists(t.Context(), desc); err != nil {
			t.Fatal(err)
		} else if exists {
			return desc
		}
		if err := store.Push(t.Context(), desc, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		return desc
	}
	manifest := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: put(ocispec.DescriptorEmptyJSON, []byte("{}"))}
	manifest.SchemaVersion = 2
	for _, l := range layers {
		desc := put(content.NewDescriptorFromBytes(l.mediaType, l.data), l.data)
		desc.Annotations = map[string]string{}
		if l.title != "" {
			desc.Annotations[ocispec.AnnotationTitle] = l.title
		}
		if l.unpack {
			desc.Annotations["io.deis.oras.content.unpack"] = "true"
		}
		manifest.Layers = append(manifest.Layers, desc)
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	desc := put(content.NewDescriptorFromBytes(manifest.MediaType, data), data)
	if err := store.Tag(t.Context(), desc, tag); err != nil {
		t.Fatal(err)
	}
	return desc
}

// artifact pushes one and says its reference.
func artifact(t *testing.T, r *registrytest.Registry, layers ...blobOf) name.Digest {
	t.Helper()
	repo, err := r.Repository("x/y")
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewDigest(r.Host + "/x/y@" + push(t, repo, "latest", layers...).Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func TestArtifacts(t *testing.T) {
	t.Parallel()
	r := registrytest.StartRegistry(t, registrytest.Options{})
	fetcher := source.Fetcher{Registry: registries{r}}
	gz := func(all ...item) []byte { return gzipOf(t, tarOf(t, all...)) }
	linkTo := func(name, to string) item { return item{name: name, kind: tar.TypeSymlink, to: to} }
	for _, c := range []struct {
		name   string
		layers []blobOf
		pick   source.Pick
		want   map[string]string
	}{
		{"flux", []blobOf{{mediaType: fluxLayer, data: gz(items("a.yaml", "sub/b.yaml", "README.md")...)}}, source.Pick{},
			map[string]string{"a.yaml": "a.yaml", "sub/b.yaml": "sub/b.yaml"}},
		{"imgpkg", []blobOf{{mediaType: imageLayer, data: gz(items(".imgpkg/images.yml", "config/a.yml")...)}}, source.Pick{Root: "config"},
			map[string]string{"a.yml": "config/a.yml"}},
		{"helm", []blobOf{{mediaType: "application/vnd.cncf.helm.chart.provenance.v1.prov", data: []byte("signature")}, {mediaType: helmLayer, data: gz(items("web/Chart.yaml", "web/templates/_x.tpl")...)}},
			source.Pick{Root: "web", All: true}, map[string]string{"Chart.yaml": "web/Chart.yaml", "templates/_x.tpl": "web/templates/_x.tpl"}},
		{"oras", []blobOf{
			{mediaType: "application/yaml", data: []byte("a: 1"), title: "a.yaml"},
			{mediaType: "text/plain", data: []byte("b: 1"), title: "sub/b.yaml"},
			{mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", data: gz(items("dir/c.yaml")...), title: "dir", unpack: true},
			{mediaType: "application/octet-stream", data: []byte("d"), title: "d.txt"},
		}, source.Pick{}, map[string]string{"a.yaml": "a: 1", "sub/b.yaml": "b: 1", "dir/c.yaml": "dir/c.yaml"}},
		{"each compression", []blobOf{
			{mediaType: "application/vnd.oci.image.layer.v1.tar", data: tarOf(t, item{name: "a.yaml"})},
			{mediaType: "application/vnd.oci.image.layer.v1.tar+zstd", data: zstdOf(t, tarOf(t, item{name: "b.yaml"}))},
			{mediaType: "application/x-tar", data: gz(item{name: "c.yaml"})},
		}, source.Pick{}, map[string]string{"a.yaml": "a.yaml", "b.yaml": "b.yaml", "c.yaml": "c.yaml"}},
		{"layers over layers", []blobOf{
			{mediaType: imageLayer, data: gz(
				item{name: "kept.yaml", data: "below"}, item{name: "replaced.yaml", data: "below"}, item{name: "removed.yaml"},
				item{name: "gone/a.yaml"}, item{name: "emptied/a.yaml"}, item{name: "file.yaml/x.yaml"}, item{name: "folder.yaml"},
				linkTo("over.yaml", "replaced.yaml"), linkTo("linked", "emptied"))},
			{mediaType: imageLayer, data: gz(
				item{name: "replaced.yaml", data: "above"}, item{name: ".wh.removed.yaml"}, item{name: ".wh.gone"},
				item{name: "emptied/.wh..wh..opq"}, item{name: "emptied/b.yaml"}, item{name: "file.yaml", data: "now a file"},
				item{name: "folder.yaml/y.yaml"}, item{name: "new/.wh.x"}, item{name: "linked/z.yaml"})},
		}, source.Pick{}, map[string]string{"kept.yaml": "below", "replaced.yaml": "above", "over.yaml": "above", "emptied/b.yaml": "emptied/b.yaml",
			"file.yaml": "now a file", "folder.yaml/y.yaml": "folder.yaml/y.yaml", "linked/z.yaml": "linked/z.yaml"}},
		{"large files that are not picked", []blobOf{{mediaType: imageLayer, data: append(gzipOf(t, rawTar(t, tar.Header{Name: "binary", Size: 128 << 20})),
			append(bytes.Repeat(gzipOf(t, make([]byte, 64<<20)), 2), gz(item{name: "a.yaml"})...)...)}}, source.Pick{}, map[string]string{"a.yaml": "a.yaml"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := fetcher.FetchArtifact(t.Context(), artifact(t, r, c.layers...), c.pick)
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(contents(got)) != fmt.Sprint(c.want) {
				t.Errorf("got %v", contents(got))
			}
			var list string
			for _, f := range got.Files {
				list += sum(string(f.Data)) + "  " + f.Path + "\n"
			}
			if got.SHA256 != sum(list) {
				t.Errorf("got %s", got.SHA256)
			}
		})
	}
}

func TestArtifactsThatAreRefused(t *testing.T) {
	t.Parallel()
	r := registrytest.StartRegistry(t, registrytest.Options{})
	gz := func(all ...item) []byte { return gzipOf(t, tarOf(t, all...)) }
	for _, c := range []struct {
		name   string
		layers []blobOf
		want   string
	}{
		{"media type", []blobOf{{mediaType: "application/vnd.wasm", data: []byte("wasm")}}, "layer sha256:" + sum("wasm") + ": media type application/vnd.wasm is neither an archive nor a file with a title"},
		{"title", []blobOf{{mediaType: "text/plain", data: []byte("x"), title: "../x.yaml"}}, `entry "../x.yaml" leaves the tree`},
		{"name in a layer", []blobOf{{mediaType: imageLayer, data: gz(item{name: "/x.yaml"})}}, `entry "/x.yaml" leaves the tree`},
		{"no archive", []blobOf{{mediaType: imageLayer, data: bytes.Repeat([]byte("no"), 1000)}}, "not a tar or zip archive"},
		{"link out", []blobOf{{mediaType: imageLayer, data: gz(item{name: "x.yaml", kind: tar.TypeSymlink, to: "/etc/x"})}}, "x.yaml is a link that leads out of the tree"},
		{"no layer", nil, "no YAML or JSON file is included"},
		{"many layers", slices.Repeat([]blobOf{{mediaType: fluxLayer, data: gz(item{name: "x.yaml"})}}, 128), "128 layers of "},
	} {
		ref := artifact(t, r, c.layers...)
		_, err := (&source.Fetcher{Registry: registries{r}}).FetchArtifact(t.Context(), ref, source.Pick{})
		if err == nil || !strings.HasPrefix(err.Error(), "artifact "+ref.Name()+": ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
	ref := artifact(t, r)
	if _, err := (&source.Fetcher{}).FetchArtifact(t.Context(), ref, source.Pick{}); err == nil || err.Error() != "artifact "+ref.Name()+": no registry configured" {
		t.Errorf("got %v", err)
	}
	repo, err := r.Repository("x/y")
	if err != nil {
		t.Fatal(err)
	}
	index := []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[]}`)
	desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, index)
	if err := repo.Push(t.Context(), desc, bytes.NewReader(index)); err != nil {
		t.Fatal(err)
	}
	_, err = (&source.Fetcher{Registry: registries{r}}).FetchArtifact(t.Context(), ref.Digest(desc.Digest.String()), source.Pick{})
	if err == nil || !strings.HasSuffix(err.Error(), "is an index, want a single artifact") {
		t.Errorf("got %v", err)
	}
}

// wrong resolves everything to what is tagged latest.
type wrong struct{ *memory.Store }

func (w wrong) Resolve(ctx context.Context, _ string) (ocispec.Descriptor, error) {
	return w.Store.Resolve(ctx, "latest")
}

// tampering changes a byte of each answer that has a digest in its path.
type tampering struct {
	http.ResponseWriter
	what string
}

func (w tampering) Write(p []byte) (int, error) {
	if i := bytes.Index(p, []byte(w.what)); i >= 0 {
		p = bytes.Clone(p)
		p[i] ^= 1
	}
	return w.ResponseWriter.Write(p)
}

func TestArtifactsThatAreTamperedWith(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"secret: 1", `"schemaVersion"`} {
		var begun atomic.Bool
		r := registrytest.StartRegistry(t, registrytest.Options{Middleware: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
				if begun.Load() {
					w = tampering{w, what}
				}
				next.ServeHTTP(w, request)
			})
		}})
		ref := artifact(t, r, blobOf{mediaType: "application/yaml", data: []byte("secret: 1"), title: "a.yaml"})
		begun.Store(true)
		_, err := (&source.Fetcher{Registry: registries{r}}).FetchArtifact(t.Context(), ref, source.Pick{})
		var wrong *source.DigestError
		if !errors.As(err, &wrong) || len(wrong.Got) != 64 || len(wrong.Want) != 64 {
			t.Errorf("%s: got %v", what, err)
		}
	}
	// A store that answers with another artifact than the one that was asked for.
	store := memory.New()
	other := push(t, store, "latest", blobOf{mediaType: "application/yaml", data: []byte("a: 1"), title: "a.yaml"})
	ref, err := name.NewDigest("r.example/x@sha256:" + sum(""))
	if err != nil {
		t.Fatal(err)
	}
	_, err = (&source.Fetcher{Registry: stores{wrong{store}}}).FetchArtifact(t.Context(), ref, source.Pick{})
	var wrong *source.DigestError
	if !errors.As(err, &wrong) || wrong.Got != other.Digest.Encoded() || wrong.Want != digest.FromString("").Encoded() {
		t.Errorf("got %v", err)
	}
}
