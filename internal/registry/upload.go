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

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// chunkSize is how much of content that cannot be read twice is held to be sent again.
const chunkSize = 4 << 20

// upload brings one blob to the registry (distribution-spec v1.1, pushing blobs): all at once,
// and after a break from where the registry says that it stopped.
type upload struct {
	*Repository
	desc ocispec.Descriptor
	body io.Reader
	// session is where the content goes; nil when one is to be begun.
	session *session
	// far is how much has arrived at most.
	far int64
	// whole says that the registry takes no parts.
	whole bool
}

// session is an upload that has begun.
type session struct {
	url *url.URL
	// authorization is what the registry took last, so that no content is sent in vain.
	authorization string
	// offset is how much has arrived.
	offset int64
}

func (r *Repository) upload(ctx context.Context, desc ocispec.Descriptor, body io.Reader, begun *session) error {
	if _, seeks := body.(io.Seeker); !seeks && desc.Size <= chunkSize {
		data, err := io.ReadAll(io.LimitReader(body, desc.Size+1))
		if err != nil {
			return err
		}
		if int64(len(data)) != desc.Size {
			return fmt.Errorf("content of %s has other than %d bytes: %w", desc.Digest, desc.Size, io.ErrUnexpectedEOF)
		}
		body = bytes.NewReader(data)
	}
	u := &upload{Repository: r, desc: desc, body: body, session: begun}
	err := wrongContent(u.run(ctx))
	// What arrived wrong must not be gone on with.
	if err == nil || errors.Is(err, errLost) || errors.Is(err, content.ErrMismatchedDigest) {
		r.sessions.forget(r, desc)
	}
	return err
}

// errLost says that an upload cannot go on where it stopped.
var errLost = errors.New("the registry lost the upload")

func (u *upload) run(ctx context.Context) error {
	_, seeks := u.body.(io.Seeker)
	if u.session == nil && seeks {
		u.session = u.sessions.load(u.Repository, u.desc)
		if u.session != nil && u.status(ctx) != nil {
			u.session = nil
		}
	}
	tries := retries{repository: u.Repository}
	renewed := false
	for last := u.far; ; {
		err := u.try(ctx, seeks)
		if err == nil {
			return nil
		}
		// A token that has expired is renewed by the question for the status.
		expired := isStatus(err, http.StatusUnauthorized) && u.session != nil && u.session.authorization != "" && !renewed
		if renewed = expired; !expired {
			if err := tries.again(ctx, err, u.far > last); err != nil {
				return err
			}
		}
		last = u.far
		if !seeks {
			return u.unlessThere(ctx, err) // chunks were tried again one by one
		}
		if u.session != nil && !u.whole && u.status(ctx) == nil {
			continue
		}
		// The session is gone: perhaps since it has ended well, and the answer got lost.
		if err = u.unlessThere(ctx, err); err == nil {
			return nil
		}
		u.session = nil
	}
}

// unlessThere is nil where the registry has the blob, and err where it has not.
func (u *upload) unlessThere(ctx context.Context, err error) error {
	if there, existsErr := u.Exists(ctx, u.desc); existsErr == nil && there {
		return nil
	}
	return err
}

func (u *upload) try(ctx context.Context, seeks bool) error {
	if u.session == nil {
		if err := u.begin(ctx); err != nil {
			return err
		}
	}
	if !seeks {
		return u.chunks(ctx)
	}
	if u.session.offset == 0 || u.whole {
		return u.at(0, func(body io.Reader) error { return u.finish(ctx, body, u.desc.Size) })
	}
	if u.session.offset < u.desc.Size {
		err := u.at(u.session.offset, func(body io.Reader) error {
			return u.patch(ctx, body, u.session.offset, u.desc.Size-u.session.offset)
		})
		if err != nil {
			return err
		}
	}
	return u.finish(ctx, nil, 0)
}

// begin starts an upload.
func (u *upload) begin(ctx context.Context) error {
	response, err := u.do(ctx, http.MethodPost, u.url("uploads/", nil), nil, 0, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusAccepted:
	case http.StatusOK, http.StatusCreated:
		u.deviations.note("an upload begins with %d, where 202 is usual: it is taken for that", response.StatusCode)
	case http.StatusNotFound:
		err := failure(response)
		if hasCode(err, errcode.ErrorCodeNameUnknown) {
			err = &MissingRepositoryError{u.Reference.Registry, u.Reference.Repository, err}
		}
		return err
	default:
		return failure(response)
	}
	if u.session, err = u.sessionOf(response); err != nil {
		return err
	}
	u.sessions.save(u.Repository, u.desc, u.session)
	return nil
}

// MissingRepositoryError says that a registry takes nothing for a repository that has to be
// created first.
type MissingRepositoryError struct {
	Host, Repository string
	Err              error
}

func (e *MissingRepositoryError) Error() string {
	return fmt.Sprintf("%s has no repository %s, and does not create it: %v", e.Host, e.Repository, e.Err)
}

// Unwrap gives the registry's answer.
func (e *MissingRepositoryError) Unwrap() error { return e.Err }

// sessionOf returns the upload that an answer names. It has to be on the registry's own host, since
// credentials go there.
func (r *Repository) sessionOf(response *http.Response) (*session, error) {
	asked := response.Request.URL
	location, err := Location(response)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(response.Header.Get("Location"), asked.Hostname()) || strings.HasPrefix(response.Header.Get("Location"), asked.Host) {
		r.deviations.note("Location of an upload stands without a scheme: that of the request is taken")
	}
	if location.Port() == "" && asked.Port() == "443" && location.Hostname() == asked.Hostname() {
		location.Host = asked.Host
	}
	if location.Host != asked.Host || asked.Scheme == "https" && location.Scheme != "https" {
		return nil, fmt.Errorf("registry %s sends the upload elsewhere, to %s://%s", asked.Host, location.Scheme, location.Host)
	}
	return &session{url: location, authorization: response.Request.Header.Get("Authorization")}, nil
}

// at sends the content from an offset on.
func (u *upload) at(offset int64, send func(io.Reader) error) error {
	if _, err := u.body.(io.Seeker).Seek(offset, io.SeekStart); err != nil {
		return err
	}
	body := &lease{reader: u.body}
	defer body.end()
	return send(body)
}

// lease lends content to one request. Its end waits for a read that goes on, since a
// transport may read a body after it has answered.
type lease struct {
	mu     sync.Mutex
	reader io.Reader
}

func (l *lease) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reader == nil {
		return 0, errors.New("the request has ended")
	}
	return l.reader.Read(p)
}

func (l *lease) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reader = nil
}

func (u *upload) send(ctx context.Context, method string, to *url.URL, body io.Reader, size int64, header http.Header) (*http.Response, error) {
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
	return u.do(ctx, method, to, body, size, header)
}

// patch sends a part of the content.
func (u *upload) patch(ctx context.Context, body io.Reader, offset, size int64) error {
	response, err := u.send(ctx, http.MethodPatch, u.session.url, body, size, http.Header{
		"Content-Range": {fmt.Sprintf("%d-%d", offset, offset+size-1)},
	})
	if err != nil {
		return err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusAccepted, http.StatusNoContent, http.StatusCreated, http.StatusOK:
	case http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType, http.StatusNotImplemented:
		u.whole = true
		fallthrough
	default:
		return failure(response)
	}
	next, err := u.sessionOf(response)
	if err != nil {
		return err
	}
	u.advance(next, offset+size)
	return nil
}

// advance goes on with what the registry answered.
func (u *upload) advance(next *session, offset int64) {
	if next.authorization == "" {
		next.authorization = u.session.authorization
	}
	next.offset = offset
	u.far = max(u.far, offset)
	u.session = next
	u.sessions.save(u.Repository, u.desc, next)
}

// finish ends the upload, with all of the content or without any.
func (u *upload) finish(ctx context.Context, body io.Reader, size int64) error {
	to := *u.session.url
	query := to.Query()
	query.Set("digest", u.desc.Digest.String())
	to.RawQuery = query.Encode()
	response, err := u.send(ctx, http.MethodPut, &to, body, size, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusCreated, http.StatusNoContent:
		return nil
	case http.StatusOK, http.StatusAccepted:
		u.deviations.note("an upload ends with %d, where 201 is usual: it is taken for that", response.StatusCode)
		return nil
	}
	return failure(response)
}

// status asks how much has arrived. An answer that cannot be right is an error: then the
// upload begins again.
func (u *upload) status(ctx context.Context) error {
	response, err := u.do(ctx, http.MethodGet, u.session.url, nil, 0, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusNoContent && response.StatusCode != http.StatusOK {
		return failure(response)
	}
	_, last, ok := strings.Cut(strings.TrimPrefix(response.Header.Get("Range"), "bytes="), "-")
	n, err := strconv.ParseInt(last, 10, 64)
	if !ok || err != nil || n < 0 || n >= u.desc.Size {
		return fmt.Errorf("upload of %s: the registry says that it has range %q of %d bytes", u.desc.Digest, response.Header.Get("Range"), u.desc.Size)
	}
	next := &session{url: u.session.url, authorization: response.Request.Header.Get("Authorization")}
	if response.Header.Get("Location") != "" {
		if next, err = u.sessionOf(response); err != nil {
			return err
		}
	}
	if n > 0 { // Distribution says 0-0 of nothing and of one byte
		n++
	}
	u.advance(next, n)
	return nil
}

// chunks sends content that can be read only once.
func (u *upload) chunks(ctx context.Context) error {
	buffer := make([]byte, chunkSize)
	for offset := int64(0); offset < u.desc.Size; {
		part := buffer[:min(chunkSize, u.desc.Size-offset)]
		if _, err := io.ReadFull(u.body, part); err != nil {
			return err
		}
		err := u.chunk(ctx, part, offset)
		if u.whole && offset == 0 {
			if err := u.begin(ctx); err != nil {
				return err
			}
			return u.finish(ctx, io.MultiReader(bytes.NewReader(part), u.body), u.desc.Size)
		}
		if err != nil {
			return err
		}
		offset += int64(len(part))
	}
	return u.finish(ctx, nil, 0)
}

// chunk sends one chunk until it has arrived.
func (u *upload) chunk(ctx context.Context, part []byte, offset int64) error {
	tries := retries{repository: u.Repository}
	last := u.far
	for sent := int64(0); ; {
		err := u.patch(ctx, bytes.NewReader(part[sent:]), offset+sent, int64(len(part))-sent)
		if err == nil || u.whole {
			return err
		}
		if err := tries.again(ctx, err, u.far > last); err != nil {
			return err
		}
		last = u.far
		if statusErr := u.status(ctx); statusErr != nil {
			return fmt.Errorf("%w: %w", err, errLost)
		}
		if sent = u.session.offset - offset; sent < 0 || sent > int64(len(part)) {
			return fmt.Errorf("it has %d bytes of at least %d: %w", u.session.offset, offset, errLost)
		}
		if sent == int64(len(part)) {
			return nil
		}
	}
}
