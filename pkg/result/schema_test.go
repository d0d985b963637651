package result

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"

	"krtpkg.dev/krtpkg/pkg/progress"
)

var update = flag.Bool("update", false, "write the generated files instead of comparing them")

// The committed schemas are what the Go types say today. What git shows of them is a change of what is promised.
func TestSchemasAreCurrent(t *testing.T) {
	reflector := &jsonschema.Reflector{AllowAdditionalProperties: true}
	for from, dir := range map[string]string{
		"pkg/result": ".", "pkg/assemble": "../assemble", "pkg/bundle": "../bundle", "pkg/compare": "../compare", "pkg/deploy": "../deploy", "pkg/graph": "../graph",
		"pkg/layers": "../layers", "pkg/progress": "../progress", "pkg/sign": "../sign", "bundles": "../../bundles",
	} {
		if err := reflector.AddGoComments("krtpkg.dev/krtpkg/"+from, dir); err != nil {
			t.Fatal(err)
		}
	}
	types := map[string]any{"event": &progress.Record{}}
	for _, verb := range Verbs() {
		types[schemaName(New(verb))] = New(verb)
	}
	for name, value := range types {
		file := "schema/" + name + ".json"
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
