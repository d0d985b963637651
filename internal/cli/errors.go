package cli

import (
	"context"
	"errors"
	"net/http"

	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/source"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// The exit codes.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitUnverified  = 3
	exitIncomplete  = 4
	exitInterrupted = 130
)

// usageError is a mistake on the command line.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// explain is the one table from errors to exit codes and hints.
func explain(ctx context.Context, err error) (code int, hint string) {
	var (
		usage      *usageError
		incomplete *transfer.IncompleteError
		wrong      *source.DigestError
		response   *errcode.ErrorResponse
	)
	switch {
	case ctx.Err() != nil:
		return exitInterrupted, ""
	case errors.As(err, &usage):
		return exitUsage, ""
	case errors.Is(err, sign.ErrUnsigned):
		return exitUnverified, "sign it with krtpkg sign, or apply it as it is with --allow-unsigned"
	case errors.Is(err, sign.ErrNotVerified), errors.Is(err, sign.ErrTooMany):
		return exitUnverified, "is this the key that it was signed with?"
	case errors.Is(err, content.ErrMismatchedDigest), errors.Is(err, content.ErrInvalidDescriptorSize),
		errors.Is(err, content.ErrTrailingData):
		return exitUnverified, "the content is not what its digest says: it was damaged or tampered with"
	case errors.As(err, &wrong):
		return exitUnverified, "if the source was meant to change, put the new digest into the definition"
	case errors.As(err, &response) && (response.StatusCode == http.StatusUnauthorized || response.StatusCode == http.StatusForbidden):
		return exitCode(err, incomplete), "log in to " + response.URL.Host + " as for docker: docker login, or a credential helper in the docker config"
	case errors.As(err, &incomplete):
		return exitIncomplete, "make the images reachable, or name where they are with --image-mirror"
	case errors.Is(err, errdef.ErrNotFound):
		return exitFailure, "see what is there with krtpkg list"
	}
	return exitFailure, ""
}

func exitCode(err error, incomplete *transfer.IncompleteError) int {
	if errors.As(err, &incomplete) {
		return exitIncomplete
	}
	return exitFailure
}
