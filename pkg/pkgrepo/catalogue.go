package pkgrepo

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
)

// BuildCatalogue has the packages of several versions of runtimes, as one repository for kapp-controller.
// Its name is the runtimes', its version the newest of them. A package that two runtimes have in the
// same version is there once if its bundle is the same, and an error if not.
func BuildCatalogue(runtimes []*bundle.Artifact) (*bundle.Content, error) {
	type versioned struct {
		*bundle.Artifact
		version *semver.Version
	}
	var all []versioned
	for _, r := range runtimes {
		v, err := semver.NewVersion(r.Metadata().Version)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", r.Metadata().Name, r.Metadata().Version, err)
		}
		if name := runtimes[0].Metadata().Name; r.Metadata().Name != name {
			return nil, fmt.Errorf("%s is not %s: a catalogue holds versions of a single runtime", r.Metadata().Name, name)
		}
		all = append(all, versioned{r, v})
	}
	slices.SortStableFunc(all, func(a, b versioned) int {
		return cmp.Or(a.version.Compare(b.version), strings.Compare(a.Metadata().Version, b.Metadata().Version)) // build metadata too
	})
	all = slices.CompactFunc(all, func(a, b versioned) bool { return a.Descriptor.Digest == b.Descriptor.Digest })
	newest := all[len(all)-1].Metadata()
	made := &bundle.Content{Catalogue: &bundle.Catalogue{
		APIVersion: bundle.APIVersion, Kind: bundle.KindCatalogue,
		Metadata: bundle.Metadata{Name: newest.Name, Version: newest.Version, Description: "The packages of versions of " + newest.Name},
	}}
	known := map[string]packagedVersion{}
	metadata := map[string]bundle.File{}
	locked := map[string]bool{}
	for _, r := range all {
		m, digest := r.Metadata(), r.Descriptor.Digest.String()
		if slices.ContainsFunc(made.Catalogue.Runtimes, func(l bundle.LockedRuntime) bool { return l.Version == m.Version && l.Digest != digest }) {
			return nil, fmt.Errorf("%s %s occurs twice with different content", m.Name, m.Version)
		}
		made.Catalogue.Runtimes = append(made.Catalogue.Runtimes, bundle.LockedRuntime{Name: m.Name, Version: m.Version, Digest: digest})
		for _, f := range r.AllFiles() {
			switch {
			case !strings.HasPrefix(f.Path, bundle.PackagesDir+"/"):
			case strings.HasSuffix(f.Path, "/"+metadataFile):
				metadata[f.Path] = f // the newest's
			default:
				one, err := readPackage(f)
				if err != nil {
					return nil, err
				}
				one.of = m.Version
				first, twice := known[f.Path]
				if twice && first.digest != one.digest {
					return nil, fmt.Errorf("%s is %s in %s %s, but %s in %s: a version cannot have different content", strings.TrimSuffix(strings.TrimPrefix(f.Path, bundle.PackagesDir+"/"), ".yml"),
						shortenDigest(first.digest), m.Name, first.of, shortenDigest(one.digest), one.of)
				}
				if !twice {
					known[f.Path] = one
					made.Files = append(made.Files, f)
				}
			}
		}
		for _, l := range r.Images {
			if !locked[l.Reference] {
				locked[l.Reference] = true
				made.Images = append(made.Images, images.Locked{Image: l.Image, Reference: l.Reference})
			}
		}
	}
	if len(known) == 0 {
		return nil, fmt.Errorf("%s has no packages: none of its bundles can be a package, or an older krtpkg built it", newest.Name)
	}
	for _, f := range metadata {
		made.Files = append(made.Files, f)
	}
	return made, nil
}

// metadataFile is that of a PackageMetadata.
const metadataFile = "metadata.yml"

// packagedVersion is the digest of what a Package fetches, and the version of the first runtime that has it.
// The same bundle may be named by a repository of its own in one runtime and by none in another.
type packagedVersion struct{ digest, of string }

func readPackage(f bundle.File) (packagedVersion, error) {
	var p struct {
		Spec struct {
			Template packageTemplate `yaml:"template"`
		} `yaml:"spec"`
	}
	if err := yaml.NewDecoder(bytes.NewReader(f.Data)).Decode(&p); err != nil {
		return packagedVersion{}, fmt.Errorf("%s: %w", f.Path, err)
	}
	for _, from := range p.Spec.Template.Spec.Fetch {
		if from.ImgpkgBundle != nil {
			_, digest, found := strings.Cut(from.ImgpkgBundle.Image, "@")
			if !found {
				return packagedVersion{}, fmt.Errorf("%s fetches %s, which has no digest", f.Path, from.ImgpkgBundle.Image)
			}
			return packagedVersion{digest: digest}, nil
		}
	}
	return packagedVersion{}, fmt.Errorf("%s fetches no bundle", f.Path)
}

// shortenDigest returns a digest, as far as people read it.
func shortenDigest(digest string) string {
	return digest[:min(len(digest), len("sha256:")+12)]
}
