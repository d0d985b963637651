//go:build !unix

package gitcredential

import "os/exec"

// detach does nothing: helpers may open windows of their own.
func detach(*exec.Cmd) {}
