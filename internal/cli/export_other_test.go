//go:build !unix

package cli

// SetSystemPolicy has a test's file for the policy of the machine, which is refused.
func SetSystemPolicy(file string) { systemPolicyFile = file }
