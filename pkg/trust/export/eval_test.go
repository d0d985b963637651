package export_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/ext"
	"github.com/google/go-containerregistry/pkg/name"

	"krtpkg.dev/krtpkg/pkg/trust"
	"krtpkg.dev/krtpkg/pkg/trust/export"
)

// kyverno evaluates what Kyverno does, as far as exports use it: its environment
// (kyverno: pkg/cel/compiler/env.go, pkg/cel/libs/imageverify) with signatures that are made up.
type kyverno struct {
	t *testing.T
	// signed and attested are "NAME IMAGE", predicates those of the latter.
	signed     []string
	predicates map[string]map[string]any
	// last is the predicate that was verified last.
	last     map[string]any
	programs map[string]cel.Program
}

func (k *kyverno) environment() *cel.Env {
	text := func(f func(name.Reference) string) func(ref.Val) ref.Val {
		return func(v ref.Val) ref.Val {
			parsed, err := name.ParseReference(v.Value().(string))
			if err != nil {
				return types.WrapErr(err)
			}
			return types.String(f(parsed))
		}
	}
	listed := func(list ref.Val) []string {
		native, err := list.ConvertToNative(stringsType)
		if err != nil {
			k.t.Fatal(err)
		}
		return native.([]string)
	}
	env, err := cel.NewEnv(
		cel.HomogeneousAggregateLiterals(), cel.EagerlyValidateDeclarations(true), cel.CrossTypeNumericComparisons(true), cel.OptionalTypes(),
		ext.Lists(ext.ListsVersion(3)), ext.Strings(ext.StringsVersion(2)), ext.Sets(),
		cel.Variable("ref", cel.StringType), cel.Variable("object", cel.DynType), cel.Variable("oldObject", cel.DynType),
		cel.Variable("images", cel.MapType(cel.StringType, cel.ListType(cel.StringType))),
		cel.Variable("attestors", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("attestations", cel.MapType(cel.StringType, cel.StringType)),
		// An image is its own text here.
		cel.Function("image", cel.Overload("image", []*cel.Type{cel.StringType}, cel.StringType,
			cel.UnaryBinding(text(func(r name.Reference) string { return r.Name() })))),
		cel.Function("registry", cel.MemberOverload("registry", []*cel.Type{cel.StringType}, cel.StringType,
			cel.UnaryBinding(text(func(r name.Reference) string { return r.Context().RegistryStr() })))),
		cel.Function("repository", cel.MemberOverload("repository", []*cel.Type{cel.StringType}, cel.StringType,
			cel.UnaryBinding(text(func(r name.Reference) string { return r.Context().RepositoryStr() })))),
		cel.Function("digest", cel.MemberOverload("digest", []*cel.Type{cel.StringType}, cel.StringType,
			cel.UnaryBinding(text(func(r name.Reference) string { return r.Identifier() })))),
		cel.Function("verifyImageSignatures", cel.Overload("verify", []*cel.Type{cel.StringType, cel.ListType(cel.DynType)}, cel.IntType,
			cel.BinaryBinding(func(image, by ref.Val) ref.Val {
				n := 0
				for _, who := range listed(by) {
					if slices.Contains(k.signed, who+" "+image.Value().(string)) {
						n++
					}
				}
				return types.Int(n)
			}))),
		cel.Function("verifyAttestationSignatures", cel.Overload("attested", []*cel.Type{cel.StringType, cel.StringType, cel.ListType(cel.DynType)}, cel.IntType,
			cel.FunctionBinding(func(args ...ref.Val) ref.Val {
				n := 0
				for _, who := range listed(args[2]) {
					if p, is := k.predicates[who+" "+args[0].Value().(string)]; is {
						k.last = p
						n++
					}
				}
				return types.Int(n)
			}))),
		cel.Function("extractPayload", cel.Overload("payload", []*cel.Type{cel.StringType, cel.StringType}, cel.DynType,
			cel.BinaryBinding(func(_, _ ref.Val) ref.Val {
				return types.DefaultTypeAdapter.NativeToValue(map[string]any{"predicate": k.last})
			}))),
	)
	if err != nil {
		k.t.Fatal(err)
	}
	return env
}

// eval returns what an expression gives; an error refuses.
func (k *kyverno) eval(env *cel.Env, expression string, variables map[string]any) any {
	k.t.Helper()
	program := k.programs[expression]
	if program == nil {
		ast, issues := env.Compile(expression)
		if issues.Err() != nil {
			k.t.Fatalf("%s: %v", expression, issues.Err())
		}
		var err error
		if program, err = env.Program(ast); err != nil {
			k.t.Fatal(err)
		}
		k.programs[expression] = program
	}
	out, _, err := program.Eval(variables)
	if err != nil {
		return err
	}
	return out.Value()
}

// matches reports whether the object of an export is for an image.
func (k *kyverno) matches(env *cel.Env, document map[string]any, image string) bool {
	for _, r := range document["spec"].(map[string]any)["matchImageReferences"].([]any) {
		reference := r.(map[string]any)
		if reference["glob"] == "*" {
			return true
		}
		if expression, is := reference["expression"].(string); is && k.eval(env, expression, map[string]any{"ref": image}) == true {
			return true
		}
	}
	return false
}

var stringsType = reflect.TypeFor[[]string]()

// someGlob and someName are random, and have much in common.
func someGlob(r *rand.Rand) string {
	pieces := []string{"a", "b", "ab", "*", "a*", "*b", "**", "**", "**", "{a,b}", "{a,b/c}", "?", "[a-b]", "[!a]", "a**", `\a`, "a*b"}
	text := []string{[]string{"q.io", "q.io", "*", "**", "{q,r}.io", "?.io", "r.*", "local"}[r.IntN(8)]}
	for range r.IntN(4) {
		text = append(text, pieces[r.IntN(len(pieces))])
	}
	return strings.Join(text, "/")
}

func someName(r *rand.Rand) string {
	text := []string{[]string{"q.io", "r.io"}[r.IntN(2)]}
	for range 1 + r.IntN(3) {
		text = append(text, []string{"a", "b", "ab", "c", "aab"}[r.IntN(5)])
	}
	return strings.Join(text, "/")
}

const digestOf = "@sha256:0000000000000000000000000000000000000000000000000000000000000000"

// An object of Kyverno is for the images that its rule decides about, and policy-controller's
// objects are, or there are none.
func TestExportMatches(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	k := &kyverno{t: t, programs: map[string]cel.Program{}}
	env := k.environment()
	exported, refused := 0, 0
	for range 400 {
		globs := make([]string, 1+r.IntN(3))
		rules := "rules:\n"
		for i := range globs {
			globs[i] = someGlob(r)
			rules += "- match: ['" + globs[i] + "']\n  authorities: [build]\n"
		}
		p := exportedPolicy(t, rules)
		text, err := export.Kyverno(p, export.Options{})
		if err != nil {
			t.Fatalf("%q: %v", globs, err)
		}
		controller, err := export.PolicyController(p, export.Options{})
		switch {
		case errors.Is(err, export.ErrInexpressible):
			refused++
		case err != nil:
			t.Fatal(err)
		default:
			exported++
		}
		objects, controllers := documents(t, text), documents(t, controller)
		for range 20 {
			image := someName(r)
			want := ""
			if rule, err := p.FindRule(image); err == nil {
				want = fmt.Sprintf("krtpkg-rule-%d", 1+slices.IndexFunc(p.File.Rules, func(f trust.Rule) bool { return &f.Match[0] == &rule.Match[0] }))
			}
			for _, document := range objects {
				object := document["metadata"].(map[string]any)["name"].(string)
				if is := k.matches(env, document, image+":1.0"); is != (object == want) {
					t.Errorf("%q: %s is for %s: %v, want %q", globs, object, image, is, want)
				}
			}
			for _, document := range controllers {
				object := document["metadata"].(map[string]any)["name"].(string)
				is := slices.ContainsFunc(document["spec"].(map[string]any)["images"].([]any), func(pattern any) bool {
					return controllerGlob(pattern.(map[string]any)["glob"].(string)).MatchString(image + digestOf)
				})
				more := slices.ContainsFunc(globs, func(g string) bool { return strings.HasSuffix(g, "*/**") })
				if is != (object == want) && !(is && more) {
					t.Errorf("%q: policy-controller: %s is for %s: %v, want %q", globs, object, image, is, want)
				}
			}
		}
	}
	if exported < 50 || refused < 50 {
		t.Errorf("%d policies were for policy-controller, and %d not", exported, refused)
	}
}

func exportedPolicy(t *testing.T, rules string) *trust.Policy {
	t.Helper()
	return exported(t, people+rules, nil)
}

// controllerGlob reads a glob as policy-controller does (policy-controller: pkg/apis/glob/glob.go).
func controllerGlob(glob string) *regexp.Regexp {
	text := strings.ReplaceAll(regexp.QuoteMeta(glob), `\*`, "*")
	text = strings.ReplaceAll(text, "**", "#")
	text = strings.ReplaceAll(text, "*", "[^/]*")
	return regexp.MustCompile("^" + strings.ReplaceAll(text, "#", ".*") + "$")
}

func TestExportValidates(t *testing.T) {
	const image = "registry.example/krt/web" + digestOf
	good, bad := map[string]any{"n": 5.0, "list": []any{"a"}}, map[string]any{"n": 1.0}
	attested := func(q string) string {
		return "rules:\n- match: [registry.example/**]\n  authorities: [release]\n  attestations:\n  - type: vuln\n    authorities: [build, audit]\n" + q
	}
	two := "rules:\n- match: [registry.example/**]\n  authorities: [build, release, audit]\n  threshold: 2\n"
	condition := "    condition: predicate.n > 3 && predicate.list.exists(a, a == \"a\") // enough\n"
	for name, c := range map[string]struct {
		rules      string
		signed     []string
		predicates map[string]map[string]any
		want       bool
	}{
		"nobody":                 {rules: two},
		"one of two":             {rules: two, signed: []string{"build"}},
		"a stranger":             {rules: two, signed: []string{"build", "large"}},
		"two of two":             {rules: two, signed: []string{"build", "audit"}, want: true},
		"revoked":                {rules: two + "revoked: {digests: ['" + digestOf[1:] + "']}\n", signed: []string{"build", "audit"}},
		"another is revoked":     {rules: two + "revoked: {digests: ['sha256:" + strings.Repeat("1", 64) + "']}\n", signed: []string{"build", "audit"}, want: true},
		"attested":               {rules: attested(""), signed: []string{"release"}, predicates: map[string]map[string]any{"audit": bad}, want: true},
		"not attested":           {rules: attested(""), signed: []string{"release"}},
		"attested by another":    {rules: attested(""), signed: []string{"release"}, predicates: map[string]map[string]any{"release": good}},
		"attested, not signed":   {rules: attested(""), predicates: map[string]map[string]any{"build": good}},
		"attested once":          {rules: attested("    threshold: 2\n"), signed: []string{"release"}, predicates: map[string]map[string]any{"build": good}},
		"attested twice":         {rules: attested("    threshold: 2\n"), signed: []string{"release"}, predicates: map[string]map[string]any{"build": good, "audit": bad}, want: true},
		"the condition holds":    {rules: attested(condition), signed: []string{"release"}, predicates: map[string]map[string]any{"audit": good}, want: true},
		"for one of them":        {rules: attested(condition), signed: []string{"release"}, predicates: map[string]map[string]any{"build": bad, "audit": good}, want: true},
		"it does not hold":       {rules: attested(condition), signed: []string{"release"}, predicates: map[string]map[string]any{"build": bad, "audit": bad}},
		"it fails":               {rules: attested(condition), signed: []string{"release"}, predicates: map[string]map[string]any{"build": {}}},
		"two, and holds for one": {rules: attested("    threshold: 2\n" + condition), signed: []string{"release"}, predicates: map[string]map[string]any{"build": bad, "audit": good}},
		"two, and holds":         {rules: attested("    threshold: 2\n" + condition), signed: []string{"release"}, predicates: map[string]map[string]any{"build": good, "audit": good}, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := export.Kyverno(exportedPolicy(t, c.rules), export.Options{Enforce: true})
			if err != nil {
				t.Fatal(err)
			}
			k := &kyverno{t: t, predicates: map[string]map[string]any{}, programs: map[string]cel.Program{}}
			for _, who := range c.signed {
				k.signed = append(k.signed, who+" "+image)
			}
			for who, p := range c.predicates {
				k.predicates[who+" "+image] = p
			}
			env := k.environment()
			spec := documents(t, text)[0]["spec"].(map[string]any)
			volume := spec["images"].([]any)[0].(map[string]any)["expression"].(string)
			pod := map[string]any{"spec": map[string]any{"volumes": []any{map[string]any{"name": "none"}, map[string]any{"image": map[string]any{"reference": image}}}}}
			native, err := types.DefaultTypeAdapter.NativeToValue(k.eval(env, volume, map[string]any{"object": pod, "oldObject": nil})).ConvertToNative(stringsType)
			if err != nil || !slices.Equal(native.([]string), []string{image}) {
				t.Fatalf("volumes: %v, %v", native, err)
			}
			got := true
			for _, v := range spec["validations"].([]any) {
				got = got && k.eval(env, v.(map[string]any)["expression"].(string), map[string]any{
					"images":       map[string][]string{"containers": {}, "initContainers": {image}, "ephemeralContainers": {}, "volumes": native.([]string)},
					"attestors":    map[string]any{"build": "build", "release": "release", "audit": "audit"},
					"attestations": map[string]string{"a1": "a1"},
				}) == true
			}
			if got != c.want {
				t.Errorf("it validates: %v, want %v\n%s", got, c.want, text)
			}
		})
	}
}

// The objects that a threshold becomes hold together when enough have signed.
func TestExportThreshold(t *testing.T) {
	everyone := []string{"build", "release", "audit", "large"}
	for need := 1; need <= len(everyone); need++ {
		p := exportedPolicy(t, fmt.Sprintf("rules:\n- match: [registry.example/**]\n  authorities: [%s]\n  threshold: %d\n", strings.Join(everyone, ", "), need))
		text, err := export.PolicyController(p, export.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for signed := range 1 << len(everyone) {
			count, holds := 0, true
			for i := range everyone {
				count += signed >> i & 1
			}
			for _, document := range documents(t, text) {
				holds = holds && slices.ContainsFunc(document["spec"].(map[string]any)["authorities"].([]any), func(a any) bool {
					return signed>>slices.Index(everyone, a.(map[string]any)["name"].(string))&1 == 1
				})
			}
			if holds != (count >= need) {
				t.Errorf("%d of %b have to sign: %v", need, signed, holds)
			}
		}
	}
}
