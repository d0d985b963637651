package registrytest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"

	"golang.org/x/crypto/bcrypt"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/internal/hack"
)

// programs are the Distribution kinds' folders under hack/.
var programs = map[Kind]string{
	Distribution3: "tools/registry",
	Distribution2: "registry2",
}

// startDirect makes a process's address the registry's.
func (r *Registry) startDirect(ctx context.Context, certs *certificates) error {
	host, err := r.startProcess(ctx, certs, nil)
	r.setAddress(host)
	return err
}

// startProcess runs a Distribution until Close and returns its address once it answers.
func (r *Registry) startProcess(ctx context.Context, certs *certificates, tokens *tokenServer) (string, error) {
	bin, err := hack.BuildProgram(ctx, programs[r.Options.Kind])
	if err != nil {
		return "", err
	}
	config, err := r.writeConfig(certs, tokens)
	if err != nil {
		return "", err
	}
	if r.process, err = startProcess(bin, "serve", config); err != nil {
		return "", err
	}
	r.onClose(r.process.killProcess)
	host, err := r.process.awaitAddress(ctx)
	if err != nil {
		return "", err
	}
	return host, r.awaitReady(ctx, host, certs)
}

// awaitReady asks the process for the API's root. It listens already, so that the answer is
// waited for and not polled. It is asked directly: a front's faults are for the test.
func (r *Registry) awaitReady(ctx context.Context, host string, certs *certificates) error {
	scheme := "http"
	if certs != nil {
		scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+host+"/v2/", nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: r.Transport()}).Do(req)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, r.process.output)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("GET /v2/: %s\n%s", resp.Status, r.process.output)
	}
	return nil
}

type object = map[string]any

func (r *Registry) writeConfig(certs *certificates, tokens *tokenServer) (string, error) {
	content, err := r.contentDir()
	if err != nil {
		return "", err
	}
	server := object{"addr": "127.0.0.1:0", "secret": rand.Text()}
	if certs != nil {
		server["tls"] = object{"certificate": certs.certFile, "key": certs.keyFile}
	}
	config := object{
		"version": "0.1",
		// Only at this level does it say which port it got; follow drops the rest of it.
		"log":  object{"level": "info", "accesslog": object{"disabled": true}},
		"http": server,
		"storage": object{
			"filesystem": object{"rootdirectory": content},
			"delete":     object{"enabled": !r.Options.NoDeletes},
		},
	}
	if r.Options.Proxy != "" {
		config["proxy"] = object{"remoteurl": r.Options.Proxy}
	}
	switch r.Options.Auth {
	case Basic:
		passwords, err := r.writePasswords()
		if err != nil {
			return "", err
		}
		config["auth"] = object{"htpasswd": object{"realm": "registrytest", "path": passwords}}
	case Token:
		config["auth"] = object{"token": object{
			"realm": tokens.realm, "service": tokenService, "issuer": tokenIssuer, "rootcertbundle": tokens.rootFile,
		}}
	}
	data, err := yaml.Marshal(config)
	if err != nil {
		return "", err
	}
	path := filepath.Join(r.run, "config.yml")
	return path, os.WriteFile(path, data, 0o600)
}

func (r *Registry) writePasswords() (string, error) {
	// The registry checks it at every request: no tests should wait for a strong hash.
	hash, err := bcrypt.GenerateFromPassword([]byte(r.Password), bcrypt.MinCost)
	if err != nil {
		return "", err
	}
	path := filepath.Join(r.run, "htpasswd")
	return path, os.WriteFile(path, fmt.Appendf(nil, "%s:%s\n", r.Username, hash), 0o600)
}

// process is a running Distribution.
type process struct {
	cmd    *exec.Cmd
	output *outputTail
	bound  chan string   // the address, once
	done   chan struct{} // closed when the process has ended and its output is read
}

func startProcess(bin string, args ...string) (*process, error) {
	cmd := exec.Command(bin, args...)
	// Nothing of ours: REGISTRY_ variables would override the configuration, and Distribution
	// 3 sends traces to a collector unless told not to.
	cmd.Env = []string{"OTEL_TRACES_EXPORTER=none"}
	cmd.SysProcAttr = hack.DieWithParent()
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = writer, writer
	p := &process{cmd: cmd, output: &outputTail{}, bound: make(chan string, 1), done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// Linux counts the thread as the parent, not the process: this one stays until the
		// registry has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		writer.Close()
		started <- err
		if err == nil {
			p.followOutput(reader)
			cmd.Wait()
			close(p.done)
		}
		reader.Close()
	}()
	return p, <-started
}

var listening = regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)

// followOutput reads the output to its end. It keeps warnings and what is worse.
func (p *process) followOutput(r io.Reader) {
	lines := bufio.NewReader(r)
	for found := false; ; {
		line, err := lines.ReadBytes('\n')
		if !bytes.Contains(line, []byte(" level=info ")) {
			p.output.Write(line)
		}
		if match := listening.FindSubmatch(line); match != nil && !found {
			p.bound <- string(match[1])
			found = true
		}
		if err != nil {
			return
		}
	}
}

// awaitAddress waits until the process says where it listens. It takes a port itself, so that no
// other process can have taken a port that was free a moment ago.
func (p *process) awaitAddress(ctx context.Context) (string, error) {
	select {
	case host := <-p.bound:
		return host, nil
	case <-p.done:
		return "", fmt.Errorf("ended before it listened:\n%s", p.output)
	case <-ctx.Done():
		return "", fmt.Errorf("%w before it listened:\n%s", context.Cause(ctx), p.output)
	}
}

func (p *process) killProcess() error {
	err := p.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = fmt.Errorf("%s had ended by itself:\n%s", filepath.Base(p.cmd.Path), p.output)
	}
	<-p.done
	return err
}

// outputTail keeps the last of what is written to it.
type outputTail struct {
	mu   sync.Mutex
	data []byte
}

const tailSize = 32 << 10

func (t *outputTail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if over := len(t.data) - tailSize; over > 0 {
		t.data = bytes.Clone(t.data[over:])
	}
	return len(p), nil
}

func (t *outputTail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.data)
}
