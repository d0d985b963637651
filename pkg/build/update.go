package build

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/source"
)

// Move is a source, an image or a nested bundle, what it is pinned to, and what it could be.
type Move struct {
	// Bundle is the name of the bundle or the runtime that it belongs to.
	Bundle string `json:"bundle"`
	// Kind is source, image or bundle.
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

// Update pins every source and image of a definition to the newest of what it asks for: in the
// definition where the pin is written there, in the lock file next to it else. It does so for
// each bundle that a runtime builds, too. With latest, versions that the definition asks for
// are moved to the newest there are. It returns what has moved.
func Update(ctx context.Context, definition string, latest bool, o Options) ([]Move, error) {
	d, at, err := read(definition)
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
				return nil, place(d, []any{"spec", "bundles", i}, err)
			}
			if move != nil {
				moves = append(moves, *move)
				tagged, _, _ := strings.Cut(b.Ref, "@")
				if err := d.Set([]any{"spec", "bundles", i, "ref"}, tagged+"@"+move.To); err != nil {
					return nil, err
				}
			}
			continue
		}
		inner, err := Update(ctx, filepath.Join(at.dir(), filepath.FromSlash(b.Path)), latest, o)
		if err != nil {
			return nil, place(d, []any{"spec", "bundles", i}, err)
		}
		moves = append(moves, inner...)
	}
	_, err = replaceFile(at.file, d.Source())
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
	now, err := o.upstream().Resolve(ctx, tag)
	if err != nil || now.Digest.String() == pinned {
		return nil, err
	}
	return &Move{Bundle: d.Metadata().Name, Kind: "bundle", Name: tagged, From: pinned, To: now.Digest.String()}, nil
}

func (o Options) updateBundle(ctx context.Context, d *bundle.Definition, at location, latest bool) ([]Move, error) {
	old, err := at.pins()
	if err != nil {
		return nil, err
	}
	written := slices.Clone(d.Bundle.Spec.Sources)
	from := make([]string, len(written))
	for i := range written {
		from[i] = current(&written[i], old)
	}
	i := -1
	fresh := func(ctx context.Context, f *source.Fetcher, s *bundle.Source) error {
		i++
		up, err := look(ctx, f, s)
		if err != nil {
			return err
		}
		if latest && up.newest != "" && up.newest != cmp.Or(s.Version, s.Ref) && s.OCI == "" {
			if err := ask(d, i, up.newest); err != nil {
				return err
			}
			if s.Chart != "" {
				s.Version, written[i].Version = up.newest, up.newest
			} else {
				s.Ref, written[i].Ref = up.newest, up.newest
			}
			if up, err = look(ctx, f, s); err != nil {
				return err
			}
		}
		repin(s, up.pin)
		return nil
	}
	a, err := o.assemble(ctx, d, at, fresh)
	if err != nil {
		return nil, err
	}
	wanted, err := a.wanted(ctx)
	if err != nil {
		return nil, err
	}
	if a.Images, err = images.Resolve(ctx, wanted, o.upstream()); err != nil {
		return nil, err
	}
	p := newPins(written, a.Content)
	if err := rewrite(d, written, a.Bundle.Spec.Sources); err != nil {
		return nil, err
	}
	moves := moved(d.Metadata().Name, from, old, p)
	if _, err := replaceFile(at.file, d.Source()); err != nil {
		return nil, err
	}
	_, err = p.write(at.lockFile())
	return moves, err
}

// ask makes the definition ask for another version of a source.
func ask(d *bundle.Definition, i int, version string) error {
	field := "ref"
	if d.Bundle.Spec.Sources[i].Chart != "" {
		field = "version"
	}
	return d.Set([]any{"spec", "sources", i, field}, version)
}

// repin takes a source's pins off and sets those of upstream.
func repin(s *bundle.Source, pin *sourcePin) {
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

// rewrite moves the pins that the definition itself holds.
func rewrite(d *bundle.Definition, written, pinned []bundle.Source) error {
	for i := range written {
		w, p := &written[i], &pinned[i]
		for _, pin := range []struct{ field, old, now string }{
			{"sha256", w.SHA256, p.SHA256}, {"commit", w.Commit, p.Commit}, {"oci", w.OCI, p.OCI},
		} {
			if pin.old == "" || pin.old == pin.now || pin.field == "oci" && !strings.Contains(pin.old, "@") {
				continue
			}
			if err := d.Set([]any{"spec", "sources", i, pin.field}, pin.now); err != nil {
				return err
			}
		}
	}
	return nil
}

// moved compares what the sources were pinned to and the images of the old lock file with the
// new one.
func moved(bundleName string, from []string, old, now *pins) []Move {
	if old == nil {
		old = &pins{}
	}
	var moves []Move
	for i, pin := range now.Sources {
		if from[i] != pin.label() {
			moves = append(moves, Move{Bundle: bundleName, Kind: "source", Name: pin.Source, From: from[i], To: pin.label()})
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

// label returns what a source is pinned to, in the words of its kind.
func (p *sourcePin) label() string {
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

// Outdated lists what [Update] would move, and what newer versions there are beyond what a
// definition asks for. It changes nothing.
func Outdated(ctx context.Context, definition string, o Options) ([]Move, error) {
	d, at, err := read(definition)
	if err != nil {
		return nil, err
	}
	if d.Bundle != nil {
		return o.outdated(ctx, d, at)
	}
	var moves []Move
	for i, b := range d.Runtime.Spec.Bundles {
		var inner []Move
		if b.Path != "" {
			inner, err = Outdated(ctx, filepath.Join(at.dir(), filepath.FromSlash(b.Path)), o)
		} else if move, failed := o.lookForBundle(ctx, d, b.Ref); move != nil {
			inner = []Move{*move}
		} else {
			err = failed
		}
		if err != nil {
			return nil, place(d, []any{"spec", "bundles", i}, err)
		}
		moves = append(moves, inner...)
	}
	return moves, nil
}

func (o Options) outdated(ctx context.Context, d *bundle.Definition, at location) ([]Move, error) {
	p, err := at.pins()
	if err != nil {
		return nil, err
	}
	fetcher := o.Sources
	fetcher.Dir = at.dir()
	var moves []Move
	for i := range d.Bundle.Spec.Sources {
		s := &d.Bundle.Spec.Sources[i]
		up, err := look(ctx, &fetcher, s)
		if err != nil {
			return nil, place(d, []any{"spec", "sources", i}, err)
		}
		if up.pin == nil {
			continue
		}
		move := Move{Bundle: d.Metadata().Name, Kind: "source", Name: s.Name(), From: current(s, p), To: up.pin.label()}
		if up.newest != cmp.Or(up.pin.Version, s.Ref, tagOf(s.OCI)) {
			move.Newest = up.newest
		}
		if move.From != move.To || move.Newest != "" {
			moves = append(moves, move)
		}
	}
	if p == nil {
		return moves, nil
	}
	for _, image := range p.Images {
		ref, err := images.ParseReference(image.Reference)
		if err != nil {
			return nil, err
		}
		now, err := o.upstream().Resolve(ctx, ref)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", image.Reference, err)
		}
		if from := digestOf(image.Image); from != now.Digest.String() {
			moves = append(moves, Move{Bundle: d.Metadata().Name, Kind: "image", Name: image.Reference, From: from, To: now.Digest.String()})
		}
	}
	return moves, nil
}

// current returns what a source is pinned to, in the definition or the lock file.
func current(s *bundle.Source, p *pins) string {
	own := sourcePin{Commit: s.Commit, SHA256: s.SHA256, Digest: digestOf(s.OCI)}
	if pin := p.of(s); pin != nil {
		own = sourcePin{Version: pin.Version, Commit: cmp.Or(own.Commit, pin.Commit), SHA256: cmp.Or(own.SHA256, pin.SHA256), Digest: cmp.Or(own.Digest, pin.Digest)}
	} else if s.Chart != "" && s.SHA256 != "" {
		own.Version = s.Version
	}
	if own.label() == "sha256:" {
		return ""
	}
	return own.label()
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
