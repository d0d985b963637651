// Package bundles holds the ready definitions: a bundle for products of each category of the
// layers, in LAYER/CATEGORY/PRODUCT, and runtimes made of them. Nothing of the products
// themselves is in it: definitions name them by URL and digest.
package bundles

import (
	"cmp"
	"embed"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Files are the definitions with the files next to them. all: takes those whose names begin with
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
	// that is not a product's.
	Product string `json:"product"`
	Version string `json:"version"`
	// Description says in a few words what it is.
	Description string `json:"description,omitempty"`
	// Provides and Requires are those of the definition; it provides its name, too.
	Provides []string `json:"provides,omitempty"`
	Requires []string `json:"requires,omitempty"`
}

// All returns the ready bundles, by path.
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
		dir := path.Dir(name)
		all = append(all, Ready{
			Path: dir, Name: d.Metadata().Name, Layer: d.Bundle.Spec.Layer, Category: d.Bundle.Spec.Category,
			Product: strings.Split(dir, "/")[2], Version: d.Metadata().Version, Description: d.Metadata().Description,
			Provides: d.Bundle.Spec.Provides, Requires: d.Bundle.Spec.Requires,
		})
		return nil
	})
	slices.SortFunc(all, func(a, b Ready) int { return strings.Compare(a.Path, b.Path) })
	return all, err
}

// FindByPath returns the ready bundle of a path.
func FindByPath(all []Ready, at string) (Ready, bool) {
	i := slices.IndexFunc(all, func(r Ready) bool { return r.Path == at })
	if i < 0 {
		return Ready{}, false
	}
	return all[i], true
}

// Runtimes returns the names of the ready runtimes, which are folders of runtimes/.
func Runtimes() ([]string, error) {
	found, err := fs.Glob(Files, "runtimes/*/runtime.yaml")
	for i, name := range found {
		found[i] = path.Base(path.Dir(name))
	}
	return found, err
}

// Use is a bundle in a ready runtime.
type Use struct {
	Ready
	// Why is the comment above it.
	Why string
}

// Runtime returns the bundles of a ready runtime, in its order.
func Runtime(name string, all []Ready) ([]Use, error) {
	file := "runtimes/" + name + "/runtime.yaml"
	data, err := Files.ReadFile(file)
	if err != nil {
		return nil, err
	}
	parsed, err := manifest.Parse("bundles/"+file, data)
	if err != nil {
		return nil, err
	}
	var uses []Use
	why := ""
	for _, entry := range manifest.GetValue(manifest.GetValue(parsed.Documents[0], "spec"), "bundles").Content {
		// Bundles without a comment go with the one above.
		if comment := commentAbove(entry); comment != "" {
			why = comment
		}
		at := path.Join("runtimes", name, manifest.GetValue(entry, "path").Value)
		r, found := FindByPath(all, at)
		if !found {
			return nil, parsed.Errorf(entry, "no ready bundle is in %s", at)
		}
		uses = append(uses, Use{Ready: r, Why: why})
	}
	return uses, nil
}

// heading is how the comments of a runtime name its layers.
var heading = regexp.MustCompile(`^Layer \d\. `)

// commentAbove returns the comment above an entry, as text.
func commentAbove(entry *yaml.Node) string {
	comment := cmp.Or(entry.HeadComment, entry.Content[0].HeadComment)
	var lines []string
	for line := range strings.Lines(comment) {
		lines = append(lines, strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "#")))
	}
	return heading.ReplaceAllString(strings.Join(lines, " "), "")
}
