package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/sign"
)

const artifactType = "application/vnd.krtpkg.doctor.v1"

var octets = http.Header{"Content-Type": {"application/octet-stream"}}

// capabilities are what is tried, in this order: later ones build on what earlier ones wrote.
var capabilities = []capability{
	{"blobs in one piece", true, "blobs are pushed", "nothing can be pushed", func(context.Context, *registryExam) error {
		return nil // the examination began with one
	}},
	{"wrong digests refused", true, "damaged blobs are refused", "the registry accepts blobs that do not match their digest: do not use it", probeWrongDigest},
	{"blobs in chunks", false, "streams can be imported in one pass", "blobs of a stream are sent in one piece, and one that breaks off starts again", probeChunks},
	{"status of uploads", false, "interrupted uploads are resumed", "interrupted uploads start again", probeUploadStatus},
	{"ranges of blobs", false, "interrupted downloads are resumed", "interrupted downloads start again", probeRanges},
	{"mounts across repositories", false, "blobs of other repositories are not sent again", "blobs are sent to each repository", probeMount},
	{"OCI image manifests", true, "images and bundles are pushed", "nothing can be pushed", func(ctx context.Context, e *registryExam) (err error) {
		e.image, err = e.pushImage(ctx, ocispec.MediaTypeImageManifest, nil)
		return err
	}},
	{"Docker's image manifests", false, "images in Docker's format are accepted", "images in Docker's format cannot be mirrored here", func(ctx context.Context, e *registryExam) error {
		_, err := e.pushImage(ctx, oci.MediaTypeDockerManifest, func(m *ocispec.Manifest) {
			m.Config.MediaType = "application/vnd.docker.container.image.v1+json"
			m.Layers[0].MediaType = "application/vnd.docker.image.rootfs.diff.tar.gzip"
		})
		return err
	}},
	{"manifests with artifactType", true, "bundles and runtimes are pushed", "no bundle can be pushed", func(ctx context.Context, e *registryExam) error {
		_, err := e.pushImage(ctx, ocispec.MediaTypeImageManifest, func(m *ocispec.Manifest) { m.ArtifactType = artifactType })
		return err
	}},
	{"manifests with a subject", false, "signatures are stored as referrers", "only signatures under tags can be stored (--signature-format legacy)", probeSubject},
	{"referrers API", false, "referrers are listed by the registry", "referrers are listed in a fallback tag, sha256-DIGEST", probeReferrers},
	{"manifests of nearly 4 MiB", false, "large manifests are accepted", "very large indexes cannot be pushed", func(ctx context.Context, e *registryExam) error {
		_, err := e.pushImage(ctx, ocispec.MediaTypeImageManifest, func(m *ocispec.Manifest) {
			m.Annotations["padding"] = strings.Repeat("x", 4<<20-64<<10)
		})
		return err
	}},
	{"indexes", true, "images for several platforms are pushed", "no image for several platforms can be pushed", func(ctx context.Context, e *registryExam) error {
		_, err := e.pushIndex(ctx, func(*ocispec.Index) {})
		return err
	}},
	{"indexes with artifactType and subject", false, "the closure keeps everything from garbage collection", "the closure goes under a tag, sha256-DIGEST.closure", func(ctx context.Context, e *registryExam) error {
		_, err := e.pushIndex(ctx, func(i *ocispec.Index) { i.ArtifactType, i.Subject = artifactType, &e.image })
		return err
	}},
	{"indexes of indexes", false, "the closure names images of several platforms", "there is no closure: garbage collection removes untagged images", func(ctx context.Context, e *registryExam) error {
		inner, err := e.pushIndex(ctx, func(i *ocispec.Index) { i.Annotations["inner"] = "yes" })
		if err != nil {
			return err
		}
		_, err = e.pushIndex(ctx, func(i *ocispec.Index) { i.Manifests = []ocispec.Descriptor{inner} })
		return err
	}},
	{"indexes that lack a manifest", false, "copies of single platforms (--platform) are accepted", "images must be copied with all platforms", func(ctx context.Context, e *registryExam) error {
		_, err := e.pushIndex(ctx, func(i *ocispec.Index) {
			i.Manifests = append(i.Manifests, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("absent " + e.run), Size: 100})
		})
		return err
	}},
	{"tags", true, "versions are named", "nothing can be named", func(ctx context.Context, e *registryExam) error {
		return e.setTag(ctx, e.image, e.versionTag())
	}},
	{"tags as signatures have them", false, "signatures of cosign's older form are stored", "signatures of cosign's older form cannot be stored (--signature-format bundle)", func(ctx context.Context, e *registryExam) error {
		return e.setTag(ctx, e.image, strings.ReplaceAll(e.image.Digest.String(), ":", "-")+".sig")
	}},
	{"tags that move", false, "signatures are added to others under one tag, and channels can move", "tags cannot be moved: a second signature needs --signature-format bundle", func(ctx context.Context, e *registryExam) error {
		other, err := e.pushImage(ctx, ocispec.MediaTypeImageManifest, func(m *ocispec.Manifest) { m.Annotations["other"] = "yes" })
		if err != nil {
			return err
		}
		return e.setTag(ctx, other, e.versionTag())
	}},
	{signatureBundles, false, "sign --signature-format bundle works", "signatures cannot be stored as referrers: sign needs --signature-format legacy", func(ctx context.Context, e *registryExam) error {
		return e.probeSigning(ctx, sign.Bundle)
	}},
	{signatureTags, false, "sign --signature-format legacy works", "signatures cannot be stored under tags: sign needs --signature-format bundle", func(ctx context.Context, e *registryExam) error {
		return e.probeSigning(ctx, sign.Legacy)
	}},
	{"signatures", true, "sign, attest and verify work", "nothing can be signed here: sign in a folder (oci:FOLDER) or an archive, and verify there", func(_ context.Context, e *registryExam) error {
		if len(e.forms) == 0 {
			return errors.New("neither form of signatures can be stored and read back")
		}
		return nil
	}},
	{furtherSignatures, false, "later signatures and attestations are added", "only one run can sign and attest: exempt tags that begin with sha256- from immutability", furtherAttestation},
	{"lists of tags", false, "versions are listed", "krtpkg list, outdated and mirror lists do not work", func(ctx context.Context, e *registryExam) error {
		found := false
		err := e.repo.Tags(ctx, "", func(page []string) error {
			found = found || slices.Contains(page, e.versionTag())
			return nil
		})
		if err == nil && !found {
			err = errors.New("the list lacks a tag that was just set")
		}
		return err
	}},
	{"deletes of tags", false, "krtpkg prune deletes tags before anything else", "tags are deleted along with what they name", func(ctx context.Context, e *registryExam) error {
		return e.repo.DeleteTag(ctx, e.versionTag())
	}},
	{"deletes", false, "krtpkg prune deletes old versions", "krtpkg prune does not work, and the doctor's content stays: Distribution needs REGISTRY_STORAGE_DELETE_ENABLED=true", func(ctx context.Context, e *registryExam) error {
		last := len(e.written) - 1
		_, err := e.sendRequest(ctx, http.MethodDelete, "manifests/"+e.written[last].Digest.String(), nil, nil, http.StatusAccepted, http.StatusOK, http.StatusNoContent)
		return err
	}},
}

func probeWrongDigest(ctx context.Context, e *registryExam) error {
	to, err := e.beginUpload(ctx)
	if err != nil {
		return err
	}
	wrong := digest.FromString("something else " + e.run).String()
	_, err = e.sendRequest(ctx, http.MethodPut, withDigest(to, wrong), e.data, octets, http.StatusBadRequest, http.StatusRequestedRangeNotSatisfiable, http.StatusUnprocessableEntity)
	if err != nil {
		return fmt.Errorf("blob with a wrong digest: %w", err)
	}
	return nil
}

// maxChunk is how long the chunks are that krtpkg sends at most.
const maxChunk = 8 << 20

func probeChunks(ctx context.Context, e *registryExam) error {
	to, least, err := e.uploadInChunks(ctx)
	if err != nil {
		return err
	}
	if least > maxChunk {
		return fmt.Errorf("registry requires chunks of %d bytes; krtpkg holds at most %d", least, maxChunk)
	}
	size := max(20, int(least))
	data := []byte("in chunks " + e.run)
	if least > 0 {
		data = append(data, make([]byte, 2*least)...)
	}
	for offset := 0; offset < len(data); {
		part := data[offset:min(offset+size, len(data))]
		header := http.Header{"Content-Type": {"application/octet-stream"}, "Content-Range": {fmt.Sprintf("%d-%d", offset, offset+len(part)-1)}}
		response, err := e.sendRequest(ctx, http.MethodPatch, to.String(), part, header, http.StatusAccepted, http.StatusNoContent, http.StatusOK, http.StatusCreated)
		if err != nil {
			return err
		}
		if arrived, said := registry.RangeEnd(response); said && offset > 0 && arrived <= int64(offset) {
			return fmt.Errorf("registry accepted the second chunk with status %d but discarded it", response.StatusCode)
		}
		if to, err = registry.Location(response); err != nil {
			return err
		}
		offset += len(part)
	}
	_, err = e.sendRequest(ctx, http.MethodPut, withDigest(to, digest.FromBytes(data).String()), nil, octets, http.StatusCreated, http.StatusNoContent, http.StatusOK, http.StatusAccepted)
	return err
}

func probeUploadStatus(ctx context.Context, e *registryExam) error {
	to, err := e.beginUpload(ctx)
	if err != nil {
		return err
	}
	response, err := e.sendRequest(ctx, http.MethodPatch, to.String(), e.data, http.Header{
		"Content-Type": {"application/octet-stream"}, "Content-Range": {fmt.Sprintf("0-%d", len(e.data)-1)},
	}, http.StatusAccepted, http.StatusNoContent, http.StatusOK, http.StatusCreated)
	if err != nil {
		return err
	}
	if to, err = registry.Location(response); err != nil {
		return err
	}
	if response, err = e.sendRequest(ctx, http.MethodGet, to.String(), nil, nil, http.StatusNoContent, http.StatusOK); err != nil {
		return err
	}
	if got, want := response.Header.Get("Range"), fmt.Sprintf("0-%d", len(e.data)-1); strings.TrimPrefix(got, "bytes=") != want {
		return fmt.Errorf("reports range %q, want %q", got, want)
	}
	return nil
}

func probeRanges(ctx context.Context, e *registryExam) error {
	response, err := e.sendRequest(ctx, http.MethodGet, "blobs/"+e.blob.Digest.String(), nil, http.Header{"Range": {"bytes=3-8"}}, http.StatusPartialContent)
	if err != nil {
		return err
	}
	part, err := io.ReadAll(io.LimitReader(response.Body, oci.MaxManifest))
	if err == nil && !bytes.Equal(part, e.data[3:9]) {
		err = fmt.Errorf("returned %d wrong bytes for bytes 3 to 8", len(part))
	}
	return err
}

func probeMount(ctx context.Context, e *registryExam) error {
	_, from := e.repo.Name()
	refused := errors.New("asks for the content again")
	err := e.second.Mount(ctx, e.blob, from, func() (io.ReadCloser, error) { return nil, refused })
	if err != nil {
		return err
	}
	there, err := e.second.Exists(ctx, e.blob)
	if err == nil && !there {
		err = errors.New("reports success without doing it")
	}
	return err
}

func probeSubject(ctx context.Context, e *registryExam) error {
	var err error
	e.referrer, err = e.pushImage(ctx, ocispec.MediaTypeImageManifest, func(m *ocispec.Manifest) {
		m.ArtifactType, m.Subject = artifactType, &e.image
		m.Annotations["subject"] = "yes"
	})
	return err
}

func probeReferrers(ctx context.Context, e *registryExam) error {
	response, err := e.sendRequest(ctx, http.MethodGet, "referrers/"+e.image.Digest.String(), nil, nil, http.StatusOK)
	if err != nil {
		return err
	}
	list, err := io.ReadAll(io.LimitReader(response.Body, oci.MaxManifest))
	if err == nil && !strings.Contains(string(list), e.referrer.Digest.String()) {
		err = errors.New("the list lacks a referrer that was just pushed")
	}
	return err
}

// setTag names a manifest and looks it up.
func (e *registryExam) setTag(ctx context.Context, desc ocispec.Descriptor, tag string) error {
	if err := e.repo.Tag(ctx, desc, tag); err != nil {
		return err
	}
	if !slices.Contains(e.tags, tag) {
		e.tags = append(e.tags, tag)
	}
	at, err := e.repo.Resolve(ctx, tag)
	switch {
	case errors.Is(err, errdef.ErrNotFound):
		return errors.New("the tag is missing after it was set")
	case err == nil && at.Digest != desc.Digest:
		return fmt.Errorf("%w: the tag is still %s", content.ErrMismatchedDigest, at.Digest)
	}
	return err
}
