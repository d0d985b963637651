//go:build unix

package residenttest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"krtpkg.dev/krtpkg/internal/hack"
)

// Resident is a process that runs commands until Close.
type Resident struct {
	// Client is the program to run in place of the real one. It has the same name.
	Client string
	// Env has the variables that Client wants.
	Env []string

	cmd  *exec.Cmd
	life io.Closer // it ends when it is closed
	dir  string
}

// Start starts a command whose process calls [Serve], with the environment of the commands that it is to run. program is
// the real one.
func Start(ctx context.Context, command, program string, env []string) (*Resident, error) {
	client, err := hack.BuildProgram(ctx, "resident/krtpkg")
	if err != nil {
		return nil, err
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return nil, err
	}
	// The path of a socket has to be short.
	dir, err := os.MkdirTemp("", "resident")
	if err != nil {
		return nil, err
	}
	address := filepath.Join(dir, "socket")
	r := &Resident{Client: client, Env: []string{addressVariable + "=" + address, programVariable + "=" + path}, dir: dir}
	if err := r.startProcess(exec.Command(command, address), env); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", command, err), os.RemoveAll(dir))
	}
	return r, nil
}

// startProcess returns when the process listens.
func (r *Resident) startProcess(cmd *exec.Cmd, env []string) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	r.life = write
	cmd.Env = env
	cmd.ExtraFiles = []*os.File{read}
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		write.Close()
		return err
	}
	r.cmd = cmd
	if _, err := bufio.NewReader(stdout).ReadByte(); err != nil {
		return errors.Join(err, r.Close())
	}
	return nil
}

// Close ends the process, and returns when it has ended.
func (r *Resident) Close() error {
	return errors.Join(r.life.Close(), r.cmd.Wait(), os.RemoveAll(r.dir))
}
