// Package bundles holds the ready definitions: a bundle for products of each category of the
// layers, in LAYER/CATEGORY/PRODUCT, and runtimes made of them. Nothing of the products
// themselves is in it: definitions name them by URL and digest.
package bundles

import (
	"embed"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"krtpkg.dev/krtpkg/pkg/bundle"
)

// Files are the definitions with the files beside them. all: takes those whose names begin with
// a dot or an underscore, too, which //go:embed leaves out otherwise.
//
//go:embed all:0-platform all:1-orchestration all:2-lifecycle all:3-cluster-services
//go:embed all:4-security-and-observability all:5-platform-services all:6-applications
//go:embed all:runtimes
var Files embed.FS

// Ready is a bundle that is ready to be built.
type Ready struct {
	// Path is its folder in [Files]: LAYER/CATEGORY/PRODUCT, for own bundles of several
	// versions with the version behind.
	Path     string `json:"path"`
	Name     string `json:"name"`
	Layer    int    `json:"layer"`
	Category string `json:"category"`
	// Product is the third part of the path: an id of the model, or the name of a bundle
	// that is no product's.
	Product string `json:"product"`
	Version string `json:"version"`
	// Pinned says that what it fetches is pinned, so that it builds without krtpkg update.
	Pinned bool `json:"pinned"`
}

// All are the ready bundles, by path.
func All() ([]Ready, error) {
	var all []Ready
	err := fs.WalkDir(Files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "bundle.yaml" || entry.IsDir() {
			return err
		}
		data, err := Files.ReadFile(name)
		if err != nil {
			return err
		}
		d, err := bundle.Parse("bundles/"+name, data)
		if err != nil {
			return err
		}
		pinned, err := pinned(name, d.Bundle)
		if err != nil {
			return err
		}
		dir := path.Dir(name)
		all = append(all, Ready{
			Path: dir, Name: d.Metadata().Name, Layer: d.Bundle.Spec.Layer, Category: d.Bundle.Spec.Category,
			Product: strings.Split(dir, "/")[2], Version: d.Metadata().Version, Pinned: pinned,
		})
		return nil
	})
	slices.SortFunc(all, func(a, b Ready) int { return strings.Compare(a.Path, b.Path) })
	return all, err
}

// pinned says whether each source is pinned, in the definition or by the lock file beside it.
func pinned(name string, b *bundle.Bundle) (bool, error) {
	_, err := fs.Stat(Files, path.Join(path.Dir(name), "bundle.lock.yaml"))
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return !slices.ContainsFunc(b.Spec.Sources, func(s bundle.Source) bool {
		switch {
		case s.Git != "":
			return s.Commit == ""
		case s.OCI != "":
			return !strings.Contains(s.OCI, "@")
		case s.URL != "" || s.Chart != "" || strings.HasPrefix(s.Archive, "https://"):
			return s.SHA256 == ""
		}
		return false
	}), nil
}
