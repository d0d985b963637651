package render

import (
	"testing"

	"gopkg.in/yaml.v3"
)

// Of returns the values of a bundle.
func Of(t *testing.T, v *Values, bundleName string) []byte {
	t.Helper()
	data, err := v.valuesOf(bundleName)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Blocks takes the braces off YAML.
func Blocks(t *testing.T, data []byte) string {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	if err := toBlockStyle(&doc); err != nil {
		t.Fatal(err)
	}
	data, err := yaml.Marshal(&doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
