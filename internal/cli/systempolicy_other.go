//go:build !unix

package cli

import (
	"errors"
	"io/fs"
)

func checkParentOwner(info fs.FileInfo) error { return checkFileOwner(info) }

// checkFileOwner always fails: this system does not report who can change a file.
func checkFileOwner(fs.FileInfo) error {
	return errors.New("a machine policy requires file owners, as on Linux")
}
