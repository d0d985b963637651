package place

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/registry"
)

const (
	pin    = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	pin512 = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		want Place
	}{
		{"registry.example/krt/edge", Place{Repository: "registry.example/krt/edge"}},
		{"registry.example/krt/edge:1.4.0", Place{Repository: "registry.example/krt/edge", Tag: "1.4.0"}},
		{"registry.example/edge@" + pin, Place{Repository: "registry.example/edge", Digest: pin}},
		{"registry.example/edge@" + pin512, Place{Repository: "registry.example/edge", Digest: pin512}},
		{"registry.example/edge:1@" + pin, Place{Repository: "registry.example/edge", Tag: "1", Digest: pin}},
		{"registry.example:5000/edge", Place{Repository: "registry.example:5000/edge"}},
		{"registry.example:5000/edge:1", Place{Repository: "registry.example:5000/edge", Tag: "1"}},
		{"localhost/edge:1", Place{Repository: "localhost/edge", Tag: "1"}},
		{"localhost:5000/a/b/c:1", Place{Repository: "localhost:5000/a/b/c", Tag: "1"}},
		{"127.0.0.1:5000/edge:1", Place{Repository: "127.0.0.1:5000/edge", Tag: "1"}},
		{"[::1]:5000/edge:1", Place{Repository: "[::1]:5000/edge", Tag: "1"}},
		{"[2001:db8::1]/edge", Place{Repository: "[2001:db8::1]/edge"}},
		{"registry.example/edge:1.0.0+build.5", Place{Repository: "registry.example/edge", Tag: "1.0.0_build.5"}},
		{"oci:dist:1.0.0+build.5", Place{Dir: "dist", Tag: "1.0.0_build.5"}},
		{"docker.io/krt/edge:1", Place{Repository: "index.docker.io/krt/edge", Tag: "1"}},

		{"oci:dist", Place{Dir: "dist"}},
		{"oci:./dist/:1.4.0", Place{Dir: "dist", Tag: "1.4.0"}},
		{"oci:./dist:1.4.0", Place{Dir: "dist", Tag: "1.4.0"}},
		{"oci:./dist/", Place{Dir: "dist"}},
		{"oci:.", Place{Dir: "."}},
		{"oci:.:1", Place{Dir: ".", Tag: "1"}},
		{"oci:../dist@" + pin, Place{Dir: "../dist", Digest: pin}},
		{"oci:dist:1@" + pin, Place{Dir: "dist", Tag: "1", Digest: pin}},
		{"oci:/media/usb:1/dist:2", Place{Dir: "/media/usb:1/dist", Tag: "2"}},
		{"oci:/media/usb:1/dist", Place{Dir: "/media/usb:1/dist"}},
		{"oci:/home/me@site/dist:2", Place{Dir: "/home/me@site/dist", Tag: "2"}},
		{"oci:a:b:c", Place{Dir: "a:b", Tag: "c"}},
		{"oci:a b:1", Place{Dir: "a b", Tag: "1"}},

		{"", Place{}},
		{"edge", Place{}},
		{"edge:1", Place{}},
		{"krt/edge:1", Place{}},       // not Docker Hub: who forgets the registry does not mean to publish there
		{"docker.io/edge:1", Place{}}, // the library is Docker's own
		{"docker.io/edge", Place{}},
		{"/dist", Place{}},
		{"./dist:1", Place{}},
		{"../dist", Place{}},
		{"https://registry.example/edge", Place{}},
		{"oci://dist", Place{}}, // Helm's spelling of a registry
		{"oci://registry.example:5000/krt/edge:1.0.0", Place{}},
		{"oci:///srv/dist:1", Place{}},
		{"docker://registry.example/krt/edge:1.0.0", Place{}},
		{"oci:", Place{}},
		{"oci::1", Place{}},
		{"oci:dist:", Place{}},
		{"oci:dist@", Place{}},
		{"oci:dist@1.0", Place{}},
		{"oci:dist@sha256:abc", Place{}},
		{"oci:dist@md5:d41d8cd98f00b204e9800998ecf8427e", Place{}},
		{"registry.example/", Place{}},
		{"registry.example/edge:", Place{}},
		{"registry.example/edge@", Place{}},
		{"registry.example/edge@sha256:abc", Place{}},
		{"registry.example/edge@" + strings.ToUpper(pin), Place{}},
		{"registry.example/edge:1:2", Place{}},
		{"registry.example/edge:with space", Place{}},
		{"registry.example/Edge:1", Place{}},
		{"registry.example/../edge", Place{}},
		{"registry example.com/edge", Place{}},
		{"user@registry.example/edge", Place{}},
	} {
		got, err := Parse(c.text)
		if refused := c.want == (Place{}); got != c.want || refused != (err != nil) {
			t.Errorf("%q is %+v, error %v; want %+v", c.text, got, err, c.want)
		}
		if err != nil {
			if !strings.Contains(err.Error(), `"`+c.text+`"`) {
				t.Errorf("%q is not named in: %v", c.text, err)
			}
			continue
		}
		if again, err := Parse(got.String()); err != nil || again != got {
			t.Errorf("%q is %q, which is %+v, error %v", c.text, got, again, err)
		}
	}
}

func TestParseTarget(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"oci:dist:1.0.0":                  "",
		"registry.example/krt/edge":       "",
		"dist":                            `"dist" is not a reference: want oci:FOLDER[:TAG] or REGISTRY/REPOSITORY[:TAG]`,
		"edge.tar":                        `"edge.tar" is an archive: want oci:FOLDER[:TAG] or REGISTRY/REPOSITORY[:TAG]; krtpkg export writes archives`,
		"./edge.tar.zst":                  `"./edge.tar.zst" is an archive: want oci:FOLDER[:TAG] or REGISTRY/REPOSITORY[:TAG]; krtpkg export writes archives`,
		"oci:dist@" + pin:                 `"oci:dist@` + pin + `" has a digest: want oci:FOLDER[:TAG] or REGISTRY/REPOSITORY[:TAG]`,
		"oci://registry.example/krt/edge": `"oci://registry.example/krt/edge" is a URL: write registry.example/krt/edge for a registry; a folder is oci:FOLDER, with one slash if it is absolute`,
	} {
		if _, err := ParseTarget(text); fmt.Sprint(err) != want && (err != nil || want != "") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"registry.example/krt/edge:1@" + pin, "oci:a:b/c@d:1", "[::1]:5000/x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text)
		if err != nil {
			return
		}
		if (p.Repository == "") == (p.Dir == "") {
			t.Errorf("%q is %+v", text, p)
		}
		if again, err := Parse(p.String()); p.IsRegistry() && (err != nil || again != p) {
			t.Errorf("%q is %q, which is %+v, error %v", text, p, again, err)
		}
	})
}

func TestResolve(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "dist")
	client, err := registry.New(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := registrytest.StartRegistry(t, registrytest.Options{})
	resolve := func(text string) (string, string, error) {
		t.Helper()
		p, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		store, err := p.Open(t.Context(), client)
		if err != nil {
			return "", "", err
		}
		desc, err := p.Resolve(t.Context(), store)
		return p.Tag, desc.Digest.String(), err
	}

	if _, _, err := resolve("oci:" + dir); err == nil || !strings.Contains(err.Error(), dir+" is not an OCI layout") {
		t.Errorf("a folder that is not there: %v", err)
	}
	for _, text := range []string{"oci:" + dir, r.Host + "/krt/edge"} {
		p, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		store, err := p.Create(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		data := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
		desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, data)
		if err := store.Push(t.Context(), desc, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		for _, tag := range []string{"1.0.0", "sha256-" + desc.Digest.Encoded() + ".sig"} {
			if err := store.Tag(t.Context(), desc, tag); err != nil {
				t.Fatal(err)
			}
		}
		for _, how := range []string{":1.0.0", "@" + desc.Digest.String(), ":nonsense@" + desc.Digest.String()} {
			if _, digest, err := resolve(text + how); err != nil || digest != desc.Digest.String() {
				t.Errorf("%s%s is %s, error %v", text, how, digest, err)
			}
		}
		for _, how := range []string{":2.0.0", "@" + pin} {
			if _, _, err := resolve(text + how); err == nil || !strings.Contains(err.Error(), text+how+": not found") {
				t.Errorf("%s%s: %v", text, how, err)
			}
		}
	}

	// The only version of a layout needs no name, and one must be named where there are more.
	if tag, _, err := resolve("oci:" + dir); err != nil || tag != "1.0.0" {
		t.Errorf("the only tag is %q, error %v", tag, err)
	}
	if _, _, err := resolve(r.Host + "/krt/edge"); err == nil || !strings.Contains(err.Error(), "has no version") {
		t.Errorf("a registry without a tag: %v", err)
	}
	store, err := layout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := store.Resolve(t.Context(), "1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Tag(t.Context(), desc, "2.0.0"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := resolve("oci:" + dir); err == nil || !strings.Contains(err.Error(), "want one of 2: 1.0.0, 2.0.0") {
		t.Errorf("two tags: %v", err)
	}
}

// The volumes of one archive are one reference, and those of parity go along.
func TestSingle(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ args, want string }{
		{"registry.example/krt/edge:1", "registry.example/krt/edge:1"},
		{"edge.1-of-2.tar edge.2-of-2.tar:1.0.0", "edge.1-of-2.tar:1.0.0"},
		{"edge.1-of-2.tar edge.2-of-2.tar edge.parity-1-of-1.tar", "edge.1-of-2.tar"},
		{"edge.parity-1-of-2.tar edge.parity-2-of-2.tar", ""},
		{"edge.1-of-2.tar other.2-of-2.tar", ""},
	} {
		if got, err := Single(strings.Fields(c.args)); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: got %q, %v", c.args, got, err)
		}
	}
}
