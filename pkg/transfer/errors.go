package transfer

import (
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Missing is an item that is nowhere to be found.
type Missing struct {
	// Image is its name.
	Image string
	// Reason says where it was looked for and what came back.
	Reason error
}

// IncompleteError says that a root can't be copied because parts of it are missing.
type IncompleteError struct {
	Root ocispec.Descriptor
	// Missing are all of them, by name.
	Missing []Missing
}

func (e *IncompleteError) Error() string {
	lines := make([]string, len(e.Missing))
	for i, m := range e.Missing {
		lines[i] = fmt.Sprintf("%s: %v", m.Image, m.Reason)
	}
	return fmt.Sprintf("%s is incomplete: %d of its images can't be had:\n  %s", e.Root.Digest, len(lines), strings.Join(lines, "\n  "))
}

// Unwrap gives the reasons.
func (e *IncompleteError) Unwrap() []error {
	reasons := make([]error, len(e.Missing))
	for i, m := range e.Missing {
		reasons[i] = m.Reason
	}
	return reasons
}
