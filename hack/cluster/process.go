package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// stopLimit is how long a component gets to end by itself.
const stopLimit = 5 * time.Second

// collectAt is by how many percent a component's memory grows until its garbage is collected, and memoryLimit is from
// how much memory on that happens more often. A fifth of the API server's time would be that by default.
const collectAt, memoryLimit = "400", "1536MiB"

// process is a running component.
type process struct {
	component string

	cmd   *exec.Cmd
	ended chan struct{} // closed when it is gone
	err   error         // how it ended, to be read after that
}

// startProcess runs the command of a component in dir, without the environment of the
// user: etcd and KWOK read settings from there and from the home folder.
func startProcess(dir, log, component string, command []string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()

	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = dir
	cmd.Env = []string{"HOME=" + dir, "TMPDIR=" + dir, "GOGC=" + collectAt, "GOMEMLIMIT=" + memoryLimit}
	if component == "kube-apiserver" {
		// Webhooks that name no authority are trusted by the system's, which are ours alone.
		cmd.Env = append(cmd.Env, "SSL_CERT_FILE="+filepath.Join(dir, "pki", "ca.crt"))
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = detach()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", component, err)
	}
	p := &process{component: component, cmd: cmd, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		p.err = cmd.Wait()
	}()
	return p, nil
}

// killed reports whether it was killed, and did not end by itself. It has ended.
func (p *process) killed() bool {
	status, is := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return is && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// rank is higher for what must end earlier.
func (p *process) rank() int {
	switch p.component {
	case "etcd":
		return 0
	case "kube-apiserver":
		return 1
	}
	return 2
}

func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(stopLimit):
		p.cmd.Process.Kill()
		<-p.ended
	}
}

// endedError is a component that ended although nobody told it to.
type endedError struct {
	component string
	err       error  // nil for an exit status of 0
	tail      []byte // of its log
}

func (e *endedError) Error() string {
	state := "exit status 0"
	if e.err != nil {
		state = e.err.Error()
	}
	return fmt.Sprintf("%s ended: %s; its log ends with:\n%s", e.component, state, e.tail)
}

func (e *endedError) Unwrap() error { return e.err }

// tail returns the last lines of a log.
func tail(path string) []byte {
	const lines = 10
	data, err := os.ReadFile(path)
	if err != nil {
		return []byte(err.Error())
	}
	all := bytes.Split(bytes.TrimRight(data, "\n"), []byte("\n"))
	return bytes.Join(all[max(0, len(all)-lines):], []byte("\n"))
}
