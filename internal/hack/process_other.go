//go:build !linux

package hack

import "syscall"

// DieWithParent returns a service of Linux: elsewhere a killed test leaves its programs behind.
func DieWithParent() *syscall.SysProcAttr { return nil }
