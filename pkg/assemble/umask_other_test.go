//go:build !unix

package assemble_test

// withUmask calls f: the system has no umask.
func withUmask(_ int, f func()) { f() }
