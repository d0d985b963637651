package result

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/invopop/jsonschema"
	validator "github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"krtpkg.dev/krtpkg/pkg/progress"
)

var update = flag.Bool("update", false, "write the generated files instead of comparing them")

// The committed schemas are what the Go types say today. What git shows of them is a change of what is promised.
func TestSchemasAreCurrent(t *testing.T) {
	names := map[string]reflect.Type{}
	reflector := &jsonschema.Reflector{AllowAdditionalProperties: true, Namer: func(of reflect.Type) string {
		if of == reflect.TypeFor[time.Time]() {
			return "date-time" // which types of ours may be called, too
		}
		if other := names[of.Name()]; other != nil && other != of && of.Name() != "" {
			t.Errorf("%v and %v have one name in schemas", of, other)
		}
		names[of.Name()] = of
		return ""
	}}
	for from, dir := range map[string]string{
		"pkg/result": ".", "pkg/assemble": "../assemble", "pkg/bundle": "../bundle", "pkg/compare": "../compare", "pkg/deploy": "../deploy", "pkg/graph": "../graph",
		"pkg/layers": "../layers", "pkg/progress": "../progress", "pkg/resources": "../resources", "pkg/sign": "../sign", "bundles": "../../bundles",
	} {
		if err := reflector.AddGoComments("krtpkg.dev/krtpkg/"+from, dir); err != nil {
			t.Fatal(err)
		}
	}
	types := map[string]any{"event": &progress.Record{}, "catalog": &Catalog{}}
	for _, verb := range Verbs() {
		types[schemaName(New(verb))] = New(verb)
	}
	for name, value := range types {
		file := "schema/" + name + ".json"
		clear(names)
		schema := reflector.Reflect(value)
		if _, fails := value.(Result); fails {
			// A command that fails may know nothing but why.
			root := schema.Definitions[reflect.TypeOf(value).Elem().Name()]
			root.AnyOf, root.Required = []*jsonschema.Schema{{Required: []string{"error"}}, {Required: root.Required}}, nil
		}
		schema.ID = jsonschema.ID("https://krtpkg.dev/v1alpha1/result/" + name + ".json")
		got, err := json.MarshalIndent(schema, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, '\n')
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(file)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the Go types say: run go generate ./pkg/result (%v)", file, err)
		}
	}
	there, err := filepath.Glob("schema/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range there {
		if types[strings.TrimSuffix(filepath.Base(file), ".json")] == nil {
			t.Errorf("%s is no verb's", file)
		}
	}
}

// A result with all fields filled in is valid by the schema of its verb.
func TestFullResultsAreValid(t *testing.T) {
	for _, verb := range Verbs() {
		value := New(verb)
		fillValue(reflect.ValueOf(value).Elem(), 0)
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		instance, err := validator.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		schema, err := Schema(verb)
		if err != nil {
			t.Fatal(err)
		}
		document, err := validator.UnmarshalJSON(bytes.NewReader(schema))
		if err != nil {
			t.Fatal(err)
		}
		compiler := validator.NewCompiler()
		if err := compiler.AddResource("result.json", document); err != nil {
			t.Fatal(err)
		}
		compiled, err := compiler.Compile("result.json")
		if err != nil {
			t.Fatalf("%s: %v", verb, err)
		}
		var invalid *validator.ValidationError
		if errors.As(compiled.Validate(instance), &invalid) {
			for _, place := range listWrongTypes(invalid) {
				t.Errorf("%s: %s", verb, place)
			}
		}
	}
}

// listWrongTypes lists the places where a value has another type than its schema says. What it may be is another matter.
func listWrongTypes(e *validator.ValidationError) (places []string) {
	if _, is := e.ErrorKind.(*kind.Type); is {
		places = append(places, e.Error())
	}
	for _, cause := range e.Causes {
		places = append(places, listWrongTypes(cause)...)
	}
	return places
}

// fillValue sets all that a value holds; what contains itself ends after some levels.
func fillValue(v reflect.Value, level int) {
	if level > 12 {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillValue(v.Elem(), level+1)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(0, 0).UTC()))
			return
		}
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fillValue(v.Field(i), level+1)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fillValue(v.Index(0), level+1)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fillValue(key, level+1)
		fillValue(value, level+1)
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64, reflect.Int32:
		v.SetInt(1)
	}
}

// Every verb has a schema, and a name that is not a verb's gets the verbs.
func TestSchema(t *testing.T) {
	for _, verb := range Verbs() {
		schema, err := Schema(verb)
		if err != nil || !bytes.Contains(schema, []byte(`"exitCode"`)) {
			t.Errorf("%s: %v", verb, err)
		}
	}
	if _, err := Schema("bulid"); err == nil || !strings.Contains(err.Error(), ", build,") {
		t.Errorf("error %v", err)
	}
}

// Every code of a failure is documented, and nothing else is.
func TestCodesAreDocumented(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "result.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			if of, ok := spec.Type.(*ast.Ident); ok && of.Name == "Code" {
				codes = append(codes, strings.Trim(spec.Values[0].(*ast.BasicLit).Value, `"`))
			}
		}
		return true
	})
	text, err := os.ReadFile("../../docs/JSON.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| exit code | codes |")
	table, _, _ = strings.Cut(table, "\n\n")
	documented := map[string]bool{}
	for _, found := range regexp.MustCompile("`([a-z][A-Za-z]+)`").FindAllStringSubmatch(table, -1) {
		documented[found[1]] = true
	}
	for _, code := range codes {
		if !documented[code] {
			t.Errorf("docs/JSON.md does not list the code %s", code)
		}
		delete(documented, code)
	}
	if len(codes) == 0 || len(documented) > 0 {
		t.Errorf("%d codes; docs/JSON.md lists %v, which are not codes", len(codes), documented)
	}
}
