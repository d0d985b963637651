//go:build unix

package cli

import "os"

// SetSystemPolicy has a test's file for the policy of the machine, and the test's user for root.
func SetSystemPolicy(file string) { systemPolicyFile, systemOwner = file, uint32(os.Getuid()) }
