package bundle

import (
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/Masterminds/semver/v3"

	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// checkRules holds the definition against the rules that a schema cannot express.
func (d *Definition) checkRules() error {
	var found []*manifest.Error
	report := func(field []any, format string, args ...any) {
		found = append(found, d.Errorf(field, format, args...))
	}
	if _, err := semver.StrictNewVersion(d.Metadata().Version); err != nil {
		report([]any{"metadata", "version"}, "metadata.version %q %s", d.Metadata().Version, wanted["version"])
	}
	if secret := findSecret(d.Metadata().Source); secret != "" {
		report([]any{"metadata", "source"}, "metadata.source contains %s, which would be published", secret)
	}
	if d.Bundle != nil {
		d.checkBundle(report)
	} else {
		d.checkRuntime(report)
	}
	return joinErrors(found)
}

func (d *Definition) checkBundle(report func([]any, string, ...any)) {
	spec := &d.Bundle.Spec
	if spec.Kubernetes != "" {
		if _, err := semver.NewConstraint(spec.Kubernetes); err != nil {
			report([]any{"spec", "kubernetes"}, "spec.kubernetes %q is not a version range, such as \">=1.29 <1.35\"", spec.Kubernetes)
		}
	}
	switch {
	case spec.Icon != "" && spec.IconFile != "":
		report([]any{"spec", "iconFile"}, "a bundle can have icon or iconFile, not both")
	case !isConfined(spec.IconFile):
		report([]any{"spec", "iconFile"}, "iconFile %q leaves its folder: want a relative path without ..", spec.IconFile)
	case spec.Icon != "":
		if err := CheckIcon(spec.Icon); err != nil {
			report([]any{"spec", "icon"}, "%v", err)
		}
	}
	var paths []string
	for i := range spec.Sources {
		s := &spec.Sources[i]
		at := []any{"spec", "sources", i}
		s.checkRules(func(field, format string, args ...any) {
			where := at
			if field != "" {
				where = append(slices.Clip(at), field)
			}
			report(where, format, args...)
		})
		if s.Name() == "" {
			paths = append(paths, "")
			continue
		}
		for first, taken := range paths {
			if pathsOverlap(taken, s.Path) {
				report(at, "sources %d and %d both go to %s: give one of them a path", first+1, i+1, path.Join(ConfigDir, taken))
				break
			}
		}
		paths = append(paths, s.Path)
	}
	d.checkCargo(report)
	if err := images.CheckRules(spec.SearchRules); err != nil {
		report([]any{"spec", "searchRules"}, "spec.%v", err)
	}
	locked := map[string]bool{}
	for i, extra := range spec.Images {
		if locked[extra.Image] {
			report([]any{"spec", "images", i, "image"}, "duplicate image %q", extra.Image)
		}
		locked[extra.Image] = true
	}
}

func (d *Definition) checkRuntime(report func([]any, string, ...any)) {
	seen := map[BundleSource]bool{}
	for i, b := range d.Runtime.Spec.Bundles {
		at := []any{"spec", "bundles", i}
		if countSet(b.Path, b.Ref) != 1 {
			report(at, "a bundle needs exactly one of path and ref")
		}
		if seen[b] {
			report(at, "duplicate bundle %s", b.Path+b.Ref)
		}
		seen[b] = true
		if path.IsAbs(b.Path) {
			report(append(at, "path"), "path %q is absolute: the definition would only build on this machine", b.Path)
		}
	}
}

// IsManifestName reports whether a file has a name that kapp and kubectl read; they pass over
// any other without a word.
func IsManifestName(name string) bool {
	return slices.Contains([]string{".yaml", ".yml", ".json"}, path.Ext(name))
}

// pathsOverlap reports whether one of two clean paths is or holds the other: what is rendered as a
// template and what is left as it is would lie in one folder.
func pathsOverlap(a, b string) bool {
	within := func(a, b string) bool { return a == b || a == "." || strings.HasPrefix(b, a+"/") }
	return a != "" && (within(a, b) || within(b, a))
}

// isPrintable reports whether all of a name is shown, on one line and in its order: names go into what
// is printed and piped, such as the comments between manifests.
func isPrintable(name string) bool {
	return utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) })
}

// isConfined reports whether a slash-separated path stays below the folder it starts in.
func isConfined(p string) bool {
	return !path.IsAbs(p) && !strings.Contains(p, "\\") &&
		!slices.Contains(strings.Split(p, "/"), "..")
}

func countSet(values ...string) (n int) {
	for _, v := range values {
		if v != "" {
			n++
		}
	}
	return n
}
