package hack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Process is a program that ends with this one at the latest.
type Process struct {
	// Name is what messages call it.
	Name string

	log   string
	cmd   *exec.Cmd
	ended chan struct{}
}

// StartProcess starts a program with just this environment, whose output goes to the end of a file.
func StartProcess(name, log string, env []string, bin string, args ...string) (*Process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	p := &Process{Name: name, log: log, cmd: exec.Command(bin, args...), ended: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = env, file, file
	p.cmd.SysProcAttr = DieWithParent()
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

func (p *Process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// Kill ends it. That it had ended before is an error.
func (p *Process) Kill() error {
	err := p.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = fmt.Errorf("%s had ended by itself:\n%s", p.Name, p.Tail())
	}
	<-p.ended
	return err
}

// Tail returns the end of what the process wrote.
func (p *Process) Tail() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error() + "\n"
	}
	return string(data[max(0, len(data)-8<<10):])
}

// Processes are several, in the order of their start.
type Processes []*Process

// Kill ends them, the last first. That one had ended before is an error.
func (all Processes) Kill() (err error) {
	for _, p := range slices.Backward(all) {
		err = errors.Join(err, p.Kill())
	}
	return err
}

// Tail returns the end of what each wrote.
func (all Processes) Tail() string {
	var text strings.Builder
	for _, p := range all {
		fmt.Fprintf(&text, "%s wrote:\n%s", p.Name, p.Tail())
	}
	return text.String()
}

// CheckEnded is an error that names one that has.
func (all Processes) CheckEnded() error {
	for _, p := range all {
		if p.hasEnded() {
			return fmt.Errorf("%s has ended", p.Name)
		}
	}
	return nil
}

// AwaitListeners waits until something listens on all addresses, or one of the processes has ended.
func AwaitListeners(ctx context.Context, addresses []string, processes Processes) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("not ready after a minute"))
	defer cancel()
	for _, address := range addresses {
		for {
			connection, err := net.Dial("tcp", address)
			if err == nil {
				connection.Close()
				break
			}
			if err := processes.CheckEnded(); err != nil {
				return err
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("%w: %w", context.Cause(ctx), err)
			}
		}
	}
	return nil
}

// FreeAddress is [FreePort] on loopback.
func FreeAddress() (string, error) {
	port, err := FreePort()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), err
}

// FreePort returns one that was free a moment ago, for programs that cannot be told to choose.
func FreePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	return port, listener.Close()
}
