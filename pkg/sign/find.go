package sign

import (
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
)

// Find lists the signatures of root that store has, in all three forms, and verifies none of
// them: it serves listings.
func Find(ctx context.Context, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor) ([]Object, error) {
	var found []Object
	w := &signatureWalker{store: store, root: root, scope: onlySignatures, visitor: func(obj Object, _ *envelope, _ error) error {
		found = append(found, obj)
		return nil
	}}
	err := w.walk(ctx)
	if err == nil && w.left > 0 {
		err = fmt.Errorf("more than %d: %w", maxExamined, ErrTooMany)
	}
	sortObjects(found, func(o Object) Object { return o })
	if err != nil {
		return nil, fmt.Errorf("find signatures of %s: %w", root.Digest, err)
	}
	return found, nil
}
