// Package doctor finds out what a registry can do, by doing it: [Examine] writes a little to a
// repository, tells for each thing that krtpkg uses whether it worked and what that means,
// and removes what the registry lets it remove.
package doctor

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/result"
)

// Report is what was found of a registry.
type Report struct {
	Findings []result.Capability
	// Deviations are what the registry does otherwise than the specification says, and what is
	// done about it.
	Deviations []string
	// Left are the tags and manifests that the registry did not let go of.
	Left []string
}

// FailedCapabilities returns the findings without which krtpkg does not work.
func (r *Report) FailedCapabilities() (list []string) {
	for _, f := range r.Findings {
		if f.Needed && !f.Works {
			list = append(list, f.Capability)
		}
	}
	return list
}

// capability is something to try.
type capability struct {
	name   string
	needed bool
	// good and bad are what it means when it works, and when not.
	good, bad string
	try       func(ctx context.Context, e *registryExam) error
}

// registryExam is what probes share.
type registryExam struct {
	repo, second *registry.Repository
	// run makes what this examination writes different from what any other does.
	run    string
	blob   ocispec.Descriptor
	config ocispec.Descriptor
	image  ocispec.Descriptor
	// referrer has the image as its subject.
	referrer ocispec.Descriptor
	data     []byte
	written  []ocispec.Descriptor
	tags     []string
	// forms are those in which an image could be signed.
	forms []signedImage
}

// Examine probes a repository; second is another of the same registry, to mount into. Its error
// says that there was nothing to examine: the registry gave no answer, or takes no writes.
func Examine(ctx context.Context, repo, second *registry.Repository) (*Report, error) {
	e := &registryExam{repo: repo, second: second, run: rand.Text()}
	if err := e.pushSamples(ctx); err != nil {
		return nil, err
	}
	report := &Report{Left: []string{}}
	for _, c := range capabilities {
		err := c.try(ctx, e)
		if ctx.Err() != nil {
			return nil, errors.Join(ctx.Err(), e.deleteWritten(context.WithoutCancel(ctx), report))
		}
		f := result.Capability{Capability: c.name, Works: err == nil, Needed: c.needed, Meaning: c.good}
		if err != nil {
			f.Meaning, f.Reason = c.bad, err.Error()
		}
		report.Findings = append(report.Findings, f)
	}
	err := e.deleteWritten(ctx, report)
	report.Deviations = repo.Deviations()
	return report, err
}

// versionTag returns the tag that stands for those of versions. It may not be there.
func (e *registryExam) versionTag() string { return "krtpkg-doctor-" + e.run[:8] }

// pushSamples pushes what everything else needs.
func (e *registryExam) pushSamples(ctx context.Context) error {
	e.data = []byte("krtpkg doctor " + e.run)
	e.blob = content.NewDescriptorFromBytes(ocispec.MediaTypeImageLayerGzip, e.data)
	if err := e.repo.Push(ctx, e.blob, bytes.NewReader(e.data)); err != nil {
		return fmt.Errorf("push a blob to %s: %w", e.repo, err)
	}
	config := []byte("{}")
	e.config = content.NewDescriptorFromBytes(ocispec.MediaTypeImageConfig, config)
	if err := e.repo.Push(ctx, e.config, bytes.NewReader(config)); err != nil {
		return fmt.Errorf("push a blob to %s: %w", e.repo, err)
	}
	return nil
}

// pushImage returns an image of the one blob; change makes it a special one.
func (e *registryExam) pushImage(ctx context.Context, mediaType string, change func(*ocispec.Manifest)) (ocispec.Descriptor, error) {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: mediaType, Config: e.config, Layers: []ocispec.Descriptor{e.blob},
		Annotations: map[string]string{"dev.krtpkg.doctor": e.run},
	}
	if change != nil {
		change(&m)
	}
	return e.pushAndRead(ctx, mediaType, m)
}

func (e *registryExam) pushIndex(ctx context.Context, change func(*ocispec.Index)) (ocispec.Descriptor, error) {
	i := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{e.image}, Annotations: map[string]string{"dev.krtpkg.doctor": e.run},
	}
	change(&i)
	return e.pushAndRead(ctx, ocispec.MediaTypeImageIndex, i)
}

// pushAndRead writes a manifest and reads it back: some registries take what they then do not give.
func (e *registryExam) pushAndRead(ctx context.Context, mediaType string, value any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := content.NewDescriptorFromBytes(mediaType, data)
	// As a plain manifest: the client's own upkeep of fallback tags is another capability.
	if _, err := e.sendRequest(ctx, http.MethodPut, "manifests/"+desc.Digest.String(), data, http.Header{"Content-Type": {mediaType}}, http.StatusCreated); err != nil {
		return desc, err
	}
	e.written = append(e.written, desc)
	back, err := content.FetchAll(ctx, e.repo, desc)
	if err == nil && !bytes.Equal(back, data) {
		err = errors.New("returns other content")
	}
	return desc, err
}

// sendRequest sends a request about the repository and wants an answer of some status.
func (e *registryExam) sendRequest(ctx context.Context, method, path string, body []byte, header http.Header, want ...int) (*http.Response, error) {
	u := path
	if !strings.Contains(path, "://") {
		scheme := "https"
		if e.repo.PlainHTTP {
			scheme = "http"
		}
		u = fmt.Sprintf("%s://%s/v2/%s/%s", scheme, e.repo.Reference.Host(), e.repo.Reference.Repository, path)
	}
	ctx = auth.AppendRepositoryScope(ctx, e.repo.Reference, auth.ActionPull, auth.ActionPush, auth.ActionDelete)
	request, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for key, values := range header {
		request.Header[key] = values
	}
	response, err := e.repo.Client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 4<<20))
	if err != nil {
		return nil, err
	}
	if !slices.Contains(want, response.StatusCode) {
		answer := &errcode.ErrorResponse{Method: method, URL: request.URL, StatusCode: response.StatusCode}
		var said struct {
			Errors errcode.Errors `json:"errors"`
		}
		if json.Unmarshal(text, &said) == nil {
			answer.Errors = said.Errors
		}
		return response, answer
	}
	response.Body = io.NopCloser(bytes.NewReader(text))
	return response, nil
}

// beginUpload begins an upload and gives its address.
func (e *registryExam) beginUpload(ctx context.Context) (*url.URL, error) {
	to, _, err := e.uploadInChunks(ctx)
	return to, err
}

// uploadInChunks begins an upload, and says how long its chunks must be.
func (e *registryExam) uploadInChunks(ctx context.Context) (to *url.URL, least int64, err error) {
	response, err := e.sendRequest(ctx, http.MethodPost, "blobs/uploads/", nil, nil, http.StatusAccepted, http.StatusOK, http.StatusCreated)
	if err != nil {
		return nil, 0, err
	}
	to, err = registry.Location(response)
	return to, registry.LeastChunk(response), err
}

func withDigest(u *url.URL, digest string) string {
	query := u.Query()
	query.Set("digest", digest)
	to := *u
	to.RawQuery = query.Encode()
	return to.String()
}

// deleteWritten deletes what was written, as far as the registry lets it.
func (e *registryExam) deleteWritten(ctx context.Context, report *Report) error {
	for _, tag := range e.tags {
		if at, err := e.repo.Resolve(ctx, tag); err == nil && !slices.ContainsFunc(e.written, func(d ocispec.Descriptor) bool { return d.Digest == at.Digest }) {
			e.written = append(e.written, at) // a list of referrers
		}
	}
	for i := len(e.written) - 1; i >= 0; i-- {
		d := e.written[i].Digest.String()
		if _, err := e.sendRequest(ctx, http.MethodDelete, "manifests/"+d, nil, nil, http.StatusAccepted, http.StatusOK, http.StatusNoContent, http.StatusNotFound); err != nil {
			report.Left = append(report.Left, d)
		}
	}
	for _, tag := range e.tags {
		if _, err := e.repo.Resolve(ctx, tag); err == nil {
			report.Left = append(report.Left, tag)
		}
	}
	return ctx.Err()
}
