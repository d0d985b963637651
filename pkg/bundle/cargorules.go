package bundle

import (
	"net/url"
	"path"
	"slices"
	"strings"

	"krtpkg.dev/krtpkg/pkg/lazyregexp"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// checkCargo holds files and charts to the rules that a schema cannot express, and sets the names of files.
func (d *Definition) checkCargo(report func([]any, string, ...any)) {
	spec := &d.Bundle.Spec
	if len(spec.Sources)+len(spec.Files)+len(spec.Charts) == 0 {
		report([]any{"spec"}, "spec.sources is missing: want sources, files or charts")
	}
	taken := map[string]string{}
	for i := range spec.Files {
		f := &spec.Files[i]
		at := []any{"spec", "files", i}
		f.checkRules(func(field, format string, args ...any) { report(fieldBelow(at, field), format, args...) })
		f.checkUnique(taken, func(format string, args ...any) { report(at, format, args...) })
	}
	versions := map[string]bool{}
	for i := range spec.Charts {
		c := &spec.Charts[i]
		at := []any{"spec", "charts", i}
		c.checkRules(func(field, format string, args ...any) { report(fieldBelow(at, field), format, args...) })
		if key := path.Base(c.Chart) + " " + c.Version; c.Chart != "" && c.Version != "" && versions[key] {
			report(at, "duplicate chart %s", key)
		} else {
			versions[key] = true
		}
	}
}

func fieldBelow(at []any, field string) []any {
	if field == "" {
		return at
	}
	return append(slices.Clip(at), field)
}

// fileName is what a file may be called: one name, that no shell and no folder takes for something else.
var fileName = lazyregexp.New(`^[A-Za-z0-9_][A-Za-z0-9._+~%@-]{0,254}$`)

func (f *CargoFile) checkRules(report func(field, format string, args ...any)) {
	if countSet(f.URL, f.Path) != 1 {
		report("", "a file needs exactly one of url and path")
		return
	}
	if !isConfined(f.Path) {
		report("path", "path %q leaves its folder: want a relative path without ..", f.Path)
	}
	if secret := findSecret(f.URL); secret != "" {
		report("url", "url contains %s, which would be published: use ~/.netrc, git's credential helpers or --source-mirror", secret)
	}
	if f.Name == "" {
		f.Name = path.Base(f.Path)
		if at, err := url.Parse(f.URL); f.URL != "" && err == nil {
			f.Name = path.Base(at.Path)
		}
	}
	if !fileName.MatchString(f.Name) {
		report("name", "name %q is not the name of a file: want letters, digits and ._+~%%@-, and not one of these first", f.Name)
	}
	if f.FileMode()&othersWrite != 0 {
		report("mode", "mode %q lets others than its owner write to the file: want at most 0755", f.Mode)
	}
	if f.Platform == "" {
		return
	}
	p, err := oci.ParsePlatform(f.Platform)
	if err != nil {
		report("platform", "%v", err)
		return
	}
	f.Platform = oci.FormatPlatform(p)
}

// checkUnique refuses a second file of a name for one platform. Names that differ by their capitals are one name for
// some file systems.
func (f *CargoFile) checkUnique(taken map[string]string, report func(format string, args ...any)) {
	folded := strings.ToLower(f.Name)
	first, again := taken[folded]
	switch {
	case !again:
		taken[folded] = f.Name
	case first != f.Name:
		report("files %s and %s differ by their capitals alone", first, f.Name)
	}
	key := folded + " " + f.Platform
	switch _, twice := taken[key]; {
	case twice && f.Platform == "":
		report("duplicate file %s: give one of them another name, or each its platform", f.Name)
	case twice:
		report("duplicate file %s for %s: give one of them another name", f.Name, f.Platform)
	case again && first == f.Name && (f.Platform == "" || taken[folded+" "] != ""):
		report("file %s is for one platform and for any: give each its platform", f.Name)
	}
	taken[key] = f.Name
}

// chartName is a name of a chart that registries take.
var chartName = lazyregexp.New(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$`)

func (c *CargoChart) checkRules(report func(field, format string, args ...any)) {
	if countSet(c.Repository, c.Dir, c.Archive) != 1 {
		report("", "a chart needs exactly one of repository, dir and archive")
		return
	}
	if c.Repository != "" && c.Chart == "" {
		report("", "a chart of a repository needs its name: chart is missing")
		return
	}
	s := c.Source()
	s.Template = TemplateHelm
	s.checkRules(report)
	if c.Chart != "" && !chartName.MatchString(path.Base(c.Chart)) {
		report("chart", "chart %q is not a name that registries take: want lower-case letters, digits, dots and dashes", c.Chart)
	}
}
