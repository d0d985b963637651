package sign

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
)

// Policy is the set of authorities whose signatures are trusted. The zero Policy trusts nobody, and
// [Verify] refuses it.
type Policy struct {
	// Authorities are those who are trusted, in the order in which they are tried.
	Authorities []Authority
	// Attesters are those whose attestations count; Authorities when empty.
	Attesters []Authority
	// SignaturesOnly leaves attestations alone: they are neither read nor reported, as far as
	// that saves requests.
	SignaturesOnly bool
	// Threshold is how many authorities must have signed; 1 when zero.
	Threshold int
	// Suffices reports whether what was found is all that the caller wants besides the threshold, so
	// that no more is looked at where there is very much; nil wants nothing.
	Suffices func(*Result) bool
	// Revoked are the ids of keys (see [Key.ID]), of certificates too, whose signatures
	// do not count any more, whenever they were made.
	Revoked []string
	// Now is the time for what has no proof of its time; the clock's when zero.
	Now time.Time
}

// Authority is someone whose signatures count: the holder of a key, or whoever has a
// certificate for an identity.
type Authority struct {
	// Name is what results call it; the key's id or the identity's subject when empty.
	Name string
	// Key is the public key of an authority that has one.
	Key *Key
	// Identity is the identity that the certificate must name, where there is no key; Roots are the
	// authorities that may have issued it.
	Identity *Identity
	// Roots are the certificate authorities, timestamp authorities and transparency logs that
	// are trusted. With a key they may be nil: nothing but the key is asked for then.
	//
	// Whatever can be checked against them must be valid, required or not.
	Roots *TrustedRoot
	// NotBefore and NotAfter bound the time of the signature; unbounded when zero. A signature
	// without proof of its time counts as made now.
	NotBefore, NotAfter time.Time
	// RequireLog and RequireTimestamp require an entry in a transparency log of Roots, and for
	// a proof of time by a log or a timestamp authority of Roots.
	RequireLog, RequireTimestamp bool
}

// KeyPolicy trusts each of keys: one valid signature by one of them is enough. It requires no
// transparency log entry and no timestamp.
func KeyPolicy(keys ...*Key) (Policy, error) {
	p := Policy{}
	for _, k := range keys {
		p.Authorities = append(p.Authorities, Authority{Key: k})
	}
	return p, p.Validate()
}

// Validate returns an error if the policy trusts nobody or if nothing can satisfy it.
func (p Policy) Validate() error {
	if len(p.Authorities) == 0 {
		return errors.New("the policy trusts no signer")
	}
	for _, a := range slices.Concat(p.Authorities, p.Attesters) {
		if err := a.validate(); err != nil {
			return fmt.Errorf("policy: %w", err)
		}
	}
	if p.Threshold < 0 || p.Threshold > len(p.Authorities) {
		return fmt.Errorf("policy: threshold is %d, but there are %d authorities", p.Threshold, len(p.Authorities))
	}
	return nil
}

func (a *Authority) validate() error {
	switch {
	case a.Key == nil && a.Identity == nil:
		return errors.New("a key is nil")
	case a.Key != nil && a.Identity != nil:
		return fmt.Errorf("%s has a key and an identity", a.displayName())
	case a.Identity != nil && (a.Roots == nil || len(a.Roots.material.FulcioCertificateAuthorities()) == 0):
		return fmt.Errorf("identity %s: no certificate authority to trust", a.displayName())
	case a.Identity != nil && a.Identity.Subject == "" && a.Identity.SubjectRegExp == nil:
		return errors.New("an identity has no subject")
	case a.RequireLog && (a.Roots == nil || len(a.Roots.material.RekorLogs()) == 0):
		return fmt.Errorf("%s: a log entry is required, but no log is trusted", a.displayName())
	case a.RequireTimestamp && !a.CanProveTime():
		return fmt.Errorf("%s: a timestamp is required, but no timestamp authority is trusted", a.displayName())
	}
	return nil
}

// CanProveTime reports whether the authority trusts anyone who proves when a signature was made: a log or a timestamp
// authority.
func (a *Authority) CanProveTime() bool {
	return a.Roots != nil && len(a.Roots.material.RekorLogs())+len(a.Roots.material.TimestampingAuthorities()) > 0
}

func (a *Authority) displayName() string {
	switch {
	case a.Name != "":
		return a.Name
	case a.Key != nil:
		return a.Key.ID()
	case a.Identity != nil:
		return a.Identity.subjectPattern()
	}
	return ""
}

// checkTime returns an error unless the authority is trusted to sign at t.
func (a *Authority) checkTime(t time.Time) error {
	switch {
	case !a.NotBefore.IsZero() && t.Before(a.NotBefore):
		return fmt.Errorf("%s is trusted only from %s", a.displayName(), a.NotBefore.UTC().Format(time.RFC3339))
	case !a.NotAfter.IsZero() && t.After(a.NotAfter):
		return fmt.Errorf("%s is trusted only until %s", a.displayName(), a.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// Identity is the holder of a certificate: its subject alternative name, and for certificates of
// Fulcio the OpenID Connect issuer that vouched for it.
type Identity struct {
	// Subject is the name, an e-mail address or a URI; SubjectRegExp a pattern for all of it.
	Subject       string
	SubjectRegExp *regexp.Regexp
	// Issuer is the issuer, and IssuerRegExp a pattern for all of it; any issuer matches when
	// both are empty, which is safe only with your own certificate authority.
	Issuer       string
	IssuerRegExp *regexp.Regexp
}

func (i *Identity) subjectPattern() string {
	if i.SubjectRegExp != nil {
		return i.SubjectRegExp.String()
	}
	return i.Subject
}

func (i *Identity) issuerPattern() string {
	switch {
	case i.IssuerRegExp != nil:
		return i.IssuerRegExp.String()
	case i.Issuer != "":
		return i.Issuer
	}
	return "anyone"
}

func (i *Identity) String() string {
	return fmt.Sprintf("%q, issued by %s", i.subjectPattern(), i.issuerPattern())
}

// matchesCertificate reports whether a certificate is for this identity.
func (i *Identity) matchesCertificate(c certificate.Summary) bool {
	return matchesWhole(c.SubjectAlternativeName, i.Subject, i.SubjectRegExp) &&
		(i.Issuer == "" && i.IssuerRegExp == nil || matchesWhole(c.Issuer, i.Issuer, i.IssuerRegExp))
}

// matchesWhole compares the whole text: a pattern that may match a part of it would let others in.
func matchesWhole(text, exact string, pattern *regexp.Regexp) bool {
	if pattern == nil {
		return text == exact && text != ""
	}
	whole, err := regexp.Compile(`^(?:` + pattern.String() + `)$`)
	return err == nil && whole.MatchString(text) // a \Q without \E does not end
}

// TrustedRoot holds the trusted certificate authorities, timestamp authorities and logs.
type TrustedRoot struct {
	material root.TrustedMaterial
	// shortLived is set if certificates live for minutes, as Fulcio's do, so that only a proof of
	// time shows that one was valid.
	shortLived bool
	json       []byte
	source     []byte
}

// JSON returns the trusted root as Sigstore's JSON; nil if it was not loaded from that.
func (r *TrustedRoot) JSON() []byte { return r.json }

// Source returns what the trusted root was loaded from: Sigstore's JSON, or the certificates in PEM.
func (r *TrustedRoot) Source() []byte { return r.source }

// LoadTrustedRoot reads a trusted root of Sigstore (protobuf-specs: sigstore_trustroot.proto),
// as JSON. A certificate that one of its authorities issued needs a proof of time by one of
// its logs or timestamp authorities, and an entry in a log where it has any.
func LoadTrustedRoot(data []byte) (*TrustedRoot, error) {
	r, err := root.NewTrustedRootFromJSON(data)
	if err != nil {
		return nil, fmt.Errorf("trusted root: %w", err)
	}
	return &TrustedRoot{r, len(r.RekorLogs())+len(r.TimestampingAuthorities()) > 0, data, data}, nil
}

// LoadCertificates reads the certificate authorities of a private PKI, and its timestamp
// authorities, from PEM: in each, roots, which are self-signed, with their intermediates; and
// the certificates of the timestamp authorities themselves. There may be no timestamp
// authorities.
//
// A certificate that one of them issued must be valid now, or at a time that a timestamp
// proves.
func LoadCertificates(authorities, timestamp []byte) (*TrustedRoot, error) {
	m := &privateRoot{}
	cas, err := parseCertificates(authorities)
	if err != nil {
		return nil, fmt.Errorf("certificate authorities: %w", err)
	}
	roots, intermediates, leaves := splitCertificates(cas)
	if len(leaves) > 0 {
		return nil, fmt.Errorf("certificate authorities: %q is not a certificate authority", leaves[0].Subject)
	}
	if len(roots) == 0 && len(timestamp) == 0 {
		return nil, errors.New("certificate authorities: no self-signed certificate: the root is missing")
	}
	for _, r := range roots {
		m.authorities = append(m.authorities, &root.FulcioCertificateAuthority{Root: r, Intermediates: intermediates})
	}
	tsas, err := parseCertificates(timestamp)
	if err != nil {
		return nil, fmt.Errorf("timestamp authorities: %w", err)
	}
	roots, intermediates, leaves = splitCertificates(tsas)
	for _, r := range roots {
		if len(leaves) == 0 {
			m.timestamps = append(m.timestamps, &root.SigstoreTimestampingAuthority{Root: r, Intermediates: intermediates})
		}
		for _, leaf := range leaves {
			m.timestamps = append(m.timestamps, &root.SigstoreTimestampingAuthority{Root: r, Intermediates: intermediates, Leaf: leaf, URI: leaf.Subject.CommonName})
		}
	}
	if len(tsas) > 0 && len(roots) == 0 {
		return nil, errors.New("timestamp authorities: no self-signed certificate: the root is missing")
	}
	return &TrustedRoot{material: m, source: slices.Concat(authorities, timestamp)}, nil
}

// privateRoot is a private PKI.
type privateRoot struct {
	root.BaseTrustedMaterial
	authorities []root.CertificateAuthority
	timestamps  []root.TimestampingAuthority
}

func (p *privateRoot) FulcioCertificateAuthorities() []root.CertificateAuthority {
	return p.authorities
}
func (p *privateRoot) TimestampingAuthorities() []root.TimestampingAuthority { return p.timestamps }

func splitCertificates(all []*x509.Certificate) (roots, intermediates, leaves []*x509.Certificate) {
	for _, c := range all {
		switch {
		case !c.IsCA:
			leaves = append(leaves, c)
		case bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(c) == nil:
			roots = append(roots, c)
		default:
			intermediates = append(intermediates, c)
		}
	}
	return roots, intermediates, leaves
}

func parseCertificates(data []byte) (all []*x509.Certificate, err error) {
	for len(bytes.TrimSpace(data)) > 0 {
		block, rest := pem.Decode(data)
		if block == nil {
			return nil, errors.New("no PEM block found")
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM %q is not a certificate", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all, data = append(all, c), rest
	}
	return all, nil
}

// isRevoked reports whether the policy revokes a key.
func (p *Policy) isRevoked(id string) bool { return slices.Contains(p.Revoked, id) }

func (p *Policy) currentTime() time.Time {
	if p.Now.IsZero() {
		return time.Now()
	}
	return p.Now
}

// authoritiesFor returns the authorities that count for an envelope.
func (p *Policy) authoritiesFor(e *envelope) []Authority {
	if len(p.Attesters) > 0 && !e.isSignature() {
		return p.Attesters
	}
	return p.Authorities
}

func (p *Policy) requiredSignatures() int { return max(p.Threshold, 1) }
