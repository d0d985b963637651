package bundle_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/oci"
)

const (
	zeros = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	ones  = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

	dockerLayer = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

func image(t *testing.T, s string) name.Digest {
	t.Helper()
	d, err := name.NewDigest(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func web(t *testing.T) *bundle.Content {
	return &bundle.Content{
		Bundle: &bundle.Bundle{
			APIVersion: bundle.APIVersion, Kind: bundle.KindBundle,
			Metadata: bundle.Metadata{Name: "web", Version: "1.0.0", Description: "a: \"web\"\n", Licenses: "MIT", Source: "https://example.org", Revision: "0755"},
			Spec: bundle.BundleSpec{
				Layer: 6, Category: "demo", Provides: []string{"http"}, Requires: []string{"dns"}, Kubernetes: ">=1.29",
				Sources: []bundle.Source{{Dir: "m", SHA256: strings.Repeat("a", 64), Include: []string{"**"}, Path: "m"}},
				Images:  []bundle.ExtraImage{{Image: "worker:1", Reason: "yes"}},
			},
		},
		Images: images.Lock{
			{Image: image(t, "ghcr.io/a/web@"+zeros), Reference: "ghcr.io/a/web:1"},
			{Image: image(t, "index.docker.io/library/worker@"+ones), Reference: "worker:1"},
		},
		Files: []bundle.File{{Path: "config/a.yaml", Data: []byte("a")}, {Path: "config/m/b.yaml", Data: nil}, {Path: "config/ä/" + strings.Repeat("x", 120) + ".yaml", Data: []byte{0, 255}}},
	}
}

func edge(t *testing.T) *bundle.Content {
	return &bundle.Content{
		Runtime: &bundle.RuntimeLock{
			APIVersion: bundle.APIVersion, Kind: bundle.KindRuntimeLock,
			Metadata: bundle.Metadata{Name: "edge", Version: "1.0.0+build"}, Provided: []string{"dns"},
			Bundles: []bundle.LockedBundle{{Name: "web", Version: "1.0.0", Layer: 6, Digest: zeros}},
		},
		Images: images.Lock{{Image: image(t, "krtpkg.invalid/bundles/web@"+zeros), Reference: "krtpkg.invalid/bundles/web@" + zeros}},
	}
}

func TestPackAndOpenGiveBackTheContent(t *testing.T) {
	t.Parallel()
	for _, want := range []*bundle.Content{web(t), edge(t)} {
		for _, created := range []time.Time{{}, time.Unix(1_700_000_000, 0)} {
			store := memory.New()
			desc, err := want.Pack(t.Context(), store, created)
			if err != nil {
				t.Fatal(err)
			}
			got, err := bundle.Open(t.Context(), store, desc)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got.Bundle, want.Bundle) || !reflect.DeepEqual(got.Runtime, want.Runtime) {
				t.Errorf("got  %+v %+v\nwant %+v %+v", got.Bundle, got.Runtime, want.Bundle, want.Runtime)
			}
			if fmt.Sprint(got.Images) != fmt.Sprint(want.Images) || fmt.Sprint(got.Files) != fmt.Sprint(want.Files) {
				t.Errorf("got  %v %v\nwant %v %v", got.Images, got.Files, want.Images, want.Files)
			}
			checkManifest(t, store, got, created)
		}
	}
}

// The wire format of FORMAT.md §1 and §2.
func checkManifest(t *testing.T, store content.Fetcher, a *bundle.Artifact, created time.Time) {
	t.Helper()
	m := a.Manifest
	kind := map[bool]string{true: bundle.TypeBundle, false: bundle.TypeRuntime}[a.Bundle != nil]
	if m.ArtifactType != kind || a.Descriptor.ArtifactType != kind || m.MediaType != ocispec.MediaTypeImageManifest ||
		len(m.Layers) != 1 || m.Layers[0].MediaType != dockerLayer || m.Config.MediaType != ocispec.MediaTypeImageConfig {
		t.Errorf("manifest %+v", m)
	}
	data, err := content.FetchAll(t.Context(), store, m.Config)
	if err != nil {
		t.Fatal(err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(data, &config); err != nil {
		t.Fatal(err)
	}
	labels := config.Config.Labels
	if labels["dev.carvel.imgpkg.bundle"] != "true" || labels[ocispec.AnnotationTitle] != a.Metadata().Name || m.Annotations[ocispec.AnnotationVersion] != a.Metadata().Version {
		t.Errorf("labels %v, annotations %v", labels, m.Annotations)
	}
	if (config.Created == nil) != created.IsZero() || config.Created != nil && !config.Created.Equal(created) {
		t.Errorf("created %v, want %v", config.Created, created)
	}
}

func TestPackRefuses(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"../a":          `file "../a" is not allowed in a bundle`,
		"/a":            `file "/a" is not allowed in a bundle`,
		"config//a":     `file "config//a" is not allowed in a bundle`,
		"config/a\n---": `file "config/a\n---" has non-printable characters in its name`,
		"config/a.yaml": "two sources write the file config/a.yaml",
	} {
		c := web(t)
		c.Files = append(c.Files, bundle.File{Path: path})
		store := memory.New()
		if _, err := c.Pack(t.Context(), store, time.Time{}); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", path, err, want)
		}
	}
}

// What could not be opened again is not made.
func TestPackKeepsToTheLimitsOfOpen(t *testing.T) {
	t.Parallel()
	many, big := web(t), web(t)
	for i := range 100_000 {
		many.Files = append(many.Files, bundle.File{Path: fmt.Sprint("config/", i)})
	}
	data := make([]byte, 64<<20)
	for i := range 8 {
		big.Files = append(big.Files, bundle.File{Path: fmt.Sprint("config/", i), Data: data})
	}
	for _, c := range []*bundle.Content{many, big} {
		if _, err := c.Pack(t.Context(), memory.New(), time.Time{}); err == nil || !strings.Contains(err.Error(), "the limit is 100000 files and 536870912 bytes") {
			t.Errorf("got %v", err)
		}
	}
}

// layer is the parts of a layer that someone else made.
type layer struct {
	entries []tar.Header
	data    map[string]string
	// after stands before the end of the archive.
	after string
	// change, if set, returns other bytes for the archive and its packed form.
	change func(plain, packed []byte) []byte
}

const (
	lockYAML    = "apiVersion: imgpkg.carvel.dev/v1alpha1\nkind: ImagesLock\nimages: []\n"
	bundleYAML  = "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: web, version: 1.0.0}\nspec: {layer: 6, sources: [{dir: m}]}\n"
	runtimeYAML = "apiVersion: krtpkg.dev/v1alpha1\nkind: RuntimeLock\nmetadata: {name: edge, version: 1.0.0}\nbundles: [{name: web, version: 1.0.0, layer: 6, digest: \"" + zeros + "\"}]\n"
)

// good returns a bundle without a fault, and with more entries.
func good(entries ...tar.Header) layer {
	l := layer{data: map[string]string{".imgpkg/images.yml": lockYAML, ".krtpkg/bundle.yaml": bundleYAML}}
	l.entries = append([]tar.Header{file(".imgpkg/images.yml"), file(".krtpkg/bundle.yaml")}, entries...)
	return l
}

func file(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }

// with changes a file of the layer; "" leaves it out.
func (l layer) with(name, data string) layer {
	l.data[name] = data
	for i, h := range l.entries {
		if h.Name == name {
			if data == "" {
				l.entries = append(l.entries[:i:i], l.entries[i+1:]...)
			}
			return l
		}
	}
	l.entries = append(l.entries, file(name))
	return l
}

func (l layer) bytes(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	archive := tar.NewWriter(zip)
	for _, h := range l.entries {
		data := l.data[h.Name]
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(data))
		}
		if err := archive.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(archive, data); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, err := io.WriteString(zip, l.after)
	if err := errors.Join(err, archive.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	if l.change == nil {
		return out.Bytes()
	}
	unzip, err := gzip.NewReader(bytes.NewReader(out.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(unzip)
	if err != nil {
		t.Fatal(err)
	}
	return l.change(plain, out.Bytes())
}

// pack puts a layer into a store as an artifact of a type.
func pack(t *testing.T, store content.Pusher, artifactType string, layer []byte) ocispec.Descriptor {
	t.Helper()
	push := func(mediaType string, data []byte) ocispec.Descriptor {
		desc := content.NewDescriptorFromBytes(mediaType, data)
		if err := store.Push(t.Context(), desc, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		return desc
	}
	m := ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: push(ocispec.MediaTypeImageConfig, []byte("{}")),
		Layers: []ocispec.Descriptor{push(dockerLayer, layer)},
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return push(m.MediaType, raw)
}

func TestOpenTakesFolders(t *testing.T) {
	t.Parallel()
	l := good(tar.Header{Typeflag: tar.TypeDir, Name: "config/"}, tar.Header{Typeflag: tar.TypeDir, Name: "config/sub"}).with("config/sub/a.yaml", "a").with(".imgpkg/bundle.yml", "b")
	store := memory.New()
	got, err := bundle.Open(t.Context(), store, pack(t, store, bundle.TypeBundle, l.bytes(t)))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Files) != 1 || got.Files[0].Path != "config/sub/a.yaml" || len(got.AllFiles()) != 4 {
		t.Errorf("got %v of %v", got.Files, got.AllFiles())
	}
}

// defined returns a bundle with another definition.
func defined(old, new string) layer {
	return good().with(".krtpkg/bundle.yaml", strings.Replace(bundleYAML, old, new, 1))
}

// based is a bundle with a manifest, and a kustomization that names something.
func based(resource string) layer {
	return good().with("config/a.yaml", "a").with("kustomization.yaml", "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: ["+resource+"]\n")
}

// behind returns a layer with other bytes, made of its archive and of its packed form.
func behind(l layer, change func(plain, packed []byte) []byte) layer {
	l.change = change
	return l
}

func zipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	_, err := zip.Write(data)
	if err := errors.Join(err, zip.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// tarOf is an archive with one file.
func tarOf(t *testing.T, name string) []byte {
	t.Helper()
	var out bytes.Buffer
	archive := tar.NewWriter(&out)
	h := file(name)
	if err := errors.Join(archive.WriteHeader(&h), archive.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// locked is a bundle whose lock has an image, and the reference of its author unless that is "".
func locked(image, reference string) layer {
	entry := "{image: '" + image + "'}"
	if reference != "" {
		entry = "{image: '" + image + "', annotations: {kbld.carvel.dev/id: '" + reference + "'}}"
	}
	return good().with(".imgpkg/images.yml", strings.Replace(lockYAML, "[]", "["+entry+"]", 1))
}

// Whatever a registry sends, it is a message and nothing else.
func TestOpenRefusesHostileLayers(t *testing.T) {
	t.Parallel()
	entry := func(kind byte, name string) layer {
		return good(tar.Header{Typeflag: kind, Name: name, Linkname: "target", Mode: 0o777})
	}
	for _, c := range []struct {
		name  string
		layer layer
		want  string
	}{
		{"path traversal", good().with("../evil", "x"), `entry "../evil" leaves the bundle`},
		{"path traversal inside", good().with("config/../../evil", "x"), `entry "config/../../evil" leaves the bundle`},
		{"absolute path", good().with("/etc/passwd", "x"), `entry "/etc/passwd" leaves the bundle`},
		{"backslashes", good().with(`config\..\evil`, "x"), `entry "config\\..\\evil" leaves the bundle`},
		{"path that is not clean", good().with("config//a", "x"), `entry "config//a" leaves the bundle`},
		{"path that is none", good().with(".", "x"), `entry "." leaves the bundle`},
		{"folder out of the tree", entry(tar.TypeDir, "../evil/"), `entry "../evil/" leaves the bundle`},
		{"symbolic link", entry(tar.TypeSymlink, "config/a"), `entry "config/a" is neither file nor folder`},
		{"hard link", entry(tar.TypeLink, "config/a"), `entry "config/a" is neither file nor folder`},
		{"character device", entry(tar.TypeChar, "config/a"), `entry "config/a" is neither file nor folder`},
		{"block device", entry(tar.TypeBlock, "config/a"), `entry "config/a" is neither file nor folder`},
		{"pipe", entry(tar.TypeFifo, "config/a"), `entry "config/a" is neither file nor folder`},
		// Whoever unpacks the layer anywhere gets the same files, and all of the layer was looked at.
		{"another archive behind the end", behind(good(), func(plain, packed []byte) []byte { return zipped(t, append(plain, tarOf(t, "config/b.yaml")...)) }), "trailing data behind the end of the archive"},
		{"another member of gzip", behind(good(), func(plain, packed []byte) []byte { return append(packed, zipped(t, tarOf(t, "config/b.yaml"))...) }), "trailing data behind the end of the archive"},
		{"member of gzip with zeros", behind(good(), func(plain, packed []byte) []byte { return append(packed, zipped(t, make([]byte, 1024))...) }), "trailing data behind the end of the archive"},
		{"something behind the end of gzip", behind(good(), func(plain, packed []byte) []byte { return append(packed, "garbage"...) }), "trailing data behind the end of the archive"},
		{"endless padding", behind(good(), func(plain, packed []byte) []byte { return zipped(t, append(plain, make([]byte, 2<<20)...)) }), "trailing data behind the end of the archive"},
		{"whiteout", good().with("config/.wh.a.yaml", ""+"x"), `entry "config/.wh.a.yaml": names that begin with .wh. remove files`},
		{"opaque whiteout", good().with("config/.wh..wh..opq", "x"), `entry "config/.wh..wh..opq": names that begin with .wh. remove files`},
		{"whiteout of a folder", good(tar.Header{Typeflag: tar.TypeDir, Name: ".wh.config/"}), `entry ".wh.config": names that begin with .wh. remove files`},
		{"file and folder", good(file("config/a"), file("config/a/b.yaml")), `entry "config/a" is both a file and a folder`},
		{"folder and file", good(file("config/a/b.yaml"), file("config/a")), `entry "config/a" is both a file and a folder`},
		{"folder of an entry and file", good(tar.Header{Typeflag: tar.TypeDir, Name: "config/a/"}, file("config/a")), `entry "config/a" is both a file and a folder`},
		{"files in upper and lower case", good(file("config/a.yaml"), file("config/A.yaml")), `entry "config/A.yaml" differs from "config/a.yaml" only in case`},
		{"folders in upper and lower case", good(file("config/a.yaml"), file("Config/b.yaml")), `entry "Config" differs from "config" only in case`},
		{"name of 300 characters", good(file("config/" + strings.Repeat("d", 300))), "a part of its name has 300 bytes, the limit is 255"},
		{"path of 4,000 characters", good(file("config" + strings.Repeat("/dddddddddddd", 308))), "its name has 4010 bytes, the limit is 1024"},
		{"twice", good(file(".krtpkg/bundle.yaml")), `duplicate entry ".krtpkg/bundle.yaml"`},
		{"no image lock", good().with(".imgpkg/images.yml", ""), ".imgpkg/images.yml is missing"},
		{"image lock of another kind", good().with(".imgpkg/images.yml", "kind: x"), ".imgpkg/images.yml: is  x, want imgpkg.carvel.dev/v1alpha1 ImagesLock"},
		{"image without digest", good().with(".imgpkg/images.yml", strings.Replace(lockYAML, "[]", "[{image: web}]", 1)), ".imgpkg/images.yml: image \"web\" is not pinned by digest: a digest must contain exactly one '@' separator (e.g. registry/repository@digest) saw: web"},
		{"image that leads out of its folder", locked("127.0.0.1:5000/../../evil/web@"+zeros, ""), `.imgpkg/images.yml: image "127.0.0.1:5000/../../evil/web@` + zeros + `": "../../evil/web" is not a repository`},
		{"image that begins with dots", locked("../../x@"+zeros, ""), `"..": not a registry`},
		{"image of a host of dots", locked("../x@"+zeros, ""), `"..": not a registry`},
		{"image with dots inside", locked("a/../../../../x@"+zeros, ""), `"a/../../../../x" is not a repository`},
		{"image with an empty part", locked("quay.io/x//y@"+zeros, ""), `"x//y" is not a repository`},
		{"reference that leads out of its folder", locked("quay.io/x/y@"+zeros, "quay.io/../../krt/shop:stable"), `.imgpkg/images.yml: "quay.io/../../krt/shop:stable" is not an image reference: "../../krt/shop" is not a repository`},
		{"reference with dots in its tag", locked("quay.io/x/y@"+zeros, "quay.io/x/y:../z"), `could not parse reference: quay.io/x/y:../z`},
		{"reference with a digest that leads out", locked("quay.io/x/y@"+zeros, "quay.io/../y@"+zeros), `"../y" is not a repository`},
		{"no definition", good().with(".krtpkg/bundle.yaml", ""), ".krtpkg/bundle.yaml is missing in a bundle"},
		{"runtime in a bundle", good().with(".krtpkg/runtime.yaml", runtimeYAML), ".krtpkg/bundle.yaml is missing in a bundle"},
		{"field of a newer version", good().with(".krtpkg/bundle.yaml", bundleYAML+"future: 1\n"), ".krtpkg/bundle.yaml: yaml: unmarshal errors:\n  line 5: field future not found in type bundle.Bundle (made by a newer krtpkg?)"},
		{"name that escapes", good().with(".krtpkg/bundle.yaml", strings.Replace(bundleYAML, "web", "../web", 1)), `.krtpkg/bundle.yaml:3:18: metadata.name "../web" is not a name: want lower-case letters, digits and dashes, at most 63`},
		// What a definition cannot be, a bundle cannot either.
		{"version that escapes", defined("1.0.0", "../../x"), `.krtpkg/bundle.yaml:3:32: metadata.version "../../x" is not a semantic version: want MAJOR.MINOR.PATCH, as in 1.2.3 or 2.0.0-rc.1`},
		{"layer below the first", defined("layer: 6", "layer: -1"), ".krtpkg/bundle.yaml:4:15: spec.layer is -1, want a number from 0 to 6"},
		{"layer above the last", defined("layer: 6", "layer: 999999"), ".krtpkg/bundle.yaml:4:15: spec.layer is 999999, want a number from 0 to 6"},
		{"range that is none", defined("layer: 6", "layer: 6, kubernetes: '!!!'"), `.krtpkg/bundle.yaml:4:30: spec.kubernetes "!!!" is not a version range, such as ">=1.29 <1.35"`},
		{"category with a line", defined("layer: 6", `layer: 6, category: "a\nb"`), ".krtpkg/bundle.yaml:4:28: spec.category \"a\\nb\" is not a category: want lower-case letters, digits and dashes"},
		{"source of no kind", defined("{dir: m}", "{path: m}"), ".krtpkg/bundle.yaml:4:28: a source needs exactly one of dir, file, url, archive, git, oci and chart"},
		{"source that leaves its folder", defined("{dir: m}", "{dir: m, path: ../m}"), `.krtpkg/bundle.yaml:4:43: path "../m" leaves its folder: want a relative path without ..`},
		{"rule that is none", defined("layer: 6", "layer: 6, searchRules: [{}]"), ".krtpkg/bundle.yaml:4:31: spec.searchRules[0]: want keyMatcher, or valueMatcher with one of image and imageRepo, or both"},
		{"icon with a script", defined("layer: 6", "layer: 6, icon: '<svg><script/></svg>'"), ".krtpkg/bundle.yaml:4:24: the icon is not an SVG: its root is \"svg\" in the namespace \"\""},
		{"login in a source", defined("{dir: m}", "{url: 'https://me:secret@host.example/a.yaml'}"), ".krtpkg/bundle.yaml:4:34: url contains a login, which would be published: use ~/.netrc, git's credential helpers or --source-mirror"},
		{"name with another manifest", good().with("config/a\n---\napiVersion: v1\nkind: Pod\n#.yaml", "a"), `entry "config/a\n---\napiVersion: v1\nkind: Pod\n#.yaml" has non-printable characters in its name`},
		{"name that moves the cursor", good().with("config/\x1b[2Ka.yaml", "a"), `entry "config/\x1b[2Ka.yaml" has non-printable characters in its name`},
		{"name in another order", good().with("config/\u202elmay.a", "a"), `entry "config/\u202elmay.a" has non-printable characters in its name`},
		{"name that is not text", good().with("config/\xff.yaml", "a"), `entry "config/\xff.yaml" has non-printable characters in its name`},
		// Controllers apply what a kustomization names, and read more folders than krtpkg does.
		{"manifest beside config", good().with("evil.yaml", "a"), `unexpected entry "evil.yaml" (made by a newer krtpkg?)`},
		{"folder of its own", good().with("base/kustomization.yaml", "a"), `unexpected entry "base/kustomization.yaml" (made by a newer krtpkg?)`},
		{"other name of a kustomization", good().with("kustomization.yml", "a"), `unexpected entry "kustomization.yml" (made by a newer krtpkg?)`},
		{"file for Flux in a bundle", good().with("flux/a.yaml", "a"), `unexpected entry "flux/a.yaml" (made by a newer krtpkg?)`},
		{"config that is a file", good().with("config", "a"), `unexpected entry "config" (made by a newer krtpkg?)`},
		{"kustomization of a URL", based("https://evil.example/x.yaml"), `kustomization.yaml: "https://evil.example/x.yaml" is not a manifest in config/`},
		{"kustomization of a folder", based("config"), `kustomization.yaml: "config" is not a manifest in config/`},
		{"kustomization of another way to a file", based("./config/a.yaml"), `kustomization.yaml: "./config/a.yaml" is not a manifest in config/`},
		{"kustomization of a hook", based("hooks/a.yaml").with("hooks/a.yaml", "a"), `kustomization.yaml: "hooks/a.yaml" is not a manifest in config/`},
		{"kustomization that generates", good().with("kustomization.yaml", "secretGenerator: []\n"), "kustomization.yaml: yaml: unmarshal errors:\n  line 1: field secretGenerator not found in type bundle.base (made by a newer krtpkg?)"},
		{"kustomization of another kind", good().with("kustomization.yaml", "kind: Component\n"), "kustomization.yaml: is  Component, want kustomize.config.k8s.io/v1beta1 Kustomization"},
		{"nothing", layer{}, ".imgpkg/images.yml is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			store := memory.New()
			desc := pack(t, store, bundle.TypeBundle, c.layer.bytes(t))
			_, err := bundle.Open(t.Context(), store, desc)
			if err == nil || !strings.HasSuffix(err.Error(), ": "+c.want) || !strings.HasPrefix(err.Error(), desc.Digest.String()) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

// A kustomization that leaves a manifest out, or names one that the build would not, is none of a build's.
func TestCheckKustomization(t *testing.T) {
	t.Parallel()
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\n"
	open := func(l layer) *bundle.Artifact {
		store := memory.New()
		got, err := bundle.Open(t.Context(), store, pack(t, store, bundle.TypeBundle, l.bytes(t)))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	built := strings.Replace(based("config/a.yaml").data["kustomization.yaml"], " [config/a.yaml]", "\n  - config/a.yaml", 1)
	for name, c := range map[string]struct {
		layer  layer
		isWhat bool
	}{
		"none":                   {good(), true},
		"as built":               {good().with("config/a.yaml", pod).with("kustomization.yaml", built), true},
		"one is left out":        {good().with("config/a.yaml", pod).with("config/b.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n").with("kustomization.yaml", built), false},
		"one that holds nothing": {good().with("config/a.yaml", "# nothing\n").with("kustomization.yaml", built), false},
		"one that is twice":      {good().with("config/a.yaml", pod+"---\n"+pod).with("kustomization.yaml", built), false},
	} {
		err := open(c.layer).CheckKustomization()
		var altered *bundle.AlteredError
		if c.isWhat && err != nil || !c.isWhat && !errors.As(err, &altered) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A runtime's lock and its image lock must agree.
func TestOpenRefusesRuntimesThatContradictThemselves(t *testing.T) {
	t.Parallel()
	lock := strings.Replace(lockYAML, "[]", "[{image: \"krtpkg.invalid/bundles/web@"+zeros+"\"}]", 1)
	l := func(lock, runtime string) layer {
		return good().with(".krtpkg/bundle.yaml", "").with(".imgpkg/images.yml", lock).with(".krtpkg/runtime.yaml", runtime)
	}
	for _, c := range []struct {
		name  string
		layer layer
		want  string
	}{
		{"agreement", l(lock, runtimeYAML), ""},
		{"bundle that is not locked", l(lockYAML, runtimeYAML), "bundle web " + zeros + " is not in .imgpkg/images.yml"},
		{"bundle of another digest", l(lock, strings.Replace(runtimeYAML, zeros, ones, 1)), "bundle web " + ones + " is not in .imgpkg/images.yml"},
		{"bundle with a path for a name", l(lock, strings.Replace(runtimeYAML, "name: web", "name: a/b", 1)), `bundle name "a/b" is not a name: want lower-case letters, digits and dashes, at most 63`},
		{"bundle twice", l(lock, strings.Replace(runtimeYAML, "]\n", ", {name: web, version: 2.0.0, layer: 6, digest: \""+zeros+"\"}]\n", 1)), `duplicate bundle "web"`},
		{"version of a runtime that escapes", l(lock, strings.Replace(runtimeYAML, "1.0.0", "../../x", 1)), `version "../../x" is not a semantic version: want MAJOR.MINOR.PATCH, as in 1.2.3 or 2.0.0-rc.1`},
		{"version of a bundle that escapes", l(lock, strings.Replace(runtimeYAML, "version: 1.0.0, layer", "version: a/b, layer", 1)), `bundle version "a/b" is not a semantic version: want MAJOR.MINOR.PATCH, as in 1.2.3 or 2.0.0-rc.1`},
		{"bundle of no layer", l(lock, strings.Replace(runtimeYAML, "layer: 6", "layer: -1", 1)), "bundle web is of layer -1, want 0 to 6"},
		{"bundle of a layer too high", l(lock, strings.Replace(runtimeYAML, "layer: 6", "layer: 999999", 1)), "bundle web is of layer 999999, want 0 to 6"},
		{"category with a line", l(lock, strings.Replace(runtimeYAML, "layer: 6", `layer: 6, category: "a\nb"`, 1)), `bundle web: category "a\nb" is not a category: want lower-case letters, digits and dashes`},
		{"login in the source", l(lock, strings.Replace(runtimeYAML, "version: 1.0.0}", "version: 1.0.0, source: 'https://token@git.example/x'}", 1)), "metadata.source contains a login"},
		{"manifests in a runtime", l(lock, runtimeYAML).with("config/a.yaml", "a"), `unexpected entry "config/a.yaml" (made by a newer krtpkg?)`},
		{"kustomization in a runtime", l(lock, runtimeYAML).with("kustomization.yaml", "a"), `unexpected entry "kustomization.yaml" (made by a newer krtpkg?)`},
		{"no lock", good().with(".krtpkg/bundle.yaml", ""), ".krtpkg/runtime.yaml is missing in a runtime"},
		{"field of a newer version", l(lock, runtimeYAML+"future: 1\n"), ".krtpkg/runtime.yaml: yaml: unmarshal errors:\n  line 5: field future not found in type bundle.RuntimeLock (made by a newer krtpkg?)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			store := memory.New()
			_, err := bundle.Open(t.Context(), store, pack(t, store, bundle.TypeRuntime, c.layer.bytes(t)))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasSuffix(err.Error(), ": "+c.want)) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

// Bytes that are not what the digest names are refused for that reason, whatever else is
// wrong with them.
func TestOpenChecksDigests(t *testing.T) {
	t.Parallel()
	whole := good().with("config/a.yaml", strings.Repeat("content\n", 1000)).bytes(t)
	tampered := bytes.Clone(whole)
	tampered[len(tampered)/2] ^= 1
	other := good().with("config/a.yaml", "other").bytes(t)
	for _, c := range []struct {
		name string
		sent []byte
		want error
	}{
		{"one bit", tampered, content.ErrMismatchedDigest},
		{"another layer of the same length", append(other, make([]byte, max(0, len(whole)-len(other)))...), content.ErrMismatchedDigest},
		{"truncated", whole[:len(whole)-1], io.ErrUnexpectedEOF},
		{"cut in half", whole[:len(whole)/2], io.ErrUnexpectedEOF},
		{"empty", nil, io.ErrUnexpectedEOF},
		{"more behind it", append(bytes.Clone(whole), 'x'), content.ErrTrailingData},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			store := memory.New()
			desc := pack(t, store, bundle.TypeBundle, whole)
			lying := &liar{Fetcher: store, digest: content.NewDescriptorFromBytes("", whole).Digest.String(), data: c.sent}
			_, err := bundle.Open(t.Context(), lying, desc)
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// The same for the manifest itself.
// flipping changes a byte of some fetches of what it is asked for.
type flipping struct {
	content.Fetcher
	digest digest.Digest
	left   int
}

func (f *flipping) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if desc.Digest != f.digest || f.left == 0 {
		return f.Fetcher.Fetch(ctx, desc)
	}
	f.left--
	data, err := content.FetchAll(ctx, f.Fetcher, desc)
	if err == nil {
		data[len(data)-20] ^= 1
	}
	return io.NopCloser(bytes.NewReader(data)), err
}

// A byte of a layer that changes once on the way is read again: the reader of a large blob cannot do that. What was
// read in vain takes no room.
func TestOpenReadsAgain(t *testing.T) {
	t.Parallel()
	store := memory.New()
	large := web(t)
	large.Files = append(large.Files, bundle.File{Path: "config/large.yaml", Data: bytes.Repeat([]byte("a: 1\n"), 200<<10)})
	desc, err := large.Pack(t.Context(), store, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := bundle.ReadManifest(t.Context(), store, desc)
	if err != nil {
		t.Fatal(err)
	}
	for times, works := range map[int]bool{1: true, 2: false} {
		_, err := bundle.Open(oci.WithMemory(t.Context(), 3<<19), &flipping{store, m.Layers[0].Digest, times}, desc)
		if works != (err == nil) || err != nil && !errors.Is(err, content.ErrMismatchedDigest) {
			t.Errorf("changed %d times: %v", times, err)
		}
	}
}

func TestOpenChecksTheManifest(t *testing.T) {
	t.Parallel()
	store := memory.New()
	desc := pack(t, store, bundle.TypeBundle, good().bytes(t))
	raw, err := content.FetchAll(t.Context(), store, desc)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if _, err := bundle.Open(t.Context(), &liar{store, desc.Digest.String(), raw}, desc); !errors.Is(err, content.ErrMismatchedDigest) {
		t.Errorf("got %v", err)
	}
	desc.Size = 5 << 20
	if _, err := bundle.Open(t.Context(), store, desc); err == nil || !strings.Contains(err.Error(), "the limit is") {
		t.Errorf("got %v", err)
	}
}

// liar sends other bytes for a digest.
type liar struct {
	content.Fetcher
	digest string
	data   []byte
}

func (l *liar) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if desc.Digest.String() == l.digest {
		return io.NopCloser(bytes.NewReader(l.data)), nil
	}
	return l.Fetcher.Fetch(ctx, desc)
}

func TestOpenRefusesOtherArtifacts(t *testing.T) {
	t.Parallel()
	for _, artifactType := range []string{"", bundle.TypeClosure, "application/vnd.krtpkg.bundle.v2"} {
		store := memory.New()
		desc := pack(t, store, artifactType, good().bytes(t))
		if _, err := bundle.Open(t.Context(), store, desc); !errors.Is(err, bundle.ErrNotOurs) {
			t.Errorf("%q: %v", artifactType, err)
		}
	}
}

// Bombs are refused by what their headers announce, before any of it is unpacked.
func TestOpenUnpacksNoBomb(t *testing.T) {
	for name, headers := range map[string]func(*tar.Writer) error{
		"one file": func(w *tar.Writer) error { return announce(w, "config/bomb", 1<<40) },
		"files together": func(w *tar.Writer) error {
			if err := announce(w, "config/a", 1); err != nil {
				return err
			}
			if _, err := io.WriteString(w, "a"); err != nil {
				return err
			}
			return announce(w, "config/b", 512<<20)
		},
		"number of files": func(w *tar.Writer) error {
			for i := range 100_001 {
				if err := announce(w, fmt.Sprint("config/", i), 0); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			zip := gzip.NewWriter(&out)
			if err := errors.Join(headers(tar.NewWriter(zip)), zip.Close()); err != nil {
				t.Fatal(err)
			}
			store := memory.New()
			desc := pack(t, store, bundle.TypeBundle, out.Bytes())
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := bundle.Open(t.Context(), store, desc)
			runtime.ReadMemStats(&after)
			if err == nil || !strings.Contains(err.Error(), "is over the limit of 100000 files and 536870912 bytes") {
				t.Errorf("got %v", err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 448<<20 || n > 16<<20 && name != "number of files" {
				t.Errorf("%d bytes were allocated", n)
			}
		})
	}
}

func announce(w *tar.Writer, name string, size int64) error {
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size})
}

// Whatever a layer holds, opening it is an error or gives files whose names are as many anywhere.
func FuzzOpen(f *testing.F) {
	for _, l := range []layer{
		good(), good().with("config/a.yaml", "a: 1\n"), good(file("config/a"), file("config/a/b.yaml")), good(file("config/a.yaml"), file("config/A.yaml")),
		good().with("config/.wh.a.yaml", "x"), locked("quay.io/x/y@"+zeros, "quay.io/x/y:1"), locked("../../x@"+zeros, ""), based("config/a.yaml"),
	} {
		zip, err := gzip.NewReader(bytes.NewReader(l.bytes(f)))
		if err != nil {
			f.Fatal(err)
		}
		plain, err := io.ReadAll(zip)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(plain, "")
		f.Add(plain, "behind")
	}
	f.Fuzz(func(t *testing.T, plain []byte, behind string) {
		store := memory.New()
		opened, err := bundle.Open(t.Context(), store, pack(t, store, bundle.TypeBundle, append(zipped(t, plain), behind...)))
		if err != nil {
			return
		}
		if behind != "" {
			t.Errorf("%q behind the end opens", behind)
		}
		seen := map[string]bool{}
		for _, file := range opened.AllFiles() {
			folded := strings.ToLower(file.Path)
			if seen[folded] || strings.Contains(folded, "..") && strings.Contains("/"+folded+"/", "/../") || len(file.Path) > 1024 {
				t.Errorf("%q opens", file.Path)
			}
			seen[folded] = true
		}
		for _, image := range opened.Images {
			if repository := image.Image.Context().RepositoryStr(); strings.Contains(repository, "..") || strings.Contains(repository, "//") {
				t.Errorf("%q opens", image.Image)
			}
		}
	})
}
