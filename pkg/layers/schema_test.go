package layers

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"testing"

	"github.com/invopop/jsonschema"
)

var update = flag.Bool("update", false, "write the generated file instead of comparing it")

// The committed schema is what the Go types say today.
func TestSchemaIsCurrent(t *testing.T) {
	reflector := &jsonschema.Reflector{}
	if err := reflector.AddGoComments("krtpkg.dev/krtpkg/pkg/layers", "."); err != nil {
		t.Fatal(err)
	}
	s := reflector.Reflect(&extension{})
	s.ID = "https://krtpkg.dev/v1alpha1/model.json"
	got, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile("schema.json", got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(got, ExtensionSchema()) {
		t.Error("schema.json is not what the Go types say: run go generate ./pkg/layers")
	}
}
