package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// attachment is what is answered of a manifest because of what it is attached to.
type attachment struct {
	// blobs are the sizes of the blobs.
	blobs map[digest.Digest]int64
	// until is when it is looked at again, as verdicts are.
	until time.Time
}

// absentFor is how long it is remembered what is attached to something, and that nothing is.
const absentFor = time.Minute

func (r *repository) isAttached(d digest.Digest) bool {
	a, ok := r.currentDecisions().attached.find(r.placeOf(d.String()))
	return ok && time.Now().Before(a.until)
}

// acceptAttached accepts a manifest that says itself what it is attached to, or for Argo CD of what it is made, or
// to which a tag leads that says so.
func (r *repository) acceptAttached(ctx context.Context, d digest.Digest, stored storedManifest, m *oci.Manifest) error {
	for _, subject := range r.upstream.subjectsOf(d) {
		if r.isAnswered(subject) {
			return r.recordAttached(ctx, d, stored)
		}
	}
	if m.Subject == nil && !isArgoCD(m) {
		return fmt.Errorf("%w: no subject", errNotAttached)
	}
	if m.Subject != nil && !r.isAnswered(m.Subject.Digest) {
		return fmt.Errorf("%w: subject %s is not served", errNotAttached, m.Subject.Digest)
	}
	return r.recordAttached(ctx, d, stored)
}

// isAnswered reports whether a manifest is known to be accepted, as a root, in a lock, or attached.
func (r *repository) isAnswered(d digest.Digest) bool {
	if _, _, ok := r.g.findItem(r, d, anyManifest); ok {
		return true
	}
	return r.isAttached(d)
}

// recordAttached accepts a manifest whose subject is answered, if it is one that may be attached.
func (r *repository) recordAttached(ctx context.Context, d digest.Digest, stored storedManifest) error {
	now := r.g.policy.Load()
	if err := r.checkAttached(ctx, stored); err != nil {
		return err
	}
	m, err := oci.ParseManifest(stored.data)
	if err != nil {
		return err
	}
	blobs := map[digest.Digest]int64{}
	for _, b := range m.Blobs() {
		if b.Digest.Validate() == nil {
			blobs[b.Digest] = b.Size
		}
	}
	began := time.Now()
	now.decided.attached.keepAttachment(r.placeOf(d.String()), attachment{blobs, now.nextChange(began, began.Add(r.g.o.Recheck))})
	return r.checkStillUnder(now)
}

// acceptAttachedTag returns what a tag that attaches something leads to.
func (r *repository) acceptAttachedTag(ctx context.Context, tag string, subject digest.Digest, suffix string) (digest.Digest, error) {
	if suffix == "" {
		// The list of the referrers tag schema: it is not needed where there is the API.
		return "", fmt.Errorf("%s:%s: %w", r.where, tag, errdef.ErrNotFound)
	}
	if !r.isAnswered(subject) {
		if _, err := r.acceptManifest(ctx, subject); err != nil {
			return "", err
		}
	}
	d, err := r.upstream.findAttachedTag(ctx, tag, absentFor)
	if err != nil {
		return "", err
	}
	if err := r.checkRevoked(d); err != nil {
		return "", err
	}
	stored, err := r.upstream.readManifest(ctx, d)
	if err == nil {
		err = r.recordAttached(ctx, d, stored)
	}
	return d, err
}

// listReferrers lists what is attached to a manifest and would be answered. The descriptors are made of the content.
func (r *repository) listReferrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	if !r.isAnswered(subject) {
		var refused *UpstreamError
		if _, err := r.acceptManifest(ctx, subject); errors.As(err, &refused) {
			return nil, err
		} else if err != nil {
			return nil, nil // nothing is attached to what is not answered
		}
	}
	return share(ctx, r, "referrers "+subject.String(), func(ctx context.Context) ([]ocispec.Descriptor, error) {
		found, err := r.upstream.listReferrers(ctx, subject, absentFor)
		if err != nil {
			return nil, err
		}
		if len(found) > maxReferrers {
			return nil, &UpstreamError{r.where, fmt.Errorf("%d referrers of %s, want at most %d: %w", len(found), subject, maxReferrers, oci.ErrTooLarge)}
		}
		return r.describeReferrers(ctx, subject, found)
	})
}

// maxReferrers is how many are listed of one manifest: each is read.
const maxReferrers = 5_000

// describeReferrers describes those that would be answered, in their order.
func (r *repository) describeReferrers(ctx context.Context, subject digest.Digest, found []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	all := make([]ocispec.Descriptor, len(found))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i, desc := range found {
		group.Go(func() error {
			described, err := r.describeReferrer(ctx, subject, desc.Digest)
			var failed *UpstreamError
			if errors.As(err, &failed) || ctx.Err() != nil {
				return err
			}
			if err == nil {
				all[i] = described
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(d ocispec.Descriptor) bool { return d.Digest == "" }), nil
}

func (r *repository) describeReferrer(ctx context.Context, subject, d digest.Digest) (ocispec.Descriptor, error) {
	stored, err := r.upstream.readManifest(ctx, d)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	m, err := oci.ParseManifest(stored.data)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if m.Subject == nil || m.Subject.Digest != subject {
		return ocispec.Descriptor{}, fmt.Errorf("%w: another subject", errNotAttached)
	}
	if err := r.checkRevoked(d); err != nil {
		return ocispec.Descriptor{}, err
	}
	isARoot := m.ArtifactType == bundle.TypeRuntime || m.ArtifactType == bundle.TypeBundle
	if isARoot {
		if _, err := r.acceptManifest(ctx, d); err != nil {
			return ocispec.Descriptor{}, err
		}
	} else if err := r.recordAttached(ctx, d, stored); err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := describe(d, stored)
	desc.ArtifactType, desc.Annotations = m.ArtifactType, m.Annotations
	if desc.ArtifactType == "" && m.Config != nil {
		desc.ArtifactType = m.Config.MediaType
	}
	return desc, nil
}

// errNotAttached is the reason of a refusal of what is attached to something.
var errNotAttached = errors.New("not served: not an acceptable attachment")

// checkAttached decides on something that is attached to what is answered. Whoever can write upstream attaches what they
// like, so it must be nothing that runs: no root, and no file system but those that are answered anyway.
func (r *repository) checkAttached(ctx context.Context, stored storedManifest) error {
	m, err := oci.ParseManifest(stored.data)
	if err == nil {
		err = checkKeys(stored.data)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errNotAttached, err)
	}
	switch m.ArtifactType {
	case bundle.TypeRuntime, bundle.TypeBundle, bundle.TypeCatalogue:
		return fmt.Errorf("%w: a %s must be signed itself", errNotAttached, m.ArtifactType)
	}
	if oci.IsIndex(stored.mediaType) {
		return r.checkAttachedIndex(ctx, m)
	}
	if len(m.Manifests) > 0 {
		return fmt.Errorf("%w: both an image and an index", errNotAttached)
	}
	if isArgoCD(m) {
		return r.checkArgoCD(m)
	}
	for _, l := range m.Layers {
		if !isDocument(l.MediaType) {
			return fmt.Errorf("%w: its layer %s is %q, which may be a file system", errNotAttached, l.Digest, l.MediaType)
		}
	}
	return nil
}

// checkAttachedIndex accepts an index over what is answered anyway: the closure, and the manifests for Argo CD.
func (r *repository) checkAttachedIndex(ctx context.Context, m *oci.Manifest) error {
	if m.Config != nil || len(m.Layers) > 0 {
		return fmt.Errorf("%w: both an image and an index", errNotAttached)
	}
	for _, next := range m.Manifests {
		if _, _, found := r.g.findItem(r, next.Digest, anyManifest); found {
			continue
		}
		stored, err := r.upstream.readManifest(ctx, next.Digest)
		if errors.Is(err, errdef.ErrNotFound) {
			return fmt.Errorf("%w: %s, which it names, does not exist", errNotAttached, next.Digest)
		}
		if err != nil {
			return err
		}
		inner, err := oci.ParseManifest(stored.data)
		if err == nil && !isArgoCD(inner) {
			err = ErrNotNamed
		}
		if err == nil {
			err = r.checkArgoCD(inner)
		}
		if err != nil {
			return fmt.Errorf("%w: %s, which it names: %w", errNotAttached, next.Digest, err)
		}
	}
	return nil
}

// checkKeys refuses JSON with a key twice, in whatever letters: some clients take the first "layers", others the last, and
// others again "Layers", as Go does, which would read another document than was checked.
func checkKeys(data []byte) error {
	type level struct {
		keys  map[string]bool // nil in a list
		isKey bool
	}
	var levels []*level
	d := json.NewDecoder(bytes.NewReader(data))
	for {
		token, err := d.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		var in *level
		if len(levels) > 0 {
			in = levels[len(levels)-1]
		}
		if key, is := token.(string); is && in != nil && in.keys != nil && in.isKey {
			folded := strings.ToLower(strings.ToUpper(key))
			if in.keys[folded] {
				return fmt.Errorf("duplicate key %q", key)
			}
			in.keys[folded], in.isKey = true, false
			continue
		}
		switch token {
		case json.Delim('}'), json.Delim(']'):
			levels = levels[:len(levels)-1]
			continue
		}
		if in != nil {
			in.isKey = true // after this value
		}
		switch token {
		case json.Delim('{'):
			levels = append(levels, &level{map[string]bool{}, true})
		case json.Delim('['):
			levels = append(levels, &level{})
		}
	}
}

func isArgoCD(m *oci.Manifest) bool {
	return m.ArtifactType == bundle.TypeArgoCD && len(m.Manifests) == 0
}

// checkArgoCD accepts a manifest over the config and the layer of a root or a bundle that is answered.
func (r *repository) checkArgoCD(m *oci.Manifest) error {
	if m.Config == nil || len(m.Layers) != 1 {
		return fmt.Errorf("%w: want one layer", errNotAttached)
	}
	for _, b := range m.Blobs() {
		if _, found := r.findOwn(b.Digest, isBlob); !found {
			return fmt.Errorf("%w: blob %s belongs to no verified root", errNotAttached, b.Digest)
		}
	}
	return nil
}

// isDocument reports whether content of a media type is read, and not unpacked or run. Signatures, attestations
// and SBOMs have no others.
func isDocument(mediaType string) bool {
	mediaType, _, _ = strings.Cut(strings.ToLower(mediaType), ";")
	mediaType = strings.TrimSpace(mediaType)
	for _, prefix := range layerTypes {
		if strings.HasPrefix(mediaType, prefix) {
			return false
		}
	}
	return strings.HasSuffix(mediaType, "+json") || strings.HasSuffix(mediaType, "+xml") || strings.HasPrefix(mediaType, "text/") ||
		slices.Contains(documentTypes, mediaType)
}

// layerTypes begin the media types that runtimes unpack, whatever suffix follows: containerd takes
// "application/vnd.oci.image.layer.v1.tar+json" for a tar.
var layerTypes = []string{"application/vnd.oci.image.", "application/vnd.docker.", "application/vnd.erofs."}

// documentTypes are those of signatures (github.com/notaryproject/specifications, PGP), and of documents without a suffix.
var documentTypes = []string{
	ocispec.MediaTypeEmptyJSON, "application/json", "application/xml", "application/jose", "application/cose", "application/pgp-signature",
	"application/vnd.dev.sigstore.bundle.v0.3+json",
}
