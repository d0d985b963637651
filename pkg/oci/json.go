package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// ErrTooLarge is the error of JSON that would take far more memory than its bytes do.
var ErrTooLarge = errors.New("over the limit")

// UnmarshalJSON is [json.Unmarshal] for what strangers wrote: JSON of more than [MaxElements] values
// or nested deeper than [MaxDepth] is refused before anything is decoded. A descriptor takes
// three bytes of JSON and over a hundred in memory.
func UnmarshalJSON(data []byte, into any) error {
	if err := CheckJSON(data, MaxElements); err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// CheckJSON refuses JSON of more values than the limit, or nested deeper than [MaxDepth]. It does
// not check that it is valid.
func CheckJSON(data []byte, limit int) error {
	s := shapeCounter{limit: limit}
	return s.countBytes(data)
}

// shapeCounter counts the values of JSON as its bytes pass: what opens an object or a list, and commas.
// That is not a fewer than there are values.
type shapeCounter struct {
	limit, elements, depth int
	inString, escaped      bool
}

func (s *shapeCounter) countBytes(data []byte) error {
	for _, c := range data {
		switch {
		case s.escaped:
			s.escaped = false
		case s.inString:
			s.escaped, s.inString = c == '\\', c != '"'
		case c == '"':
			s.inString = true
		case c == '{' || c == '[':
			s.elements++
			s.depth++
		case c == '}' || c == ']':
			s.depth--
		case c == ',':
			s.elements++
		default:
			continue
		}
		switch {
		case s.elements > s.limit:
			return fmt.Errorf("JSON of more than %d values: %w", s.limit, ErrTooLarge)
		case s.depth > MaxDepth:
			return fmt.Errorf("JSON nested deeper than %d levels: %w", MaxDepth, ErrTooLarge)
		}
	}
	return nil
}

// LimitJSON refuses JSON over the limits, nested deeper than [MaxDepth] too, while it is read.
func LimitJSON(r io.Reader, bytes int64, elements int) io.Reader {
	return &shapeReader{Reader: r, shape: shapeCounter{limit: elements}, limit: bytes, left: bytes}
}

type shapeReader struct {
	io.Reader
	shape       shapeCounter
	limit, left int64
}

func (r *shapeReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if r.left -= int64(n); r.left < 0 {
		return 0, fmt.Errorf("more than %d bytes: %w", r.limit, ErrTooLarge)
	}
	if wrong := r.shape.countBytes(p[:n]); wrong != nil {
		return 0, wrong
	}
	return n, err
}
