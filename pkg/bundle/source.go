package bundle

import (
	"cmp"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/lazyregexp"
)

// Name returns what errors call the source: where it comes from.
func (s *Source) Name() string {
	if s.Chart != "" {
		return strings.TrimSuffix(s.Repository, "/") + "/" + s.Chart
	}
	return cmp.Or(s.Dir, s.File, s.URL, s.Archive, s.Git, s.OCI)
}

// IsTree reports whether the source is a folder of files, not a single one.
func (s *Source) IsTree() bool { return s.File == "" && s.URL == "" }

// IsRendered reports whether anything renders the source: an engine, patches or overlays.
func (s *Source) IsRendered() bool {
	return s.Template != "" || len(s.Patches)+len(s.Overlays) > 0
}

// AtTarget reports whether it is the target that renders the source.
func (s *Source) AtTarget() bool {
	if s.Render != "" {
		return s.Render == RenderTarget
	}
	return s.Template == TemplateYTT && len(s.Patches) == 0
}

// checkRules holds the source against the rules that a schema cannot express, and sets its path.
func (s *Source) checkRules(report func(field, format string, args ...any)) {
	if countSet(s.Dir, s.File, s.URL, s.Archive, s.Git, s.OCI, s.Chart) != 1 {
		report("", "a source needs exactly one of dir, file, url, archive, git, oci and chart")
		return
	}
	for _, c := range []struct{ field, value string }{
		{"dir", s.Dir}, {"file", s.File}, {"path", s.Path}, {"root", s.Root},
	} {
		s.checkConfined(report, c.field, c.value)
	}
	for _, c := range []struct {
		field  string
		values []string
	}{{"valuesFiles", s.ValuesFiles}, {"overlays", s.Overlays}} {
		for _, value := range c.values {
			s.checkConfined(report, c.field, value)
		}
	}
	if !strings.HasPrefix(s.Archive, "https://") {
		s.checkConfined(report, "archive", s.Archive)
	}
	if s.Chart != "" && s.Template == "" {
		s.Template = TemplateHelm
	}
	s.checkOrigin(report)
	s.checkRendering(report)
	s.checkDependencies(report)
	s.Path = path.Clean(cmp.Or(s.Path, s.defaultPath()))
	if !s.IsTree() && isConfined(s.Path) && !IsManifestName(s.Path) {
		report("path", "path %q is for a single file: want a name that ends in .yaml, .yml or .json", s.Path)
	}
}

func (s *Source) checkConfined(report func(field, format string, args ...any), field, value string) {
	if value != "" && !isConfined(value) {
		report(field, "%s %q leaves its folder: want a relative path without ..", field, value)
	}
}

// checkOrigin looks at the fields that belong to one kind of source.
func (s *Source) checkOrigin(report func(field, format string, args ...any)) {
	for _, c := range []struct {
		field string
		is    bool
		kind  string
		fits  bool
	}{
		{"include", len(s.Include) > 0, "dir, archive, git and oci", s.IsTree() && s.Chart == ""},
		{"exclude", len(s.Exclude) > 0, "dir, archive, git and oci", s.IsTree() && s.Chart == ""},
		{"root", s.Root != "", "archive, git and oci", s.IsTree() && s.Chart == "" && s.Dir == "" || s.Template == TemplateKustomize},
		{"repository", s.Repository != "", "chart", s.Chart != ""},
		{"version", s.Version != "", "chart", s.Chart != ""},
		{"ref", s.Ref != "", "git", s.Git != ""},
		{"commit", s.Commit != "", "git", s.Git != ""},
	} {
		if c.is && !c.fits {
			report(c.field, "%s is only allowed with %s", c.field, c.kind)
		}
	}
	switch {
	case s.Chart != "" && (s.Repository == "" || s.Version == ""):
		report("chart", "chart %s needs a repository and a version", s.Chart)
	case s.Version != "":
		if _, err := semver.NewConstraint(s.Version); err != nil {
			report("version", "version %q is neither a version nor a range, such as \">=1.2 <2\"", s.Version)
		}
	case s.Git != "" && s.Ref == "" && s.Commit == "":
		report("git", "git %s needs a commit, or a ref for krtpkg update", s.Git)
	case s.OCI != "" && strings.Contains(s.OCI, "://"):
		report("oci", "oci %q is a URL: want registry/repository, with a tag, a digest or both", s.OCI)
	}
	for _, c := range []struct{ field, url string }{
		{"url", s.URL}, {"archive", s.Archive}, {"git", s.Git}, {"oci", s.OCI}, {"repository", s.Repository},
	} {
		if secret := findSecret(c.url); secret != "" {
			report(c.field, "%s contains %s, which would be published: use ~/.netrc, git's credential helpers or --source-mirror", c.field, secret)
		}
	}
}

// findSecret returns what of a URL is not for the public, in words; "" for nothing.
func findSecret(text string) string {
	if holdsLogin(text) {
		return "a login"
	}
	_, query, _ := strings.Cut(text, "?")
	query, _, _ = strings.Cut(query, "#")
	for _, part := range strings.FieldsFunc(query, func(r rune) bool { return r == '&' || r == ';' }) {
		name, value, _ := strings.Cut(part, "=")
		if plain, err := url.QueryUnescape(name); err == nil {
			name = plain
		}
		if value != "" && secretParameter.MatchString(name) {
			return fmt.Sprintf("a secret (%s)", name)
		}
	}
	return ""
}

// secretParameter matches the parameters by which URLs carry tokens, passwords and signatures: those of S3,
// Google Cloud, Azure, CloudFront, GitLab, GitHub and Gitea, and what others call theirs.
var secretParameter = lazyregexp.New(`(?i)^(x-(amz|goog|oss)-(credential|signature|security-token)|awsaccesskeyid|googleaccessid|ossaccesskeyid|key-pair-id|` +
	`sig|signature|(.*[-_.])?(token|secret|password|passwd|api[-_]?key|access[-_]?key)|apitoken|accesstoken|privatetoken|authorization)$`)

// holdsLogin reports whether a URL has a name or a password in it. A name alone may be a token, but for
// that of ssh. The text is taken apart by hand: what is not a URL may hold one all the same.
func holdsLogin(text string) bool {
	scheme, rest, isURL := strings.Cut(text, "://")
	if !isURL {
		rest = text // user@host:path
	}
	authority := rest
	if end := strings.IndexAny(rest, `/?#\`); end >= 0 {
		authority = rest[:end]
	}
	end := strings.LastIndex(authority, "@")
	return end >= 0 && (strings.Contains(authority[:end], ":") || isURL && !strings.Contains(scheme, "ssh"))
}

// checkRendering looks at the fields that say how the source is rendered.
func (s *Source) checkRendering(report func(field, format string, args ...any)) {
	engine := s.Template
	for i, p := range s.Patches {
		if p.Target != nil && *p.Target == (PatchTarget{}) {
			report("patches", "the target of patches[%d] is empty, which selects every resource: leave it out where the patch names its own, or name a kind", i)
		}
	}
	switch {
	case s.Chart != "" && s.Template != TemplateHelm:
		report("template", "template %s is not allowed for a chart, which helm renders", s.Template)
	case !s.IsTree() && (engine == TemplateHelm || engine == TemplateKustomize):
		report("template", "template %s needs a folder, not a file", engine)
	case s.Render != "" && !s.IsRendered():
		report("render", "render needs something to render: a template, patches or overlays")
	case s.Render == RenderTarget && engine == TemplateKustomize:
		report("render", "a kustomization cannot be rendered at the target: want render: build")
	case s.Render == RenderTarget && len(s.Patches) > 0:
		report("render", "patches cannot be applied at the target: want render: build, or overlays")
	}
	if (!s.Values.IsZero() || len(s.ValuesFiles) > 0) && engine != TemplateHelm && engine != TemplateYTT {
		report("values", "values are only allowed with the templates helm and ytt")
	}
	if s.Helm != nil && engine != TemplateHelm {
		report("helm", "helm is only allowed with the template helm")
	}
	if s.Helm != nil && s.Helm.CreateNamespace && (s.Helm.Namespace == "" || s.Helm.Namespace == "default") {
		report("helm", "createNamespace requires a namespace")
	}
}

// checkDependencies looks at the charts that a chart needs: they have their pins here.
func (s *Source) checkDependencies(report func(field, format string, args ...any)) {
	if len(s.Dependencies) > 0 && s.Template != TemplateHelm {
		report("dependencies", "dependencies are only allowed with the template helm")
	}
	if s.Helm != nil {
		for _, file := range s.Helm.ValuesFiles {
			s.checkConfined(report, "helm", file)
		}
	}
	named := map[string]bool{}
	for _, d := range s.Dependencies {
		fail := func(_, format string, args ...any) {
			report("dependencies", "dependency %s: "+format, append([]any{d.Name}, args...)...)
		}
		if named[d.Name] {
			fail("", "occurs twice")
		}
		named[d.Name] = true
		if countSet(d.Git, d.Archive, d.Repository) != 1 {
			fail("", "want exactly one of git, archive and repository")
			continue
		}
		d.Source().checkRules(fail)
		if d.Git != "" && d.Commit == "" || d.Git == "" && d.SHA256 == "" {
			fail("", "want its commit or the sha256 of its archive")
		}
	}
}

// defaultPath returns the folder or file below config/ that the source goes to by default.
func (s *Source) defaultPath() string {
	from, _, _ := strings.Cut(s.Name(), "?")
	base := path.Base(from)
	switch {
	case s.OCI != "":
		base, _, _ = strings.Cut(base, "@")
		base, _, _ = strings.Cut(base, ":")
	case s.Git != "":
		base = strings.TrimSuffix(base[strings.LastIndexByte(base, ':')+1:], ".git")
	case s.Archive != "":
		for _, suffix := range []string{".gz", ".zst", ".tgz", ".tar", ".zip"} {
			base = strings.TrimSuffix(base, suffix)
		}
	case !s.IsTree() && !IsManifestName(base):
		base += ".yaml"
	}
	if slices.Contains([]string{".", "/", ""}, base) {
		return "manifests"
	}
	return base
}

// Finder finds the images of the bundle's manifests by its own rules and the built-in ones.
func (s *BundleSpec) Finder() *images.Finder {
	added := map[string]string{}
	for _, extra := range s.Images {
		added[extra.Image] = extra.Reason
	}
	return &images.Finder{Rules: s.SearchRules, NotImages: s.NotImages, Added: added}
}
