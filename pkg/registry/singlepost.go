package registry

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
)

const (
	// maxSinglePost is the largest blob that is sent with the request that begins its upload: a registry that refuses it may
	// have read it all.
	maxSinglePost = 64 << 10
	// uploadsBeforePost is how many small blobs are uploaded before one is sent so: for fewer it is not worth finding out.
	uploadsBeforePost = 32
)

// singlePost is what is known of a registry that may take a blob with a single POST (distribution-spec v1.1, single POST). Many
// do not, and answer as if the content were not there.
type singlePost struct {
	// uploads counts the small blobs that were uploaded otherwise since the last attempt.
	uploads atomic.Int32
	state   atomic.Int32
}

// The states of a [singlePost].
const (
	postUnknown = iota
	postProbed
	postAccepted
	postRefused
)

// shouldTry reports whether to send the next small blob with a single POST, and whether that blob finds out if the registry
// takes it.
func (s *singlePost) shouldTry() (try, isProbe bool) {
	switch s.state.Load() {
	case postAccepted:
		return true, false
	case postUnknown:
		isProbe = s.uploads.Add(1) > uploadsBeforePost && s.state.CompareAndSwap(postUnknown, postProbed)
	}
	return isProbe, isProbe
}

// accept records that the registry has taken the blob that was to find out.
func (s *singlePost) accept() { s.state.CompareAndSwap(postProbed, postAccepted) }

// refuse records that the registry takes no blob so.
func (s *singlePost) refuse() { s.state.Store(postRefused) }

// postpone records that an attempt proved nothing: another blob finds out, some uploads later.
func (s *singlePost) postpone() {
	if s.state.CompareAndSwap(postProbed, postUnknown) || s.state.CompareAndSwap(postAccepted, postUnknown) {
		s.uploads.Store(0)
	}
}

// StopSinglePosts has the registry receive small blobs as it does large ones from now on, in all its repositories. It is for a
// registry that lacks a blob which it took with a single POST.
func (r *Repository) StopSinglePosts() { r.deviations.singlePost.refuse() }

// uploadAtOnce uploads a blob with a single request, if it is small and the registry takes that. If not, the session of the
// answer may have begun.
func (u *blobUpload) uploadAtOnce(ctx context.Context) (done bool, err error) {
	known := &u.deviations.singlePost
	if u.desc.Size > maxSinglePost || u.desc.Size == 0 || u.tentative || u.triedPost {
		return false, nil
	}
	try, isProbe := known.shouldTry()
	if !try {
		return false, nil
	}
	u.triedPost = true
	if isProbe {
		// What is there already would prove nothing.
		if there, err := u.Exists(ctx, u.desc); err != nil || there {
			known.postpone()
			return false, ctx.Err()
		}
	}
	status := 0
	err = u.sendFrom(0, func(body io.Reader) error {
		status, err = u.postContent(ctx, body)
		return err
	})
	switch {
	case err != nil || isPassing(status):
		known.postpone()
	case status != http.StatusCreated:
		known.refuse()
	case isProbe:
		// Some registries begin an upload with 201.
		if done, err = u.Exists(ctx, u.desc); err != nil {
			known.postpone()
		} else if done {
			known.accept()
		} else {
			known.refuse()
		}
	default:
		return true, nil
	}
	return done && err == nil, ctx.Err() // else it is uploaded as usual
}

// isPassing reports whether a status says nothing of what a registry takes: the token has expired, or it has too much to do.
func isPassing(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	}
	return status >= http.StatusInternalServerError && status != http.StatusNotImplemented
}

// postContent sends the content with the request that begins the upload, and returns the status of the answer.
func (u *blobUpload) postContent(ctx context.Context, body io.Reader) (status int, err error) {
	to := u.blobURL("uploads/", url.Values{"digest": {u.desc.Digest.String()}})
	response, err := u.sendRequest(ctx, http.MethodPost, to, body, u.desc.Size, http.Header{"Content-Type": {"application/octet-stream"}})
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		return response.StatusCode, nil
	}
	// distribution reports 0-0 for nothing. What has arrived counts for nothing: another session begins.
	if arrived, said := RangeEnd(response); said && arrived > 1 {
		return response.StatusCode, nil
	}
	if session, err := u.parseSession(response); err == nil {
		u.session = session
	}
	return response.StatusCode, nil
}
