// Package trust holds policies that decide what may be applied, imported and copied: who must have signed
// it, how many of them, and which attestations are required.
//
// Call [LoadPolicy] to read a policy file, or [NewPolicy] to make one, and
// [Policy.Verify] with a root. It returns the verified facts. Its errors are those of [sign.Verify], and [ErrRefused]
// for what is signed but not accepted by a rule.
package trust

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/google/cel-go/cel"
	"github.com/opencontainers/go-digest"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// The apiVersion and the kind of a policy file.
const (
	APIVersion = "krtpkg.dev/v1alpha1"
	Kind       = "TrustPolicy"
)

// Local is the name in rules for everything outside a registry: folders and archives.
const Local = "local"

// File is a policy file.
type File struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	// Authorities are the trusted signers.
	Authorities []Authority `yaml:"authorities"`
	// Rules are the requirements by place; the first match decides. Without a match a root is refused.
	Rules []Rule `yaml:"rules"`
	// Images are rules for workload images by their upstream names. Images without a matching rule
	// only need the bundle's signature.
	Images []Rule `yaml:"images,omitempty"`
	// Revoked lists keys and digests that are refused, whoever signed them.
	Revoked Revoked `yaml:"revoked,omitempty"`
}

// Authority is a trusted signer: the holder of a key, or of a certificate for an identity. Keys and
// certificates are PEM, in the file itself or in another file, named relative to it.
type Authority struct {
	// Name is the name in rules and results.
	Name string `yaml:"name"`
	// Key is a public key.
	Key string `yaml:"key,omitempty"`
	// Identity is the identity that a certificate must name.
	Identity *Identity `yaml:"identity,omitempty"`
	// TrustedRoot is a trusted root of Sigstore, as JSON.
	TrustedRoot string `yaml:"trustedRoot,omitempty"`
	// Certificates are the root and the intermediates of a private PKI, Timestamps those of
	// its timestamp authorities.
	Certificates string `yaml:"certificates,omitempty"`
	Timestamps   string `yaml:"timestamps,omitempty"`
	// NotBefore and NotAfter bound the time of the signature.
	NotBefore time.Time `yaml:"notBefore,omitempty"`
	NotAfter  time.Time `yaml:"notAfter,omitempty"`
	// RequireLog and RequireTimestamp require an entry in a log of the trusted root, and for
	// a proof of time.
	RequireLog       bool `yaml:"requireLog,omitempty"`
	RequireTimestamp bool `yaml:"requireTimestamp,omitempty"`
}

// Identity is the holder of a certificate and the issuer that vouches for it; see [sign.Identity].
type Identity struct {
	Subject       string `yaml:"subject,omitempty"`
	SubjectRegExp string `yaml:"subjectRegExp,omitempty"`
	Issuer        string `yaml:"issuer,omitempty"`
	IssuerRegExp  string `yaml:"issuerRegExp,omitempty"`
}

// Rule holds the requirements for some repositories.
type Rule struct {
	// Match are globs of REGISTRY/REPOSITORY, or local; ** crosses slashes.
	Match []string `yaml:"match"`
	// Authorities are the names of those who may sign; all when empty.
	Authorities []string `yaml:"authorities,omitempty"`
	// Threshold is the number of required signers; 1 when zero.
	Threshold int `yaml:"threshold,omitempty"`
	// Attestations are the required attestations.
	Attestations []Requirement `yaml:"attestations,omitempty"`
	// MinAge is how long ago each required signer must have signed, by a log or a timestamp authority that its authority
	// trusts. Signatures without such a proof do not count.
	MinAge Age `yaml:"minAge,omitempty"`
	// Channels say how fresh channels must be; nil for only what promotions say themselves.
	Channels *ChannelRule `yaml:"channels,omitempty"`
	// Names are globs of the names that a runtime or a bundle may have there, as it was signed; any
	// when empty.
	Names []string `yaml:"names,omitempty"`
}

// Requirement is an attestation that a rule needs.
type Requirement struct {
	// Type is the predicate type, a URI or one of cosign's short names.
	Type string `yaml:"type"`
	// Authorities are the names of those who may attest; the rule's when empty.
	Authorities []string `yaml:"authorities,omitempty"`
	// Threshold is the number of required signers; 1 when zero.
	Threshold int `yaml:"threshold,omitempty"`
	// Condition is an expression in CEL on the variable predicate that must be true.
	Condition string `yaml:"condition,omitempty"`
}

// Revoked lists what is no longer trusted.
type Revoked struct {
	// Keys are ids of keys, including the keys of certificates: see [sign.Key.ID].
	Keys []string `yaml:"keys,omitempty"`
	// Digests are digests of runtimes, bundles and images.
	Digests []string `yaml:"digests,omitempty"`
}

// Policy is a validated policy.
type Policy struct {
	// Name is the name in messages: the name of its file.
	Name string
	File File
	// Digest is the SHA-256 of the file, followed by the files that it names, in the order of its authorities. Of a policy
	// without a file it is that of its signers: their keys as PEM, their identities and trusted certificates.
	Digest digest.Digest
	// ExpectName is the required signed name, in addition to the rules; any when empty.
	ExpectName string
	// Now is the time by which signatures are valid and old enough; the clock's when zero.
	Now time.Time

	// combined must accept what this policy accepts; nil for none.
	combined    *Policy
	authorities map[string]*sign.Authority
	rules       []*ResolvedRule
	images      []*ResolvedRule
	revoked     map[digest.Digest]bool
	// revoker is the policy that revokes, if that is another one.
	revoker string
}

// ResolvedRule is a rule with the signers that its names stand for.
type ResolvedRule struct {
	*Rule
	// Signers are those who may sign.
	Signers []sign.Authority
	// Required are the attestations that it needs.
	Required []ResolvedRequirement
}

// ResolvedRequirement is an attestation that a rule needs, with the signers that its names stand for.
type ResolvedRequirement struct {
	*Requirement
	// PredicateType is a URI.
	PredicateType string
	Attesters     []sign.Authority

	condition cel.Program
}

// shortTypes are cosign's names of predicate types.
var shortTypes = map[string]string{
	"slsaprovenance":   "https://slsa.dev/provenance/v0.2",
	"slsaprovenance02": "https://slsa.dev/provenance/v0.2",
	"slsaprovenance1":  "https://slsa.dev/provenance/v1",
	"link":             "https://in-toto.io/Link/v1",
	"spdx":             "https://spdx.dev/Document",
	"spdxjson":         "https://spdx.dev/Document",
	"cyclonedx":        "https://cyclonedx.org/bom",
	"vuln":             "https://cosign.sigstore.dev/attestation/vuln/v1",
	"openvex":          "https://openvex.dev/ns",
	"promotion":        PromotionType,
	"custom":           "https://cosign.sigstore.dev/attestation/v1",
}

// PredicateNames returns the short names of predicate types, sorted.
func PredicateNames() []string { return slices.Sorted(maps.Keys(shortTypes)) }

// PredicateType returns the URI that a short name of cosign stands for, or the name itself.
func PredicateType(name string) string {
	if uri, known := shortTypes[name]; known {
		return uri
	}
	return name
}

// LoadPolicy reads a policy file and all files that it names. A file that cannot be read refuses
// everything: the error is [ErrRefused], and a [*manifest.Error] if it concerns a position in the file.
func LoadPolicy(name string) (*Policy, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, &refusal{fmt.Sprintf("trust policy: %v", err), err}
	}
	p, err := ParsePolicy(name, data, func(file string) ([]byte, error) {
		if !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(name), file)
		}
		return os.ReadFile(file)
	})
	if err != nil {
		return nil, &refusal{err.Error(), err}
	}
	return p, nil
}

// ParsePolicy reads a policy; read reads the files that it names.
func ParsePolicy(name string, data []byte, read func(string) ([]byte, error)) (*Policy, error) {
	p := &Policy{Name: name, authorities: map[string]*sign.Authority{}, revoked: map[digest.Digest]bool{}}
	file, err := manifest.ParseStrict(name, data, &p.File)
	if err != nil {
		return nil, err
	}
	content := digest.SHA256.Digester()
	content.Hash().Write(data)
	r := &policyReader{Policy: p, file: file, root: file.Documents[0], readFile: read}
	if read != nil {
		r.readFile = func(file string) ([]byte, error) {
			data, err := read(file)
			content.Hash().Write(data)
			return data, err
		}
	}
	err = r.validateFile()
	p.Digest = content.Digest()
	return p, err
}

// policyReader makes a policy of a file.
type policyReader struct {
	*Policy
	file     *manifest.File
	root     *yaml.Node
	readFile func(string) ([]byte, error)
}

// errorAt returns an error at the place of a field, or of the nearest existing one.
func (r *policyReader) errorAt(err error, path ...any) error {
	node := r.root
	for _, step := range path {
		next := childNode(node, step)
		if next == nil {
			break
		}
		node = next
	}
	e := r.file.Errorf(node, "%v", err)
	e.Cause = err
	return e
}

func childNode(node *yaml.Node, step any) *yaml.Node {
	switch step := step.(type) {
	case string:
		return manifest.GetValue(node, step)
	case int:
		if node.Kind == yaml.SequenceNode && step < len(node.Content) {
			return node.Content[step]
		}
	}
	return nil
}

func (r *policyReader) validateFile() error {
	f := &r.File
	switch {
	case f.APIVersion != APIVersion:
		return r.errorAt(fmt.Errorf("apiVersion is %q, want %s", f.APIVersion, APIVersion), "apiVersion")
	case f.Kind != Kind:
		return r.errorAt(fmt.Errorf("kind is %q, want %s", f.Kind, Kind), "kind")
	case len(f.Authorities) == 0:
		return r.errorAt(errors.New("authorities is empty"), "authorities")
	case len(f.Rules) == 0:
		return r.errorAt(errors.New("rules is empty: want at least one, match: [\"**\"] is for everything"), "rules")
	}
	keys := map[string]string{}
	for i := range f.Authorities {
		if err := r.readAuthority(&f.Authorities[i], keys, "authorities", i); err != nil {
			return err
		}
	}
	for i := range f.Rules {
		made, err := r.readRule(&f.Rules[i], "rules", i)
		if err != nil {
			return err
		}
		r.rules = append(r.rules, made)
	}
	for i := range f.Images {
		made, err := r.readRule(&f.Images[i], "images", i)
		if err != nil {
			return err
		}
		r.images = append(r.images, made)
	}
	for i, id := range f.Revoked.Keys {
		if !keyID.MatchString(id) {
			return r.errorAt(fmt.Errorf("%q is not a key id: want the SHA-256 of the key, 64 hexadecimal digits", id), "revoked", "keys", i)
		}
	}
	for i, text := range f.Revoked.Digests {
		d, err := digest.Parse(text)
		if err != nil {
			return r.errorAt(fmt.Errorf("%q: %w", text, err), "revoked", "digests", i)
		}
		r.revoked[d] = true
	}
	return nil
}

var keyID = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (r *policyReader) readAuthority(a *Authority, keys map[string]string, path ...any) error {
	at := func(fields ...any) []any { return append(slices.Clone(path), fields...) }
	switch {
	case a.Name == "":
		return r.errorAt(errors.New("an authority has no name"), path...)
	case r.authorities[a.Name] != nil:
		return r.errorAt(fmt.Errorf("duplicate name %q", a.Name), at("name")...)
	case (a.Key == "") == (a.Identity == nil):
		return r.errorAt(fmt.Errorf("authority %s: want a key or an identity", a.Name), path...)
	case a.TrustedRoot != "" && a.Certificates+a.Timestamps != "":
		return r.errorAt(fmt.Errorf("authority %s: trustedRoot cannot be used with certificates or timestamps", a.Name), at("trustedRoot")...)
	case !a.NotAfter.IsZero() && !a.NotAfter.After(a.NotBefore):
		return r.errorAt(fmt.Errorf("authority %s: notAfter is before notBefore", a.Name), at("notAfter")...)
	}
	made := &sign.Authority{
		Name: a.Name, NotBefore: a.NotBefore, NotAfter: a.NotAfter,
		RequireLog: a.RequireLog, RequireTimestamp: a.RequireTimestamp,
	}
	var err error
	if a.Key != "" {
		pem, err := r.readText(a.Key, "-----BEGIN")
		if err == nil {
			made.Key, err = sign.LoadPublicKey(pem)
		}
		if err != nil {
			return r.errorAt(err, at("key")...)
		}
		if other := keys[made.Key.ID()]; other != "" {
			return r.errorAt(fmt.Errorf("%s has the same key: one holder would count twice", other), at("key")...)
		}
		keys[made.Key.ID()] = a.Name
	} else if made.Identity, err = a.Identity.compileIdentity(); err != nil {
		return r.errorAt(err, at("identity")...)
	}
	if made.Roots, err = r.readTrustedRoot(a); err != nil {
		return r.errorAt(err, path...)
	}
	// Validated alone, so that the error names what it lacks.
	if err := (&sign.Policy{Authorities: []sign.Authority{*made}}).Validate(); err != nil {
		return r.errorAt(err, path...)
	}
	r.authorities[a.Name] = made
	return nil
}

func (i *Identity) compileIdentity() (*sign.Identity, error) {
	if (i.Subject == "") == (i.SubjectRegExp == "") {
		return nil, errors.New("want subject or subjectRegExp")
	}
	if i.Issuer != "" && i.IssuerRegExp != "" {
		return nil, errors.New("want issuer or issuerRegExp, not both")
	}
	made := &sign.Identity{Subject: i.Subject, Issuer: i.Issuer}
	for _, p := range []struct {
		text string
		into **regexp.Regexp
	}{{i.SubjectRegExp, &made.SubjectRegExp}, {i.IssuerRegExp, &made.IssuerRegExp}} {
		if p.text == "" {
			continue
		}
		compiled, err := regexp.Compile(p.text)
		if err != nil {
			return nil, err
		}
		*p.into = compiled
	}
	return made, nil
}

func (r *policyReader) readTrustedRoot(a *Authority) (*sign.TrustedRoot, error) {
	if a.TrustedRoot != "" {
		data, err := r.readText(a.TrustedRoot, "{")
		if err != nil {
			return nil, err
		}
		return sign.LoadTrustedRoot(data)
	}
	if a.Certificates+a.Timestamps == "" {
		return nil, nil
	}
	certificates, err := r.readText(a.Certificates, "-----BEGIN")
	if err != nil {
		return nil, err
	}
	timestamps, err := r.readText(a.Timestamps, "-----BEGIN")
	if err != nil {
		return nil, err
	}
	return sign.LoadCertificates(certificates, timestamps)
}

func (r *policyReader) readText(value, inline string) ([]byte, error) {
	return ReadText(value, inline, r.readFile)
}

// ReadText returns the content of a field of a policy file: the value itself if it contains inline, or what read
// gives for the file that it names. If the value is empty, it returns nil.
func ReadText(value, inline string, read func(file string) ([]byte, error)) ([]byte, error) {
	switch {
	case value == "":
		return nil, nil
	case strings.Contains(value, inline):
		return []byte(value), nil
	case read == nil:
		return nil, fmt.Errorf("%s: files are not supported here", value)
	}
	return read(value)
}

func (r *policyReader) readRule(from *Rule, path ...any) (*ResolvedRule, error) {
	at := func(fields ...any) []any { return append(slices.Clone(path), fields...) }
	made := &ResolvedRule{Rule: from}
	if len(from.Match) == 0 {
		return nil, r.errorAt(errors.New(`match is empty: want globs of REGISTRY/REPOSITORY, or local; "**" is everything`), at("match")...)
	}
	for i, glob := range from.Match {
		if !doublestar.ValidatePattern(glob) {
			return nil, r.errorAt(fmt.Errorf("%q is not a glob", glob), at("match", i)...)
		}
	}
	var err error
	if made.Signers, err = r.authoritiesByName(from.Authorities, nil); err != nil {
		return nil, r.errorAt(err, at("authorities")...)
	}
	if from.Threshold < 0 || from.Threshold > len(made.Signers) {
		return nil, r.errorAt(fmt.Errorf("threshold is %d, but there are %d authorities", from.Threshold, len(made.Signers)), at("threshold")...)
	}
	if err := made.checkProofs(); err != nil {
		return nil, r.errorAt(err, at("minAge")...)
	}
	if err := from.Channels.validateRule(); err != nil {
		return nil, r.errorAt(err, at("channels", "stale")...)
	}
	if from.Channels != nil && path[0] == "images" {
		return nil, r.errorAt(errors.New("channels: want them in rules: images are named by digest"), at("channels")...)
	}
	for i, glob := range from.Names {
		if !doublestar.ValidatePattern(glob) || path[0] == "images" {
			return nil, r.errorAt(fmt.Errorf("names: %q: want the name of a runtime or a bundle, in rules", glob), at("names", i)...)
		}
	}
	for i := range from.Attestations {
		q := &from.Attestations[i]
		need := ResolvedRequirement{Requirement: q, PredicateType: PredicateType(q.Type)}
		if !strings.Contains(need.PredicateType, ":") {
			return nil, r.errorAt(fmt.Errorf("type %q is neither a URI nor one of cosign's names", q.Type), at("attestations", i, "type")...)
		}
		if need.Attesters, err = r.authoritiesByName(q.Authorities, made.Signers); err != nil {
			return nil, r.errorAt(err, at("attestations", i, "authorities")...)
		}
		if q.Threshold < 0 || q.Threshold > len(need.Attesters) {
			return nil, r.errorAt(fmt.Errorf("threshold is %d, but there are %d attesters", q.Threshold, len(need.Attesters)), at("attestations", i, "threshold")...)
		}
		if need.condition, err = compileCondition(q.Condition); err != nil {
			return nil, r.errorAt(err, at("attestations", i, "condition")...)
		}
		made.Required = append(made.Required, need)
	}
	return made, nil
}

// authoritiesByName returns the authorities of these names, or by default those, or all.
func (r *policyReader) authoritiesByName(names []string, byDefault []sign.Authority) (found []sign.Authority, err error) {
	if len(names) == 0 && byDefault != nil {
		return byDefault, nil
	}
	if len(names) == 0 {
		for _, a := range r.File.Authorities {
			names = append(names, a.Name)
		}
	}
	for i, name := range names {
		a := r.authorities[name]
		if a == nil {
			err := fmt.Errorf("unknown authority %q", name)
			var all []string
			for known := range r.authorities {
				all = append(all, known)
			}
			slices.Sort(all)
			if near := manifest.NearestName(name, all); near != "" {
				err = fmt.Errorf("%w: did you mean %q?", err, near)
			}
			return nil, err
		}
		if slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("duplicate authority %q", name)
		}
		found = append(found, *a)
	}
	return found, nil
}

// NewPolicy returns a policy that accepts everything signed by at least one of the authorities.
func NewPolicy(authorities ...sign.Authority) (*Policy, error) {
	p := &Policy{revoked: map[digest.Digest]bool{}, rules: []*ResolvedRule{{Rule: &Rule{Match: []string{"**"}}, Signers: authorities}}}
	if err := (&sign.Policy{Authorities: authorities}).Validate(); err != nil {
		return nil, err
	}
	content := digest.SHA256.Digester()
	for _, a := range authorities {
		if a.Key != nil {
			pem, err := a.Key.PEM()
			if err != nil {
				return nil, err
			}
			content.Hash().Write(pem)
		} else {
			fmt.Fprintln(content.Hash(), a.Identity)
		}
		if a.Roots != nil {
			content.Hash().Write(a.Roots.Source())
		}
	}
	p.Digest = content.Digest()
	return p, nil
}

// Combine returns a policy that accepts what both policies accept. Either may be nil, which accepts
// everything.
func (p *Policy) Combine(other *Policy) *Policy {
	if p == nil {
		return other
	}
	if other == nil {
		return p
	}
	both := *p
	both.combined = p.combined.Combine(other)
	return &both
}

// All returns the policy, and those that must accept what it accepts.
func (p *Policy) All() []*Policy {
	if p == nil {
		return nil
	}
	return append([]*Policy{p}, p.combined.All()...)
}

func (p *Policy) currentTime() time.Time {
	if p.Now.IsZero() {
		return time.Now()
	}
	return p.Now
}

// Rules returns the rules by place, in order.
func (p *Policy) Rules() []*ResolvedRule { return p.rules }

// ImageRules returns the rules for workload images, in order.
func (p *Policy) ImageRules() []*ResolvedRule { return p.images }

// Combined returns the policy that must accept what this one accepts; nil for none. See [Policy.Combine].
func (p *Policy) Combined() *Policy { return p.combined }

// HasImageRules reports whether there are rules for workload images.
func (p *Policy) HasImageRules() bool {
	return len(p.images) > 0 || p.combined != nil && p.combined.HasImageRules()
}

// KeyID returns the id of an authority's key, or empty.
func (p *Policy) KeyID(authority string) string {
	if a := p.authorities[authority]; a != nil && a.Key != nil {
		return a.Key.ID()
	}
	return ""
}
