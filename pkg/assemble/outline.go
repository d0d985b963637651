package assemble

import (
	"context"
	"path/filepath"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/layers"
)

// Outline is the content of definitions without their sources.
type Outline struct {
	Metadata bundle.Metadata
	// Bundles are in the order of the definition.
	Bundles []*bundle.Bundle
	// Provided is what comes from outside the runtime.
	Provided []string
	// Exceptions are the capabilities that several bundles provide on purpose.
	Exceptions []string
	// Single is set if the definition is a bundle's.
	Single bool
}

// Components returns what order and rules need to know of the bundles.
func (o *Outline) Components() []layers.Component {
	all := make([]layers.Component, len(o.Bundles))
	for i, b := range o.Bundles {
		all[i] = b.Component()
	}
	return all
}

// Read reads a definition and those of the bundles that a runtime names by path. Bundles that
// were built before are opened; nothing else is fetched.
func Read(ctx context.Context, definition string, o Options) (*Outline, error) {
	d, at, err := readDefinition(definition)
	if err != nil {
		return nil, err
	}
	outline := &Outline{Metadata: d.Metadata()}
	if d.Bundle != nil {
		outline.Single, outline.Bundles = true, []*bundle.Bundle{d.Bundle}
		return outline, nil
	}
	outline.Provided, outline.Exceptions = d.Runtime.Spec.Provided, bundle.ExceptedCapabilities(d.Runtime.Spec.Exceptions)
	for i, s := range d.Runtime.Spec.Bundles {
		b, err := o.definitionOf(ctx, s, at)
		if err != nil {
			return nil, placeError(d, []any{"spec", "bundles", i}, err)
		}
		outline.Bundles = append(outline.Bundles, b)
	}
	return outline, nil
}

func (o Options) definitionOf(ctx context.Context, s bundle.BundleSource, at definitionPath) (*bundle.Bundle, error) {
	if s.Path == "" {
		built, err := o.fetchBundle(ctx, s.Ref, at.folder())
		if err != nil {
			return nil, err
		}
		return built.Bundle, nil
	}
	d, _, err := readBundle(filepath.Join(at.folder(), filepath.FromSlash(s.Path)))
	if err != nil {
		return nil, err
	}
	return d.Bundle, nil
}
