//go:build unix

package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// systemOwner owns what counts for the whole machine.
var systemOwner uint32

// keptBySystem says why others than root could replace what is in a folder further up. Where all may
// write, as in /tmp, its sticky bit keeps what is root's.
func keptBySystem(info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return errors.New("its owner is not known")
	case stat.Uid != systemOwner && stat.Uid != 0:
		return fmt.Errorf("it belongs to user %d, want root", stat.Uid)
	case info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0:
		return fmt.Errorf("others can write to it (mode %04o): chmod go-w", info.Mode().Perm())
	}
	return nil
}

// ownedBySystem says why others than root could change a file.
func ownedBySystem(info fs.FileInfo) error {
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
