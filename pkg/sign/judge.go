package sign

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"krtpkg.dev/krtpkg/pkg/lazyregexp"
)

// verifyEnvelope verifies an envelope against all trusted authorities. On failure
// the error is the most specific of their reasons.
func (p *Policy) verifyEnvelope(e *envelope, d digest.Digest) (*Verified, error) {
	trusted := p.authoritiesFor(e)
	leaf, err := e.leafCertificate()
	if err != nil && slices.ContainsFunc(trusted, func(a Authority) bool { return a.Identity != nil }) {
		return nil, err
	} else if err != nil {
		return nil, errOnlyKeys
	}
	var best *refusal
	for i := range trusted {
		a := &trusted[i]
		if (a.Key == nil) != (leaf != nil) {
			continue
		}
		fact, refused := p.verifyAuthority(a, e, leaf, d)
		if refused == nil {
			return fact, nil
		}
		if best == nil || refused.rank > best.rank {
			best = refused
		}
	}
	if best != nil && best.rank > rankOtherSigner {
		return nil, best.err
	}
	return nil, untrustedSignerError(e, leaf, best, trusted)
}

// checkKeySignature verifies the signature with the policy's first key, whatever it signs.
func (p *Policy) checkKeySignature(e *envelope) error {
	_, err := e.verifySignature(p.Authorities[0].trustedMaterial(), nil, e.artifactPolicy(), verify.WithNoObserverTimestamps())
	return err
}

// refusal is the reason why a signature does not count as an authority's. The further verification
// got, the higher its rank.
type refusal struct {
	rank int
	err  error
}

const (
	rankOtherSigner   = iota // signed by someone else, or changed since
	rankUnproven             // by a certificate that nothing trusted vouches for, or without proof
	rankOtherIdentity        // by another identity
	rankOtherClaims          // by the authority, but not what is asked for
)

// verifyAuthority verifies that one authority signed.
func (p *Policy) verifyAuthority(a *Authority, e *envelope, leaf *x509.Certificate, d digest.Digest) (*Verified, *refusal) {
	fact := &Verified{Authority: a.displayName()}
	if leaf == nil {
		// The signature comes first: if another key made it, nothing else matters.
		if _, err := e.verifySignature(a.trustedMaterial(), nil, e.artifactPolicy(), verify.WithNoObserverTimestamps()); err != nil {
			return nil, &refusal{rankOtherSigner, err}
		}
		fact.KeyID = a.Key.ID()
	}
	if leaf != nil {
		if err := checkCertificateUse(leaf); err != nil {
			return nil, &refusal{rankUnproven, err}
		}
	}
	proofs, err := a.requiredProofs(e, leaf)
	if err != nil {
		return nil, &refusal{rankUnproven, err}
	}
	res, err := e.verifySignature(proofs.material, leaf, e.artifactPolicy(), proofs.options...)
	if err != nil {
		return nil, &refusal{rankUnproven, a.explainCertificateError(e, leaf, proofs, err)}
	}
	if leaf != nil {
		c := res.Signature.Certificate
		fact.Certificate = &Certificate{Subject: c.SubjectAlternativeName, Issuer: c.Issuer, Authority: c.CertificateIssuer}
		if fact.KeyID, err = certificateKeyID(leaf); err != nil {
			return nil, &refusal{rankOtherSigner, err}
		}
		if !a.Identity.matchesCertificate(*c) {
			return nil, &refusal{rankOtherIdentity, fmt.Errorf("signed by %q (issuer %q), want %s", c.SubjectAlternativeName, c.Issuer, a.Identity)}
		}
	}
	if p.isRevoked(fact.KeyID) {
		return nil, &refusal{rankOtherClaims, fmt.Errorf("signed with key %s, which is revoked", fact.KeyID)}
	}
	fact.Log = a.trustedLogEntries(e)
	if err := fact.checkTimes(a, slices.Concat(res.VerifiedTimestamps, proofs.stampedTimes), p.currentTime()); err != nil {
		return nil, &refusal{rankOtherClaims, err}
	}
	if err := fact.readStatement(e, res, d); err != nil {
		return nil, &refusal{rankOtherClaims, err}
	}
	return fact, nil
}

// checkTimes records the proofs of time and compares them with the authority's bounds.
func (v *Verified) checkTimes(a *Authority, verified []verify.TimestampVerificationResult, now time.Time) error {
	proven := false
	for _, t := range verified {
		source := map[string]string{"Tlog": sourceLog, "TimestampAuthority": sourceTimestamp}[t.Type]
		if source == "" {
			continue
		}
		proven = true
		v.Times = append(v.Times, Time{t.Timestamp.UTC(), source, t.URI})
		if err := a.checkTime(t.Timestamp); err != nil {
			return fmt.Errorf("signed at %s: %w", t.Timestamp.UTC().Format(time.RFC3339), err)
		}
	}
	if proven {
		return nil
	}
	if err := a.checkTime(now); err != nil {
		return fmt.Errorf("no proof of the signing time: %w", err)
	}
	return nil
}

// readStatement reads what was signed and compares its digest with the root's.
func (v *Verified) readStatement(e *envelope, res *verify.VerificationResult, d digest.Digest) error {
	if e.isClaim() {
		return v.readClaim(e.payload, d)
	}
	subjects := res.Statement.GetSubject()
	for _, s := range subjects {
		if s.GetDigest()[d.Algorithm().String()] != d.Encoded() {
			continue
		}
		v.Annotations = s.GetAnnotations().AsMap()
		if len(v.Annotations) == 0 {
			v.Annotations = nil
		}
		if e.isSignature() {
			return nil
		}
		v.PredicateType = e.predicateType
		var statement struct {
			Predicate json.RawMessage `json:"predicate"`
		}
		if err := json.Unmarshal(e.payload, &statement); err != nil {
			return fmt.Errorf("statement: %w", err)
		}
		v.Predicate = statement.Predicate
		return nil
	}
	signed := "(no subject)"
	if len(subjects) > 0 {
		signed = "sha256:" + subjects[0].GetDigest()["sha256"]
	}
	if len(subjects) > 1 {
		signed = fmt.Sprintf("%s and %d more", signed, len(subjects)-1)
	}
	return digestMismatchError(signed, d)
}

func (v *Verified) readClaim(data []byte, d digest.Digest) error {
	var c payload.SimpleContainerImage
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	if c.Critical.Type != payload.CosignSignatureType {
		return fmt.Errorf("signed type %q, want %q", c.Critical.Type, payload.CosignSignatureType)
	}
	if signed := c.Critical.Image.DockerManifestDigest; signed != d.String() {
		return digestMismatchError(signed, d)
	}
	v.Reference, v.Annotations = c.Critical.Identity.DockerReference, c.Optional
	return nil
}

// artifactPolicy asks for a signature over the envelope's own payload; the digest that it claims
// is compared afterwards.
func (e *envelope) artifactPolicy() verify.ArtifactPolicyOption {
	if e.isClaim() {
		return verify.WithArtifact(bytes.NewReader(e.payload))
	}
	return verify.WithoutArtifactUnsafe()
}

// verifySignature requires a valid signature and the proofs that options ask for.
func (e *envelope) verifySignature(material root.TrustedMaterial, leaf *x509.Certificate, artifact verify.ArtifactPolicyOption, options ...verify.VerifierOption) (*verify.VerificationResult, error) {
	v, err := verify.NewVerifier(material, options...)
	if err != nil {
		return nil, err
	}
	signer := verify.WithKey()
	if leaf != nil {
		signer = verify.WithoutIdentitiesUnsafe() // compared by the caller, for the sake of the message
	}
	return v.Verify(e.bundle, verify.NewPolicy(artifact, signer))
}

// trustedMaterial returns everything that an authority's signatures are verified with.
func (a *Authority) trustedMaterial() root.TrustedMaterial {
	var all root.TrustedMaterialCollection
	if a.Key != nil {
		all = append(all, root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
			// The trusted key counts, whatever name the bundle has for its key.
			return root.NewExpiringKey(a.Key.verifier, time.Time{}, time.Time{}), nil
		}))
	}
	if a.Roots != nil {
		all = append(all, a.Roots.material)
	}
	return all
}

// proofRequirements are what a signature of an authority must come with: what the authority asks for,
// what its kind of certificate needs, and all that is there and can be checked.
type proofRequirements struct {
	material root.TrustedMaterial
	options  []verify.VerifierOption
	// stampedTimes are the times of an envelope's timestamps, which the verifier does not know.
	stampedTimes []verify.TimestampVerificationResult
}

func (a *Authority) requiredProofs(e *envelope, leaf *x509.Certificate) (p proofRequirements, err error) {
	m := a.trustedMaterial()
	p.material = m
	var logTimes []root.Timestamp
	var stamps []*root.Timestamp
	if a.Roots != nil {
		entries := len(a.trustedLogEntries(e))
		if entries == 0 && (a.RequireLog || leaf != nil && a.Roots.shortLived && len(m.RekorLogs()) > 0) {
			return p, errors.New("no entry in a trusted transparency log")
		}
		if entries > 0 {
			if logTimes, err = verify.VerifyTlogEntry(e.bundle, m, entries, true); err != nil {
				return p, fmt.Errorf("transparency log: %w", err)
			}
			p.options = append(p.options, verify.WithTransparencyLog(entries))
		}
		if len(m.TimestampingAuthorities()) > 0 {
			var why []error
			stamps, why, err = verify.VerifySignedTimestamp(e.bundle, m)
			if err == nil && len(stamps) == 0 && len(why) > 0 {
				err = why[0]
			}
			if err == nil {
				p.stampedTimes, err = e.verifyTimestamps(m)
			}
			if err != nil {
				return p, fmt.Errorf("timestamp: %w", err)
			}
		}
		if leaf != nil && a.Roots.shortLived && len(m.CTLogs()) > 0 {
			p.options = append(p.options, verify.WithSignedCertificateTimestamps(1))
		}
	}
	for _, t := range p.stampedTimes {
		if leaf == nil {
			break
		}
		if err := verifyChain(m, leaf, t.Timestamp); err != nil {
			return p, fmt.Errorf("certificate of %s: %w", certificateSubject(leaf), err)
		}
	}
	switch {
	case len(logTimes)+len(stamps) > 0:
		p.options = append(p.options, verify.WithObserverTimestamps(1))
	case len(p.stampedTimes) > 0 && leaf != nil:
		p.material, p.options = verificationMaterialAt{m, p.stampedTimes[0].Timestamp}, append(p.options, verify.WithCurrentTime())
	case len(p.stampedTimes) == 0 && (a.RequireTimestamp || leaf != nil && a.Roots.shortLived):
		return p, errors.New("no proof of the signing time: no trusted timestamp and no trusted log entry with a time")
	case leaf != nil:
		p.options = append(p.options, verify.WithCurrentTime())
	default:
		p.options = append(p.options, verify.WithNoObserverTimestamps())
	}
	return p, nil
}

// verifyTimestamps returns the times that an envelope's timestamps prove. Each timestamp must be
// of this envelope and by a trusted authority.
func (e *envelope) verifyTimestamps(m root.TrustedMaterial) (times []verify.TimestampVerificationResult, err error) {
	for _, stamp := range e.timestamps {
		var found *root.Timestamp
		for _, tsa := range m.TimestampingAuthorities() {
			for _, of := range e.timestamped {
				if found == nil {
					found, err = tsa.Verify(stamp, of)
				}
			}
		}
		if found == nil {
			return nil, fmt.Errorf("unable to verify signed timestamps: %w", err)
		}
		times = append(times, verify.TimestampVerificationResult{Type: "TimestampAuthority", URI: found.URI, Timestamp: found.Time})
	}
	return times, nil
}

// verificationMaterialAt is trusted material whose certificate authorities verify certificates at
// a proven time instead of now.
type verificationMaterialAt struct {
	root.TrustedMaterial
	at time.Time
}

func (t verificationMaterialAt) FulcioCertificateAuthorities() (all []root.CertificateAuthority) {
	for _, ca := range t.TrustedMaterial.FulcioCertificateAuthorities() {
		all = append(all, certificateAuthorityAt{ca, t.at})
	}
	return all
}

type certificateAuthorityAt struct {
	root.CertificateAuthority
	at time.Time
}

func (a certificateAuthorityAt) Verify(c *x509.Certificate, _ time.Time) ([][]*x509.Certificate, error) {
	return a.CertificateAuthority.Verify(c, a.at)
}

// trustedLogEntries returns the entries in logs that the authority trusts.
func (a *Authority) trustedLogEntries(e *envelope) (entries []LogEntry) {
	if a.Roots == nil {
		return nil
	}
	logs := a.Roots.material.RekorLogs()
	for _, entry := range e.bundle.GetVerificationMaterial().GetTlogEntries() {
		id := hex.EncodeToString(entry.GetLogId().GetKeyId())
		if logs[id] != nil {
			entries = append(entries, LogEntry{id, entry.GetLogIndex()})
		}
	}
	return entries
}

// explainCertificateError finds what is wrong with a certificate; the verifier does not tell.
func (a *Authority) explainCertificateError(e *envelope, leaf *x509.Certificate, p proofRequirements, err error) error {
	if leaf == nil {
		return err
	}
	times := []time.Time{}
	for _, t := range p.stampedTimes {
		times = append(times, t.Timestamp)
	}
	m := a.trustedMaterial()
	if logTimes, err := verify.VerifyTlogEntry(e.bundle, m, 1, true); err == nil {
		for _, t := range logTimes {
			times = append(times, t.Time)
		}
	}
	if stamps, _, err := verify.VerifySignedTimestamp(e.bundle, m); err == nil {
		for _, t := range stamps {
			times = append(times, t.Time)
		}
	}
	if len(times) == 0 {
		times = append(times, time.Now())
	}
	for _, t := range times {
		if why := verifyChain(m, leaf, t); why != nil {
			return fmt.Errorf("certificate of %s: %w", certificateSubject(leaf), why)
		}
	}
	return err
}

// verifyChain returns an error unless a certificate authority vouches for the certificate at t.
func verifyChain(m root.TrustedMaterial, leaf *x509.Certificate, t time.Time) (why error) {
	for _, ca := range m.FulcioCertificateAuthorities() {
		_, err := ca.Verify(leaf, t)
		var unknown x509.UnknownAuthorityError
		switch {
		case err == nil:
			return nil
		case why == nil || errors.As(why, &unknown):
			why = err
		}
	}
	return why
}

// checkCertificateUse refuses a certificate whose key is not for signatures, and one with a name of one type that
// reads like one of another: policies compare the text, whoever may have URIs certified must not get an e-mail
// address by it, nor the other way round.
func checkCertificateUse(leaf *x509.Certificate) error {
	var problem string
	switch {
	case leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		problem = "its key usage does not include digital signatures"
	case len(leaf.URIs) > 0 && leaf.URIs[0].Scheme == "":
		problem = "the URI in it has no scheme"
	case len(leaf.URIs) == 0 && len(leaf.EmailAddresses) > 0 && !emailAddress.MatchString(leaf.EmailAddresses[0]):
		problem = "the e-mail address in it is not one"
	default:
		return nil
	}
	return fmt.Errorf("certificate of %s: %s", certificateSubject(leaf), problem)
}

// emailAddress matches what is one and no URI.
var emailAddress = lazyregexp.New(`^[^@/:\s]+@[^@/:\s]+$`)

func certificateSubject(leaf *x509.Certificate) string {
	switch {
	case len(leaf.URIs) > 0:
		return leaf.URIs[0].String()
	case len(leaf.EmailAddresses) > 0:
		return leaf.EmailAddresses[0]
	case len(leaf.DNSNames) > 0:
		return leaf.DNSNames[0]
	}
	return fmt.Sprintf("%q", leaf.Subject)
}

// leafCertificate returns the certificate that an envelope comes with, or nil.
func (e *envelope) leafCertificate() (*x509.Certificate, error) {
	content, err := e.bundle.VerificationContent()
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return content.Certificate(), nil
}

func certificateKeyID(c *x509.Certificate) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(c.PublicKey)
	if err != nil {
		return "", fmt.Errorf("certificate: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// errUntrustedKey cannot be more precise: a changed payload, a changed signature and another key
// look the same.
var errUntrustedKey = errors.New("not signed by a trusted key, or changed after signing")

var errOnlyKeys = errors.New("signed with a certificate, but only keys are trusted")

// untrustedSignerError describes the signer if none of the trusted authorities has signed.
func untrustedSignerError(e *envelope, leaf *x509.Certificate, best *refusal, trusted []Authority) error {
	id := e.keyHint()
	switch {
	case best == nil && leaf != nil:
		return errOnlyKeys
	case best == nil:
		return errors.New("signed with a key, but only certificates are trusted")
	case leaf != nil:
		return best.err
	case id != "" && slices.ContainsFunc(trusted, func(a Authority) bool { return a.Key != nil && a.Key.ID() == id }):
		return fmt.Errorf("names the trusted key %s, but the signature is not valid", id)
	case id != "":
		return fmt.Errorf("signed with key %s, which is not trusted", id)
	}
	return errUntrustedKey
}

// keyHint returns the key id that the bundle claims in cosign's spelling, the base64 of the key's
// SHA-256, or "".
func (e *envelope) keyHint() string {
	b, err := base64.StdEncoding.DecodeString(e.bundle.GetVerificationMaterial().GetPublicKey().GetHint())
	if err != nil || len(b) != sha256.Size {
		return ""
	}
	return hex.EncodeToString(b)
}

// digestMismatchError is the error of a valid signature of another digest.
func digestMismatchError(signed string, root digest.Digest) error {
	return fmt.Errorf("signed digest %s, want %s", signed, root)
}
