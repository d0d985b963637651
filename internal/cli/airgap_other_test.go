//go:build !linux

package cli_test

// runSite and runNode need the namespaces of Linux, as do the tests that start them.
func runSite() { panic("only on Linux") }
func runNode() { panic("only on Linux") }
