//go:build !unix

package cli

import (
	"errors"
	"io/fs"
)

// ownedBySystem says why others than the administrator could change a file: here that is not known.
func ownedBySystem(fs.FileInfo) error {
	return errors.New("a policy of the machine is for systems with owners of files, such as Linux")
}
