package cli

import (
	"errors"

	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/transfer"
)

// lostError is the error of a place that has a bundle or a runtime, but lost some of its content.
type lostError struct{ error }

func (e *lostError) Unwrap() error { return e.error }

// repairHint is what brings back what a place lost.
const repairHint = "bring it back with krtpkg copy --check from a complete source, or with krtpkg import: both send whatever is missing"

// asLost returns an error of content of a place as a [*lostError] if it is that something is not there.
func asLost(err error) error {
	var incomplete *transfer.IncompleteError
	if errors.Is(err, errdef.ErrNotFound) || errors.As(err, &incomplete) {
		return &lostError{err}
	}
	return err
}
