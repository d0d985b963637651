package trust

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/tracing"
)

// ErrRefused reports that a policy does not accept an artifact, in addition to the errors of [sign.Verify].
var ErrRefused = errors.New("refused by the trust policy")

// refusal is an error that is [ErrRefused].
type refusal struct {
	problem string
	cause   error
}

func (r *refusal) Error() string   { return r.problem }
func (r *refusal) Is(e error) bool { return e == ErrRefused }
func (r *refusal) Unwrap() error   { return r.cause }

func newRefusal(format string, args ...any) error { return &refusal{fmt.Sprintf(format, args...), nil} }

// FindRule returns the rule for a place, a repository or [Local].
func (p *Policy) FindRule(where string) (*ResolvedRule, error) {
	if r := matchRule(p.rules, where); r != nil {
		return r, nil
	}
	return nil, newRefusal("%s: no rule of %s matches", where, p.DisplayName())
}

// matchRule returns the first rule that matches a name, or nil.
func matchRule(rules []*ResolvedRule, name string) *ResolvedRule {
	for _, r := range rules {
		for _, glob := range r.Match {
			if matchesGlob(glob, name) {
				return r
			}
		}
	}
	return nil
}

// matchesGlob reports whether a glob of a rule matches a name, in any spelling of either.
func matchesGlob(glob, name string) bool {
	names := nameSpellings(name)
	for _, glob := range globSpellings(glob) {
		for _, name := range names {
			if matched, err := doublestar.Match(glob, name); matched && err == nil {
				return true
			}
		}
	}
	return false
}

// DisplayName returns the name of the policy for messages.
func (p *Policy) DisplayName() string { return cmp.Or(p.Name, "the trust policy") }

// Verify verifies a root at a place, a repository or [Local], by the rule for that place: the
// signatures, the attestations, that neither the root nor a bundle or an image in its lock is
// revoked, and that its name is expected there. It returns the errors of [sign.Verify] and
// [ErrRefused].
//
// A tag that led to the root is another matter: see [Policy.VerifyChannels].
func (p *Policy) Verify(ctx context.Context, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor, where string) (*sign.Result, error) {
	result, _, err := p.VerifyChannels(ctx, store, root, where)
	return result, err
}

// VerifyChannels is [Policy.Verify] that also returns what the policy says of tags that lead to the root: whoever follows
// a tag calls [Channels.Check].
func (p *Policy) VerifyChannels(ctx context.Context, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor, where string) (_ *sign.Result, _ *Channels, err error) {
	ctx, end := tracing.Start(ctx, "verify", tracing.Digest(root.Digest))
	defer func() { end(err) }()
	r := matchRule(p.rules, where)
	if r == nil {
		return nil, nil, newRefusal("%s: no rule of %s matches", where, p.DisplayName())
	}
	result, err := p.verifyByRule(ctx, store, root, r, where, false)
	if err == nil {
		err = p.checkName(ctx, store, root, r, where)
	}
	channels := &Channels{}
	if err == nil && p.combined != nil {
		_, channels, err = p.combined.VerifyChannels(ctx, store, root, where)
	}
	if err == nil {
		err = p.checkRevoked(ctx, store, root, where, result)
	}
	if err != nil {
		return nil, nil, err
	}
	return result, &Channels{append([]channelView{p.readChannels(r, result)}, channels.views...)}, nil
}

// checkRevoked looks for what is revoked in a root and all that its lock names.
func (p *Policy) checkRevoked(ctx context.Context, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor, where string, result *sign.Result) error {
	if len(p.revoked) == 0 {
		return nil
	}
	set, err := bundle.OpenSet(ctx, store, root)
	if err != nil {
		return err
	}
	for _, v := range slices.Concat(result.Verified, result.Attestations) {
		if err := p.checkDigest(v.Manifest, "what is signed or attested"); err != nil {
			return err
		}
	}
	if err := p.checkArtifactDigests(set.Root, where); err != nil {
		return err
	}
	for _, b := range set.Bundles {
		if err := p.checkArtifactDigests(b, "bundle "+b.Metadata().Name); err != nil {
			return err
		}
		for _, image := range b.Images {
			if err := p.checkImageDigest(ctx, store, image, "image "+image.Reference); err != nil {
				return err
			}
		}
		if err := p.checkCargoDigests(ctx, store, b); err != nil {
			return err
		}
	}
	return nil
}

// CheckRevoked returns an error if a digest is revoked. Call it for everything that is copied
// with a root.
func (p *Policy) CheckRevoked(d digest.Digest) error {
	if p.combined != nil {
		if err := p.combined.CheckRevoked(d); err != nil {
			return err
		}
	}
	return p.checkDigest(d, "closure")
}

// checkArtifactDigests looks at a root or a bundle, and at what its manifest names.
func (p *Policy) checkArtifactDigests(a *bundle.Artifact, what string) error {
	for _, d := range []digest.Digest{a.Descriptor.Digest, a.Manifest.Config.Digest, a.Manifest.Layers[0].Digest} {
		if err := p.checkDigest(d, what); err != nil {
			return err
		}
	}
	return nil
}

// checkCargoDigests looks at the files and charts of a bundle, wherever they are: its lock and its definition name their
// artifacts and their content.
func (p *Policy) checkCargoDigests(ctx context.Context, store oras.ReadOnlyGraphTarget, b *bundle.Artifact) error {
	for _, item := range b.ListCargo() {
		if err := p.checkDigest(item.Content.Digest, item.String()); err != nil {
			return err
		}
	}
	carried := b.CargoByArtifact()
	for _, locked := range b.Cargo {
		item := carried[locked.Image.DigestStr()]
		if err := p.checkImageDigest(ctx, store, locked, item.String()); err != nil {
			return err
		}
	}
	return nil
}

// checkImageDigest looks at an image and at everything in it: the manifests of an index, and what these
// name. An image that is elsewhere is looked at by its own digest alone.
func (p *Policy) checkImageDigest(ctx context.Context, store oras.ReadOnlyGraphTarget, image images.Locked, what string) error {
	seen := map[digest.Digest]bool{}
	var look func(d digest.Digest) error
	look = func(d digest.Digest) error {
		if seen[d] {
			return nil
		}
		seen[d] = true
		if err := p.checkDigest(d, what); err != nil {
			return err
		}
		desc, err := store.Resolve(ctx, d.String())
		if errors.Is(err, errdef.ErrNotFound) {
			return nil
		}
		if err == nil && desc.Size > oci.MaxManifest {
			err = fmt.Errorf("the manifest has %d bytes, the limit is %d", desc.Size, oci.MaxManifest)
		}
		var data []byte
		if err == nil {
			data, err = content.FetchAll(ctx, store, desc)
		}
		var m *oci.Manifest
		if err == nil {
			m, err = oci.ParseManifest(data)
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", what, d, err)
		}
		for _, blob := range m.Blobs() {
			if err := p.checkDigest(blob.Digest, what); err != nil {
				return err
			}
		}
		for _, next := range m.Manifests {
			if err := look(next.Digest); err != nil {
				return err
			}
		}
		return nil
	}
	return look(digest.Digest(image.Image.DigestStr()))
}

// checkName checks the signed name of a root against the expected names.
func (p *Policy) checkName(ctx context.Context, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor, r *ResolvedRule, where string) error {
	if p.ExpectName == "" && len(r.Names) == 0 {
		return nil
	}
	m, err := bundle.ReadManifest(ctx, store, root)
	if err != nil {
		return err
	}
	name := m.Annotations[ocispec.AnnotationTitle]
	if p.ExpectName != "" && name != p.ExpectName {
		return newRefusal("%s: signed as %s, want %s", where, name, p.ExpectName)
	}
	if len(r.Names) > 0 && !slices.ContainsFunc(r.Names, func(glob string) bool { return doublestar.MatchUnvalidated(glob, name) }) {
		return newRefusal("%s: signed as %s, but the rule of %s is for %s", where, name, p.DisplayName(), strings.Join(r.Names, ", "))
	}
	return nil
}

// Image is a workload image of a lock and the result of its verification.
type Image struct {
	// Reference is the name in the lock.
	Reference string        `json:"reference"`
	Digest    digest.Digest `json:"digest"`
	// Result is what was verified; nil if no rule matches the image.
	Result *sign.Result `json:"result,omitempty"`
}

// VerifyImages verifies upstream's signatures and attestations of the workload images of a runtime or
// a bundle for which the policy has rules, in the store that holds them. Each image is verified by
// the rules of all its names: its upstream name, and the name in the manifests.
func (p *Policy) VerifyImages(ctx context.Context, store oras.ReadOnlyGraphTarget, set *bundle.Set) ([]Image, error) {
	var found []Image
	rules := map[digest.Digest][]*ResolvedRule{}
	for _, b := range set.Bundles {
		for _, image := range b.Images {
			d := digest.Digest(image.Image.DigestStr())
			if _, known := rules[d]; !known {
				found, rules[d] = append(found, Image{Reference: image.Reference, Digest: d}), nil
			}
			names := []string{image.Image.Context().Name()}
			if ref, err := images.ParseReference(image.Reference); err == nil {
				names = append(names, ref.Context().Name())
			}
			for _, name := range names {
				if r := matchRule(p.images, name); r != nil && !slices.Contains(rules[d], r) {
					rules[d] = append(rules[d], r)
				}
			}
		}
	}
	whole := ctx
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i := range found {
		image := &found[i]
		for _, r := range rules[image.Digest] {
			group.Go(func() error {
				result, err := p.verifyImage(ctx, store, image, r)
				if err == nil && r == rules[image.Digest][0] {
					image.Result = result
				}
				return err
			})
		}
	}
	if err := group.Wait(); err != nil || p.combined == nil {
		return found, err
	}
	also, err := p.combined.VerifyImages(whole, store, set)
	for i := range also {
		if found[i].Result == nil {
			found[i].Result = also[i].Result
		}
	}
	return found, err
}

func (p *Policy) verifyImage(ctx context.Context, store oras.ReadOnlyGraphTarget, image *Image, r *ResolvedRule) (*sign.Result, error) {
	desc, err := store.Resolve(ctx, image.Digest.String())
	if err == nil && desc.Digest != image.Digest {
		err = newRefusal("%s is given for %s", desc.Digest, image.Digest)
	}
	var result *sign.Result
	if err == nil {
		result, err = p.verifyByRule(ctx, store, desc, r, image.Reference, len(r.Required) == 0)
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", image.Reference, err)
	}
	return result, nil
}

// verifyByRule verifies something by a rule.
func (p *Policy) verifyByRule(ctx context.Context, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor, r *ResolvedRule, what string, signaturesOnly bool) (*sign.Result, error) {
	if err := p.checkDigest(root.Digest, what); err != nil {
		return nil, err
	}
	now := p.currentTime()
	result, err := sign.Verify(ctx, store, root, sign.Policy{
		Now: now, Authorities: r.Signers, Threshold: r.Threshold, Revoked: p.File.Revoked.Keys, Attesters: r.AllAttesters(),
		SignaturesOnly: signaturesOnly,
		Suffices: func(result *sign.Result) bool {
			return r.checkAge(result, "", "", now) == nil &&
				!slices.ContainsFunc(r.Required, func(q ResolvedRequirement) bool { return q.checkAttestations(result) != nil })
		},
	})
	if err == nil {
		err = r.checkAge(result, what, p.DisplayName(), now)
	}
	if err != nil {
		return nil, err
	}
	for _, q := range r.Required {
		if err := q.checkAttestations(result); err != nil {
			return nil, err
		}
	}
	return result, nil
}

func (p *Policy) checkDigest(d digest.Digest, what string) error {
	if p.revoked[d] {
		return newRefusal("%s: %s is revoked by %s", what, d, cmp.Or(p.revoker, p.DisplayName()))
	}
	return nil
}

// AllAttesters returns all authorities whose attestations count for some requirement.
func (r *ResolvedRule) AllAttesters() []sign.Authority {
	all := slices.Clone(r.Signers)
	for _, q := range r.Required {
		for _, a := range q.Attesters {
			if !slices.ContainsFunc(all, func(b sign.Authority) bool { return a.Name == b.Name }) {
				all = append(all, a)
			}
		}
	}
	return all
}

// checkAttestations returns an error unless enough attestations meet the requirement.
func (q *ResolvedRequirement) checkAttestations(result *sign.Result) error {
	var by, not []string
	for _, v := range result.Attestations {
		named := slices.ContainsFunc(q.Attesters, func(a sign.Authority) bool { return a.Name == v.Authority })
		if v.PredicateType != q.PredicateType || !named || slices.Contains(by, v.Authority) {
			continue
		}
		yes, err := evaluateCondition(q.condition, v.Predicate)
		switch {
		case err != nil:
			not = append(not, fmt.Sprintf("%s: %v", v.Object, err))
		case !yes:
			not = append(not, fmt.Sprintf("%s: condition not met", v.Object))
		default:
			by = append(by, v.Authority)
		}
	}
	need := max(q.Threshold, 1)
	if len(by) >= need {
		return nil
	}
	for _, r := range result.Rejected {
		not = append(not, fmt.Sprintf("%s: %v", r.Object, r.Err))
	}
	problem := fmt.Sprintf("%s: found %d of %d required attestations of type %s by %s", result.Root, len(by), need, q.PredicateType, authorityNames(q.Attesters))
	if q.Condition != "" {
		problem += fmt.Sprintf(" that meet %s", q.Condition)
	}
	if len(not) > 0 {
		problem += "; not counted: " + strings.Join(not[:min(len(not), 5)], "; ")
	}
	return newRefusal("%s", problem)
}

func authorityNames(authorities []sign.Authority) string {
	all := make([]string, len(authorities))
	for i, a := range authorities {
		all[i] = cmp.Or(a.Name, "the key")
	}
	return strings.Join(all, ", ")
}
