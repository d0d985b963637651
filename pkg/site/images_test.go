package site_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/site"
)

// An image whose origin does not answer is a warning where it may be meant to come from there, and an error where it
// should be elsewhere: in the repository that has the other images, or out of the archive.
func TestProbeUnreachable(t *testing.T) {
	t.Parallel()
	store := memory.New()
	var lock images.Lock
	for _, text := range []string{"there", "lost"} {
		desc, err := oras.PushBytes(t.Context(), store, ocispec.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[],"annotations":{"is":"`+text+`"}}`))
		if err != nil {
			t.Fatal(err)
		}
		if text == "there" {
			err = store.Tag(t.Context(), desc, desc.Digest.String())
		}
		image, parseErr := name.NewDigest("ghcr.io/example/" + text + "@" + desc.Digest.String())
		if err := errors.Join(err, parseErr); err != nil {
			t.Fatal(err)
		}
		lock = append(lock, images.Locked{Image: image, Reference: "ghcr.io/example/" + text + ":1.0"})
	}
	setOf := func(lock images.Lock) *bundle.Set {
		b := &bundle.Artifact{Content: bundle.Content{Bundle: &bundle.Bundle{Metadata: bundle.Metadata{Name: "web"}}, Images: lock}}
		return &bundle.Set{Root: b, Bundles: []*bundle.Artifact{b}}
	}
	silent := errors.New("no such host")
	login := &errcode.ErrorResponse{Method: http.MethodGet, URL: &url.URL{}, StatusCode: http.StatusUnauthorized}
	for what, c := range map[string]struct {
		repository string
		lock       images.Lock
		origin     error
		options    site.ProbeOptions
		want       string
	}{
		"one is lost":                     {"site.example/web", lock, silent, site.ProbeOptions{}, "is not in site.example/web, and its origin does not answer"},
		"one is lost, its origin asks":    {"site.example/web", lock, login, site.ProbeOptions{}, ""},
		"none is in the repository":       {"site.example/web", lock[1:], silent, site.ProbeOptions{}, ""},
		"none, but they ran before":       {"site.example/web", lock[1:], silent, site.ProbeOptions{RanBefore: true}, "is not in site.example/web"},
		"an archive":                      {"", lock[1:], silent, site.ProbeOptions{IsArchive: true}, "--registry imports it first"},
		"an archive, and the origin asks": {"", lock[1:], login, site.ProbeOptions{IsArchive: true}, ""},
		"a folder":                        {"", lock[1:], silent, site.ProbeOptions{}, ""},
	} {
		set := setOf(c.lock)
		located, err := site.LocateImages(t.Context(), store, c.repository, set)
		if err != nil {
			t.Fatal(err)
		}
		c.options.Open = func(_ context.Context, repository string) (oras.ReadOnlyTarget, error) {
			if repository == c.repository {
				return store, nil
			}
			return nil, c.origin
		}
		_, findings, err := located.Probe(t.Context(), set, c.options)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range findings {
			if isWrong := f.Severity == preflight.SeverityError; isWrong != (c.want != "") || !strings.Contains(f.Message, c.want) {
				t.Errorf("%s: %s, want %q", what, f, c.want)
			}
		}
		if len(findings) != 1 {
			t.Errorf("%s: %v", what, findings)
		}
	}
}
