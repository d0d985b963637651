package bundle

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/klauspost/compress/gzip"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/tracing"
)

// ErrNotOurs reports that a manifest is neither a bundle nor a runtime.
var ErrNotOurs = errors.New("is not a krtpkg bundle or runtime")

// otherTypes names the other artifact types that krtpkg writes.
var otherTypes = map[string]string{
	TypeCatalogue: "a catalogue of packages for kapp-controller: name one of its versions",
	TypeClosure:   "the closure of a runtime: name the runtime",
	TypeArgoCD:    "a manifest for Argo CD: name its runtime",
	TypeDeltas:    "deltas of a runtime: name the runtime",
	TypeFile:      "a file of a bundle: name the bundle",
}

// Artifact is an opened bundle or runtime.
type Artifact struct {
	// Descriptor is the manifest that was opened.
	Descriptor ocispec.Descriptor
	// Manifest is its parsed content.
	Manifest ocispec.Manifest
	Content
	// all is every file of the layer, in its order.
	all []File
}

// AllFiles returns every file of the artifact, the locks included.
func (a *Artifact) AllFiles() []File { return a.all }

// Created is the time that the artifact says it was made at; zero where it says none.
func (a *Artifact) Created() (time.Time, error) {
	text, is := a.Manifest.Annotations[ocispec.AnnotationCreated]
	if !is {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339, text)
}

// Open reads a bundle or a runtime. Each byte is checked against the descriptor, so what
// it returns can be trusted as far as the descriptor is. Content is capped at 512 MiB and
// 100,000 files, and by what memory the operation has ([oci.WithBudget]); anything but regular files
// and folders with confined names is an error.
func Open(ctx context.Context, store content.Fetcher, desc ocispec.Descriptor) (_ *Artifact, err error) {
	ctx, end := tracing.Start(ctx, "open bundle", tracing.Digest(desc.Digest))
	defer func() { end(err) }()
	ctx, _ = oci.WithBudget(ctx) // readers take from it by the context
	m, err := ReadManifest(ctx, store, desc)
	if err != nil {
		return nil, err
	}
	a := &Artifact{Descriptor: desc, Manifest: *m}
	if err := a.readLayer(ctx, store); err != nil {
		return nil, fmt.Errorf("%s: %w", desc.Digest, err)
	}
	return a, nil
}

// ReadManifest reads the manifest of a bundle or runtime and nothing more. The error is
// [ErrNotOurs] for a manifest of another kind.
func ReadManifest(ctx context.Context, store content.Fetcher, desc ocispec.Descriptor) (*ocispec.Manifest, error) {
	if desc.Size > oci.MaxManifest {
		return nil, fmt.Errorf("%s: the manifest has %d bytes, the limit is %d", desc.Digest, desc.Size, oci.MaxManifest)
	}
	raw, err := content.FetchAll(ctx, store, desc)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", desc.Digest, err)
	}
	var m ocispec.Manifest
	if err := oci.UnmarshalJSON(raw, &m); err != nil {
		return nil, fmt.Errorf("%s: invalid manifest: %w", desc.Digest, err)
	}
	if m.ArtifactType != TypeBundle && m.ArtifactType != TypeRuntime {
		if of, known := otherTypes[m.ArtifactType]; known {
			return nil, fmt.Errorf("%s %w: it is %s", desc.Digest, ErrNotOurs, of)
		}
		return nil, fmt.Errorf("%s %w (artifactType %q, media type %s)", desc.Digest, ErrNotOurs, m.ArtifactType, desc.MediaType)
	}
	if len(m.Layers) != 1 || m.Layers[0].MediaType != mediaTypeLayer {
		return nil, fmt.Errorf("%s: invalid manifest: want one layer of type %s", desc.Digest, mediaTypeLayer)
	}
	return &m, nil
}

func (a *Artifact) readLayer(ctx context.Context, store content.Fetcher) error {
	err := a.tryLayer(ctx, store)
	if errors.Is(err, content.ErrMismatchedDigest) && ctx.Err() == nil {
		// A byte may have changed on the way, which the reader of a large blob cannot mend.
		err = a.tryLayer(ctx, store)
	}
	if err != nil {
		return err
	}
	return a.parseFiles()
}

// tryLayer reads the files of the layer.
func (a *Artifact) tryLayer(ctx context.Context, store content.Fetcher) (err error) {
	layer := a.Manifest.Layers[0]
	if layer.Size > maxLayer {
		return fmt.Errorf("layer %s has %d bytes, the limit is %d", layer.Digest, layer.Size, maxLayer)
	}
	blob, err := store.Fetch(ctx, layer)
	if err != nil {
		return fmt.Errorf("read layer %s: %w", layer.Digest, err)
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	verified := content.NewVerifyReader(blob, layer)
	_, budget := oci.WithBudget(ctx)
	if a.all, err = unpackLayer(verified, budget); err != nil {
		// What is over a limit need not be read to its end.
		if errors.Is(err, oci.ErrTooLarge) {
			return fmt.Errorf("layer %s: %w", layer.Digest, err)
		}
		// The digest is the better reason: unpacking fails in odd ways on wrong bytes.
		if _, drained := io.Copy(io.Discard, verified); drained == nil {
			if wrong := verified.Verify(); wrong != nil {
				return fmt.Errorf("layer %s: %w", layer.Digest, wrong)
			}
		}
		return fmt.Errorf("layer %s: %w", layer.Digest, err)
	}
	if _, err := io.Copy(io.Discard, verified); err != nil {
		return fmt.Errorf("read layer %s: %w", layer.Digest, err)
	}
	if err := verified.Verify(); err != nil {
		for _, f := range a.all {
			budget.Release(f.cost())
		}
		return fmt.Errorf("layer %s: %w", layer.Digest, err)
	}
	return nil
}

// perFile is about what a file takes in memory in addition to its content.
const perFile = 256

// cost is what a file takes in memory.
func (f File) cost() int64 { return int64(len(f.Data)+len(f.Path)) + perFile }

// unpackLayer reads a tar+gzip stream into memory.
func unpackLayer(r io.Reader, budget *oci.Budget) (files []File, err error) {
	taken := int64(0)
	defer func() {
		if err != nil {
			budget.Release(taken)
		}
	}()
	compressed := bufio.NewReader(r)
	zip, err := gzip.NewReader(compressed)
	if err != nil {
		return nil, err
	}
	zip.Multistream(false)
	names := entryNames{}
	left := int64(maxContent)
	// Folders and the archive's own headers take room as well.
	stream := &io.LimitedReader{R: zip, N: maxStream}
	archive := tar.NewReader(stream)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) && stream.N > 0 {
			return files, checkEnd(stream, compressed)
		}
		if stream.N <= 0 {
			return nil, fmt.Errorf("the archive has more than %d bytes", maxStream)
		}
		if err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(header.Name, "/")
		isFolder := header.Typeflag == tar.TypeDir
		switch {
		case !isConfined(name) || path.Clean(name) != name || name == "." && header.Typeflag != tar.TypeDir:
			return nil, fmt.Errorf("entry %q leaves the bundle", header.Name)
		case !isPrintable(name):
			return nil, fmt.Errorf("entry %q has non-printable characters in its name", header.Name)
		case !isFolder && header.Typeflag != tar.TypeReg:
			return nil, fmt.Errorf("entry %q is neither file nor folder", header.Name)
		case !isFolder && (header.Size > left || len(files) == maxFiles):
			return nil, fmt.Errorf("entry %q is over the limit of %d files and %d bytes", header.Name, maxFiles, maxContent)
		}
		folders, err := names.add(name, isFolder)
		if err != nil {
			return nil, err
		}
		if folders > 0 {
			if err := budget.Take(int64(folders) * perFile); err != nil {
				return nil, fmt.Errorf("entry %q: %w", header.Name, err)
			}
			taken += int64(folders) * perFile
		}
		if isFolder {
			continue
		}
		left -= header.Size
		if isMetadata(name) && header.Size > oci.MaxMetadataFile {
			return nil, fmt.Errorf("entry %q has %d bytes, the limit is %d: %w", header.Name, header.Size, oci.MaxMetadataFile, oci.ErrTooLarge)
		}
		cost := File{Path: name}.cost() + header.Size
		if err := budget.Take(cost); err != nil {
			return nil, fmt.Errorf("entry %q: %w", header.Name, err)
		}
		taken += cost
		data := make([]byte, header.Size)
		if _, err := io.ReadFull(archive, data); err != nil {
			return nil, fmt.Errorf("entry %q: %w", header.Name, err)
		}
		files = append(files, File{name, data})
	}
}

// maxPadding is how many zeros may stand behind the end of an archive, as tar pads to whole records.
const maxPadding = 1 << 20

// checkEnd returns an error unless nothing but padding follows an archive: no reader looks at what stands there,
// and the signature would cover it all the same.
func checkEnd(archive io.Reader, compressed io.ByteReader) error {
	rest, err := io.ReadAll(io.LimitReader(archive, maxPadding+1))
	if err != nil {
		return err
	}
	if _, after := compressed.ReadByte(); strings.Trim(string(rest), "\x00") != "" || len(rest) > maxPadding || !errors.Is(after, io.EOF) {
		return errors.New("trailing data behind the end of the archive")
	}
	return nil
}

// isMetadata reports whether a file is one that is parsed as soon as an artifact is opened.
func isMetadata(name string) bool {
	top, _, _ := strings.Cut(name, "/")
	return top == path.Dir(fileImages) || top == path.Dir(fileBundle) || name == fileKustomization
}

// parseFiles reads the locks and keeps the rest as what the target renders.
func (a *Artifact) parseFiles() error {
	var lock []byte
	a.opened = true
	for _, f := range a.all {
		var err error
		switch f.Path {
		case fileImages:
			lock = f.Data
		case fileBundle:
			a.Bundle = &Bundle{}
			if err = decodeFile(f, a.Bundle); err == nil {
				err = a.checkDefinition(f)
			}
		case fileRuntime:
			a.Runtime = &RuntimeLock{}
			err = decodeFile(f, a.Runtime)
		case fileImgpkg:
		default:
			err = a.acceptFile(f)
		}
		if err != nil {
			return err
		}
	}
	switch {
	case lock == nil:
		return fmt.Errorf("%s is missing", fileImages)
	case a.Manifest.ArtifactType == TypeBundle && (a.Bundle == nil || a.Runtime != nil):
		return fmt.Errorf("%s is missing in a bundle", fileBundle)
	case a.Manifest.ArtifactType == TypeRuntime && (a.Runtime == nil || a.Bundle != nil):
		return fmt.Errorf("%s is missing in a runtime", fileRuntime)
	}
	if err := a.checkSizes(); err != nil {
		return err
	}
	all, err := images.UnmarshalLock(fileImages, lock)
	if err != nil {
		return err
	}
	if err := a.splitCargo(all); err != nil {
		return err
	}
	return a.checkConsistency()
}

// checkDefinition holds a bundle to what a definition must be; what is missing was set by the build. Of files it takes
// the names and platforms that were checked.
func (a *Artifact) checkDefinition(f File) error {
	d, err := Parse(f.Path, f.Data)
	if err != nil {
		return err
	}
	if d.Bundle == nil {
		return fmt.Errorf("%s is not the definition of a bundle", f.Path)
	}
	a.Bundle.Spec.Files = d.Bundle.Spec.Files
	return nil
}

// acceptFile accepts a file that has a place in an artifact of its type, and refuses any other: nothing here looks
// at it, and a controller that reads the artifact may apply it.
func (a *Artifact) acceptFile(f File) error {
	top, _, isBelow := strings.Cut(f.Path, "/")
	isBundle := a.Manifest.ArtifactType == TypeBundle
	switch {
	case isBundle && f.Path == fileKustomization:
		a.base = f.Data
	case isBundle && isBelow && (top == ConfigDir || top == OverlaysDir || top == HooksDir):
		a.Files = append(a.Files, f)
	case !isBundle && isBelow && (top == PackagesDir || top == FluxDir || top == ArgoCDDir):
	default:
		return fmt.Errorf("unexpected entry %q (made by a newer krtpkg?)", f.Path)
	}
	return nil
}

// checkConsistency holds the parts against each other: names go into the names of cluster objects
// and folders, and every bundle of a runtime must be in its lock. A bundle's own definition
// has been checked by [Parse].
func (a *Artifact) checkConsistency() error {
	m := a.Metadata()
	for key, want := range map[string]string{ocispec.AnnotationTitle: m.Name, ocispec.AnnotationVersion: m.Version} {
		if got, is := a.Manifest.Annotations[key]; is && got != want {
			return fmt.Errorf("annotation %s of its manifest is %q, but its content has %q", key, got, want)
		}
	}
	if a.Runtime == nil {
		return a.checkBase()
	}
	if err := checkNamed("", m.Name, m.Version); err != nil {
		return err
	}
	if secret := findSecret(m.Source); secret != "" {
		return fmt.Errorf("metadata.source contains %s", secret)
	}
	locked := map[string]bool{}
	for _, d := range a.Images.DistinctImages() {
		locked[d.DigestStr()] = true
	}
	names := map[string]bool{}
	for _, b := range a.Runtime.Bundles {
		if err := checkNamed("bundle ", b.Name, b.Version); err != nil {
			return err
		}
		switch {
		case names[b.Name]:
			return fmt.Errorf("duplicate bundle %q", b.Name)
		case b.Layer < 0 || b.Layer > 6:
			return fmt.Errorf("bundle %s is of layer %d, want 0 to 6", b.Name, b.Layer)
		case b.Category != "" && !nameRule.MatchString(b.Category):
			return fmt.Errorf("bundle %s: category %q %s", b.Name, b.Category, wanted["category"])
		case !locked[b.Digest]:
			return fmt.Errorf("bundle %s %s is not in %s", b.Name, b.Digest, fileImages)
		}
		names[b.Name] = true
	}
	return nil
}

// checkNamed holds a name and a version to what they are in a definition.
func checkNamed(of, name, version string) error {
	if !nameRule.MatchString(name) {
		return fmt.Errorf("%sname %q %s", of, name, wanted["name"])
	}
	if _, err := semver.StrictNewVersion(version); err != nil {
		return fmt.Errorf("%sversion %q %s", of, version, wanted["version"])
	}
	return nil
}

// decodeFile reads a file that we wrote ourselves; a field of a newer version is an error,
// since what it asks for would be left out without a word.
func decodeFile(f File, into any) error {
	err := manifest.DecodeMetadata(f.Path, f.Data, into)
	if errors.Is(err, oci.ErrTooLarge) {
		return err
	}
	if err != nil {
		return &manifest.Error{File: f.Path, Problem: err.Error(), Hint: "made by a newer krtpkg?"}
	}
	return nil
}
