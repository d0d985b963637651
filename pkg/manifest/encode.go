package manifest

import (
	"bytes"

	"gopkg.in/yaml.v3"
)

// EncodeYAML returns a value as a YAML document with an indent of two, as Kubernetes manifests have it.
func EncodeYAML(value any) ([]byte, error) {
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}
	return out.Bytes(), encoder.Close()
}
