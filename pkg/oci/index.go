package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ReadIndex reads the index.json of a layout token by token, so that what takes more memory than
// [MaxIndex], [MaxIndexEntries] and [MaxIndexElements] allow is refused on the way. A field that
// is there twice, which readers resolve differently, and anything after the end are errors.
func ReadIndex(r io.Reader) (ocispec.Index, error) {
	var index ocispec.Index
	decoder := json.NewDecoder(LimitJSON(r, MaxIndex, MaxIndexElements))
	if err := expectDelimiter(decoder, '{'); err != nil {
		return index, err
	}
	seen := map[string]bool{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return index, unexpectedEOF(err)
		}
		field, _ := token.(string) // a key, or it would be an error
		if seen[field] {
			return index, fmt.Errorf("duplicate field %q", field)
		}
		seen[field] = true
		if err := readField(decoder, field, &index); err != nil {
			return index, fmt.Errorf("%s: %w", field, unexpectedEOF(err))
		}
	}
	if err := expectDelimiter(decoder, '}'); err != nil {
		return index, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return index, errors.Join(errors.New("trailing data"), err)
	}
	return index, nil
}

// readField reads the value of a field. Fields of later versions are passed over.
func readField(decoder *json.Decoder, field string, index *ocispec.Index) error {
	switch field {
	case "manifests":
		return readManifests(decoder, index)
	case "schemaVersion":
		return decoder.Decode(&index.SchemaVersion)
	case "mediaType":
		return decoder.Decode(&index.MediaType)
	case "artifactType":
		return decoder.Decode(&index.ArtifactType)
	case "subject":
		return decoder.Decode(&index.Subject)
	case "annotations":
		return decoder.Decode(&index.Annotations)
	}
	var passed json.RawMessage
	return decoder.Decode(&passed)
}

func readManifests(decoder *json.Decoder, index *ocispec.Index) error {
	token, err := decoder.Token()
	if err != nil || token == nil { // null lists nothing
		return err
	}
	if token != json.Delim('[') {
		return fmt.Errorf("want a list, not %v", token)
	}
	index.Manifests = []ocispec.Descriptor{}
	for decoder.More() {
		if len(index.Manifests) == MaxIndexEntries {
			return fmt.Errorf("more than %d entries: %w", MaxIndexEntries, ErrTooLarge)
		}
		var desc ocispec.Descriptor
		if err := decoder.Decode(&desc); err != nil {
			return err
		}
		index.Manifests = append(index.Manifests, desc)
	}
	return expectDelimiter(decoder, ']')
}

func expectDelimiter(decoder *json.Decoder, want json.Delim) error {
	token, err := decoder.Token()
	if err == nil && token != want {
		err = fmt.Errorf("want %v, not %v", want, token)
	}
	return unexpectedEOF(err)
}

func unexpectedEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
