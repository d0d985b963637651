package kappctrltest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
)

// process is one that ends with this one at the latest.
type process struct {
	name, log string
	cmd       *exec.Cmd
	ended     chan struct{}
}

func startProcess(name, log string, env []string, bin string, args ...string) (*process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	p := &process{name: name, log: log, cmd: exec.Command(bin, args...), ended: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = env, file, file
	p.cmd.SysProcAttr = dieWithParent()
	started := make(chan error, 1)
	go func() {
		// Linux counts the thread as the parent, not the process: this one stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		file.Close()
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
			close(p.ended)
		}
	}()
	return p, <-started
}

func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

func (p *process) kill() error {
	err := p.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = fmt.Errorf("%s had ended by itself:\n%s", p.name, p.tail())
	}
	<-p.ended
	return err
}

// tail is the end of what the process wrote.
func (p *process) tail() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error() + "\n"
	}
	return string(data[max(0, len(data)-8<<10):])
}
