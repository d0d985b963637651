// Package gitcredential asks git's credential helpers for logins, by running git itself: its configuration,
// helpers and rules apply as for a clone, except that nobody is prompted.
//
// The zero value of [Helper] is ready to use.
package gitcredential

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"krtpkg.dev/krtpkg/pkg/source"
)

const (
	// timeout limits one call of git.
	timeout = time.Minute
	// grace is how long git's output is waited for after it has ended: a helper may leave a daemon.
	grace = 2 * time.Second
	// maxOutput limits the answer.
	maxOutput = 64 << 10
	// maxChallenges limits what is handed on of what a server says.
	maxChallenges = 8 << 10
)

// Helper implements [source.CredentialHelper] by `git credential`. Without git on the machine it has no logins.
type Helper struct {
	// Env is the environment of git; that of the process if nil.
	Env []string
}

// FindCredential implements [source.CredentialHelper].
func (h *Helper) FindCredential(ctx context.Context, url *url.URL, challenges []string) (*source.Credential, error) {
	request, ok := describeRequest(url, challenges)
	if !ok {
		return nil, nil
	}
	answer, err := h.runGit(ctx, "fill", request)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) || errors.Is(err, exec.ErrNotFound) {
		return nil, nil // no helper has a login, or one refuses
	}
	if err != nil {
		return nil, fmt.Errorf("git credential fill for %s: %w", url.Host, err)
	}
	// The answer leaves the path out where helpers do not hear it, and sections for paths count for what follows, too.
	c := &source.Credential{Raw: "path=" + pathOf(url) + "\n" + answer}
	for line := range strings.Lines(answer) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		switch key {
		case "username":
			c.User = value
		case "password":
			c.Password = value
		}
	}
	if c.Password == "" {
		return nil, nil
	}
	return c, nil
}

// ApproveCredential implements [source.CredentialHelper]: helpers store the login.
func (h *Helper) ApproveCredential(ctx context.Context, c *source.Credential) error {
	return h.tellGit(ctx, "approve", c)
}

// RejectCredential implements [source.CredentialHelper]: helpers forget the login.
func (h *Helper) RejectCredential(ctx context.Context, c *source.Credential) error {
	return h.tellGit(ctx, "reject", c)
}

// tellGit reports on a login. A helper that cannot store or forget it is git's matter.
func (h *Helper) tellGit(ctx context.Context, action string, c *source.Credential) error {
	_, err := h.runGit(ctx, action, c.Raw)
	if exit := (*exec.ExitError)(nil); err == nil || errors.As(err, &exit) {
		return nil
	}
	return fmt.Errorf("git credential %s: %w", action, err)
}

// describeRequest returns the request for the login of a URL (git-credential(1), "INPUT/OUTPUT FORMAT"); ok is
// false for a URL that the format cannot hold.
func describeRequest(url *url.URL, challenges []string) (request string, ok bool) {
	lines := []string{"protocol=" + url.Scheme, "host=" + url.Host, "path=" + pathOf(url)}
	if user := url.User.Username(); user != "" {
		lines = append(lines, "username="+user)
	}
	size := 0
	for _, c := range challenges {
		if size += len(c); size <= maxChallenges {
			lines = append(lines, "wwwauth[]="+c)
		}
	}
	for _, line := range lines {
		if strings.ContainsAny(line, "\n\r\x00") {
			return "", false
		}
	}
	return strings.Join(lines, "\n") + "\n\n", true
}

func pathOf(url *url.URL) string { return strings.Trim(url.Path, "/") }

// runGit runs git credential. What helpers write to stderr is dropped: it may hold the login.
func (h *Helper) runGit(ctx context.Context, action, input string) (string, error) {
	program, err := exec.LookPath("git")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-c", "credential.interactive=false", "credential", action)
	// The configuration of the folder that this runs in does not count, as for a clone: it may be a stranger's.
	cmd.Dir = filepath.VolumeName(os.TempDir()) + string(filepath.Separator)
	cmd.Env = h.quietEnv()
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout = &limitedWriter{&out, maxOutput}
	cmd.WaitDelay = grace
	detach(cmd)
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case errors.Is(err, exec.ErrWaitDelay):
		err = nil
	}
	return out.String(), err
}

// ofRepository are the variables that have git use a repository (git-rev-parse(1), --local-env-vars).
var ofRepository = []string{"GIT_DIR", "GIT_COMMON_DIR", "GIT_WORK_TREE", "GIT_CONFIG"}

// quietEnv returns the environment, in which nothing prompts.
func (h *Helper) quietEnv() []string {
	env := h.Env
	if env == nil {
		env = os.Environ()
	}
	env = slices.DeleteFunc(slices.Clone(env), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(ofRepository, name)
	})
	// An empty GIT_ASKPASS also overrides core.askPass.
	return append(env, "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=", "SSH_ASKPASS=", "GCM_INTERACTIVE=never")
}

// limitedWriter refuses more than its limit.
type limitedWriter struct {
	out  io.Writer
	left int
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, fmt.Errorf("the answer is over the limit of %d bytes", maxOutput)
	}
	return w.out.Write(p)
}
