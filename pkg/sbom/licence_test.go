package sbom

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestExpressions(t *testing.T) {
	for text, want := range map[string]bool{
		"Apache-2.0":                         true,
		"GPL-2.0+":                           true, // a name of the list
		"MPL-1.1+":                           true,
		"MIT OR Apache-2.0 AND BSD-3-Clause": true,
		"(MIT OR (Apache-2.0)) AND ISC":      true,
		"GPL-2.0-only WITH Classpath-exception-2.0": true,
		"LicenseRef-Acme.1 OR MIT":                  true,
		"":                                          false,
		"Proprietary":                               false,
		"Apache 2.0":                                false,
		"MIT or ISC":                                false,
		"MIT OR":                                    false,
		"OR MIT":                                    false,
		"(MIT":                                      false,
		"MIT)":                                      false,
		"()":                                        false,
		"(MIT) WITH Classpath-exception-2.0":        false,
		"MIT WITH ISC":                              false,
		"Classpath-exception-2.0":                   false,
		"GPL-2.0++":                                 false,
		"LicenseRef-":                               false,
		"LicenseRef-a b":                            false,
		"LicenseRef-ä":                              false,
		"DocumentRef-x:LicenseRef-y":                false, // there is no other document
		"NOASSERTION":                               false,
	} {
		if got := isExpression(text); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

// The names are those of CycloneDX's schema, which no longer tells exceptions from licences.
func TestLicenceListIsCycloneDXs(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "schema", "spdx.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var schema struct{ Enum []string }
	if err := json.Unmarshal(data, &schema); err != nil {
		t.Fatal(err)
	}
	got := slices.Concat(licences, exceptions)
	slices.Sort(got)
	slices.Sort(schema.Enum)
	if !slices.Equal(got, schema.Enum) {
		t.Errorf("licences.txt and exceptions.txt have %d names, the schema has %d", len(got), len(schema.Enum))
	}
}
