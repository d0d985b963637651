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
	uploads  atomic.Int32
	probed   atomic.Bool
	accepted atomic.Bool
}

// shouldTry reports whether to send the next small blob with a single POST. One blob finds out.
func (s *singlePost) shouldTry() bool {
	if s.accepted.Load() {
		return true
	}
	return s.uploads.Add(1) > uploadsBeforePost && s.probed.CompareAndSwap(false, true)
}

// refuse records that the registry takes no blob so.
func (s *singlePost) refuse() {
	s.probed.Store(true)
	s.accepted.Store(false)
}

// uploadAtOnce uploads a blob with a single request, if it is small and the registry takes that. If not, the session of the
// answer may have begun.
func (u *blobUpload) uploadAtOnce(ctx context.Context) (done bool, err error) {
	known := &u.deviations.singlePost
	if u.desc.Size > maxSinglePost || u.desc.Size == 0 || u.tentative || u.triedPost || !known.shouldTry() {
		return false, nil
	}
	u.triedPost = true
	err = u.sendFrom(0, func(body io.Reader) error {
		done, err = u.postContent(ctx, body)
		return err
	})
	switch {
	case err != nil || !done:
		known.refuse()
		return false, ctx.Err() // else it is uploaded as usual
	case !known.accepted.Load():
		// Some registries begin an upload with 201.
		if done, err = u.Exists(ctx, u.desc); err == nil && done {
			known.accepted.Store(true)
		}
	}
	return done && err == nil, nil
}

// postContent sends the content with the request that begins the upload, and reports whether the registry has taken it.
func (u *blobUpload) postContent(ctx context.Context, body io.Reader) (bool, error) {
	to := u.blobURL("uploads/", url.Values{"digest": {u.desc.Digest.String()}})
	response, err := u.sendRequest(ctx, http.MethodPost, to, body, u.desc.Size, http.Header{"Content-Type": {"application/octet-stream"}})
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		return response.StatusCode == http.StatusCreated, nil
	}
	// distribution reports 0-0 for nothing. What has arrived counts for nothing: another session begins.
	if arrived, said := RangeEnd(response); said && arrived > 1 {
		return false, nil
	}
	if session, err := u.parseSession(response); err == nil {
		u.session = session
	}
	return false, nil
}
