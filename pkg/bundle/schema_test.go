package bundle

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"testing"

	"github.com/invopop/jsonschema"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

var update = flag.Bool("update", false, "write the generated files instead of comparing them")

// The committed schemas are what the Go types say today.
func TestSchemasAreCurrent(t *testing.T) {
	reflector := &jsonschema.Reflector{Mapper: func(t reflect.Type) *jsonschema.Schema {
		if t == reflect.TypeFor[manifest.Values]() {
			return &jsonschema.Schema{Type: "object"}
		}
		return nil
	}}
	for from, dir := range map[string]string{"krtpkg.dev/krtpkg/pkg/bundle": ".", "krtpkg.dev/krtpkg/pkg/images": "../images"} {
		if err := reflector.AddGoComments(from, dir); err != nil {
			t.Fatal(err)
		}
	}
	for name, definition := range map[string]any{"bundle": &Bundle{}, "runtime": &Runtime{}} {
		schema := reflector.Reflect(definition)
		schema.ID = jsonschema.ID("https://" + APIVersion + "/" + name + ".json")
		got, err := json.MarshalIndent(schema, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, '\n')
		file := "schema/" + name + ".json"
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(file)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the Go types say: run go generate ./pkg/bundle (%v)", file, err)
		}
	}
}
