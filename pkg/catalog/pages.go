package catalog

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"slices"
	"strings"

	"krtpkg.dev/krtpkg/pkg/compare"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/graph"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/result"
)

//go:embed templates
var templateFiles embed.FS

// ContentPolicy is the Content-Security-Policy of pages: nothing but their own files.
const ContentPolicy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"

// The limits on what one page lists. All of it is in catalog.json.
const (
	maxFindings  = 2000 // on the page of vulnerabilities
	maxEntries   = 300  // of a section of changes
	maxDiffLines = 60   // of a resource
	maxLine      = 400
	maxLong      = 16 << 10 // of a text that its author wrote for the page
	maxSiteBytes = 512 << 20
)

// File is a file of a site. Its path has slashes.
type File struct {
	Path string
	Data []byte
}

// WriteSite makes the pages of a document and calls write with each file, index.html last. The same document gives the
// same files.
func WriteSite(c *result.Catalog, write func(File) error) error {
	clean, err := copyClean(c)
	if err != nil {
		return err
	}
	s := &siteWriter{catalog: clean, templates: parseTemplates(), index: &searchIndex{}}
	s.write = func(name string, data []byte) error {
		if s.size += len(data); s.size > maxSiteBytes {
			return fmt.Errorf("the pages have more than %d bytes: show fewer versions: %w", maxSiteBytes, oci.ErrTooLarge)
		}
		return write(File{name, data})
	}
	s.nameFiles()
	for i := range clean.Runtimes {
		for k := range clean.Runtimes[i].Versions {
			clean.Runtimes[i].Versions[k].SBOM = c.Runtimes[i].Versions[k].SBOM
		}
		if err := s.writeRuntime(i); err != nil {
			return fmt.Errorf("pages of %s: %w", clean.Runtimes[i].Name, err)
		}
	}
	document, err := json.MarshalIndent(c, "", " ")
	if err != nil {
		return err
	}
	style, err := styleSheet()
	if err != nil {
		return err
	}
	script, err := templateFiles.ReadFile("templates/catalog.js")
	if err != nil {
		return err
	}
	index, err := s.index.encodeIndex()
	if err != nil {
		return err
	}
	for _, f := range []File{{"catalog.json", append(document, '\n')}, {"catalog.css", style}, {"catalog.js", script}, {"search.js", index}} {
		if err := s.write(f.Path, f.Data); err != nil {
			return err
		}
	}
	return s.writePage("index.html", "index", pageHead{Title: "Catalogue"}, s.viewOverview())
}

// styleSheet returns that of all pages, with that of pictures.
func styleSheet() ([]byte, error) {
	own, err := templateFiles.ReadFile("templates/catalog.css")
	return append(own, graph.StyleSheet()+"\n"...), err
}

func parseTemplates() *template.Template {
	functions := template.FuncMap{
		"bytes": formatBytes, "short": shortenDigest, "date": formatTime, "datetime": formatDatetime, "cut": cutText,
		"count": graph.CountNoun, "layer": layerName, "weblink": webLink, "join": strings.Join, "slug": slugText, "lower": strings.ToLower,
		"claimant": DescribeClaimant, "kind": describeKind, "resource": func(c deploy.ManifestChange) string { return c.Describe() }, "difflines": diffLines, "mark": changeMark, "anchor": imageAnchor,
		"value": (*compare.ValueState).Describe, "move": describeMove, "list": func(all ...string) []string { return all },
	}
	return template.Must(template.New("").Funcs(functions).ParseFS(templateFiles, "templates/*.html"))
}

// siteWriter makes the files of a site.
type siteWriter struct {
	catalog   *result.Catalog
	templates *template.Template
	index     *searchIndex
	write     func(name string, data []byte) error
	size      int
	// folders are those of runtimes, and versions the names of the files of their versions, without an ending.
	folders  []string
	versions []map[string]string
}

// versionEndings are those of the files that a version has besides its page, in lower case.
var versionEndings = []string{".changes", ".vulnerabilities", ".cdx"}

// nameFiles gives each version its file: by the names that people know, which differ in any file system.
func (s *siteWriter) nameFiles() {
	taken := map[string]bool{}
	free := func(name string, endings ...string) string {
		for n, is := 2, name; ; n++ {
			keys := []string{strings.ToLower(is)}
			for _, ending := range endings {
				keys = append(keys, keys[0]+ending)
			}
			if !slices.ContainsFunc(keys, func(key string) bool { return taken[key] }) {
				for _, key := range keys {
					taken[key] = true
				}
				return is
			}
			is = fmt.Sprintf("%s-%d", name, n)
		}
	}
	for _, r := range s.catalog.Runtimes {
		folder := free("runtimes/" + slugText(r.Name))
		names := map[string]string{}
		for _, v := range r.Versions {
			names[v.Digest] = free(folder+"/"+slugText(cmp.Or(v.Version, shortenDigest(v.Digest))), versionEndings...)
		}
		s.folders, s.versions = append(s.folders, folder), append(s.versions, names)
	}
}

// pageHead is what all pages have.
type pageHead struct {
	Title string
	// Root leads from the page to the top of the site.
	Root string
	// Crumbs lead from the top to what the page is of.
	Crumbs []crumb
	Policy string
	// Favicon is an empty picture, so that browsers ask for none.
	Favicon template.URL
}

type crumb struct{ Name, Link string }

// pageData is what a template gets.
type pageData struct {
	pageHead
	Data any
}

func (s *siteWriter) writePage(name, kind string, head pageHead, data any) error {
	head.Root, head.Policy, head.Favicon = strings.Repeat("../", strings.Count(name, "/")), ContentPolicy, "data:,"
	var out bytes.Buffer
	if err := s.templates.ExecuteTemplate(&out, kind+".html", pageData{head, data}); err != nil {
		return err
	}
	return s.write(name, out.Bytes())
}
