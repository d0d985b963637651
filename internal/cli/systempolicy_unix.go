//go:build unix

package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// systemOwner is the user that owns the machine policy.
var systemOwner uint32

// checkParentOwner returns an error if users other than root could replace the content of a parent folder.
// In a folder that everybody may write to, such as /tmp, the sticky bit protects root's files.
func checkParentOwner(info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return errors.New("unknown owner")
	case stat.Uid != systemOwner && stat.Uid != 0:
		return fmt.Errorf("owned by user %d, want root", stat.Uid)
	case info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0:
		return fmt.Errorf("writable by others (mode %04o): run chmod go-w", info.Mode().Perm())
	}
	return nil
}

// checkFileOwner returns an error if users other than root could change a file.
func checkFileOwner(info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return errors.New("unknown owner")
	case stat.Uid != systemOwner:
		return fmt.Errorf("owned by user %d, want root", stat.Uid)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("writable by others (mode %04o): run chmod go-w", info.Mode().Perm())
	}
	return nil
}
