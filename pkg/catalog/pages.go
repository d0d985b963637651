package catalog

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strings"
	"time"

	"krtpkg.dev/krtpkg/pkg/compare"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/graph"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/sign"
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
	index, err := s.index.encode()
	if err != nil {
		return err
	}
	for _, f := range []File{{"catalog.json", append(document, '\n')}, {"catalog.css", style}, {"catalog.js", script}, {"search.js", index}} {
		if err := s.write(f.Path, f.Data); err != nil {
			return err
		}
	}
	return s.page("index.html", "index", pageHead{Title: "Catalogue"}, s.overview())
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

func (s *siteWriter) page(name, kind string, head pageHead, data any) error {
	head.Root, head.Policy, head.Favicon = strings.Repeat("../", strings.Count(name, "/")), ContentPolicy, "data:,"
	var out bytes.Buffer
	if err := s.templates.ExecuteTemplate(&out, kind+".html", pageData{head, data}); err != nil {
		return err
	}
	return s.write(name, out.Bytes())
}

// versionView is a version with all that its page shows.
type versionView struct {
	*result.CatalogVersion
	Runtime *result.CatalogRuntime
	// Link is its page, from the top of the site, and File the name of that without an ending.
	Link, File string
	// Picture was made by package graph, which escapes what it is given.
	Picture template.HTML
	Bundles []bundleView
	Images  []imageView
	Counts  result.SeverityCounts
	// Newest is the time of the newest report.
	Newest time.Time
	// Findings are those of all reports.
	Findings     []findingView
	FindingCount int
	// UnreadCount is how many reports cannot be read: what they list is not known.
	UnreadCount int
	Commands    []command
	// Before is the page of the version before.
	Before     string
	TrustWords []string
	Policy     *result.ReceiptPolicy
	ImageCount int
	// Attached are the signatures and attestations, those that were verified first.
	Attached []attachedView
}

type command struct{ Text, What string }

// bundleView is a bundle of a version.
type bundleView struct {
	result.Bundle
	Detail *result.CatalogBundle
	Link   string
	Icon   template.URL
	Images []imageView
	// Versions are the versions of the runtime that have it.
	Versions []crumb
}

// imageView is an image with where it is used.
type imageView struct {
	result.CatalogImage
	References []string
	Image      string
	Bundles    []crumb
	Counts     *result.SeverityCounts
	Signatures int
	Attests    int
	Link       string
}

// findingView is a vulnerability with the report that it is of.
type findingView struct {
	result.CatalogFinding
	Subject string
	// ID of the row, which the first of a vulnerability has.
	Anchor string
}

// attachedView is a signature or an attestation.
type attachedView struct {
	sign.Claim
	Verified bool
	By       string
}

// writeRuntime writes the pages of a runtime in one place.
func (s *siteWriter) writeRuntime(at int) error {
	r := &s.catalog.Runtimes[at]
	details := map[string]*result.CatalogBundle{}
	for i := range r.Bundles {
		details[r.Bundles[i].Digest] = &r.Bundles[i]
	}
	pictured := map[string]*result.CatalogImage{}
	for i := range r.Images {
		pictured[r.Images[i].Digest] = &r.Images[i]
	}
	b := &runtimeBuilder{siteWriter: s, at: at, runtime: r, details: details, images: pictured, pages: map[string]*bundleView{}}
	for i := range r.Versions {
		if err := b.writeVersion(i); err != nil {
			return err
		}
	}
	for _, digest := range slices.Sorted(maps.Keys(b.pages)) {
		view := b.pages[digest]
		head := pageHead{Title: view.Name + " " + view.Version, Crumbs: []crumb{{r.Name, ""}}}
		if err := s.page(view.Link, "bundle", head, view); err != nil {
			return err
		}
		s.index.addBundle(r, view)
	}
	s.index.addImages(b)
	return nil
}

// runtimeBuilder makes the pages of one runtime.
type runtimeBuilder struct {
	*siteWriter
	at      int
	runtime *result.CatalogRuntime
	details map[string]*result.CatalogBundle
	images  map[string]*result.CatalogImage
	// pages are those of bundles, by digest.
	pages map[string]*bundleView
	// views are those of versions, the newest first.
	views []*versionView
}

// cutDigest returns as much of a digest as nobody can make another content have.
func cutDigest(digest string) string {
	_, encoded, _ := strings.Cut(digest, ":")
	return encoded[:min(len(encoded), 32)]
}

// bundleLink returns the page of a bundle, from the top of the site.
func (b *runtimeBuilder) bundleLink(one *result.Bundle) string {
	return fmt.Sprintf("%s/bundles/%s-%s-%s.html", b.folders[b.at], slugText(one.Name), slugText(one.Version), slugText(cutDigest(one.Digest)))
}

// iconURL returns the picture of a bundle: only ever shown as an image, in which nothing runs.
func (b *runtimeBuilder) iconURL(detail *result.CatalogBundle) template.URL {
	if detail == nil || b.catalog.Icons[detail.Icon] == "" {
		return ""
	}
	return template.URL("data:image/svg+xml;base64," + base64.StdEncoding.EncodeToString([]byte(b.catalog.Icons[detail.Icon])))
}

// viewVersion returns all that the page of a version shows.
func (b *runtimeBuilder) viewVersion(at int) *versionView {
	v := &b.runtime.Versions[at]
	view := &versionView{CatalogVersion: v, Runtime: b.runtime, Policy: b.catalog.Policy, File: b.versions[b.at][v.Digest]}
	view.Link = view.File + ".html"
	counts := map[string]*result.SeverityCounts{}
	view.UnreadCount = countUnread(v.Reports)
	for i := range v.Reports {
		report := &v.Reports[i]
		addCounts(&view.Counts, report.SeverityCounts)
		if counts[report.Digest] == nil {
			counts[report.Digest] = &result.SeverityCounts{}
		}
		addCounts(counts[report.Digest], report.SeverityCounts)
		if report.Time.After(view.Newest) {
			view.Newest = report.Time
		}
	}
	links, byDigest := map[string]string{}, map[string]int{}
	for _, one := range v.Bundles {
		link := b.bundleLink(&one)
		links[one.Name] = link
		page := b.pages[one.Digest]
		if page == nil {
			page = &bundleView{Bundle: one, Detail: b.details[one.Digest], Link: link}
			page.Icon = b.iconURL(page.Detail)
			b.pages[one.Digest] = page
		}
		page.Versions = append(page.Versions, crumb{strings.TrimSpace(b.runtime.Name + " " + v.Version), view.Link})
		var own []imageView
		for _, image := range one.Images {
			i, known := byDigest[image.Digest]
			if !known {
				i = len(view.Images)
				byDigest[image.Digest] = i
				one := imageView{Image: image.Image, Counts: counts[image.Digest], Link: view.Link + "#" + imageAnchor(image.Digest)}
				one.Digest = image.Digest
				if found := b.images[image.Digest]; found != nil {
					one.CatalogImage = *found
				}
				for _, c := range one.Attached {
					if c.PredicateType == "" {
						one.Signatures++
					} else {
						one.Attests++
					}
				}
				view.Images = append(view.Images, one)
			}
			is := &view.Images[i]
			if !slices.Contains(is.References, image.Reference) {
				is.References = append(is.References, image.Reference)
			}
			if user := (crumb{one.Name, link}); !slices.Contains(is.Bundles, user) {
				is.Bundles = append(is.Bundles, user)
			}
			own = append(own, view.Images[i])
		}
		if page.Images == nil {
			page.Images = own
		}
		view.Bundles = append(view.Bundles, *page)
	}
	view.ImageCount = len(view.Images)
	view.addFindings()
	view.Attached, view.TrustWords = describeTrust(v, b.catalog.Policy)
	if v.Changes != nil && b.versions[b.at][v.Changes.Digest] != "" {
		view.Before = b.versions[b.at][v.Changes.Digest] + ".html"
	}
	view.Commands = listCommands(v)
	if v.Graph != nil {
		root := strings.Repeat("../", strings.Count(view.Link, "/"))
		view.Picture = template.HTML(v.Graph.DrawSVG(graph.SVGOptions{NoStyle: true, ID: "picture-", Link: func(n *graph.Node) string {
			if links[n.Name] == "" {
				return ""
			}
			return root + links[n.Name]
		}}))
	}
	return view
}

// TagState returns refused or stale for a tag that is a channel, and that the policy does not follow or warns of.
func (v *versionView) TagState(tag string) string {
	if v.Verdict == nil {
		return ""
	}
	for _, stale := range v.Verdict.StaleTags {
		if stale.Tag == tag {
			if stale.Refused {
				return "refused"
			}
			return "stale"
		}
	}
	return ""
}

func addCounts(all *result.SeverityCounts, more result.SeverityCounts) {
	all.CriticalCount += more.CriticalCount
	all.HighCount += more.HighCount
	all.MediumCount += more.MediumCount
	all.LowCount += more.LowCount
	all.UnknownCount += more.UnknownCount
}

// countAll returns how many there are in all.
func countAll(c *result.SeverityCounts) int {
	return c.CriticalCount + c.HighCount + c.MediumCount + c.LowCount + c.UnknownCount
}

// countUnread returns how many reports cannot be read.
func countUnread(reports []result.CatalogReport) (n int) {
	for i := range reports {
		if reports[i].Problem != "" && countAll(&reports[i].SeverityCounts) == 0 {
			n++
		}
	}
	return n
}

// addFindings puts the findings of all reports together, the most severe first.
func (v *versionView) addFindings() {
	for _, report := range v.Reports {
		for _, f := range report.Findings {
			v.Findings = append(v.Findings, findingView{CatalogFinding: f, Subject: cmp.Or(report.Subject, f.Image)})
		}
	}
	slices.SortStableFunc(v.Findings, func(a, b findingView) int {
		return cmp.Or(cmp.Compare(severityRank(a.Severity), severityRank(b.Severity)), cmp.Compare(a.ID, b.ID))
	})
	v.FindingCount = countAll(&v.Counts)
	named := map[string]bool{}
	for i := range v.Findings {
		if anchor := slugText(v.Findings[i].ID); !named[anchor] {
			named[anchor] = true
			v.Findings[i].Anchor = anchor
		}
	}
}

// writeVersion writes the pages of a version.
func (b *runtimeBuilder) writeVersion(at int) error {
	view := b.viewVersion(at)
	b.views = append(b.views, view)
	name := strings.TrimSpace(b.runtime.Name + " " + view.Version)
	b.index.addVersion(b.runtime, view)
	up := []crumb{{name, view.Link}}
	if err := b.page(view.Link, "version", pageHead{Title: name}, view); err != nil {
		return err
	}
	if len(view.SBOM) > 0 {
		if err := b.write(view.File+".cdx.json", view.SBOM); err != nil {
			return err
		}
	}
	if view.Changes != nil {
		if err := b.page(view.File+".changes.html", "changes", pageHead{Title: "Changes in " + name, Crumbs: up}, view); err != nil {
			return err
		}
	}
	if len(view.Reports) > 0 {
		b.index.addFindings(b.runtime, view)
		shown := *view
		shown.Findings = shown.Findings[:min(len(shown.Findings), maxFindings)]
		return b.page(view.File+".vulnerabilities.html", "vulnerabilities", pageHead{Title: "Vulnerabilities of " + name, Crumbs: up}, &shown)
	}
	return nil
}

// overviewData is what the first page shows.
type overviewData struct {
	Policy   *result.ReceiptPolicy
	Runtimes []runtimeView
}

// runtimeView is a runtime on the first page.
type runtimeView struct {
	*result.CatalogRuntime
	Description string
	Kind        string
	Rows        []*versionView
}

func (s *siteWriter) overview() *overviewData {
	o := &overviewData{Policy: s.catalog.Policy}
	for at := range s.catalog.Runtimes {
		r := &s.catalog.Runtimes[at]
		view := runtimeView{CatalogRuntime: r}
		for i := range r.Versions {
			v := &r.Versions[i]
			view.Description, view.Kind = cmp.Or(view.Description, v.Metadata.Description), cmp.Or(view.Kind, v.Kind)
			row := &versionView{CatalogVersion: v, Policy: s.catalog.Policy, Link: s.versions[at][v.Digest] + ".html", File: s.versions[at][v.Digest]}
			images := map[string]bool{}
			for _, b := range v.Bundles {
				row.Bundles = append(row.Bundles, bundleView{})
				for _, image := range b.Images {
					images[image.Digest] = true
				}
			}
			row.ImageCount = len(images)
			for _, report := range v.Reports {
				addCounts(&row.Counts, report.SeverityCounts)
			}
			row.FindingCount, row.UnreadCount = countAll(&row.Counts), countUnread(v.Reports)
			view.Rows = append(view.Rows, row)
		}
		o.Runtimes = append(o.Runtimes, view)
	}
	return o
}

// imageAnchor returns the id of an image on the page of a version.
func imageAnchor(digest string) string {
	return "image-" + slugText(strings.TrimPrefix(digest, "sha256:"))
}

// describeTrust returns what is attached to a version, and what the policy says of it in words.
func describeTrust(v *result.CatalogVersion, policy *result.ReceiptPolicy) (attached []attachedView, words []string) {
	trusted := map[sign.Object]bool{}
	switch verdict := v.Verdict; {
	case policy == nil || verdict == nil:
		words = append(words, "No trust policy was given, so nothing here was verified: signatures and attestations are what they claim to be.")
	case !verdict.Accepted:
		words = append(words, fmt.Sprintf("Refused by the policy %s: %s", policy.Name, verdict.Reason))
	default:
		var signers, attested []string
		for _, s := range verdict.Signatures.Verified {
			trusted[s.Object] = true
			if by := describeSigner(s); !slices.Contains(signers, by) {
				signers = append(signers, by)
			}
		}
		for _, s := range verdict.Signatures.Attestations {
			trusted[s.Object] = true
			if line := fmt.Sprintf("%s attested: %s", describeSigner(s), describeKind(s.PredicateType)); !slices.Contains(attested, line) {
				attested = append(attested, line)
			}
		}
		words = append(words, fmt.Sprintf("Accepted by the policy %s: signed by %s.", policy.Name, strings.Join(signers, " and ")))
		words = append(words, attested...)
		for _, p := range verdict.Promotions {
			until := ""
			if !p.Expires.IsZero() {
				until = ", until " + formatTime(p.Expires)
			}
			words = append(words, fmt.Sprintf("Promoted to %s by %s at %s%s", p.Channel, p.By, formatTime(p.At), until))
		}
		if verdict.Stale != "" {
			words = append(words, "Stale: "+verdict.Stale)
		}
		for _, tag := range verdict.StaleTags {
			if tag.Refused {
				words = append(words, fmt.Sprintf("The policy refuses to follow the tag %s: %s", tag.Tag, tag.Reason))
			} else {
				words = append(words, fmt.Sprintf("The tag %s: %s", tag.Tag, tag.Reason))
			}
		}
	}
	for _, c := range slices.Concat(v.Signatures, v.Attestations) {
		attached = append(attached, attachedView{c, trusted[c.Object], DescribeClaimant(c)})
	}
	slices.SortStableFunc(attached, func(a, b attachedView) int { return cmp.Compare(btoi(b.Verified), btoi(a.Verified)) })
	return attached, words
}

// describeSigner names who signed.
func describeSigner(v sign.Verified) string {
	by := DescribeClaimant(v.Claim())
	if v.Authority != "" && v.Authority != v.KeyID && (v.Certificate == nil || v.Authority != v.Certificate.Subject) {
		by = v.Authority + ", " + by
	}
	return by
}

// kinds are what predicate types are called by people.
var kinds = map[string]string{
	"": "signature", typeCycloneDX: "bill of materials (CycloneDX)", typeSPDX: "bill of materials (SPDX)", "https://slsa.dev/provenance/v1": "provenance (SLSA)",
	typeCosignVuln: "report of vulnerabilities", typeOpenVEX: "statement on vulnerabilities (OpenVEX)",
}

// describeKind returns what a predicate is.
func describeKind(predicateType string) string {
	if isReport(predicateType) && !isVEX(predicateType) {
		predicateType = typeCosignVuln
	}
	return cmp.Or(kinds[predicateType], predicateType)
}

// listCommands returns the commands for a version.
func listCommands(v *result.CatalogVersion) []command {
	if v.Reference == "" || v.Error != nil {
		return nil
	}
	reference := quoteShell(v.Reference)
	all := []command{
		{"krtpkg verify --key cosign.pub " + reference, "Verify who signed it, and every byte of it"},
		{"krtpkg show values " + reference + " > site.yaml", "Begin a file of values"},
		{"krtpkg plan --key cosign.pub " + reference + " --values site.yaml", "Show what an apply would change on a cluster"},
		{"krtpkg apply --key cosign.pub " + reference + " --values site.yaml", "Apply it"},
		{"krtpkg export " + reference + " " + quoteShell(v.Name+"-"+v.Version+".tar"), "Carry it to a site without a network"},
		{"krtpkg sbom " + reference, "Print its bill of materials"},
	}
	if v.Changes != nil && strings.Contains(v.Reference, "@"+v.Digest) {
		before := strings.TrimSuffix(v.Reference, "@"+v.Digest)
		if i := strings.LastIndex(before, ":"); len(v.Tags) > 0 && i >= 0 {
			before = before[:i]
		}
		all = append(all, command{"krtpkg diff " + quoteShell(before+"@"+v.Changes.Digest) + " " + reference, "Compare it with the version before"})
	}
	return all
}

// quoteShell quotes what a shell would not take as one word.
func quoteShell(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("@%+=:,./_-", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// CheckEmpty returns an error for a document that shows nothing.
func CheckEmpty(c *result.Catalog) error {
	if len(c.Runtimes) == 0 {
		return errNoRuntimes
	}
	return nil
}
