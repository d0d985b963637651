package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// maxKeys is how many keys a mapping of metadata has: yaml.v3 compares each with all others.
const maxKeys = 10_000

// DecodeMetadata reads a lock or a definition out of an artifact that may be a stranger's into a
// struct with yaml tags. What would take far more memory or time than its bytes is refused before
// it is decoded, and so is a field that the struct does not have. A file without a document is
// [io.EOF].
func DecodeMetadata(name string, data []byte, into any) error {
	if err := checkMetadata(data); err != nil {
		return &Error{File: name, Problem: err.Error(), Cause: err}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	return decoder.Decode(into)
}

func checkMetadata(data []byte) error {
	if len(data) > oci.MaxMetadataFile {
		return fmt.Errorf("%d bytes, the limit is %d: %w", len(data), oci.MaxMetadataFile, oci.ErrTooLarge)
	}
	nodes := CountNodes(data)
	if nodes > oci.MaxMetadataNodes {
		return fmt.Errorf("more than %d keys and values: %w", oci.MaxMetadataNodes, oci.ErrTooLarge)
	}
	if nodes < oci.MaxDepth {
		return nil
	}
	doc, err := decodeDocument(yaml.NewDecoder(bytes.NewReader(data)))
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	return checkShape(&doc, 0)
}

// CountNodes returns how many keys and values a YAML file has at most, without parsing it.
func CountNodes(data []byte) (nodes int) {
	for _, c := range data {
		nodes += int(nodeMarks[c])
	}
	return nodes
}

// nodeMarks has 1 for what each node but the first has in front.
var nodeMarks = [256]uint8{',': 1, ':': 1, '-': 1, '[': 1, '{': 1, '?': 1}

// CheckSize refuses a file that takes far more memory than its bytes when it is parsed. Errors:
// [oci.ErrTooLarge].
func CheckSize(data []byte) error {
	if len(data) > oci.MaxManifestFile {
		return fmt.Errorf("%d bytes, the limit for a file of manifests is %d (split it): %w", len(data), oci.MaxManifestFile, oci.ErrTooLarge)
	}
	// Each takes a byte.
	if len(data) > oci.MaxManifestNodes && CountNodes(data) > oci.MaxManifestNodes {
		return fmt.Errorf("more than %d keys and values, the limit for a file of manifests (split it): %w", oci.MaxManifestNodes, oci.ErrTooLarge)
	}
	return nil
}

func checkShape(node *yaml.Node, depth int) error {
	switch {
	case depth > oci.MaxDepth:
		return fmt.Errorf("nested deeper than %d levels: %w", oci.MaxDepth, oci.ErrTooLarge)
	case node.Kind == yaml.MappingNode && len(node.Content) > 2*maxKeys:
		return fmt.Errorf("a mapping of more than %d keys: %w", maxKeys, oci.ErrTooLarge)
	}
	for _, child := range node.Content {
		if err := checkShape(child, depth+1); err != nil {
			return err
		}
	}
	return nil
}
