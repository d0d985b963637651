package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// NoDeletesError is the error of a registry that deletes nothing, whoever asks.
type NoDeletesError struct {
	Host, Repository string
	Err              error
}

func (e *NoDeletesError) Error() string {
	return fmt.Sprintf("registry %s deletes nothing in %s: %v", e.Host, e.Repository, e.Err)
}

// Unwrap makes it an [errdef.ErrUnsupported], with the registry's answer.
func (e *NoDeletesError) Unwrap() []error { return []error{errdef.ErrUnsupported, e.Err} }

// CheckDeletes asks the registry to delete a manifest that cannot exist. The error is a [*NoDeletesError]
// if it deletes nothing.
func (r *Repository) CheckDeletes(ctx context.Context) error {
	err := r.DeleteManifest(ctx, zeroDigest)
	var none *NoDeletesError
	if errors.As(err, &none) || isStatus(err, http.StatusUnauthorized) || isStatus(err, http.StatusForbidden) {
		return err
	}
	var response *errcode.ErrorResponse
	if errors.As(err, &response) && response.StatusCode < http.StatusInternalServerError {
		return nil // it looks for the manifest, in whichever way it says that there is none
	}
	return err
}

// DeleteManifest deletes a manifest, and with it all tags that name it. One that does not exist is not an
// error. Registries free the blobs, and manifests that only this one named, with their garbage collection.
func (r *Repository) DeleteManifest(ctx context.Context, d digest.Digest) error {
	err := r.sendDelete(ctx, d.String())
	var response *errcode.ErrorResponse
	switch {
	case errors.As(err, &response) && response.StatusCode == http.StatusNotFound:
		return nil
	case deniesMethod(err):
		return &NoDeletesError{r.Reference.Registry, r.Reference.Repository, err}
	}
	return err
}

// DeleteTag deletes a tag (distribution-spec v1.1, deleting tags). The error is [errdef.ErrUnsupported] if the
// registry only deletes manifests. Some registries delete the manifest with all of its tags instead.
func (r *Repository) DeleteTag(ctx context.Context, tag string) error {
	err := r.sendDelete(ctx, tag)
	var response *errcode.ErrorResponse
	switch {
	case errors.As(err, &response) && response.StatusCode == http.StatusNotFound:
		return nil
	case deniesMethod(err) || isStatus(err, http.StatusBadRequest):
		return fmt.Errorf("delete tag %s: %w: %w", tag, errdef.ErrUnsupported, err)
	}
	return err
}

// deniesMethod reports whether a registry refuses a request for what it asks, not for who sends it.
func deniesMethod(err error) bool {
	return isStatus(err, http.StatusMethodNotAllowed) || isStatus(err, http.StatusNotImplemented) || hasCode(err, errcode.ErrorCodeUnsupported)
}

func (r *Repository) sendDelete(ctx context.Context, reference string) error {
	ctx = auth.AppendRepositoryScope(ctx, r.Reference, auth.ActionDelete)
	at := &url.URL{Scheme: r.blobURL("", nil).Scheme, Host: r.Reference.Host(), Path: "/v2/" + r.Reference.Repository + "/manifests/" + reference}
	response, err := r.sendRequest(ctx, http.MethodDelete, at, nil, 0, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusAccepted, http.StatusOK, http.StatusNoContent:
		return nil
	}
	return responseError(response)
}
