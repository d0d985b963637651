package transfer

import (
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Missing is an item that was not found anywhere.
type Missing struct {
	// Image is its name.
	Image string
	// Reason is the error of each place that was asked.
	Reason error
}

// IncompleteError is the error of a root that cannot be copied because parts of it are missing.
type IncompleteError struct {
	Root ocispec.Descriptor
	// Missing lists all of them, by name.
	Missing []Missing
}

func (e *IncompleteError) Error() string {
	lines := make([]string, len(e.Missing))
	for i, m := range e.Missing {
		lines[i] = fmt.Sprintf("%s: %v", m.Image, m.Reason)
	}
	return fmt.Sprintf("%s is incomplete: %d images not found:\n  %s", e.Root.Digest, len(lines), strings.Join(lines, "\n  "))
}

// Unwrap returns the reasons.
func (e *IncompleteError) Unwrap() []error {
	reasons := make([]error, len(e.Missing))
	for i, m := range e.Missing {
		reasons[i] = m.Reason
	}
	return reasons
}
