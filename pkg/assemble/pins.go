package assemble

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/source"
)

// lockedPins is the lock file next to a bundle's definition: what every source and every image was
// when krtpkg update ran.
type lockedPins struct {
	APIVersion string      `yaml:"apiVersion"`
	Kind       string      `yaml:"kind"`
	Sources    []sourcePin `yaml:"sources"`
	Images     []imagePin  `yaml:"images"`
	Files      []filePin   `yaml:"files,omitempty"`
	Charts     []chartPin  `yaml:"charts,omitempty"`

	byName map[string]name.Digest // by the whole name of the reference
}

const pinsKind = "Lock"

// sourcePin is a source and what it was. Path is where it goes, which no other source does;
// Source is what the definition asks for: its name, with the version or the ref.
type sourcePin struct {
	Path    string `yaml:"path"`
	Source  string `yaml:"source"`
	Version string `yaml:"version,omitempty"`
	Commit  string `yaml:"commit,omitempty"`
	Digest  string `yaml:"digest,omitempty"`
	SHA256  string `yaml:"sha256"`
}

type imagePin struct {
	Reference string `yaml:"reference"`
	Image     string `yaml:"image"`
}

// lockFile returns the lock file of a definition: bundle.lock.yaml next to bundle.yaml.
func (l definitionPath) lockFile() string {
	return strings.TrimSuffix(l.file, filepath.Ext(l.file)) + ".lock.yaml"
}

// readPins reads the lock file; nil if it does not exist.
func (l definitionPath) readPins() (*lockedPins, error) {
	file := l.lockFile()
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", file)
	}
	data, err := readFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p := &lockedPins{byName: map[string]name.Digest{}}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(p); err != nil && !errors.Is(err, io.EOF) {
		return nil, &manifest.Error{File: file, Problem: err.Error(), Hint: "krtpkg update writes it again"}
	}
	if p.APIVersion != bundle.APIVersion || p.Kind != pinsKind {
		return nil, &manifest.Error{File: file, Problem: fmt.Sprintf("is %s %s, want %s %s", p.APIVersion, p.Kind, bundle.APIVersion, pinsKind)}
	}
	for _, image := range p.Images {
		ref, err := images.ParseReference(image.Reference)
		if err != nil {
			return nil, &manifest.Error{File: file, Problem: err.Error()}
		}
		digest, err := name.NewDigest(image.Image)
		if err != nil {
			return nil, &manifest.Error{File: file, Problem: err.Error()}
		}
		p.byName[ref.Name()] = digest
	}
	return p, nil
}

// requestedVersion returns the version that a definition requests of a source.
func requestedVersion(s *bundle.Source) string {
	return strings.TrimSpace(s.Name() + " " + cmp.Or(s.Version, s.Ref))
}

// pinOf returns the pin of a source, or nil if the requested version is not pinned.
func (p *lockedPins) pinOf(s *bundle.Source) *sourcePin {
	if p == nil {
		return nil
	}
	i := slices.IndexFunc(p.Sources, func(pin sourcePin) bool { return pin.Path == s.Path && pin.Source == requestedVersion(s) })
	if i < 0 {
		return nil
	}
	return &p.Sources[i]
}

// sourcePinner pins sources by the definition and the lock file.
type sourcePinner struct {
	*lockedPins
	strict bool
}

// ErrNotLocked reports that a locked build needs what the lock file does not have.
var ErrNotLocked = errors.New("not in the lock file")

// UnpinnedError is the error of a remote source without a pin.
type UnpinnedError struct{ Source, Wanted string }

func (e *UnpinnedError) Error() string {
	return fmt.Sprintf("source %s has no %s: remote sources must be pinned by digest", e.Source, e.Wanted)
}

func (p sourcePinner) pinSource(_ context.Context, _ *source.Fetcher, s *bundle.Source) error {
	pin := p.pinOf(s)
	if pin == nil && p.strict {
		return fmt.Errorf("source %s: %w", s.Name(), ErrNotLocked)
	}
	local := s.Dir != "" || s.File != "" || s.Archive != "" && !strings.HasPrefix(s.Archive, "https://")
	if pin != nil {
		s.Commit = cmp.Or(s.Commit, pin.Commit)
		if s.Chart != "" {
			s.Version = pin.Version
		}
		if s.OCI != "" && pin.Digest != "" && !strings.Contains(s.OCI, "@") {
			s.OCI += "@" + pin.Digest
		}
		// What lies next to the definition may change between updates, unless nothing may.
		if !local || p.strict {
			s.SHA256 = cmp.Or(s.SHA256, pin.SHA256)
		}
	}
	switch {
	case s.Git != "" && s.Commit == "":
		return &UnpinnedError{s.Name(), "commit"}
	case s.OCI != "" && !strings.Contains(s.OCI, "@"):
		return &UnpinnedError{s.Name(), "digest"}
	case !local && s.Git == "" && s.OCI == "" && s.SHA256 == "":
		return &UnpinnedError{s.Name(), "sha256"}
	}
	return nil
}

// MovedError is the error of something that no longer matches the lock file.
type MovedError struct{ What, Now, Locked string }

func (e *MovedError) Error() string {
	return fmt.Sprintf("%s is now %s, but the lock file has %s", e.What, e.Now, e.Locked)
}

// newLockResolver returns each image of the lock file its digest from there. An image that is not in
// it is resolved, and noted; with Locked that is an error, and so is a tag that has moved.
// A reference with a digest is that image: it is not restricted to platforms.
func (o Options) newLockResolver(p *lockedPins, at definitionPath) images.Resolver {
	return resolverFunc(func(ctx context.Context, ref name.Reference) (ocispec.Descriptor, error) {
		if _, pinned := ref.(name.Digest); pinned && (p == nil || !o.Locked) {
			return o.upstreamResolver().Resolve(ctx, ref)
		}
		if p == nil {
			return o.Images.Resolve(ctx, ref)
		}
		locked, known := p.byName[ref.Name()]
		switch {
		case !known && o.Locked:
			return ocispec.Descriptor{}, fmt.Errorf("%w %s", ErrNotLocked, at.lockFile())
		case !known:
			o.Progress.Emit(progress.Event{Kind: progress.Note, Subject: images.FamiliarName(ref.Name()), Detail: "is not in " + at.lockFile() + ": its tag decides"})
			return o.Images.Resolve(ctx, ref)
		case o.Locked:
			now, err := o.upstreamResolver().Resolve(ctx, ref)
			if err != nil {
				return now, err
			}
			if now.Digest.String() != locked.DigestStr() {
				return now, &MovedError{images.FamiliarName(ref.Name()), now.Digest.String(), locked.DigestStr()}
			}
			if _, pinned := ref.(name.Digest); pinned {
				return now, nil
			}
		}
		return o.Images.Resolve(ctx, ref.Context().Digest(locked.DigestStr()))
	})
}

func (o Options) upstreamResolver() images.Resolver {
	if o.Upstream != nil {
		return o.Upstream
	}
	return o.Images
}

type resolverFunc func(ctx context.Context, ref name.Reference) (ocispec.Descriptor, error)

// Resolve implements [images.Resolver].
func (f resolverFunc) Resolve(ctx context.Context, ref name.Reference) (ocispec.Descriptor, error) {
	return f(ctx, ref)
}

// newPins returns the lock file of what was assembled, under the names that its sources have in the
// definition as it is written.
func newPins(written []bundle.Source, c *bundle.Content) *lockedPins {
	p := &lockedPins{APIVersion: bundle.APIVersion, Kind: pinsKind, Sources: []sourcePin{}, Images: []imagePin{}}
	for i := range written {
		s := &c.Bundle.Spec.Sources[i]
		pin := sourcePin{Path: s.Path, Source: requestedVersion(&written[i]), Commit: s.Commit, SHA256: s.SHA256}
		if s.Chart != "" {
			pin.Version = s.Version
		}
		if _, digest, ok := strings.Cut(s.OCI, "@"); ok {
			pin.Digest = digest
		}
		p.Sources = append(p.Sources, pin)
	}
	for _, image := range c.Images {
		p.Images = append(p.Images, imagePin{image.Reference, image.Image.Name()})
	}
	return p
}

// writeFile replaces the lock file, whole or not at all, and reports whether it changed.
func (p *lockedPins) writeFile(file string) (changed bool, err error) {
	text, err := manifest.EncodeYAML(p)
	if err != nil {
		return false, err
	}
	const head = "# Written by krtpkg update; krtpkg build takes images and sources from here.\n"
	return replaceFile(file, slices.Concat([]byte(head), text))
}

// replaceFile writes a file by renaming, unless it holds just that.
func replaceFile(file string, data []byte) (changed bool, err error) {
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, data) {
		return false, nil
	}
	temp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return false, err
	}
	_, err = temp.Write(data)
	err = errors.Join(err, temp.Chmod(0o644), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), file)
	}
	if err != nil {
		return false, errors.Join(err, os.Remove(temp.Name()))
	}
	return true, nil
}
