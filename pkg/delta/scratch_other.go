//go:build !linux

package delta

import (
	"errors"
	"os"
)

// openUnnamed is for Linux.
func openUnnamed(string) (*os.File, error) { return nil, errors.ErrUnsupported }
