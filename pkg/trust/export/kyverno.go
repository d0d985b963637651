package export

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/ext"
	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/trust"
)

// Kyverno returns the policy as Kyverno's ImageValidatingPolicy objects, one for each rule that is
// for images, in YAML.
//
// If rules overlap, the later object excludes the images of the earlier one. Rules for workload
// images are a separate list; what a rule of each list matches must satisfy both. Images without a
// matching rule are accepted. With Enforce, tags are resolved to digests; otherwise revoked digests
// are only found in references with a digest.
//
// If images have bundles, Kyverno counts an attestation as a signature, as cosign does. A trusted
// root without a log accepts a certificate that is valid now, without a proof of time. Before it
// uses a trusted root Kyverno contacts the public Sigstore's TUF repository: if it cannot, nothing
// verifies, and images that need a signature are refused.
//
// What Kyverno cannot express is [ErrInexpressible]: periods of authorities that have not passed,
// requireTimestamp with a key, a private PKI, revoked keys that no authority of the policy has,
// thresholds of identities of which a certificate could match two, and conditions with functions
// that it lacks.
func Kyverno(p *trust.Policy, o Options) ([]byte, error) {
	e := &exporter{Policy: p, options: o, target: "Kyverno"}
	e.checkHolder = func(h *holder) {
		switch {
		case h.from.Certificates+h.from.Timestamps != "" && h.Key == nil:
			e.recordProblem("authority %s: certificates of a private PKI", h.Name)
		case h.root != nil && len(h.root.Ctlogs) == 0 && h.Key == nil && h.hasLog() && h.root.Tlogs[0].BaseURL == "":
			e.recordProblem("authority %s: a log without a URL", h.Name)
		}
	}
	notes := func() []string {
		all := []string{"Kyverno takes an attestation in a bundle for a signature, as cosign does."}
		for _, h := range e.holders {
			if h.root != nil && (h.Key == nil || h.needsLog()) {
				return append(all, "It has to know the field trustedRoot: a version that drops it trusts the public Sigstore.")
			}
		}
		return all
	}
	return e.exportRules(e.exportKyvernoRule, notes, func() {})
}

// hasLog reports whether the trusted root has logs: a signature needs an entry then.
func (h *holder) hasLog() bool { return len(h.root.Tlogs) > 0 }

type kyvernoSpec struct {
	ValidationActions []string               `yaml:"validationActions"`
	FailurePolicy     string                 `yaml:"failurePolicy"`
	Webhook           map[string]int         `yaml:"webhookConfiguration"`
	Match             kyvernoMatch           `yaml:"matchConstraints"`
	Images            []kyvernoImages        `yaml:"images"`
	References        []kyvernoReferenceSpec `yaml:"matchImageReferences"`
	Configurations    map[string]bool        `yaml:"validationConfigurations"`
	Attestors         []kyvernoAttestorSpec  `yaml:"attestors"`
	Attestations      []kyvernoAttestation   `yaml:"attestations,omitempty"`
	Validations       []kyvernoValidation    `yaml:"validations"`
}

type kyvernoMatch struct {
	ResourceRules []kyvernoResources `yaml:"resourceRules"`
}

type kyvernoResources struct {
	APIGroups   []string `yaml:"apiGroups"`
	APIVersions []string `yaml:"apiVersions"`
	Operations  []string `yaml:"operations"`
	Resources   []string `yaml:"resources"`
}

type kyvernoImages struct {
	Name       string `yaml:"name"`
	Expression string `yaml:"expression"`
}

type kyvernoReferenceSpec struct {
	Glob       string `yaml:"glob,omitempty"`
	Expression string `yaml:"expression,omitempty"`
}

type kyvernoAttestorSpec struct {
	Name   string        `yaml:"name"`
	Cosign kyvernoCosign `yaml:"cosign"`
}

type kyvernoCosign struct {
	Key         *kyvernoKey     `yaml:"key,omitempty"`
	Keyless     *kyvernoKeyless `yaml:"keyless,omitempty"`
	CTLog       *kyvernoCTLog   `yaml:"ctlog,omitempty"`
	TrustedRoot *kyvernoValue   `yaml:"trustedRoot,omitempty"`
}

type kyvernoKey struct {
	Data          string `yaml:"data"`
	HashAlgorithm string `yaml:"hashAlgorithm,omitempty"`
}

type kyvernoKeyless struct {
	Identities []exportIdentity `yaml:"identities"`
}

type kyvernoCTLog struct {
	URL                string `yaml:"url,omitempty"`
	InsecureIgnoreTlog bool   `yaml:"insecureIgnoreTlog,omitempty"`
	InsecureIgnoreSCT  bool   `yaml:"insecureIgnoreSCT,omitempty"`
}

type kyvernoValue struct {
	Value string `yaml:"value"`
}

type kyvernoAttestation struct {
	Name   string        `yaml:"name"`
	InToto kyvernoInToto `yaml:"intoto"`
}

type kyvernoInToto struct {
	Type string `yaml:"type"`
}

type kyvernoValidation struct {
	Expression string `yaml:"expression"`
	Message    string `yaml:"message"`
}

// Kyverno finds the images of containers by itself, but not those that are volumes.
const (
	kyvernoVolumes = "(object != null ? object : oldObject).spec.?volumes.orValue([])" +
		".filter(v, has(v.image) && has(v.image.reference)).map(v, v.image.reference)"
	kyvernoAll = "(images.containers + images.initContainers + images.ephemeralContainers + images.volumes).all(i, %s)"
)

// exportKyvernoRule is the object of a rule.
func (e *exporter) exportKyvernoRule(r *exportRule) {
	spec := kyvernoSpec{
		ValidationActions: []string{"Audit"}, FailurePolicy: "Ignore",
		Webhook: map[string]int{"timeoutSeconds": 30},
		Match: kyvernoMatch{[]kyvernoResources{{
			APIGroups: []string{""}, APIVersions: []string{"v1"}, Operations: []string{"CREATE", "UPDATE"},
			Resources: []string{"pods", "pods/ephemeralcontainers"},
		}}},
		Images:         []kyvernoImages{{"volumes", kyvernoVolumes}},
		References:     []kyvernoReferenceSpec{r.kyvernoReference()},
		Configurations: map[string]bool{"required": true, "mutateDigest": e.options.Enforce, "verifyDigest": e.options.Enforce},
	}
	if e.options.Enforce {
		spec.ValidationActions, spec.FailurePolicy = []string{"Deny"}, "Fail"
	}
	validate := func(message, format string, args ...any) {
		spec.Validations = append(spec.Validations, kyvernoValidation{fmt.Sprintf(kyvernoAll, fmt.Sprintf(format, args...)), message})
	}
	if revoked := e.revokedDigests(); len(revoked) > 0 {
		validate(r.label+": the digest is revoked", "!(image(i).digest() in [%s])", celStrings(revoked))
	}
	validate(fmt.Sprintf("%s: %d of %s have to sign", r.label, r.requiredSignatures(), nameAll(r.signers)),
		"verifyImageSignatures(i, [%s]) >= %d", attestorList(r.signers), r.requiredSignatures())
	attest := append([]*holder{}, r.signers...)
	for n, q := range r.attestations {
		name := fmt.Sprintf("a%d", n+1)
		spec.Attestations = append(spec.Attestations, kyvernoAttestation{name, kyvernoInToto{q.PredicateType}})
		validate(fmt.Sprintf("%s: %d of %s have to attest", q.label, q.requiredAttestations(), nameAll(q.attesters)), "%s", e.attestationCondition(&q, name))
		attest = append(attest, q.attesters...)
	}
	known := map[*holder]bool{}
	for _, h := range attest {
		if !known[h] {
			known[h] = true
			spec.Attestors = append(spec.Attestors, kyvernoAttestorSpec{h.Name, h.kyvernoAttestor()})
		}
	}
	e.documents = append(e.documents, exportObject{"policies.kyverno.io/v1", "ImageValidatingPolicy", exportMetadata{r.name}, spec})
}

// kyvernoReference returns the matcher for a rule's images. Kyverno matches globs with the pod's
// reference, which may omit the registry; the expression matches full names.
func (r *exportRule) kyvernoReference() kyvernoReferenceSpec {
	if len(r.earlier) == 0 {
		for _, g := range r.globs {
			if g.isEverything() {
				return kyvernoReferenceSpec{Glob: "*"}
			}
		}
	}
	expression := "name.matches(" + matchExpression(r.globs) + ")"
	if len(r.earlier) > 0 {
		expression += " && !name.matches(" + matchExpression(r.earlier) + ")"
	}
	return kyvernoReferenceSpec{Expression: `[image(ref).registry() + "/" + image(ref).repository()].exists(name, ` + expression + ")"}
}

func matchExpression(globs []glob) string {
	all := make([]string, len(globs))
	for i, g := range globs {
		all[i] = g.regularExpression()
	}
	return celString("^(?:" + strings.Join(all, "|") + ")$")
}

// attestationCondition returns the condition of a requirement on the image i. Kyverno keeps one predicate of a
// type, the last that it verified: so each authority is asked for its own.
func (e *exporter) attestationCondition(q *exportRequirement, name string) string {
	if q.Condition == "" {
		return fmt.Sprintf("verifyAttestationSignatures(i, attestations.%s, [%s]) >= %d", name, attestorList(q.attesters), q.requiredAttestations())
	}
	if err := kyvernoHas(q.Condition); err != nil {
		e.recordProblem("%s: the condition: %v", q.label, err)
	}
	condition := strings.TrimSpace(q.Condition)
	if strings.Contains(condition, "//") {
		condition += "\n" // it may be a comment
	}
	one := fmt.Sprintf("verifyAttestationSignatures(i, attestations.%s, [a]) > 0 && [extractPayload(i, attestations.%s).predicate].all(predicate, (%s))",
		name, name, condition)
	if q.requiredAttestations() == 1 {
		return fmt.Sprintf("[%s].exists(a, %s)", attestorList(q.attesters), one)
	}
	return fmt.Sprintf("[%s].filter(a, %s).size() >= %d", attestorList(q.attesters), one, q.requiredAttestations())
}

// kyvernoHas reports whether Kyverno can compile a condition (kyverno: pkg/cel/compiler/env.go).
func kyvernoHas(condition string) error {
	env, err := cel.NewEnv(cel.Variable("predicate", cel.DynType), cel.HomogeneousAggregateLiterals(), cel.CrossTypeNumericComparisons(true),
		ext.Strings(ext.StringsVersion(2)), ext.Lists(ext.ListsVersion(3)), ext.Sets())
	if err != nil {
		return err
	}
	_, issues := env.Compile(condition)
	return issues.Err()
}

// kyvernoAttestor returns an authority as an attestor.
func (h *holder) kyvernoAttestor() kyvernoCosign {
	if h.Key != nil {
		made := kyvernoCosign{Key: &kyvernoKey{string(h.key), h.hash}}
		if h.needsLog() {
			made.TrustedRoot = &kyvernoValue{string(h.rootText)}
		} else {
			made.CTLog = &kyvernoCTLog{InsecureIgnoreTlog: true, InsecureIgnoreSCT: true}
		}
		return made
	}
	made := kyvernoCosign{Keyless: &kyvernoKeyless{[]exportIdentity{newExportIdentity(h.Identity)}}}
	if h.root == nil {
		return made // and a problem
	}
	made.TrustedRoot = &kyvernoValue{string(h.rootText)}
	noCT := len(h.root.Ctlogs) == 0
	switch {
	case !h.hasLog():
		made.CTLog = &kyvernoCTLog{InsecureIgnoreTlog: true, InsecureIgnoreSCT: noCT}
	case noCT:
		made.CTLog = &kyvernoCTLog{URL: h.root.Tlogs[0].BaseURL, InsecureIgnoreSCT: true}
	}
	return made
}

func attestorList(all []*holder) string {
	made := make([]string, len(all))
	for i, h := range all {
		made[i] = "attestors[" + strconv.Quote(h.Name) + "]"
	}
	return strings.Join(made, ", ")
}

func (e *exporter) revokedDigests() []digest.Digest {
	var all []digest.Digest
	for _, text := range e.File.Revoked.Digests {
		all = append(all, digest.Digest(text))
	}
	return all
}

func celStrings(all []digest.Digest) string {
	made := make([]string, len(all))
	for i, d := range all {
		made[i] = strconv.Quote(d.String())
	}
	return strings.Join(made, ", ")
}

// celString returns a text as CEL writes it, raw where it can be.
func celString(text string) string {
	if strings.ContainsAny(text, "\"\r\n") {
		return strconv.Quote(text)
	}
	return `r"` + text + `"`
}
