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
	"oras.land/oras-go/v2"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// ErrRefused is the error of what a policy does not let pass, besides those of [sign.Verify].
var ErrRefused = errors.New("refused by the trust policy")

// refuse is an error that is [ErrRefused].
type refusal struct{ problem string }

func (r *refusal) Error() string   { return r.problem }
func (r *refusal) Is(e error) bool { return e == ErrRefused }

func refuse(format string, args ...any) error { return &refusal{fmt.Sprintf(format, args...)} }

// Rule is the rule for what is at a place, a repository or [Local].
func (p *Policy) Rule(where string) (*Rule, error) {
	r, err := p.rule(where)
	if err != nil {
		return nil, err
	}
	return r.Rule, nil
}

// Matches says whether any rule is for a place.
func (p *Policy) Matches(where string) bool {
	_, err := p.rule(where)
	return err == nil
}

func (p *Policy) rule(where string) (*rule, error) {
	for _, r := range p.rules {
		for _, glob := range r.Match {
			if matched, err := doublestar.Match(glob, where); matched && err == nil {
				return r, nil
			}
		}
	}
	return nil, refuse("%s: no rule of %s is for it", where, p.name())
}

func (p *Policy) name() string { return cmp.Or(p.Name, "the trust policy") }

// Verify verifies what is at a place, a repository or [Local], by its rule: the signatures, the
// attestations, and that nothing of it is revoked, be it the root or a bundle or an image that
// its lock names. Errors: as of [sign.Verify], and [ErrRefused].
func (p *Policy) Verify(ctx context.Context, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor, where string) (*sign.Result, error) {
	result, err := p.VerifyImage(ctx, store, root, where)
	if err != nil || len(p.revoked) == 0 {
		return result, err
	}
	resolver, ok := store.(bundle.ReadStore)
	if !ok {
		return nil, fmt.Errorf("%s: what it consists of can't be read here", root.Digest)
	}
	set, err := bundle.OpenSet(ctx, resolver, root)
	if err != nil {
		return nil, err
	}
	for _, b := range set.Bundles {
		if err := p.notRevoked(b.Descriptor.Digest, "bundle "+b.Metadata().Name); err != nil {
			return nil, err
		}
		for _, image := range b.Images {
			if err := p.notRevoked(digest.Digest(image.Image.DigestStr()), "image "+image.Reference); err != nil {
				return nil, err
			}
		}
	}
	return result, nil
}

// VerifyImage verifies what is no bundle or runtime, an image for example: as Verify does, but
// for what its content names.
func (p *Policy) VerifyImage(ctx context.Context, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor, where string) (*sign.Result, error) {
	r, err := p.rule(where)
	if err != nil {
		return nil, err
	}
	if err := p.notRevoked(root.Digest, where); err != nil {
		return nil, err
	}
	result, err := sign.Verify(ctx, store, root, sign.Policy{
		Authorities: r.signers, Threshold: r.Threshold, Revoked: p.File.Revoked.Keys, Attesters: r.attesters(),
	})
	if err != nil {
		return nil, err
	}
	for _, q := range r.attestations {
		if err := q.check(result); err != nil {
			return nil, err
		}
	}
	return result, nil
}

func (p *Policy) notRevoked(d digest.Digest, what string) error {
	if p.revoked[d] {
		return refuse("%s: %s is revoked by %s", what, d, p.name())
	}
	return nil
}

// attesters are all whose attestations count for anything.
func (r *rule) attesters() []sign.Authority {
	all := slices.Clone(r.signers)
	for _, q := range r.attestations {
		for _, a := range q.attesters {
			if !slices.ContainsFunc(all, func(b sign.Authority) bool { return a.Name == b.Name }) {
				all = append(all, a)
			}
		}
	}
	return all
}

// check looks for enough attestations that say what is wanted.
func (q *requirement) check(result *sign.Result) error {
	var by, not []string
	for _, v := range result.Attestations {
		named := slices.ContainsFunc(q.attesters, func(a sign.Authority) bool { return a.Name == v.Authority })
		if v.PredicateType != q.predicateType || !named || slices.Contains(by, v.Authority) {
			continue
		}
		yes, err := holds(q.condition, v.Predicate)
		switch {
		case err != nil:
			not = append(not, fmt.Sprintf("%s: %v", v.Object, err))
		case !yes:
			not = append(not, fmt.Sprintf("%s: the condition does not hold", v.Object))
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
	problem := fmt.Sprintf("%s: %d of %d attestations of %s by %s", result.Root, len(by), need, q.predicateType, names(q.attesters))
	if q.Condition != "" {
		problem += fmt.Sprintf(" for which %s", q.Condition)
	}
	if len(not) > 0 {
		problem += "; not counted: " + strings.Join(not[:min(len(not), 5)], "; ")
	}
	return refuse("%s", problem)
}

func names(authorities []sign.Authority) string {
	all := make([]string, len(authorities))
	for i, a := range authorities {
		all[i] = cmp.Or(a.Name, "the key")
	}
	return strings.Join(all, ", ")
}
