package export

import (
	"errors"
	"fmt"
	"regexp"
	"slices"

	"krtpkg.dev/krtpkg/pkg/trust"
)

// FluxTrust lists the signers that Flux's source-controller trusts: holders of one of the keys, or,
// without keys, of a certificate for one of the identities.
type FluxTrust struct {
	// Keys are PEM.
	Keys []string
	// Identities are regular expressions for all of an issuer and of a subject.
	Identities []FluxIdentity
	// TrustedRoot is that of Sigstore which issues these certificates, as JSON.
	TrustedRoot string
}

// FluxIdentity is an accepted identity of a certificate.
type FluxIdentity struct{ Issuer, Subject string }

// Flux returns what Flux can verify of the rule for a repository. What Flux cannot express is
// [ErrInexpressible]: more than one signature, attestations, periods, a log or a timestamp
// demanded of a key, SHA-384 and SHA-512, a private PKI, keys next to identities, revoked digests.
func Flux(p *trust.Policy, where string) (*FluxTrust, error) {
	r, err := p.FindRule(where)
	if err != nil {
		return nil, err
	}
	e := &exporter{Policy: p, target: "Flux"}
	if second := p.Combined(); second != nil {
		e.recordProblem("a second policy, %s", second.DisplayName())
	}
	if len(r.Names) > 0 {
		e.recordProblem("names of what is signed")
	}
	if r.MinAge != 0 {
		e.recordProblem("the age of signatures (minAge)")
	}
	if r.Channels != nil && r.Channels.Stale == trust.RefuseStale {
		e.recordProblem("the freshness of channels")
	}
	if r.Threshold > 1 {
		e.recordProblem("%d signatures", r.Threshold)
	}
	if len(r.Required) > 0 {
		e.recordProblem("attestations")
	}
	if len(p.File.Revoked.Digests) > 0 {
		e.recordProblem("revoked digests")
	}
	made := &FluxTrust{}
	for i := range r.Signers {
		a := &r.Signers[i]
		name := a.Name
		if name == "" {
			name = fmt.Sprint(i + 1)
		}
		about := func(what string) { e.recordProblem("authority %s: %s", name, what) }
		if !a.NotBefore.IsZero() || !a.NotAfter.IsZero() {
			about("a period")
		}
		if a.Key != nil {
			if slices.Contains(p.File.Revoked.Keys, a.Key.ID()) {
				continue
			}
			if a.RequireLog || a.RequireTimestamp {
				about("a log or a timestamp with a key")
			}
			if a.Key.NeedsLongHash() {
				about("a key of a curve over 256 bits")
			}
			pem, err := a.Key.PEM()
			if err != nil {
				return nil, err
			}
			made.Keys = append(made.Keys, string(pem))
			continue
		}
		root := string(a.Roots.JSON())
		switch {
		case root == "":
			about("a private PKI")
		case made.TrustedRoot != "" && made.TrustedRoot != root:
			about("a second trusted root")
		}
		if len(p.File.Revoked.Keys) > 0 {
			about("revoked keys, which may be of certificates")
		}
		made.TrustedRoot = root
		identity := newExportIdentity(a.Identity)
		made.Identities = append(made.Identities, FluxIdentity{fullPattern(identity.Issuer, identity.IssuerRegExp), fullPattern(identity.Subject, identity.SubjectRegExp)})
	}
	if len(made.Keys) > 0 && len(made.Identities) > 0 {
		e.recordProblem("keys next to identities")
	}
	if len(e.problems) > 0 {
		return nil, errors.Join(e.problems...)
	}
	return made, nil
}

// fullPattern returns a pattern for all of a text, from the text or from the pattern.
func fullPattern(text, pattern string) string {
	if text != "" {
		return "^" + regexp.QuoteMeta(text) + "$"
	}
	return pattern
}
