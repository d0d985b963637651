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
)

// judge verifies an envelope against everyone who is trusted. The error is the most telling of
// the reasons why none of them will do.
func (p *Policy) judge(e *envelope, d digest.Digest) (*Verified, error) {
	trusted := p.trusted(e)
	leaf, err := e.leaf()
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
		fact, refused := p.by(a, e, leaf, d)
		if refused == nil {
			return fact, nil
		}
		if best == nil || refused.rank > best.rank {
			best = refused
		}
	}
	if best != nil && best.rank > strange {
		return nil, best.err
	}
	return nil, stranger(e, leaf, best, trusted)
}

// signed says whether a key of the policy has signed, whatever it is.
func (p *Policy) signed(e *envelope) error {
	_, err := e.verify(p.Authorities[0].material(), nil, e.anything(), verify.WithNoObserverTimestamps())
	return err
}

// refusal is why a signature is not an authority's. The further verification came, the more
// telling it is.
type refusal struct {
	rank int
	err  error
}

const (
	strange  = iota // signed by someone else, or changed since
	unproven        // by a certificate that nothing trusted vouches for, or without proof
	other           // by another identity
	claims          // by the authority, but not what is asked for
)

// by verifies that one authority signed.
func (p *Policy) by(a *Authority, e *envelope, leaf *x509.Certificate, d digest.Digest) (*Verified, *refusal) {
	fact := &Verified{Authority: a.name()}
	if leaf == nil {
		// The signature first: of a key that is not this one, nothing else matters.
		if _, err := e.verify(a.material(), nil, e.anything(), verify.WithNoObserverTimestamps()); err != nil {
			return nil, &refusal{strange, err}
		}
		fact.KeyID = a.Key.ID()
	}
	proofs, err := a.proofs(e, leaf)
	if err != nil {
		return nil, &refusal{unproven, err}
	}
	res, err := e.verify(proofs.material, leaf, e.anything(), proofs.options...)
	if err != nil {
		return nil, &refusal{unproven, a.explain(e, leaf, proofs, err)}
	}
	if leaf != nil {
		c := res.Signature.Certificate
		fact.Certificate = &Certificate{Subject: c.SubjectAlternativeName, Issuer: c.Issuer, Authority: c.CertificateIssuer}
		if fact.KeyID, err = certificateKeyID(leaf); err != nil {
			return nil, &refusal{strange, err}
		}
		if !a.Identity.matches(*c) {
			return nil, &refusal{other, fmt.Errorf("signed by %q (issuer %q), want %s", c.SubjectAlternativeName, c.Issuer, a.Identity)}
		}
	}
	if p.revoked(fact.KeyID) {
		return nil, &refusal{claims, fmt.Errorf("signed with key %s, which is revoked", fact.KeyID)}
	}
	fact.Log = a.logEntries(e)
	if err := fact.times(a, slices.Concat(res.VerifiedTimestamps, proofs.stamped), p.now()); err != nil {
		return nil, &refusal{claims, err}
	}
	if err := fact.read(e, res, d); err != nil {
		return nil, &refusal{claims, err}
	}
	return fact, nil
}

// times takes the proofs of time, and holds them against the authority's bounds.
func (v *Verified) times(a *Authority, verified []verify.TimestampVerificationResult, now time.Time) error {
	proven := false
	for _, t := range verified {
		source := map[string]string{"Tlog": "transparency log", "TimestampAuthority": "timestamp authority"}[t.Type]
		if source == "" {
			continue
		}
		proven = true
		v.Times = append(v.Times, Time{t.Timestamp.UTC(), source, t.URI})
		if err := a.at(t.Timestamp); err != nil {
			return fmt.Errorf("signed at %s: %w", t.Timestamp.UTC().Format(time.RFC3339), err)
		}
	}
	if proven {
		return nil
	}
	if err := a.at(now); err != nil {
		return fmt.Errorf("nothing proves when it was signed: %w", err)
	}
	return nil
}

// read takes what was signed, and holds it against the root.
func (v *Verified) read(e *envelope, res *verify.VerificationResult, d digest.Digest) error {
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
	signed := "of nothing"
	if len(subjects) > 0 {
		signed = "sha256:" + subjects[0].GetDigest()["sha256"]
	}
	if len(subjects) > 1 {
		signed = fmt.Sprintf("%s and %d more", signed, len(subjects)-1)
	}
	return mismatch(signed, d)
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
		return mismatch(signed, d)
	}
	v.Reference, v.Annotations = c.Critical.Identity.DockerReference, c.Optional
	return nil
}

// anything is that the signature is one of what the envelope holds; what that claims is
// compared afterwards.
func (e *envelope) anything() verify.ArtifactPolicyOption {
	if e.isClaim() {
		return verify.WithArtifact(bytes.NewReader(e.payload))
	}
	return verify.WithoutArtifactUnsafe()
}

// verify asks for a valid signature, and for what the options want.
func (e *envelope) verify(material root.TrustedMaterial, leaf *x509.Certificate, artifact verify.ArtifactPolicyOption, options ...verify.VerifierOption) (*verify.VerificationResult, error) {
	v, err := verify.NewVerifier(material, options...)
	if err != nil {
		return nil, err
	}
	who := verify.WithKey()
	if leaf != nil {
		who = verify.WithoutIdentitiesUnsafe() // compared by the caller, for the sake of the message
	}
	return v.Verify(e.bundle, verify.NewPolicy(artifact, who))
}

// material is everything that an authority's signatures are verified with.
func (a *Authority) material() root.TrustedMaterial {
	var all root.TrustedMaterialCollection
	if a.Key != nil {
		all = append(all, root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
			// Whatever the bundle calls its key, this is the one that is trusted.
			return root.NewExpiringKey(a.Key.verifier, time.Time{}, time.Time{}), nil
		}))
	}
	if a.Roots != nil {
		all = append(all, a.Roots.material)
	}
	return all
}

// proofs are what a signature of an authority has to come with: what the authority asks for,
// what its kind of certificate needs, and all that is there and can be checked.
type proofs struct {
	material root.TrustedMaterial
	options  []verify.VerifierOption
	// stamped are the times of an envelope's timestamps, which the verifier does not know.
	stamped []verify.TimestampVerificationResult
}

func (a *Authority) proofs(e *envelope, leaf *x509.Certificate) (p proofs, err error) {
	m := a.material()
	p.material = m
	var logTimes []root.Timestamp
	var stamps []*root.Timestamp
	if a.Roots != nil {
		entries := len(a.logEntries(e))
		if entries == 0 && (a.RequireLog || leaf != nil && a.Roots.shortLived && len(m.RekorLogs()) > 0) {
			return p, errors.New("no entry in a transparency log of anyone trusted")
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
				p.stamped, err = e.stampedAt(m)
			}
			if err != nil {
				return p, fmt.Errorf("timestamp: %w", err)
			}
		}
		if leaf != nil && a.Roots.shortLived && len(m.CTLogs()) > 0 {
			p.options = append(p.options, verify.WithSignedCertificateTimestamps(1))
		}
	}
	for _, t := range p.stamped {
		if leaf == nil {
			break
		}
		if err := chain(m, leaf, t.Timestamp); err != nil {
			return p, fmt.Errorf("certificate of %s: %w", subjectOf(leaf), err)
		}
	}
	switch {
	case len(logTimes)+len(stamps) > 0:
		p.options = append(p.options, verify.WithObserverTimestamps(1))
	case len(p.stamped) > 0 && leaf != nil:
		p.material, p.options = then{m, p.stamped[0].Timestamp}, append(p.options, verify.WithCurrentTime())
	case len(p.stamped) == 0 && (a.RequireTimestamp || leaf != nil && a.Roots.shortLived):
		return p, errors.New("nothing proves when it was signed: no timestamp, and no log entry with a time, of anyone trusted")
	case leaf != nil:
		p.options = append(p.options, verify.WithCurrentTime())
	default:
		p.options = append(p.options, verify.WithNoObserverTimestamps())
	}
	return p, nil
}

// stampedAt are the times that an envelope's timestamps prove. One that is there has to be of
// this envelope, by an authority that is trusted.
func (e *envelope) stampedAt(m root.TrustedMaterial) (times []verify.TimestampVerificationResult, err error) {
	for _, stamp := range e.stamps {
		var found *root.Timestamp
		for _, tsa := range m.TimestampingAuthorities() {
			for _, of := range e.stamped {
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

// then is trusted material whose certificate authorities look at certificates as of a time that
// was proven, and not of now.
type then struct {
	root.TrustedMaterial
	at time.Time
}

func (t then) FulcioCertificateAuthorities() (all []root.CertificateAuthority) {
	for _, ca := range t.TrustedMaterial.FulcioCertificateAuthorities() {
		all = append(all, authorityThen{ca, t.at})
	}
	return all
}

type authorityThen struct {
	root.CertificateAuthority
	at time.Time
}

func (a authorityThen) Verify(c *x509.Certificate, _ time.Time) ([][]*x509.Certificate, error) {
	return a.CertificateAuthority.Verify(c, a.at)
}

// logEntries are the entries in logs that the authority trusts.
func (a *Authority) logEntries(e *envelope) (entries []LogEntry) {
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

// explain says what is wrong with a certificate, which the verifier does not.
func (a *Authority) explain(e *envelope, leaf *x509.Certificate, p proofs, err error) error {
	if leaf == nil {
		return err
	}
	times := []time.Time{}
	for _, t := range p.stamped {
		times = append(times, t.Timestamp)
	}
	m := a.material()
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
		if why := chain(m, leaf, t); why != nil {
			return fmt.Errorf("certificate of %s: %w", subjectOf(leaf), why)
		}
	}
	return err
}

// chain is why no certificate authority vouches for a certificate at some time.
func chain(m root.TrustedMaterial, leaf *x509.Certificate, t time.Time) (why error) {
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

func subjectOf(leaf *x509.Certificate) string {
	switch {
	case len(leaf.EmailAddresses) > 0:
		return leaf.EmailAddresses[0]
	case len(leaf.URIs) > 0:
		return leaf.URIs[0].String()
	case len(leaf.DNSNames) > 0:
		return leaf.DNSNames[0]
	}
	return fmt.Sprintf("%q", leaf.Subject)
}

// leaf is the certificate that an envelope comes with, or nil.
func (e *envelope) leaf() (*x509.Certificate, error) {
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

// errUntrusted cannot be more precise: a changed payload, a changed signature and another key
// look the same.
var errUntrusted = errors.New("not signed by a trusted key, or changed since")

var errOnlyKeys = errors.New("signed with a certificate, and only keys are trusted")

// stranger is the reason where no authority has signed, as far as the envelope tells.
func stranger(e *envelope, leaf *x509.Certificate, best *refusal, trusted []Authority) error {
	id := e.hint()
	switch {
	case best == nil && leaf != nil:
		return errOnlyKeys
	case best == nil:
		return errors.New("signed with a key, and only certificates are trusted")
	case leaf != nil:
		return best.err
	case id != "" && slices.ContainsFunc(trusted, func(a Authority) bool { return a.Key != nil && a.Key.ID() == id }):
		return fmt.Errorf("names the trusted key %s, but the signature is not valid", id)
	case id != "":
		return fmt.Errorf("signed with key %s, which is not trusted", id)
	}
	return errUntrusted
}

// hint is the id of the key that the bundle says it is signed with, if it says so as cosign
// does: the base64 of the SHA-256 of the key.
func (e *envelope) hint() string {
	b, err := base64.StdEncoding.DecodeString(e.bundle.GetVerificationMaterial().GetPublicKey().GetHint())
	if err != nil || len(b) != sha256.Size {
		return ""
	}
	return hex.EncodeToString(b)
}

// mismatch is the error of a good signature of something else.
func mismatch(signed string, root digest.Digest) error {
	return fmt.Errorf("signed digest %s, want %s", signed, root)
}
