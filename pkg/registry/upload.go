package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// chunkSize is how much of content that cannot be read twice is sent at once, and maxChunk how much
// where the registry wants longer parts. Two parts are held to be sent again.
const (
	chunkSize = 4 << 20
	maxChunk  = 8 << 20
)

// blobUpload uploads one blob (distribution-spec v1.1, pushing blobs): in one request, and after a
// broken connection from where the registry says that it stopped.
type blobUpload struct {
	*Repository
	desc ocispec.Descriptor
	body io.Reader
	// session is the current session; nil to begin one.
	session *uploadSession
	// furthest is the largest offset that has arrived.
	furthest int64
	// refusesChunks is set if the registry accepts no chunks.
	refusesChunks bool
	// triedPost is set once the content was sent with the request that begins the upload.
	triedPost bool
	// tentative is set for [Tentative] content.
	tentative bool
}

// Tentative is content that can be verified only once all of it is read, such as a layer that is made from a delta. If its upload
// fails, [Repository.Push] removes that from the registry, and it is never recorded to be resumed: other content must
// not go on where wrong content ended.
type Tentative interface {
	io.Reader
	// IsTentative reports whether that is so.
	IsTentative() bool
}

// uploadSession is an upload in progress.
type uploadSession struct {
	url *url.URL
	// authorization is the last accepted header, so that no content is sent in vain.
	authorization string
	// offset is the number of bytes that have arrived.
	offset int64
	// least is how long each part must be but the last; 0 for any length.
	least int64
}

func (r *Repository) uploadBlob(ctx context.Context, desc ocispec.Descriptor, body io.Reader, begun *uploadSession) error {
	var data []byte
	if _, seeks := body.(io.Seeker); !seeks && desc.Size <= chunkSize {
		var err error
		data, err = io.ReadAll(io.LimitReader(body, desc.Size+1))
		if err != nil {
			return err
		}
		if int64(len(data)) != desc.Size {
			return fmt.Errorf("content of %s does not have %d bytes: %w", desc.Digest, desc.Size, io.ErrUnexpectedEOF)
		}
		body = bytes.NewReader(data)
	}
	u := &blobUpload{Repository: r, desc: desc, body: body, session: begun, refusesChunks: r.deviations.takesNoParts()}
	if t, ok := body.(Tentative); ok {
		u.tentative = t.IsTentative()
	}
	err := markDigestError(u.runUpload(ctx))
	// Registries do not agree on a code for a wrong digest.
	isWrong := errors.Is(err, content.ErrMismatchedDigest) || isStatus(err, http.StatusBadRequest)
	if err != nil && (isWrong || u.tentative) {
		u.cancelUpload(ctx)
	}
	// Do not resume an upload with wrong content. What is recorded is never tentative.
	if err == nil || !u.tentative && (errors.Is(err, errLost) || isWrong) {
		r.sessions.removeSession(r, desc)
	}
	if isWrong && data != nil && desc.Digest.Algorithm().FromBytes(data) == desc.Digest && ctx.Err() == nil {
		// A byte changed on the way, and the caller cannot read the content again.
		return r.uploadBlob(ctx, desc, bytes.NewReader(data), nil)
	}
	return err
}

// cancelTime is how long the removal of an upload may take.
const cancelTime = 10 * time.Second

// cancelUpload removes an upload with wrong content from the registry, also when ctx has ended. Registries that do not
// let it be removed do so themselves after some days.
func (u *blobUpload) cancelUpload(ctx context.Context) {
	if u.session == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTime)
	defer cancel()
	if response, err := u.sendRequest(ctx, http.MethodDelete, u.session.url, nil, 0, nil); err == nil {
		response.Body.Close()
	}
}

// saveSession records the session for the next process to resume.
func (u *blobUpload) saveSession() {
	if !u.tentative {
		u.sessions.saveSession(u.Repository, u.desc, u.session)
	}
}

// errLost is the error of an upload that cannot be resumed.
var errLost = errors.New("the registry lost the upload")

func (u *blobUpload) runUpload(ctx context.Context) error {
	_, seeks := u.body.(io.Seeker)
	if u.session == nil && seeks {
		u.session = u.sessions.loadSession(u.Repository, u.desc)
		if u.session != nil && u.queryStatus(ctx) != nil {
			u.session = nil
		}
	}
	tries := retryState{repository: u.Repository}
	renewed := false
	for last := u.furthest; ; {
		err := u.tryUpload(ctx, seeks)
		if err == nil {
			return nil
		}
		// The status request renews an expired token.
		expired := isStatus(err, http.StatusUnauthorized) && u.session != nil && u.session.authorization != "" && !renewed
		if renewed = expired; !expired {
			if err := tries.waitForRetry(ctx, err, u.furthest > last); err != nil {
				return err
			}
		}
		last = u.furthest
		if !seeks {
			return u.ignoreIfPresent(ctx, err) // chunks were retried one by one
		}
		if u.session != nil && !u.refusesChunks && u.queryStatus(ctx) == nil {
			continue
		}
		// The session is gone, perhaps since it has succeeded and the answer got lost.
		if err = u.ignoreIfPresent(ctx, err); err == nil {
			return nil
		}
		u.session = nil
	}
}

// ignoreIfPresent returns nil if the registry has the blob, and err otherwise.
func (u *blobUpload) ignoreIfPresent(ctx context.Context, err error) error {
	if there, existsErr := u.Exists(ctx, u.desc); existsErr == nil && there {
		return nil
	}
	return err
}

func (u *blobUpload) tryUpload(ctx context.Context, seeks bool) error {
	if u.session == nil && seeks {
		if done, err := u.uploadAtOnce(ctx); done || err != nil {
			return err
		}
	}
	if u.session == nil {
		if err := u.beginUpload(ctx); err != nil {
			return err
		}
	}
	if !seeks {
		return u.uploadChunks(ctx)
	}
	if u.session.offset == 0 || u.refusesChunks {
		return u.sendFrom(0, func(body io.Reader) error { return u.finishUpload(ctx, body, u.desc.Size) })
	}
	if u.session.offset < u.desc.Size {
		err := u.sendFrom(u.session.offset, func(body io.Reader) error {
			return u.patchContent(ctx, body, u.session.offset, u.desc.Size-u.session.offset)
		})
		if err != nil {
			return err
		}
	}
	return u.finishUpload(ctx, nil, 0)
}

// beginUpload starts an upload.
func (u *blobUpload) beginUpload(ctx context.Context) error {
	response, err := u.sendRequest(ctx, http.MethodPost, u.blobURL("uploads/", nil), nil, 0, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusAccepted:
	case http.StatusOK, http.StatusCreated:
		u.deviations.record("an upload begins with %d instead of 202: accepted", response.StatusCode)
		u.deviations.singlePost.refuse()
	case http.StatusNotFound:
		err := responseError(response)
		if hasCode(err, errcode.ErrorCodeNameUnknown) {
			err = &MissingRepositoryError{u.Reference.Registry, u.Reference.Repository, err}
		}
		return err
	default:
		return responseError(response)
	}
	if u.session, err = u.parseSession(response); err != nil {
		return err
	}
	u.saveSession()
	return nil
}

// MissingRepositoryError is the error of a registry that does not create repositories on a push.
type MissingRepositoryError struct {
	Host, Repository string
	Err              error
}

func (e *MissingRepositoryError) Error() string {
	return fmt.Sprintf("registry %s has no repository %s and does not create it: %v", e.Host, e.Repository, e.Err)
}

// Unwrap gives the registry's answer.
func (e *MissingRepositoryError) Unwrap() error { return e.Err }

// parseSession returns the upload session that an answer names. It must be on the registry's own
// host, since credentials are sent there.
func (r *Repository) parseSession(response *http.Response) (*uploadSession, error) {
	asked := response.Request.URL
	location, err := Location(response)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(response.Header.Get("Location"), asked.Hostname()) || strings.HasPrefix(response.Header.Get("Location"), asked.Host) {
		r.deviations.record("Location of an upload has no scheme: the request's scheme is used")
	}
	if location.Port() == "" && asked.Port() == "443" && location.Hostname() == asked.Hostname() {
		location.Host = asked.Host
	}
	if location.Host != asked.Host || asked.Scheme == "https" && location.Scheme != "https" {
		return nil, fmt.Errorf("registry %s redirects the upload to another host, %s://%s", asked.Host, location.Scheme, location.Host)
	}
	return &uploadSession{url: location, authorization: response.Request.Header.Get("Authorization"), least: LeastChunk(response)}, nil
}

// LeastChunk is how long each part of an upload must be but the last, by the answer that began it
// (distribution-spec v1.1, pushing a blob in chunks); 0 for any length.
func LeastChunk(response *http.Response) int64 {
	least, err := strconv.ParseInt(response.Header.Get("OCI-Chunk-Min-Length"), 10, 64)
	if err != nil {
		return 0
	}
	return max(0, least)
}

// sendFrom calls send with the content from an offset on.
func (u *blobUpload) sendFrom(offset int64, send func(io.Reader) error) error {
	if _, err := u.body.(io.Seeker).Seek(offset, io.SeekStart); err != nil {
		return err
	}
	body := &requestBody{reader: u.body}
	defer body.endLease()
	return send(body)
}

// requestBody lends content to one request. endLease waits for a running read, since a transport
// may read a body after the answer.
type requestBody struct {
	mu     sync.Mutex
	reader io.Reader
}

func (l *requestBody) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reader == nil {
		return 0, errors.New("request has ended")
	}
	return l.reader.Read(p)
}

func (l *requestBody) endLease() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reader = nil
}

func (u *blobUpload) sendContent(ctx context.Context, method string, to *url.URL, body io.Reader, size int64, header http.Header) (*http.Response, error) {
	if header == nil {
		header = http.Header{}
	}
	header.Set("Content-Type", "application/octet-stream")
	if u.session.authorization != "" {
		header.Set("Authorization", u.session.authorization)
	}
	if size == 0 {
		body = nil
	}
	return u.sendRequest(ctx, method, to, body, size, header)
}

// patchContent sends a chunk of the content.
func (u *blobUpload) patchContent(ctx context.Context, body io.Reader, offset, size int64) error {
	response, err := u.sendContent(ctx, http.MethodPatch, u.session.url, body, size, http.Header{
		"Content-Range": {fmt.Sprintf("%d-%d", offset, offset+size-1)},
	})
	if err != nil {
		return err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusAccepted, http.StatusNoContent, http.StatusCreated, http.StatusOK:
	case http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType, http.StatusNotImplemented:
		u.refusesChunks = true
		fallthrough
	default:
		return responseError(response)
	}
	next, err := u.parseSession(response)
	if err != nil {
		return err
	}
	if arrived, said := RangeEnd(response); said && offset > 0 && arrived <= offset {
		u.refusesChunks = true
		u.deviations.takeNoParts()
		return fmt.Errorf("upload of %s: registry accepted a chunk with status %d but discarded it: %w", u.desc.Digest, response.StatusCode, io.ErrUnexpectedEOF)
	}
	u.advanceSession(next, offset+size)
	return nil
}

// RangeEnd is how much of an upload has arrived by an answer, if it says so.
func RangeEnd(response *http.Response) (int64, bool) {
	_, last, ok := strings.Cut(strings.TrimPrefix(response.Header.Get("Range"), "bytes="), "-")
	n, err := strconv.ParseInt(last, 10, 64)
	return n + 1, ok && err == nil && n >= 0
}

// advanceSession goes on with what the registry answered.
func (u *blobUpload) advanceSession(next *uploadSession, offset int64) {
	if next.authorization == "" {
		next.authorization = u.session.authorization
	}
	next.least = max(next.least, u.session.least)
	next.offset = offset
	u.furthest = max(u.furthest, offset)
	u.session = next
	u.saveSession()
}

// finishUpload finishes the upload, with all of the content or with none.
func (u *blobUpload) finishUpload(ctx context.Context, body io.Reader, size int64) error {
	to := *u.session.url
	query := to.Query()
	query.Set("digest", u.desc.Digest.String())
	to.RawQuery = query.Encode()
	response, err := u.sendContent(ctx, http.MethodPut, &to, body, size, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusCreated, http.StatusNoContent:
		return nil
	case http.StatusOK, http.StatusAccepted:
		u.deviations.record("an upload ends with %d instead of 201: accepted", response.StatusCode)
		return nil
	}
	return responseError(response)
}

// queryStatus asks how much has arrived. An impossible answer is an error: then the upload starts
// again.
func (u *blobUpload) queryStatus(ctx context.Context) error {
	response, err := u.sendRequest(ctx, http.MethodGet, u.session.url, nil, 0, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusNoContent && response.StatusCode != http.StatusOK {
		return responseError(response)
	}
	_, last, ok := strings.Cut(strings.TrimPrefix(response.Header.Get("Range"), "bytes="), "-")
	n, err := strconv.ParseInt(last, 10, 64)
	if !ok || err != nil || n < 0 || n >= u.desc.Size {
		return fmt.Errorf("upload of %s: the registry reports range %q of %d bytes", u.desc.Digest, response.Header.Get("Range"), u.desc.Size)
	}
	next := &uploadSession{url: u.session.url, authorization: response.Request.Header.Get("Authorization")}
	if response.Header.Get("Location") != "" {
		if next, err = u.parseSession(response); err != nil {
			return err
		}
	}
	if n > 0 { // distribution reports 0-0 for nothing and for one byte
		n++
	}
	u.advanceSession(next, n)
	return nil
}

// uploadChunks sends content that can be read only once. The first two chunks are held until the second has
// arrived: where it does not, all goes in one piece, as it does to a registry that wants chunks
// longer than are held.
func (u *blobUpload) uploadChunks(ctx context.Context) error {
	size := max(chunkSize, u.session.least)
	if size > maxChunk || u.deviations.takesNoParts() {
		return u.finishUpload(ctx, u.body, u.desc.Size)
	}
	held := make([]byte, 0, min(2*size, u.desc.Size))
	for offset := int64(0); offset < u.desc.Size; {
		if offset >= 2*size {
			held = held[:0]
		}
		begin := len(held)
		held = held[:begin+int(min(size, u.desc.Size-offset))]
		part := held[begin:]
		if _, err := io.ReadFull(u.body, part); err != nil {
			return err
		}
		err := u.uploadChunk(ctx, part, offset)
		offset += int64(len(part))
		if u.refusesChunks && offset == int64(len(held)) {
			if err := u.beginUpload(ctx); err != nil {
				return err
			}
			return u.finishUpload(ctx, io.MultiReader(bytes.NewReader(held), u.body), u.desc.Size)
		}
		if err != nil {
			return err
		}
	}
	return u.finishUpload(ctx, nil, 0)
}

// uploadChunk sends one chunk until it has arrived.
func (u *blobUpload) uploadChunk(ctx context.Context, part []byte, offset int64) error {
	tries := retryState{repository: u.Repository}
	last := u.furthest
	for sent := int64(0); ; {
		err := u.patchContent(ctx, bytes.NewReader(part[sent:]), offset+sent, int64(len(part))-sent)
		if err == nil || u.refusesChunks {
			return err
		}
		if err := tries.waitForRetry(ctx, err, u.furthest > last); err != nil {
			return err
		}
		last = u.furthest
		if statusErr := u.queryStatus(ctx); statusErr != nil {
			return fmt.Errorf("%w: %w", err, errLost)
		}
		if sent = u.session.offset - offset; sent < 0 || sent > int64(len(part)) {
			return fmt.Errorf("the registry has %d of at least %d bytes: %w", u.session.offset, offset, errLost)
		}
		if sent == int64(len(part)) {
			return nil
		}
	}
}
