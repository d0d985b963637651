//go:build !unix

package residenttest

import (
	"context"
	"os/exec"
)

// Resident is not available here: each command runs in its own process.
type Resident struct {
	Client string
	Env    []string
}

// Start finds the program.
func Start(_ context.Context, _, program string, _ []string) (*Resident, error) {
	path, err := exec.LookPath(program)
	return &Resident{Client: path}, err
}

// Close does nothing.
func (r *Resident) Close() error { return nil }

// Serve is not called here.
func Serve(func(context.Context) int) {}
