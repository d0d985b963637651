package assemble

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"gopkg.in/yaml.v3"
	"oras.land/oras-go/v2/content/memory"
)

// Whoever leaves out what a build needs is told which field it is.
func TestRequiredOptions(t *testing.T) {
	t.Parallel()
	const definition = "../../testdata/upstream/etcd"
	byReference := filepath.Join(t.TempDir(), "runtime.yaml")
	if err := os.WriteFile(byReference, []byte("apiVersion: krtpkg.dev/v1alpha1\nkind: Runtime\nmetadata: {name: edge, version: 1.0.0}\n"+
		"spec: {bundles: [{ref: 'example.com/web@sha256:"+strings.Repeat("a", 64)+"'}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, call := range map[string]func() error{
		"Options.Store is nil":  func() error { _, err := Build(t.Context(), definition, Options{}); return err },
		"Options.Images is nil": func() error { _, err := Build(t.Context(), definition, Options{Store: memory.New()}); return err },
		"Options.Open is nil": func() error {
			_, err := Build(t.Context(), byReference, Options{Store: memory.New(), Images: nowhere{}})
			return err
		},
		"update: Options.Images is nil":        func() error { _, err := Update(t.Context(), definition, false, Options{}); return err },
		"list outdated: Options.Images is nil": func() error { _, err := ListOutdated(t.Context(), definition, Options{}); return err },
		"list images: Options.Images is nil":   func() error { _, err := ListImages(t.Context(), definition, true, Options{}); return err },
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

type nowhere struct{}

func (nowhere) Resolve(_ context.Context, ref name.Reference) (ocispec.Descriptor, error) {
	panic(ref)
}

// The newest version of an image is a tag of the same variant: neither another one, nor a date, nor a prerelease.
func TestNewestImageTag(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		used string
		tags []string
		want string
	}{
		{"1.25", []string{"1.24", "1.25", "1.26", "1.9", "1.27-alpine", "1.26.3", "20240101", "latest"}, "1.26"},
		{"1.25-alpine", []string{"1.26", "1.27-alpine", "1.28-alpine3.20"}, "1.27-alpine"},
		{"v1.2.3", []string{"1.9.9", "v1.10.0", "v1.3.0", "v2.0.0-rc.1", "v1.2.3"}, "v1.10.0"},
		{"1.2.3", []string{"v9.0.0", "1.2.3"}, "1.2.3"},
		{"2.0.0-rc.1", []string{"2.0.0", "2.0.0-rc.2", "3.0.0-rc.1"}, "3.0.0-rc.1"},
	} {
		if got := newestImageTag(c.used, c.tags); got != c.want {
			t.Errorf("%s among %q: got %s, want %s", c.used, c.tags, got, c.want)
		}
	}
	for _, tag := range []string{"latest", "7", "20240101", "stable-1.2", "sha256-0"} {
		if imageVersion.MatchString(tag) {
			t.Errorf("%s is taken for a version", tag)
		}
	}
}

// What looks like a secret is told of; the name of a Secret, an empty value or a number is not.
func TestFindSecretValues(t *testing.T) {
	t.Parallel()
	var document yaml.Node
	if err := yaml.Unmarshal([]byte("auth: {password: hunter22, existingSecret: name, rootPassword: ''}\napiToken: abc\npasswordLength: 12\ntoken: 5\n"), &document); err != nil {
		t.Fatal(err)
	}
	if got := findSecretValues(document.Content[0]); !slices.Equal(got, []string{"auth.password", "apiToken"}) {
		t.Errorf("got %q", got)
	}
}
