//go:build unix

package assemble_test

import "syscall"

// withUmask calls f with a umask of the process.
func withUmask(mask int, f func()) {
	defer syscall.Umask(syscall.Umask(mask))
	f()
}
