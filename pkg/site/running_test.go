package site_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/site"
)

const runningWeb = "ghcr.io/example/web:1.0"

// lockedWeb returns a store with an image of several platforms, its descriptor, and the digest of a platform's manifest
// and of its config.
func lockedWeb(t *testing.T) (store *layout.Store, index ocispec.Descriptor, manifest, config digest.Digest) {
	t.Helper()
	dir := t.TempDir()
	err := imagetest.FillLayout(dir, runningWeb)
	if err == nil {
		store, err = layout.Open(dir)
	}
	if err == nil {
		index, err = store.Resolve(t.Context(), runningWeb)
	}
	if err != nil {
		t.Fatal(err)
	}
	read := func(desc ocispec.Descriptor, into any) {
		data, err := content.FetchAll(t.Context(), store, desc)
		if err := errors.Join(err, json.Unmarshal(data, into)); err != nil {
			t.Fatal(err)
		}
	}
	var list ocispec.Index
	read(index, &list)
	var image ocispec.Manifest
	read(list.Manifests[0], &image)
	return store, index, list.Manifests[0].Digest, image.Config.Digest
}

func appliedFrom(t *testing.T, repository string, store bundle.ReadStore, image digest.Digest) site.Applied {
	t.Helper()
	locked, err := name.NewDigest("ghcr.io/example/web@" + image.String())
	if err != nil {
		t.Fatal(err)
	}
	one := &bundle.Artifact{Content: bundle.Content{
		Bundle: &bundle.Bundle{Metadata: bundle.Metadata{Name: "web", Version: "1.0.0"}},
		Images: images.Lock{{Image: locked, Reference: runningWeb}},
	}}
	return site.Applied{Set: &bundle.Set{Root: one, Bundles: []*bundle.Artifact{one}}, Repository: repository, Store: store}
}

// What nodes report, in all the ways that they do, is compared with the lock.
func TestCompareImages(t *testing.T) {
	t.Parallel()
	store, index, platform, config := lockedWeb(t)
	other := digest.FromString("something else")
	const repository = "site.example/krt/web"
	relocated := repository + "@" + index.Digest.String()
	node := []deploy.Owner{{Kind: "Node", Name: "n1"}}
	for name, c := range map[string]struct {
		image    string
		digest   digest.Digest
		owners   []deploy.Owner
		folder   bool
		allowed  string
		want     string
		proposal string
	}{
		"as locked":                     {image: relocated, digest: index.Digest},
		"not pulled yet":                {image: relocated},
		"a platform's digest":           {image: relocated, digest: platform},
		"a config's digest":             {image: relocated, digest: config},
		"another digest":                {image: relocated, digest: other, want: "otherDigest"},
		"another digest of the name":    {image: runningWeb, digest: other, want: "otherDigest elsewhere"},
		"upstream's name":               {image: runningWeb, digest: index.Digest, want: "elsewhere"},
		"upstream's name, from mirrors": {image: runningWeb, digest: index.Digest, allowed: "ghcr.io"},
		"an allowed path":               {image: runningWeb, digest: index.Digest, allowed: "ghcr.io/example/"},
		"a name that begins the same":   {image: runningWeb, digest: index.Digest, allowed: "ghcr.io/exam", want: "elsewhere"},
		"applied from a folder":         {image: runningWeb, digest: index.Digest, folder: true},
		"a registry that begins the same": {image: "site.example.evil/krt/web:1", digest: other, want: "notLocked elsewhere",
			proposal: `images: {image: "site.example.evil/krt/web:1", reason: "container main of pod shop/web-1 runs it"}`},
		"in the site's registry": {image: "site.example/other/tool:1", digest: other, want: "notLocked",
			proposal: `images: {image: "site.example/other/tool:1", reason: "container main of pod shop/web-1 runs it"}`},
		"a static pod of Docker Hub": {image: "nginx", digest: other, owners: node, want: "notLocked elsewhere",
			proposal: `images: {image: "docker.io/library/nginx:latest", reason: "Node n1 runs it"}`},
		"no reference": {image: "http://what", want: "notLocked"},
	} {
		t.Run(name, func(t *testing.T) {
			applied := appliedFrom(t, repository, store, index.Digest)
			if c.folder {
				applied.Repository = ""
			}
			container := deploy.RunningContainer{Namespace: "shop", Pod: "web-1", Name: "main", Kind: "container", Image: c.image, Digest: c.digest, Owners: c.owners}
			all, err := site.CompareImages(t.Context(), []deploy.RunningContainer{container, container}, []site.Applied{applied}, site.CompareOptions{Registries: []string{c.allowed}})
			if err != nil || len(all) != 1 || len(all[0].Containers) != 2 {
				t.Fatalf("%+v, %v", all, err)
			}
			if got := strings.Trim(fmt.Sprint(all[0].Findings), "[]"); got != c.want {
				t.Errorf("found %q, want %q", got, c.want)
			}
			if got := strings.TrimPrefix(all[0].Field+": "+all[0].Entry, ": "); got != c.proposal {
				t.Errorf("proposed %q, want %q", got, c.proposal)
			}
		})
	}
}

// origins are images elsewhere.
type origins struct{ oras.ReadOnlyTarget }

func (o origins) Origin(_ context.Context, image name.Reference) (oras.ReadOnlyTarget, string, error) {
	return o.ReadOnlyTarget, image.Identifier(), nil
}

// Locked images of what was applied from a folder are read at their origins; one that cannot be read is said.
func TestCompareImagesAtOrigins(t *testing.T) {
	t.Parallel()
	store, index, platform, _ := lockedWeb(t)
	empty, err := layout.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	applied := []site.Applied{appliedFrom(t, "", empty, index.Digest)}
	containers := []deploy.RunningContainer{{Image: runningWeb, Digest: platform}}
	all, err := site.CompareImages(t.Context(), containers, applied, site.CompareOptions{Origins: origins{store}})
	if err != nil || len(all[0].Findings) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
	var notes []string
	note := func(e progress.Event) { notes = append(notes, e.Subject+" "+e.Detail) }
	all, err = site.CompareImages(t.Context(), containers, applied, site.CompareOptions{Origins: origins{empty}, Progress: note})
	if err != nil || len(all[0].Findings) != 1 || len(notes) != 1 || !strings.Contains(notes[0], runningWeb+" cannot be read") {
		t.Errorf("%+v, %v, notes %q", all, err, notes)
	}
}
