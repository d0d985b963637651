// Package sbom says what a runtime or a bundle is made of, as a bill of materials: its bundles,
// the sources that they were built from and the images that they run.
//
// Call [CycloneDX] or [SPDX] with an opened [bundle.Set]. Both tell the same, and only what the
// artifact itself holds: nothing is fetched, and nothing inside an image is looked at. The same
// set gives the same bytes: everything is sorted, and the only time is the artifact's own.
package sbom

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
)

// billOfMaterials is what either document says.
type billOfMaterials struct {
	root *element
	// rest is everything else, ordered by ref.
	rest    []*element
	created time.Time
}

type elementKind int

const (
	isRuntime elementKind = iota
	isBundle
	isImage
	isFile  // a source that is a file, or comes packed as one
	isTree  // a source that is a folder of files
	isCargo // a file or a chart that a bundle carries
)

// element is one line of the bill.
type element struct {
	kind elementKind
	// ref names the element in its document. It consists of letters, digits, dots and hyphens.
	ref                        string
	name, version, description string
	licences                   string
	// sha256 is the digest in hex of a manifest or of a file.
	sha256 string
	// purls are the names that the element has in registries, the first before all others.
	purls []string
	// download is the URL of its bytes, or what SPDX takes for a commit.
	download string
	// repository is where its versions are: a URL of a chart repository or of source code.
	repository string
	properties []property

	contains, dependsOn, generatedFrom []string
}

type property struct{ name, value string }

// The properties of elements.
const (
	propertyLayer      = "dev.krtpkg.layer"
	propertyCategory   = "dev.krtpkg.category"
	propertyRequires   = "dev.krtpkg.requires" // what nothing in the set provides
	propertyProvided   = "dev.krtpkg.provided" // what a runtime takes from outside
	propertySource     = "dev.krtpkg.source"   // of an artifact, when it is not a URL
	propertyRevision   = "dev.krtpkg.revision"
	propertyReference  = "dev.krtpkg.reference"   // an image as a manifest names it
	propertySourceKind = "dev.krtpkg.source.kind" // as definitions call it
	propertyTree       = "dev.krtpkg.tree.sha256"
	propertyRoot       = "dev.krtpkg.root"
	propertyInclude    = "dev.krtpkg.include"
	propertyExclude    = "dev.krtpkg.exclude"
	propertyRepository = "dev.krtpkg.repository"
	propertyCargo      = "dev.krtpkg.cargo" // file or chart
	propertyPlatform   = "dev.krtpkg.platform"
)

func (e *element) addProperty(name string, values ...string) {
	for _, value := range values {
		if value != "" {
			e.properties = append(e.properties, property{name, value})
		}
	}
}

// takeInventory makes the inventory of a set.
func takeInventory(set *bundle.Set) (*billOfMaterials, error) {
	root, err := newArtifact(set.Root)
	if err != nil {
		return nil, err
	}
	inv := &billOfMaterials{root: root}
	if inv.created, err = createdTime(set.Root); err != nil {
		return nil, err
	}
	registered := repositoryBundles(set.Root)
	for _, b := range set.Bundles {
		e := root
		if b != set.Root {
			if e, err = newArtifact(b); err != nil {
				return nil, err
			}
			if at, ok := registered[b.Descriptor.Digest.String()]; ok {
				e.purls = []string{ImageURL(at)}
			}
			root.contains = append(root.contains, e.ref)
			inv.rest = append(inv.rest, e)
		}
		if err := inv.addContent(set, b, e); err != nil {
			return nil, fmt.Errorf("bundle %s: %w", b.Metadata().Name, err)
		}
	}
	if err := inv.addImages(set); err != nil {
		return nil, err
	}
	inv.sortElements()
	return inv, nil
}

// createdTime returns the time that the artifact's manifest gives; zero when it gives none.
func createdTime(a *bundle.Artifact) (time.Time, error) {
	text, ok := a.Manifest.Annotations[ocispec.AnnotationCreated]
	if !ok {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("annotation %s: %w", ocispec.AnnotationCreated, err)
	}
	return at.UTC(), nil
}

// repositoryBundles returns the bundles of a runtime that have a repository of their own, by digest.
// Those that were built along with the runtime have none.
func repositoryBundles(root *bundle.Artifact) map[string]images.Locked {
	found := map[string]images.Locked{}
	if root.Runtime == nil {
		return found
	}
	for _, locked := range root.Images {
		if locked.Image.RegistryStr() != bundle.Nowhere {
			found[locked.Image.DigestStr()] = locked
		}
	}
	return found
}

func newArtifact(a *bundle.Artifact) (*element, error) {
	d := a.Descriptor.Digest
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return nil, fmt.Errorf("%s: digest %q is not a sha256", a.Metadata().Name, d)
	}
	m := a.Metadata()
	e := &element{
		kind: isRuntime, ref: "runtime-" + m.Name,
		name: m.Name, version: m.Version, description: m.Description,
		licences: strings.Join(strings.Fields(m.Licenses), " "),
		sha256:   d.Encoded(), purls: []string{ociPURL(m.Name, d.String(), "", "")},
		repository: gitURL(m.Source),
	}
	if e.repository == "" {
		e.addProperty(propertySource, m.Source)
	}
	e.addProperty(propertyRevision, m.Revision)
	if a.Runtime != nil {
		e.addProperty(propertyProvided, a.Runtime.Provided...)
	}
	if a.Bundle != nil {
		e.kind, e.ref = isBundle, "bundle-"+m.Name
		e.addProperty(propertyLayer, strconv.Itoa(a.Bundle.Spec.Layer))
		e.addProperty(propertyCategory, a.Bundle.Spec.Category)
	}
	return e, nil
}

// addContent adds what a bundle is made of and what it needs.
func (inv *billOfMaterials) addContent(set *bundle.Set, b *bundle.Artifact, e *element) error {
	for i := range b.Bundle.Spec.Sources {
		s, err := newSource(&b.Bundle.Spec.Sources[i])
		if err != nil {
			return err
		}
		s.ref = fmt.Sprintf("source-%s-%d", b.Metadata().Name, i+1)
		e.generatedFrom = append(e.generatedFrom, s.ref)
		inv.rest = append(inv.rest, s)
	}
	for i, item := range b.ListCargo() {
		c := newCargo(item)
		c.ref = fmt.Sprintf("cargo-%s-%d", b.Metadata().Name, i+1)
		e.contains = append(e.contains, c.ref)
		inv.rest = append(inv.rest, c)
	}
	for _, need := range b.Bundle.Spec.Requires {
		found := false
		for _, other := range set.Bundles {
			if !providesName(other, need) || other.Bundle.Spec.Layer > b.Bundle.Spec.Layer {
				continue
			}
			found = true
			if other != b {
				e.dependsOn = append(e.dependsOn, "bundle-"+other.Metadata().Name)
			}
		}
		if !found {
			e.addProperty(propertyRequires, need)
		}
	}
	for _, image := range b.Images {
		e.dependsOn = append(e.dependsOn, imageRef(image))
	}
	return nil
}

// providesName reports whether a bundle provides a name, its own or one that it lists.
func providesName(b *bundle.Artifact, need string) bool {
	return b.Metadata().Name == need || slices.Contains(b.Bundle.Spec.Provides, need)
}

func imageRef(l images.Locked) string {
	_, hex, _ := strings.Cut(l.Image.DigestStr(), ":")
	return "image-" + hex
}

// addImages adds each image that the bundles run, once, whatever names it goes by.
func (inv *billOfMaterials) addImages(set *bundle.Set) error {
	var all []images.Locked
	for _, b := range set.Bundles {
		all = append(all, b.Images...)
	}
	slices.SortFunc(all, func(a, b images.Locked) int {
		return cmp.Or(cmp.Compare(a.Image.Name(), b.Image.Name()), cmp.Compare(a.Reference, b.Reference))
	})
	seen := map[string]*element{}
	for _, l := range all {
		e := seen[l.Image.DigestStr()]
		if e == nil {
			var err error
			if e, err = newImage(l); err != nil {
				return err
			}
			seen[l.Image.DigestStr()] = e
			inv.rest = append(inv.rest, e)
		}
		e.purls = append(e.purls, ImageURL(l))
		e.addProperty(propertyReference, l.Reference)
	}
	for _, e := range seen {
		e.purls = uniqueValues(e.purls)
	}
	return nil
}

func newImage(l images.Locked) (*element, error) {
	hex, ok := strings.CutPrefix(l.Image.DigestStr(), "sha256:")
	if !ok {
		return nil, fmt.Errorf("digest of %s is not a sha256", l.Image.Name())
	}
	return &element{
		kind: isImage, ref: imageRef(l),
		name: l.Image.Context().Name(), version: cmp.Or(tagOf(l.Reference), l.Image.DigestStr()),
		sha256: hex,
	}, nil
}

// uniqueValues drops what is there before, and keeps the order.
func uniqueValues(values []string) []string {
	var kept []string
	for _, v := range values {
		if !slices.Contains(kept, v) {
			kept = append(kept, v)
		}
	}
	return kept
}

var sha256Rule = regexp.MustCompile(`^[0-9a-f]{64}$`)

// newSource returns the element of a source. Its SHA-256 is a file's digest only for what is a file,
// packed or not; for a folder, a commit and an artifact it is that of the list of the files that
// the bundle took from there, which no file has, so it is told as a property.
func newSource(s *bundle.Source) (*element, error) {
	uri, err := SourceURI(s)
	if err != nil {
		return nil, err
	}
	if s.SHA256 != "" && !sha256Rule.MatchString(s.SHA256) {
		return nil, fmt.Errorf("source %s: %q is not a sha256", uri, s.SHA256)
	}
	e := &element{kind: isFile, sha256: s.SHA256}
	switch {
	case s.Chart != "":
		e.name, e.version, e.repository = s.Chart, s.Version, publicURL(s.Repository)
		e.addProperty(propertySourceKind, "chart")
		e.addProperty(propertyRepository, e.repository)
	case s.URL != "":
		e.name, e.download = publicURL(s.URL), publicURL(s.URL)
		e.addProperty(propertySourceKind, "url")
	case s.Archive != "":
		e.download = publicURL(s.Archive)
		e.name = cmp.Or(e.download, s.Archive)
		e.addProperty(propertySourceKind, "archive")
	case s.File != "":
		e.name = s.File
		e.addProperty(propertySourceKind, "file")
	default:
		if e, err = newTree(s, uri); err != nil {
			return nil, err
		}
	}
	e.addProperty(propertyRoot, s.Root)
	e.addProperty(propertyInclude, s.Include...)
	e.addProperty(propertyExclude, s.Exclude...)
	return e, nil
}

// newCargo returns the element of a file or a chart that a bundle carries.
func newCargo(item bundle.CargoItem) *element {
	e := &element{kind: isCargo, name: item.Name, sha256: item.Content.Digest.Encoded(), download: publicURL(item.Origin)}
	if c := item.Chart; c != nil {
		e.name, e.version, e.repository = c.Chart, c.Version, publicURL(c.Repository)
		if e.repository != "" {
			e.download = ""
		}
		e.addProperty(propertyRepository, e.repository)
	}
	e.addProperty(propertyCargo, string(item.Kind))
	e.addProperty(propertyPlatform, item.Platform)
	return e
}

func newTree(s *bundle.Source, uri string) (*element, error) {
	e := &element{name: s.Dir}
	what := "dir"
	switch {
	case s.Git != "":
		what = "git"
		e.name, e.version, e.repository, e.download = gitURL(s.Git), s.Commit, gitURL(s.Git), uri
	case s.OCI != "":
		what = "oci"
		l, err := parseArtifact(s.OCI)
		if err == nil {
			e, err = newImage(l)
		}
		if err != nil {
			return nil, err
		}
		e.purls = []string{uri}
	}
	e.kind = isTree
	e.addProperty(propertySourceKind, what)
	e.addProperty(propertyTree, s.SHA256)
	return e, nil
}

// sortElements puts everything into an order that says nothing about how the set was made.
func (inv *billOfMaterials) sortElements() {
	for _, e := range append(slices.Clone(inv.rest), inv.root) {
		slices.SortFunc(e.properties, func(a, b property) int {
			return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.value, b.value))
		})
		e.properties = slices.Compact(e.properties)
		for _, refs := range []*[]string{&e.contains, &e.dependsOn, &e.generatedFrom} {
			slices.Sort(*refs)
			*refs = slices.Compact(*refs)
		}
	}
	slices.SortFunc(inv.rest, func(a, b *element) int { return cmp.Compare(a.ref, b.ref) })
}

// Software is what a bundle takes from elsewhere, by the names of its bill of materials.
type Software struct {
	Name, Version string
	// At is its package URL, or the URL that it is downloaded from.
	At string
}

// ListSoftware returns the sources of a bundle that come from elsewhere, its files and its charts, in the definition's
// order, and then the images that it runs, in the lock's.
func ListSoftware(b *bundle.Content) ([]Software, error) {
	var all []Software
	add := func(e *element, purls ...string) {
		if at := cmp.Or(append(slices.Concat(purls, e.purls), e.download, e.repository)...); at != "" {
			all = append(all, Software{e.name, e.version, at})
		}
	}
	for i := range b.Bundle.Spec.Sources {
		e, err := newSource(&b.Bundle.Spec.Sources[i])
		if err != nil {
			return nil, err
		}
		add(e)
	}
	for _, item := range b.ListCargo() {
		add(newCargo(item))
	}
	for _, l := range b.Images {
		e, err := newImage(l)
		if err != nil {
			return nil, err
		}
		add(e, ImageURL(l))
	}
	return all, nil
}
