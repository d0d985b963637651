//go:build !linux

package cli_test

// runSite needs the network namespaces of Linux, as does the test that starts it.
func runSite() { panic("only on Linux") }
