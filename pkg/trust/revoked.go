package trust

import (
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
)

// WithRevoked returns a policy that also refuses what another one revokes, such as that of a file where
// flags name the signers. The other may be nil.
func (p *Policy) WithRevoked(other *Policy) *Policy {
	if p == nil || other == nil || len(other.File.Revoked.Keys)+len(other.revoked) == 0 {
		return p
	}
	both := *p
	both.File.Revoked.Keys = slices.Concat(p.File.Revoked.Keys, other.File.Revoked.Keys)
	both.File.Revoked.Digests = slices.Concat(p.File.Revoked.Digests, other.File.Revoked.Digests)
	both.revoked = maps.Clone(p.revoked)
	maps.Copy(both.revoked, other.revoked)
	both.revoker = other.DisplayName()
	both.Digest = digest.FromString(p.Digest.String() + "\n" + other.Digest.String())
	return &both
}
