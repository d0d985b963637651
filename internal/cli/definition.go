package cli

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/bundle"
)

// isDefinition reports whether an argument is a definition's file or folder, and no reference.
func isDefinition(at string) bool {
	if strings.HasPrefix(at, "oci:") {
		return false
	}
	if ext := filepath.Ext(at); ext == ".yaml" || ext == ".yml" {
		return true
	}
	info, err := os.Stat(at)
	return err == nil && info.IsDir()
}

// readOutline returns what a definition says, or what an artifact says of its own.
func (a *app) readOutline(ctx context.Context, at string) (*assemble.Outline, error) {
	if isDefinition(at) {
		o, err := a.buildOptions()
		if err != nil {
			return nil, err
		}
		return assemble.Read(ctx, at, o)
	}
	o, err := a.openReference(ctx, at)
	if err != nil {
		return nil, err
	}
	set, err := a.lookInto(ctx, o)
	if err != nil {
		return nil, err
	}
	outline := &assemble.Outline{Metadata: set.Root.Metadata(), Single: set.Root.Bundle != nil}
	if set.Root.Runtime != nil {
		outline.Provided, outline.Exceptions = set.Root.Runtime.Provided, bundle.ExceptedCapabilities(set.Root.Runtime.Exceptions)
	}
	for _, b := range set.Bundles {
		outline.Bundles = append(outline.Bundles, b.Bundle)
	}
	return outline, nil
}
