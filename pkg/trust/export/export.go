// Package export says a trust policy in the terms of what guards a cluster: [Kyverno], Sigstore's
// [PolicyController] and [Flux]. What a target cannot be told is [ErrInexpressible]: nothing is exported then, since the
// cluster would accept more than the policy does.
package export

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"krtpkg.dev/krtpkg/pkg/lazyregexp"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// ErrInexpressible is the error of a rule that the target of an export cannot express. Nothing is
// exported then, since the cluster would accept more than the policy does.
var ErrInexpressible = errors.New("cannot be expressed")

// Options configure the export of a policy as objects for a cluster.
type Options struct {
	// Name is prefix of the objects' names; "krtpkg" when empty.
	Name string
	// Enforce refuses what the policy does not let pass. Otherwise it is let pass and reported.
	Enforce bool
	// ReadFile reads the files that the policy names; when nil they are read as [trust.LoadPolicy] does.
	ReadFile func(name string) ([]byte, error)
}

var objectName = lazyregexp.New(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// exporter is a policy on its way to a target.
type exporter struct {
	*trust.Policy
	options Options
	// target is the consumer of the export.
	target string
	// checkHolder adds what the target cannot be told about an authority.
	checkHolder func(*holder)
	now         time.Time
	holders     map[string]*holder
	problems    []error
	documents   []any
}

// holder is an authority with the content of the files that it names.
type holder struct {
	*sign.Authority
	from *trust.Authority
	// number is the authority's in the file, from 1 on.
	number int
	// key is PEM, hash what it signs the SHA of where that is not 256 bits.
	key  []byte
	hash string
	// root is the trusted root, and rootText its JSON.
	root     *trustedRoot
	rootText []byte
	// certificates are those of a private PKI.
	certificates []*x509.Certificate
	// leftOut is set if its signatures do not count.
	leftOut bool
}

// needsLog reports whether a signature with the key must be in a log.
func (h *holder) needsLog() bool { return h.Key != nil && h.RequireLog }

// exportRule is the part of a rule that applies to images.
type exportRule struct {
	*trust.ResolvedRule
	// name is that of its object, label what messages call it.
	name, label string
	globs       []glob
	// earlier are those of former rules that match some of the same images: those decide.
	earlier []glob
	// former are the labels of these rules.
	former       []string
	signers      []*holder
	attestations []exportRequirement
}

type exportRequirement struct {
	trust.ResolvedRequirement
	label     string
	attesters []*holder
}

func (r *exportRule) requiredSignatures() int          { return max(r.Threshold, 1) }
func (q *exportRequirement) requiredAttestations() int { return max(q.Threshold, 1) }

// recordProblem is something that the target cannot be told.
func (e *exporter) recordProblem(format string, args ...any) {
	err := fmt.Errorf("%s: %s: %w for %s", e.DisplayName(), fmt.Sprintf(format, args...), ErrInexpressible, e.target)
	if !slices.ContainsFunc(e.problems, func(p error) bool { return p.Error() == err.Error() }) {
		e.problems = append(e.problems, err)
	}
}

// exportRules exports the rules of a policy with emit, and revocations with last. Rules and image
// rules are separate lists: what a rule of each matches must satisfy both.
func (e *exporter) exportRules(emit func(*exportRule), notes func() []string, last func()) ([]byte, error) {
	e.options.Name, e.now, e.holders = cmp.Or(e.options.Name, "krtpkg"), time.Now(), map[string]*holder{}
	switch {
	case !objectName.MatchString(e.options.Name):
		return nil, fmt.Errorf("export: %q is not an object name: want at most 63 lower-case letters, digits and dashes", e.options.Name)
	case len(e.File.Authorities) == 0:
		return nil, errors.New("export: this policy was not read from a file")
	}
	for _, list := range []struct {
		name  string
		rules []*trust.ResolvedRule
	}{{"rule", e.Rules()}, {"image", e.ImageRules()}} {
		if err := e.exportList(list.name, list.rules, emit); err != nil {
			return nil, fmt.Errorf("export: %w", err)
		}
	}
	last()
	if len(e.problems) > 0 {
		return nil, errors.Join(e.problems...)
	}
	return e.writeDocuments(notes())
}

func (e *exporter) exportList(kind string, rules []*trust.ResolvedRule, emit func(*exportRule)) error {
	var before []*exportRule
	for i, from := range rules {
		r := &exportRule{ResolvedRule: from, name: fmt.Sprintf("%s-%s-%d", e.options.Name, kind, i+1)}
		r.label = fmt.Sprintf("%s %d (%s)", map[string]string{"rule": "rule", "image": "image rule"}[kind], i+1, strings.Join(from.Match, ", "))
		if len(from.Names) > 0 {
			e.recordProblem("%s: names of what is signed", r.label)
		}
		if from.MinAge != 0 {
			e.recordProblem("%s: the age of signatures (minAge)", r.label)
		}
		if from.Channels != nil && from.Channels.Stale == trust.RefuseStale {
			e.recordProblem("%s: the freshness of channels", r.label)
		}
		for _, pattern := range from.Match {
			globs, err := parseGlob(pattern)
			if err != nil {
				e.recordProblem("%s: %v", r.label, err)
			}
			r.globs = append(r.globs, globs...)
		}
		if len(r.globs) == 0 {
			continue
		}
		for _, former := range before {
			known := len(r.earlier)
			for _, g := range former.globs {
				if slices.ContainsFunc(r.globs, g.overlapsWith) {
					r.earlier = append(r.earlier, g)
				}
			}
			if len(r.earlier) > known {
				r.former = append(r.former, former.label)
			}
		}
		before = append(before, r)
		if err := e.resolveSigners(r); err != nil {
			return err
		}
		emit(r)
	}
	return nil
}

// resolveSigners finds the signers of a rule.
func (e *exporter) resolveSigners(r *exportRule) (err error) {
	if r.signers, err = e.usableHolders(r.ResolvedRule.Signers, r.requiredSignatures(), r.label); err != nil {
		return err
	}
	apart := r.requiredSignatures() == 1
	for i, q := range r.Required {
		label := fmt.Sprintf("%s: attestation %d (%s)", r.label, i+1, q.Type)
		made := exportRequirement{ResolvedRequirement: q, label: label}
		if made.attesters, err = e.usableHolders(q.Attesters, made.requiredAttestations(), label); err != nil {
			return err
		}
		r.attestations = append(r.attestations, made)
		apart = apart && made.requiredAttestations() == 1 && slices.Equal(made.attesters, r.signers)
	}
	if apart {
		return nil
	}
	// What a certificate signed is the first authority's that it fits, and no other's.
	all := r.AllAttesters()
	for i := range all {
		for j := range all[:i] {
			if mayBeOne(all[j].Identity, all[i].Identity) {
				e.recordProblem("%s: %s and %s may be the same signer: a signature counts only for the first", r.label, all[j].Name, all[i].Name)
			}
		}
	}
	return nil
}

// usableHolders returns the authorities whose signatures count.
func (e *exporter) usableHolders(authorities []sign.Authority, need int, label string) (found []*holder, err error) {
	for i := range authorities {
		h, err := e.readHolder(&authorities[i])
		if err != nil {
			return nil, err
		}
		if !h.leftOut {
			found = append(found, h)
		}
	}
	if len(found) < need {
		e.recordProblem("%s: threshold is %d, but only %d can sign: the others are revoked or have expired", label, need, len(found))
	}
	return found, nil
}

// mayBeOne reports whether a certificate could fit both.
func mayBeOne(a, b *sign.Identity) bool {
	if a == nil || b == nil {
		return false
	}
	differ := func(a, b string, x, y *regexp.Regexp) bool {
		whole := func(r *regexp.Regexp, s string) bool { return regexp.MustCompile(anchorPattern(r)).MatchString(s) }
		switch {
		case a != "" && b != "":
			return a != b
		case a != "" && y != nil:
			return !whole(y, a)
		case b != "" && x != nil:
			return !whole(x, b)
		}
		return false
	}
	return !differ(a.Subject, b.Subject, a.SubjectRegExp, b.SubjectRegExp) && !differ(a.Issuer, b.Issuer, a.IssuerRegExp, b.IssuerRegExp)
}

// anchorPattern returns a pattern for all of a text, as identities mean it and targets do not.
func anchorPattern(r *regexp.Regexp) string { return "^(?:" + r.String() + ")$" }

// exportIdentity is an identity as both targets write it.
type exportIdentity struct {
	Issuer        string `yaml:"issuer,omitempty"`
	IssuerRegExp  string `yaml:"issuerRegExp,omitempty"`
	Subject       string `yaml:"subject,omitempty"`
	SubjectRegExp string `yaml:"subjectRegExp,omitempty"`
}

func newExportIdentity(i *sign.Identity) exportIdentity {
	made := exportIdentity{Issuer: i.Issuer, Subject: i.Subject}
	if i.SubjectRegExp != nil {
		made.SubjectRegExp = anchorPattern(i.SubjectRegExp)
	}
	if i.IssuerRegExp != nil {
		made.IssuerRegExp = anchorPattern(i.IssuerRegExp)
	} else if i.Issuer == "" {
		made.IssuerRegExp = ".*" // targets want one
	}
	return made
}

// readHolder reads an authority of the policy file.
func (e *exporter) readHolder(a *sign.Authority) (*holder, error) {
	if h := e.holders[a.Name]; h != nil {
		return h, nil
	}
	n := slices.IndexFunc(e.File.Authorities, func(f trust.Authority) bool { return f.Name == a.Name })
	h := &holder{Authority: a, from: &e.File.Authorities[n], number: n + 1}
	e.holders[a.Name] = h
	if h.leftOut = e.isExpiredOrRevoked(h); h.leftOut {
		return h, nil
	}
	if err := e.readHolderFiles(h); err != nil {
		return nil, fmt.Errorf("authority %s: %w", a.Name, err)
	}
	e.checkPeriod(h)
	if a.Key != nil && a.RequireTimestamp {
		e.recordProblem("authority %s: requireTimestamp with a key", a.Name)
	}
	if a.Identity != nil {
		for _, id := range e.File.Revoked.Keys {
			if !slices.ContainsFunc(e.File.Authorities, func(f trust.Authority) bool { return e.KeyID(f.Name) == id }) {
				e.recordProblem("authority %s: the revoked key %s, which may be of a certificate", a.Name, id)
			}
		}
	}
	e.checkHolder(h)
	return h, nil
}

// isExpiredOrRevoked reports whether no signature of an authority counts, nor will.
func (e *exporter) isExpiredOrRevoked(h *holder) bool {
	expired := !h.NotAfter.IsZero() && e.now.After(h.NotAfter) && !h.provesTime()
	return expired || h.Key != nil && slices.Contains(e.File.Revoked.Keys, h.Key.ID())
}

// provesTime reports whether signatures may come with a proof of their time, and count from then;
// without they are of now.
func (h *holder) provesTime() bool { return h.Roots != nil }

// checkPeriod looks at the period of an authority.
func (e *exporter) checkPeriod(h *holder) {
	if !h.NotAfter.IsZero() {
		e.recordProblem("authority %s: notAfter", h.Name)
	}
	if !h.NotBefore.IsZero() && (h.provesTime() || h.NotBefore.After(e.now)) {
		e.recordProblem("authority %s: notBefore", h.Name)
	}
}

func (e *exporter) readHolderFiles(h *holder) error {
	read := e.options.ReadFile
	if read == nil {
		read = func(file string) ([]byte, error) {
			if !filepath.IsAbs(file) {
				file = filepath.Join(filepath.Dir(e.Name), file)
			}
			return os.ReadFile(file)
		}
	}
	if h.Key != nil {
		text, err := trust.ReadText(h.from.Key, "-----BEGIN", read)
		if err != nil {
			return err
		}
		key, err := sign.LoadPublicKey(text)
		if err != nil {
			return err
		}
		if key.ID() != h.Key.ID() {
			return fmt.Errorf("key %s has changed since the policy was read", h.from.Key)
		}
		if h.key, h.hash, err = publicPEM(text); err != nil {
			return err
		}
	}
	if h.from.TrustedRoot != "" {
		text, err := trust.ReadText(h.from.TrustedRoot, "{", read)
		if err != nil {
			return err
		}
		h.root, h.rootText, err = parseTrustedRoot(text)
		return err
	}
	text, err := trust.ReadText(h.from.Certificates, "-----BEGIN", read)
	if err != nil {
		return err
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		h.certificates = append(h.certificates, c)
	}
	return nil
}

// publicPEM returns a key in the form that every target reads, and the hash if it must be declared.
func publicPEM(text []byte) ([]byte, string, error) {
	block, _ := pem.Decode(text)
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if block.Type == "RSA PUBLIC KEY" {
		pub, err = x509.ParsePKCS1PublicKey(block.Bytes)
	}
	if err != nil {
		return nil, "", err
	}
	hash := ""
	if key, is := pub.(*ecdsa.PublicKey); is {
		hash = map[elliptic.Curve]string{elliptic.P384(): "sha384", elliptic.P521(): "sha512"}[key.Curve]
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), hash, err
}

// writeDocuments returns the objects as one text.
func (e *exporter) writeDocuments(notes []string) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# %s for %s. Images that nothing here matches are not judged.\n", filepath.Base(e.DisplayName()), e.target)
	for _, note := range notes {
		fmt.Fprintf(&b, "# %s\n", note)
	}
	for _, document := range e.documents {
		b.WriteString("---\n")
		text, err := manifest.EncodeYAML(document)
		if err != nil {
			return nil, fmt.Errorf("export: %w", err)
		}
		b.Write(text)
	}
	return b.Bytes(), nil
}

// exportObject is what all objects begin with.
type exportObject struct {
	APIVersion string         `yaml:"apiVersion"`
	Kind       string         `yaml:"kind"`
	Metadata   exportMetadata `yaml:"metadata"`
	Spec       any            `yaml:"spec"`
}

type exportMetadata struct {
	Name string `yaml:"name"`
}

func nameAll(all []*holder) string {
	names := make([]string, len(all))
	for i, h := range all {
		names[i] = h.Name
	}
	return strings.Join(names, ", ")
}
