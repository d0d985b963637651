package provenance

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	attestation "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/types/known/structpb"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/sbom"
)

// The annotations of dependencies.
const (
	// annotationUses lists the bundles that a dependency is of, and what they took of a source:
	// root, include and exclude as definitions have them, and where the dependency's own digest is
	// not that of the files, treeSHA256, the digest of their list as sha256sum prints it.
	annotationUses = "dev.krtpkg.uses"
	// annotationIndirect is true for what this build did not fetch: it is of bundles that were
	// built before and taken from a registry, which are dependencies themselves.
	annotationIndirect = "dev.krtpkg.indirect"
	// annotationReferences lists an image's names as manifests have them.
	annotationReferences = "dev.krtpkg.references"
)

// The algorithms of digests (github.com/in-toto/attestation, spec/v1/digest_set.md).
const (
	algorithmSHA256 = string(attestation.AlgorithmSHA256)
	algorithmCommit = string(attestation.AlgorithmGitCommit)
	// algorithmDir is Go's Hash1 in hex. [bundle.Source] has the very same for a folder: the
	// SHA-256 of the sorted listing that sha256sum prints.
	algorithmDir = string(attestation.AlgorithmDirHash)
)

// buildDependency is a source, an image or a bundle.
type buildDependency struct {
	// id is the same for what is the same.
	id         string
	uri        string
	digests    map[string]string
	uses       []any // of map[string]any
	indirect   bool
	references []any // of string
}

// resolveDependencies lists what the artifact was made of, each once, ordered by URI.
func resolveDependencies(set *bundle.Set) ([]*attestation.ResourceDescriptor, error) {
	var all []*buildDependency
	prebuilt := prebuiltBundles(set)
	for _, b := range set.Bundles {
		name := b.Metadata().Name
		at, indirect := prebuilt[b.Descriptor.Digest.String()]
		if indirect {
			all = append(all, newImage(at))
		}
		for i := range b.Bundle.Spec.Sources {
			d, err := newSource(&b.Bundle.Spec.Sources[i], name)
			if err != nil {
				return nil, fmt.Errorf("bundle %s: %w", name, err)
			}
			d.indirect = indirect
			all = append(all, d)
			for j := range b.Bundle.Spec.Sources[i].Dependencies {
				d, err := newSource(b.Bundle.Spec.Sources[i].Dependencies[j].Source(), name)
				if err != nil {
					return nil, fmt.Errorf("bundle %s: %w", name, err)
				}
				d.indirect = indirect
				all = append(all, d)
			}
		}
		for _, item := range b.ListCargo() {
			d, err := newCargo(item)
			if err != nil {
				return nil, fmt.Errorf("bundle %s: %w", name, err)
			}
			d.indirect = indirect
			all = append(all, d)
		}
		for _, l := range b.Images {
			d := newImage(l)
			d.uses, d.references, d.indirect = []any{map[string]any{"bundle": name}}, []any{l.Reference}, indirect
			all = append(all, d)
		}
	}
	var list []*attestation.ResourceDescriptor
	for _, d := range mergeDependencies(all) {
		r, err := d.resourceDescriptor()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.uri, err)
		}
		list = append(list, r)
	}
	return list, nil
}

// prebuiltBundles returns the bundles that the runtime took from a registry, by digest.
func prebuiltBundles(set *bundle.Set) map[string]images.Locked {
	found := map[string]images.Locked{}
	if set.Root.Runtime == nil {
		return found
	}
	for _, l := range set.Root.Images {
		if l.Image.RegistryStr() != bundle.Nowhere {
			found[l.Image.DigestStr()] = l
		}
	}
	return found
}

// newImage returns an image, or a bundle, which is the same by whatever name.
func newImage(l images.Locked) *buildDependency {
	return &buildDependency{id: l.Image.DigestStr(), uri: sbom.ImageURL(l), digests: digestMap(l.Image.DigestStr())}
}

// newSource returns a source with the digest of what its URI names: for a file, packed or not, and for a folder
// the digest of the source, for a commit and an artifact their own.
func newSource(s *bundle.Source, name string) (*buildDependency, error) {
	uri, err := sbom.SourceURI(s)
	if err != nil {
		return nil, err
	}
	d := &buildDependency{uri: uri, digests: map[string]string{}}
	use := map[string]any{"bundle": name, "root": s.Root, "include": listValue(s.Include), "exclude": listValue(s.Exclude)}
	switch {
	case s.Git != "":
		d.digests[algorithmCommit], use["treeSHA256"] = s.Commit, s.SHA256
	case s.OCI != "":
		_, pinned, _ := strings.Cut(s.OCI, "@")
		d.digests, use["treeSHA256"] = digestMap(pinned), s.SHA256
	case s.Dir != "":
		d.digests[algorithmDir] = s.SHA256
	default:
		d.digests[algorithmSHA256] = s.SHA256
	}
	maps.DeleteFunc(d.digests, func(_, digest string) bool { return digest == "" })
	maps.DeleteFunc(use, func(_ string, v any) bool { return v == "" || v == nil })
	d.id, d.uses = fmt.Sprintf("%s %v", uri, d.digests), []any{use}
	return d, nil
}

// newCargo returns a file or a chart that a bundle carries. Its digest is that of the file, or of the packed chart.
func newCargo(item bundle.CargoItem) (*buildDependency, error) {
	from := &bundle.Source{File: item.Origin}
	switch {
	case item.Chart != nil:
		from = item.Chart.Source()
	case strings.HasPrefix(item.Origin, "https://"):
		from = &bundle.Source{URL: item.Origin}
	}
	uri, err := sbom.SourceURI(from)
	if err != nil {
		return nil, err
	}
	d := &buildDependency{uri: uri, digests: digestMap(item.Content.Digest.String())}
	d.id, d.uses = fmt.Sprintf("%s %v", uri, d.digests), []any{map[string]any{"bundle": item.Bundle}}
	return d, nil
}

func digestMap(digest string) map[string]string {
	algorithm, hex, _ := strings.Cut(digest, ":")
	return map[string]string{algorithm: hex}
}

// listValue returns a list as structpb takes it; nil when empty.
func listValue(texts []string) any {
	var list []any
	for _, text := range texts {
		list = append(list, text)
	}
	if list == nil {
		return nil
	}
	return list
}

// mergeDependencies joins what is there several times, and sorts. Of an image with several names the first
// gives the URI.
func mergeDependencies(all []*buildDependency) []*buildDependency {
	slices.SortStableFunc(all, func(a, b *buildDependency) int {
		return cmp.Or(cmp.Compare(a.uri, b.uri), cmp.Compare(a.id, b.id))
	})
	var kept []*buildDependency
	seen := map[string]*buildDependency{}
	for _, d := range all {
		first, again := seen[d.id]
		if !again {
			seen[d.id] = d
			kept = append(kept, d)
			continue
		}
		first.uses = append(first.uses, d.uses...)
		first.references = append(first.references, d.references...)
		first.indirect = first.indirect && d.indirect
	}
	for _, d := range kept {
		d.uses, d.references = sortUnique(d.uses), sortUnique(d.references)
	}
	return kept
}

// sortUnique puts values into the order in which they print, each once.
func sortUnique(list []any) []any {
	slices.SortFunc(list, func(a, b any) int { return cmp.Compare(fmt.Sprintf("%q", a), fmt.Sprintf("%q", b)) })
	return slices.CompactFunc(list, reflect.DeepEqual)
}

func (d *buildDependency) resourceDescriptor() (*attestation.ResourceDescriptor, error) {
	about := map[string]any{}
	if d.uses != nil {
		about[annotationUses] = d.uses
	}
	if d.references != nil {
		about[annotationReferences] = d.references
	}
	if d.indirect {
		about[annotationIndirect] = true
	}
	r := &attestation.ResourceDescriptor{Uri: d.uri, Digest: d.digests}
	if len(about) == 0 {
		return r, nil
	}
	var err error
	r.Annotations, err = structpb.NewStruct(about)
	return r, err
}
