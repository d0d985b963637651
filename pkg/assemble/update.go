package assemble

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/source"
)

// Move is a source, an image or a nested bundle with its pin and its newest version.
type Move struct {
	// Bundle is the name of the bundle or the runtime that it belongs to.
	Bundle string `json:"bundle"`
	// Kind is source, image, file, chart or bundle.
	Kind string `json:"kind"`
	// Name is what the definition calls it.
	Name string `json:"name"`
	// From is what it is, or was, pinned to; "" when it was to nothing.
	From string `json:"from,omitempty"`
	// To is the newest of what the definition asks for; "" when it is gone.
	To string `json:"to,omitempty"`
	// Newest is the newest version there is, when that is not what the definition asks for.
	Newest string `json:"newest,omitempty"`
}

// Update pins every source and image of a definition to the newest version in its range: in the
// definition where it has a pin, and otherwise in the lock file next to it. It also updates each
// bundle that a runtime builds. With latest it changes the definition to the newest versions. It
// returns the changes.
//
// It returns an error that names the field if Images of the options is nil.
func Update(ctx context.Context, definition string, latest bool, o Options) ([]Move, error) {
	if o.upstreamResolver() == nil {
		return nil, errors.New("update: Options.Images is nil: want a resolver of images")
	}
	d, at, err := readDefinition(definition)
	if err != nil {
		return nil, err
	}
	if d.Bundle != nil {
		return o.updateBundle(ctx, d, at, latest)
	}
	var moves []Move
	for i, b := range d.Runtime.Spec.Bundles {
		if b.Path == "" {
			move, err := o.lookForBundle(ctx, d, b.Ref)
			if err != nil {
				return nil, placeError(d, []any{"spec", "bundles", i}, err)
			}
			if move != nil {
				moves = append(moves, *move)
				tagged, _, _ := strings.Cut(b.Ref, "@")
				if err := d.SetField([]any{"spec", "bundles", i, "ref"}, tagged+"@"+move.To); err != nil {
					return nil, err
				}
			}
			continue
		}
		inner, err := Update(ctx, filepath.Join(at.folder(), filepath.FromSlash(b.Path)), latest, o)
		if err != nil {
			return nil, placeError(d, []any{"spec", "bundles", i}, err)
		}
		moves = append(moves, inner...)
	}
	_, err = replaceFile(at.file, d.Bytes())
	return moves, err
}

// lookForBundle returns where the tag of a nested bundle has moved; nil when it has not, or there
// is none.
func (o Options) lookForBundle(ctx context.Context, d *bundle.Definition, ref string) (*Move, error) {
	tagged, pinned, _ := strings.Cut(ref, "@")
	tag, err := name.NewTag(tagged, name.StrictValidation)
	if err != nil || strings.HasPrefix(ref, "oci:") {
		return nil, nil
	}
	// As a build opens it: mirrors are of images.
	var now ocispec.Descriptor
	if o.Open != nil {
		_, now, err = o.Open(ctx, tagged, "")
	} else {
		now, err = o.upstreamResolver().Resolve(ctx, tag)
	}
	if err != nil || now.Digest.String() == pinned {
		return nil, err
	}
	return &Move{Bundle: d.Metadata().Name, Kind: "bundle", Name: tagged, From: pinned, To: now.Digest.String()}, nil
}

func (o Options) updateBundle(ctx context.Context, d *bundle.Definition, at definitionPath, latest bool) ([]Move, error) {
	old, err := at.readPins()
	if err != nil {
		return nil, err
	}
	written := slices.Clone(d.Bundle.Spec.Sources)
	from := make([]string, len(written))
	for i := range written {
		from[i] = currentPin(&written[i], old)
	}
	i := -1
	fresh := func(ctx context.Context, f *source.Fetcher, s *bundle.Source) error {
		i++
		up, err := findNewest(ctx, f, s)
		if err != nil {
			return err
		}
		if latest && up.newest != "" && up.newest != cmp.Or(s.Version, s.Ref) && s.OCI == "" {
			if err := requestVersion(d, i, up.newest); err != nil {
				return err
			}
			if s.Chart != "" {
				s.Version, written[i].Version = up.newest, up.newest
			} else {
				s.Ref, written[i].Ref = up.newest, up.newest
			}
			if up, err = findNewest(ctx, f, s); err != nil {
				return err
			}
		}
		replacePins(s, up.pin)
		return nil
	}
	a, err := o.assembleContent(ctx, d, at, fresh)
	if err != nil {
		return nil, err
	}
	wanted, err := a.wantedImages(ctx)
	if err != nil {
		return nil, err
	}
	if a.Images, err = images.ResolveLock(ctx, wanted, o.upstreamResolver()); err != nil {
		return nil, err
	}
	cargo, err := o.findCargo(ctx, d, at, old, latest)
	if err != nil {
		return nil, err
	}
	p := newPins(written, a.Content)
	p.Files, p.Charts = cargo.files, cargo.charts
	if err := rewritePins(d, written, a.Bundle.Spec.Sources); err != nil {
		return nil, err
	}
	moves := listMoves(d.Metadata().Name, from, old, p)
	if latest {
		moves = o.addNewestImages(ctx, d.Metadata().Name, moves, p)
	}
	moves = slices.Concat(moves, cargo.moves, cargo.unlocked)
	if _, err := replaceFile(at.file, d.Bytes()); err != nil {
		return nil, err
	}
	_, err = p.writeFile(at.lockFile())
	return moves, err
}

// requestVersion changes the version of a source in the definition.
func requestVersion(d *bundle.Definition, i int, version string) error {
	field := "ref"
	if d.Bundle.Spec.Sources[i].Chart != "" {
		field = "version"
	}
	return d.SetField([]any{"spec", "sources", i, field}, version)
}

// replacePins replaces a source's pins by those of upstream.
func replacePins(s *bundle.Source, pin *sourcePin) {
	if pin == nil {
		if s.Git == "" && s.OCI == "" {
			s.SHA256 = "" // what is there now
		}
		return
	}
	s.SHA256 = pin.SHA256
	s.Commit = cmp.Or(pin.Commit, s.Commit)
	if s.Chart != "" {
		s.Version = pin.Version
	}
	if pin.Digest != "" {
		tagged, _, _ := strings.Cut(s.OCI, "@")
		s.OCI = tagged + "@" + pin.Digest
	}
}

// rewritePins updates the pins in the definition itself.
func rewritePins(d *bundle.Definition, written, pinned []bundle.Source) error {
	for i := range written {
		w, p := &written[i], &pinned[i]
		for _, pin := range []struct{ field, old, now string }{
			{"sha256", w.SHA256, p.SHA256}, {"commit", w.Commit, p.Commit}, {"oci", w.OCI, p.OCI},
		} {
			if pin.old == "" || pin.old == pin.now || pin.field == "oci" && !strings.Contains(pin.old, "@") {
				continue
			}
			if err := d.SetField([]any{"spec", "sources", i, pin.field}, pin.now); err != nil {
				return err
			}
		}
	}
	return nil
}

// listMoves compares what the sources were pinned to and the images of the old lock file with the
// new one.
func listMoves(bundleName string, from []string, old, now *lockedPins) []Move {
	if old == nil {
		old = &lockedPins{}
	}
	var moves []Move
	for i, pin := range now.Sources {
		if from[i] != pin.describePin() {
			moves = append(moves, Move{Bundle: bundleName, Kind: "source", Name: pin.Source, From: from[i], To: pin.describePin()})
		}
	}
	was := map[string]string{}
	for _, image := range old.Images {
		was[image.Reference] = image.Image
	}
	for _, image := range now.Images {
		if was[image.Reference] != image.Image {
			moves = append(moves, Move{bundleName, "image", image.Reference, digestOf(was[image.Reference]), digestOf(image.Image), ""})
		}
		delete(was, image.Reference)
	}
	for _, image := range old.Images {
		if _, gone := was[image.Reference]; gone {
			moves = append(moves, Move{Bundle: bundleName, Kind: "image", Name: image.Reference, From: digestOf(image.Image)})
		}
	}
	return moves
}

// addNewestImages adds the newer versions of images, which are in manifests that are not this program's to change.
func (o Options) addNewestImages(ctx context.Context, bundleName string, moves []Move, p *lockedPins) []Move {
	for _, image := range p.Images {
		ref, err := images.ParseReference(image.Reference)
		if err != nil {
			continue // it was locked by its digest
		}
		newest := o.findNewestImage(ctx, ref)
		if newest == "" {
			continue
		}
		i := slices.IndexFunc(moves, func(m Move) bool { return m.Kind == "image" && m.Name == image.Reference })
		if i < 0 {
			at := digestOf(image.Image)
			moves, i = append(moves, Move{Bundle: bundleName, Kind: "image", Name: image.Reference, From: at, To: at}), len(moves)
		}
		moves[i].Newest = newest
	}
	return moves
}

// describePin returns what a source is pinned to, in the words of its kind.
func (p *sourcePin) describePin() string {
	switch {
	case p.Version != "":
		return p.Version
	case p.Commit != "":
		return p.Commit
	}
	return cmp.Or(p.Digest, "sha256:"+p.SHA256)
}

func digestOf(image string) string {
	_, digest, _ := strings.Cut(image, "@")
	return digest
}

// Outdated is what [ListOutdated] found.
type Outdated struct {
	Moves []Move
	// Unlocked names the bundles without a lock file: their images were not looked up.
	Unlocked []string
}

func (found *Outdated) add(other *Outdated) {
	found.Moves, found.Unlocked = append(found.Moves, other.Moves...), append(found.Unlocked, other.Unlocked...)
}

// ListOutdated lists what [Update] would change, and newer versions outside of the definition's
// range. It changes nothing. Of a folder without a definition it looks at every bundle
// below: what upstream does not answer for one is an error next to what it found for the others.
//
// It returns an error that names the field if Images of the options is nil.
func ListOutdated(ctx context.Context, definition string, o Options) (*Outdated, error) {
	if o.upstreamResolver() == nil {
		return nil, errors.New("list outdated: Options.Images is nil: want a resolver of images")
	}
	below, err := findBundlesBelow(definition)
	if err != nil {
		return nil, err
	}
	if len(below) > 0 {
		return o.listOutdatedBelow(ctx, below)
	}
	d, at, err := readDefinition(definition)
	if err != nil {
		return nil, err
	}
	if d.Bundle != nil {
		return o.listOutdated(ctx, d, at)
	}
	found := &Outdated{}
	for i, b := range d.Runtime.Spec.Bundles {
		inner := &Outdated{}
		if b.Path != "" {
			inner, err = ListOutdated(ctx, filepath.Join(at.folder(), filepath.FromSlash(b.Path)), o)
		} else if move, failed := o.lookForBundle(ctx, d, b.Ref); move != nil {
			inner.Moves = []Move{*move}
		} else {
			err = failed
		}
		if err != nil {
			return nil, placeError(d, []any{"spec", "bundles", i}, err)
		}
		found.add(inner)
	}
	return found, nil
}

// findBundlesBelow lists the definitions of bundles in the folders below one that holds no definition.
func findBundlesBelow(folder string) ([]string, error) {
	info, err := os.Stat(folder)
	if err != nil || !info.IsDir() || hasDefinition(folder) {
		return nil, nil // which read tells
	}
	var found []string
	err = filepath.WalkDir(folder, func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() && entry.Name() == "bundle.yaml" {
			found = append(found, name)
		}
		return err
	})
	return found, err
}

func (o Options) listOutdatedBelow(ctx context.Context, definitions []string) (*Outdated, error) {
	each, failed := make([]*Outdated, len(definitions)), make([]error, len(definitions))
	var group errgroup.Group
	group.SetLimit(8) // so many ask upstream at a time
	for i, definition := range definitions {
		group.Go(func() error {
			each[i], failed[i] = ListOutdated(ctx, definition, o)
			return nil
		})
	}
	_ = group.Wait() // failed has the errors of all
	found := &Outdated{}
	for i, one := range each {
		if failed[i] == nil {
			found.add(one)
		}
	}
	return found, errors.Join(failed...)
}

func (o Options) listOutdated(ctx context.Context, d *bundle.Definition, at definitionPath) (*Outdated, error) {
	p, err := at.readPins()
	if err != nil {
		return nil, err
	}
	fetcher := o.Sources
	fetcher.Dir = at.folder()
	found := &Outdated{}
	for i := range d.Bundle.Spec.Sources {
		s := &d.Bundle.Spec.Sources[i]
		up, err := findNewest(ctx, &fetcher, s)
		if err != nil {
			return nil, placeError(d, []any{"spec", "sources", i}, err)
		}
		if up.pin == nil {
			continue
		}
		move := Move{Bundle: d.Metadata().Name, Kind: "source", Name: s.Name(), From: currentPin(s, p), To: up.pin.describePin()}
		if up.newest != cmp.Or(up.pin.Version, s.Ref, tagOf(s.OCI)) {
			move.Newest = up.newest
		}
		if move.From != move.To || move.Newest != "" {
			found.Moves = append(found.Moves, move)
		}
	}
	cargo, err := o.findCargo(ctx, d, at, p, false)
	if err != nil {
		return nil, err
	}
	found.Moves = append(found.Moves, cargo.moves...)
	if p == nil {
		found.Unlocked = []string{d.Metadata().Name}
		return found, nil
	}
	for _, image := range p.Images {
		ref, err := images.ParseReference(image.Reference)
		if err != nil {
			return nil, err
		}
		now, err := o.upstreamResolver().Resolve(ctx, ref)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", image.Reference, err)
		}
		move := Move{
			Bundle: d.Metadata().Name, Kind: "image", Name: image.Reference, From: digestOf(image.Image), To: now.Digest.String(),
			Newest: o.findNewestImage(ctx, ref),
		}
		if move.From != move.To || move.Newest != "" {
			found.Moves = append(found.Moves, move)
		}
	}
	return found, nil
}

// currentPin returns what a source is pinned to, in the definition or the lock file.
func currentPin(s *bundle.Source, p *lockedPins) string {
	own := sourcePin{Commit: s.Commit, SHA256: s.SHA256, Digest: digestOf(s.OCI)}
	if pin := p.pinOf(s); pin != nil {
		own = sourcePin{Version: pin.Version, Commit: cmp.Or(own.Commit, pin.Commit), SHA256: cmp.Or(own.SHA256, pin.SHA256), Digest: cmp.Or(own.Digest, pin.Digest)}
	} else if s.Chart != "" && s.SHA256 != "" {
		own.Version = s.Version
	}
	if own.describePin() == "sha256:" {
		return ""
	}
	return own.describePin()
}

// tagOf returns the tag of a reference, or "".
func tagOf(ref string) string {
	tagged, _, _ := strings.Cut(ref, "@")
	tag, err := name.NewTag(tagged, name.StrictValidation)
	if err != nil {
		return ""
	}
	return tag.TagStr()
}
