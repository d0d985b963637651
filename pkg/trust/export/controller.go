package export

import (
	"cmp"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	"krtpkg.dev/krtpkg/pkg/trust"
)

// PolicyController returns the policy as objects for Sigstore's policy-controller in YAML: a
// TrustRoot for each authority that has one, and a ClusterImagePolicy for each rule that is for
// images, for each attestation that it requires, and for the digests that are revoked.
//
// Images that no rule matches are up to no-match-policy of its configuration. All objects that match
// an image must hold, with one authority of each: a threshold of two of three is three objects, of
// each two of them. Signatures and attestations must be in the Legacy form. Logs and
// authorities of a trusted root whose time has passed, and logs whose key is not ECDSA, are left
// out. A trusted root that has no log is enough for a certificate that is valid now, without a
// proof of time.
//
// Rules that policy-controller cannot express are [ErrInexpressible]: in addition to those that
// [Kyverno] lists, rules that overlap, conditions, globs with other wildcards than * and **, timestamps of
// a private PKI, several timestamp authorities, and periods in a trusted root that have yet to
// pass.
func PolicyController(p *trust.Policy, o Options) ([]byte, error) {
	e := &exporter{Policy: p, options: o, target: "policy-controller"}
	e.checkHolder = e.trustRoot
	notes := func() (all []string) {
		for _, r := range slices.Concat(e.Rules(), e.ImageRules()) {
			if len(r.Required) > 0 {
				return []string{"Leave enable-oci11 of policy-controller off: with it attestations are not verified."}
			}
		}
		return nil
	}
	return e.exportRules(e.clusterImagePolicies, notes, e.revokedImages)
}

type controllerSpec struct {
	Images      []controllerImage     `yaml:"images"`
	Authorities []controllerAuthority `yaml:"authorities"`
	Mode        string                `yaml:"mode"`
}

type controllerImage struct {
	Glob string `yaml:"glob"`
}

type controllerAuthority struct {
	Name         string                  `yaml:"name"`
	Key          *controllerKey          `yaml:"key,omitempty"`
	Keyless      *controllerKeyless      `yaml:"keyless,omitempty"`
	Static       *controllerStatic       `yaml:"static,omitempty"`
	CTLog        *controllerRootRef      `yaml:"ctlog,omitempty"`
	Timestamp    *controllerRootRef      `yaml:"rfc3161timestamp,omitempty"`
	Attestations []controllerAttestation `yaml:"attestations,omitempty"`
}

type controllerKey struct {
	Data          string `yaml:"data"`
	HashAlgorithm string `yaml:"hashAlgorithm,omitempty"`
}

type controllerKeyless struct {
	URL               string           `yaml:"url"`
	Identities        []exportIdentity `yaml:"identities"`
	TrustRootRef      string           `yaml:"trustRootRef"`
	InsecureIgnoreSCT bool             `yaml:"insecureIgnoreSCT,omitempty"`
}

type controllerStatic struct {
	Action  string `yaml:"action"`
	Message string `yaml:"message"`
}

type controllerRootRef struct {
	TrustRootRef string `yaml:"trustRootRef"`
}

type controllerAttestation struct {
	Name          string `yaml:"name"`
	PredicateType string `yaml:"predicateType"`
}

type trustRootSpec struct {
	Keys sigstoreKeys `yaml:"sigstoreKeys"`
}

type sigstoreKeys struct {
	Authorities []sigstoreAuthority `yaml:"certificateAuthorities"`
	TLogs       []sigstoreLog       `yaml:"tLogs,omitempty"`
	CTLogs      []sigstoreLog       `yaml:"ctLogs,omitempty"`
	Timestamps  []sigstoreAuthority `yaml:"timestampAuthorities,omitempty"`
}

// The keys and certificates here are PEM in base64.
type sigstoreLog struct {
	BaseURL       string `yaml:"baseURL"`
	HashAlgorithm string `yaml:"hashAlgorithm"`
	PublicKey     string `yaml:"publicKey"`
}

type sigstoreAuthority struct {
	Subject   sigstoreName `yaml:"subject"`
	URI       string       `yaml:"uri"`
	CertChain string       `yaml:"certChain"`
}

type sigstoreName struct {
	Organization string `yaml:"organization"`
	CommonName   string `yaml:"commonName"`
}

// nowhere is a required URL that is not used.
const nowhere = "https://krtpkg.invalid"

// clusterImagePolicies are the objects of a rule.
func (e *exporter) clusterImagePolicies(r *exportRule) {
	for _, former := range r.former {
		e.recordProblem("%s: that it does not hold for what %s decides", r.label, former)
	}
	var images []controllerImage
	for _, g := range r.globs {
		text, err := g.controllerPattern()
		if err != nil {
			e.recordProblem("%s: %v", r.label, err)
		}
		images = append(images, controllerImage{text})
	}
	e.exportThreshold(r.name, r.label, images, r.signers, r.requiredSignatures(), nil)
	for i, q := range r.attestations {
		if q.Condition != "" {
			e.recordProblem("%s: a condition", q.label)
		}
		name := fmt.Sprintf("attestation-%d", i+1)
		e.exportThreshold(r.name+"-"+name, q.label, images, q.attesters, q.requiredAttestations(), []controllerAttestation{{name, q.PredicateType}})
	}
}

// maxObjects bounds how many objects a threshold may make.
const maxObjects = 32

// exportThreshold adds objects that all hold if enough authorities have signed: one object for each
// set of authorities without which too few would be left, of which at least one must have signed.
func (e *exporter) exportThreshold(name, label string, images []controllerImage, from []*holder, need int, attestations []controllerAttestation) {
	size := len(from) - need + 1
	if size <= 0 {
		return // and a problem
	}
	sets := holderSubsets(from, size)
	if len(sets) > maxObjects {
		e.recordProblem("%s: a threshold of %d of %d, which is %d objects", label, need, len(from), len(sets))
		return
	}
	for i, set := range sets {
		spec := controllerSpec{Images: images, Mode: e.enforcementMode()}
		for _, h := range set {
			a := e.controllerAuthorityOf(h)
			a.Attestations = attestations
			spec.Authorities = append(spec.Authorities, a)
		}
		full := name
		if len(sets) > 1 {
			full = fmt.Sprintf("%s-%d", name, i+1)
		}
		e.addPolicy(full, spec)
	}
}

// holderSubsets returns all sets of that many of them, or more than maxObjects of these.
func holderSubsets(from []*holder, size int) (sets [][]*holder) {
	if size == 0 {
		return [][]*holder{nil}
	}
	for i := range len(from) - size + 1 {
		for _, rest := range holderSubsets(from[i+1:], size-1) {
			if sets = append(sets, append([]*holder{from[i]}, rest...)); len(sets) > maxObjects {
				return sets
			}
		}
	}
	return sets
}

func (e *exporter) addPolicy(name string, spec controllerSpec) {
	e.documents = append(e.documents, exportObject{"policy.sigstore.dev/v1beta1", "ClusterImagePolicy", exportMetadata{name}, spec})
}

func (e *exporter) enforcementMode() string {
	if e.options.Enforce {
		return "enforce"
	}
	return "warn"
}

// revokedImages is the object that lets no digest pass that is revoked.
func (e *exporter) revokedImages() {
	spec := controllerSpec{Mode: e.enforcementMode(), Authorities: []controllerAuthority{{
		Name: "revoked", Static: &controllerStatic{"fail", "the digest is revoked"},
	}}}
	for _, d := range e.revokedDigests() {
		spec.Images = append(spec.Images, controllerImage{"**@" + d.String()})
	}
	if len(spec.Images) > 0 {
		e.addPolicy(e.options.Name+"-revoked", spec)
	}
}

// controllerPattern returns a glob as policy-controller reads it, of a name with a digest behind
// (policy-controller: pkg/apis/glob/glob.go).
func (g glob) controllerPattern() (string, error) {
	var text []string
	for i, p := range g {
		wild := i > 0 && (g[i-1] == star || g[i-1] == anything)
		switch {
		case p == anything && wild:
			text[len(text)-1] = "**"
		case p == anything:
			text = append(text, "**")
		case p == star && !wild:
			text = append(text, "*")
		case p == star, p == notSlash && wild && i == len(g)-1:
			// The latter is for one name more, of a*/** for a, which does no harm.
		case p.class != "" || !strings.ContainsRune(controllerCharacters, p.text):
			return "", fmt.Errorf("the glob %s", g.regularExpression())
		default:
			text = append(text, string(p.text))
		}
	}
	if text[len(text)-1] != "**" {
		text = append(text, "@*")
	}
	return strings.Join(text, ""), nil
}

const controllerCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_:/."

// controllerAuthorityOf returns an authority without its attestations.
func (e *exporter) controllerAuthorityOf(h *holder) controllerAuthority {
	a := controllerAuthority{Name: h.Name}
	ref := e.rootName(h)
	switch {
	case h.Key != nil:
		a.Key = &controllerKey{string(h.key), h.hash}
		if h.needsLog() {
			a.CTLog = &controllerRootRef{ref}
		}
	case h.root != nil:
		a.Keyless = &controllerKeyless{
			URL:        cmp.Or(h.root.CertificateAuthorities[0].URI, nowhere),
			Identities: []exportIdentity{newExportIdentity(h.Identity)}, TrustRootRef: ref, InsecureIgnoreSCT: len(h.root.Ctlogs) == 0,
		}
		if h.hasLog() {
			a.CTLog = &controllerRootRef{ref}
		} else if len(h.root.TimestampAuthorities) > 0 {
			a.Timestamp = &controllerRootRef{ref}
		}
	default:
		a.Keyless = &controllerKeyless{
			URL: nowhere, Identities: []exportIdentity{newExportIdentity(h.Identity)}, TrustRootRef: ref, InsecureIgnoreSCT: true,
		}
	}
	return a
}

func (e *exporter) rootName(h *holder) string {
	return fmt.Sprintf("%s-authority-%d", e.options.Name, h.number)
}

// trustRoot adds the TrustRoot of an authority that needs one.
func (e *exporter) trustRoot(h *holder) {
	if h.Key != nil && !h.needsLog() {
		return
	}
	keys := &sigstoreKeys{}
	if h.root == nil {
		e.privateRoot(h, keys)
	} else if err := e.sigstoreKeys(h, keys); err != nil {
		e.recordProblem("authority %s: %v", h.Name, err)
	}
	e.documents = append(e.documents, exportObject{"policy.sigstore.dev/v1alpha1", "TrustRoot", exportMetadata{e.rootName(h)}, trustRootSpec{*keys}})
}

// privateRoot are the authorities of a private PKI, each with all intermediates.
func (e *exporter) privateRoot(h *holder, keys *sigstoreKeys) {
	if h.from.Timestamps != "" {
		e.recordProblem("authority %s: timestamps of a private PKI", h.Name)
	}
	var intermediates []byte
	for _, c := range h.certificates {
		if !isRoot(c) {
			intermediates = append(intermediates, certificatePEM(c)...)
		}
	}
	for _, c := range h.certificates {
		if isRoot(c) {
			chain := slices.Concat(intermediates, certificatePEM(c))
			keys.Authorities = append(keys.Authorities, newSigstoreAuthority("", "", "", chain, c))
		}
	}
}

func isRoot(c *x509.Certificate) bool {
	return slices.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(c) == nil
}

func certificatePEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func newSigstoreAuthority(organization, name, uri string, chain []byte, root *x509.Certificate) sigstoreAuthority {
	name = cmp.Or(name, root.Subject.CommonName, organization)
	if len(root.Subject.Organization) > 0 {
		organization = cmp.Or(organization, root.Subject.Organization[0])
	}
	name = cmp.Or(name, organization, "unnamed")
	return sigstoreAuthority{sigstoreName{cmp.Or(organization, name), name}, cmp.Or(uri, nowhere), base64.StdEncoding.EncodeToString(chain)}
}

// sigstoreKeys is what a trusted root trusts now.
func (e *exporter) sigstoreKeys(h *holder, keys *sigstoreKeys) (err error) {
	if keys.Authorities, err = e.exportAuthorities(h, h.root.CertificateAuthorities); err != nil {
		return err
	}
	if !h.hasLog() {
		if keys.Timestamps, err = e.exportAuthorities(h, h.root.TimestampAuthorities); err != nil {
			return err
		}
	}
	if keys.TLogs, err = e.exportLogs(h, h.root.Tlogs, true); err != nil {
		return err
	}
	if keys.CTLogs, err = e.exportLogs(h, h.root.Ctlogs, false); err != nil {
		return err
	}
	switch {
	case h.hasLog() && len(keys.TLogs) == 0:
		e.recordProblem("authority %s: no log with an ECDSA key is trusted now", h.Name)
	case len(h.root.Ctlogs) > 0 && len(keys.CTLogs) == 0 && h.Key == nil:
		e.recordProblem("authority %s: no certificate log is trusted now", h.Name)
	case !h.hasLog() && len(keys.Timestamps) != 1 && len(h.root.TimestampAuthorities) > 0:
		e.recordProblem("authority %s: %d timestamp authorities are trusted now, want 1", h.Name, len(keys.Timestamps))
	case len(keys.Authorities) == 0:
		e.recordProblem("authority %s: no certificate authority of its trusted root is trusted now", h.Name)
	}
	return nil
}

// isUsablePeriod reports whether a part of a trusted root is still valid.
func (e *exporter) isUsablePeriod(h *holder, p validityPeriod, what string) bool {
	ended := !p.End.IsZero() && e.now.After(p.End)
	if !ended && !p.End.IsZero() || p.Start.After(e.now) {
		e.recordProblem("authority %s: the period of %s", h.Name, what)
	}
	return !ended
}

func (e *exporter) exportAuthorities(h *holder, from []trustedAuthority) (made []sigstoreAuthority, err error) {
	for _, a := range from {
		if !e.isUsablePeriod(h, a.ValidFor, "the authority "+a.URI) {
			continue
		}
		chain, root, err := a.chainPEM()
		if err != nil {
			return nil, err
		}
		made = append(made, newSigstoreAuthority(a.Subject.Organization, a.Subject.CommonName, a.URI, chain, root))
	}
	return made, nil
}

func (e *exporter) exportLogs(h *holder, from []trustedLog, onlyECDSA bool) (made []sigstoreLog, err error) {
	for _, l := range from {
		if !e.isUsablePeriod(h, l.PublicKey.ValidFor, "the log "+l.BaseURL) {
			continue
		}
		text, isECDSA, err := l.publicKeyPEM()
		if err != nil {
			return nil, err
		}
		if isECDSA || !onlyECDSA {
			made = append(made, sigstoreLog{cmp.Or(l.BaseURL, nowhere), "sha-256", base64.StdEncoding.EncodeToString(text)})
		}
	}
	return made, nil
}
