//go:build !unix

package cli

import (
	"errors"
	"io/fs"
)

func keptBySystem(info fs.FileInfo) error { return ownedBySystem(info) }

// ownedBySystem says why others than the administrator could change a file: here that is not known.
func ownedBySystem(fs.FileInfo) error {
	return errors.New("a machine policy requires file owners, as on Linux")
}
