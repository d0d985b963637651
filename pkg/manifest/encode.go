package manifest

import (
	"bytes"
	"encoding/json"

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

// EncodeDocuments returns values as YAML documents, each after a line of three dashes.
func EncodeDocuments[T any](values ...T) ([]byte, error) {
	var out bytes.Buffer
	for _, value := range values {
		text, err := EncodeYAML(value)
		if err != nil {
			return nil, err
		}
		out.WriteString("---\n")
		out.Write(text)
	}
	return out.Bytes(), nil
}

// ConvertObject returns a value that is written by its JSON tags, such as a type of Kubernetes, as a node in block style.
func ConvertObject(value any) (*yaml.Node, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	clearStyle(&doc)
	return doc.Content[0], nil
}

// clearStyle removes the quotes and braces of JSON.
func clearStyle(node *yaml.Node) {
	node.Style = 0
	for _, child := range node.Content {
		clearStyle(child)
	}
}
