package cli_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/internal/signtest"
)

// site is a folder to work in, as a user has one, with stand-ins for images and a key pair.
type site struct {
	t   *testing.T
	dir string
	env []string
	// resident runs commands that nobody sends signals to.
	resident *resident
}

// resident is what [startResident] returned for a site, once a command has run there.
type resident struct {
	starting  sync.Mutex
	client    string
	variables []string
}

// result is what a command left.
type result struct {
	code           int
	stdout, stderr string
}

func newSite(t *testing.T, images ...string) *site {
	t.Helper()
	s := newFolder(t)
	if err := imagetest.FillLayout(s.path("img"), images...); err != nil {
		t.Fatal(err)
	}
	s.makeKeyPair("cosign")
	return s
}

// makeKeyPair writes prefix.key, which has no passphrase, and prefix.pub.
func (s *site) makeKeyPair(prefix string) {
	s.t.Helper()
	if err := writeKeyPair(s.path(prefix)); err != nil {
		s.t.Fatal(err)
	}
}

func writeKeyPair(prefix string) error {
	private, public, err := signtest.GenerateKeyPair()
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(prefix+".key", private, 0o600), os.WriteFile(prefix+".pub", public, 0o644))
}

// newFolder is a site with nothing in it.
func newFolder(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), resident: &resident{}}
	s.env = append(os.Environ(),
		"HOME="+s.dir, "XDG_CACHE_HOME="+s.path("cache"), "XDG_CONFIG_HOME="+s.path("config"),
		"COSIGN_PASSWORD=secret", "KRTPKG_IMAGE_MIRROR=*=oci:"+s.path("img"), "KUBECONFIG="+s.path("no-kubeconfig"))
	return s
}

// copyOnce returns a site that has a copy of what make puts into one. The first test that names it makes it; tests that
// change the copy differently share the rest.
func copyOnce(t *testing.T, name string, make func() *site) *site {
	t.Helper()
	entry, _ := madeOnce.LoadOrStore(name, &madeFolder{})
	made := entry.(*madeFolder)
	made.once.Do(func() { made.files = readFolder(t, make().dir) })
	if made.files == nil {
		t.Fatalf("%s could not be made", name)
	}
	s := newFolder(t)
	if err := os.CopyFS(s.dir, made.files); err != nil {
		t.Fatal(err)
	}
	return s
}

// madeOnce has a *madeFolder for each name.
var madeOnce sync.Map

type madeFolder struct {
	once  sync.Once
	files fs.FS
}

// readFolder reads a folder into memory.
func readFolder(t *testing.T, dir string) fs.FS {
	t.Helper()
	files, root := fstest.MapFS{}, os.DirFS(dir)
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		data, err := fs.ReadFile(root, name)
		files[name] = &fstest.MapFile{Data: data, Mode: info.Mode()}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// write puts files into the folder: name, content, name, content…
func (s *site) write(files ...string) {
	s.t.Helper()
	for i := 0; i < len(files); i += 2 {
		name := s.path(files[i])
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(files[i+1]), 0o644)); err != nil {
			s.t.Fatal(err)
		}
	}
}

// command is krtpkg, ready to start: this very test binary under that name.
func (s *site) command(args ...string) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
	cmd := exec.Command("krtpkg", args...)
	cmd.Dir, cmd.Env = s.dir, s.env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	return cmd, &stdout, &stderr
}

// clientCommand is [site.command] for one that only runs and ends, which does not have to be a process of its own.
func (s *site) clientCommand(args ...string) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
	s.t.Helper()
	cmd, stdout, stderr := s.command(args...)
	s.resident.starting.Lock()
	defer s.resident.starting.Unlock()
	if s.resident.client == "" {
		client, variables, stop, err := startResident(s.env)
		if err != nil {
			s.t.Fatal(err)
		}
		s.resident.client, s.resident.variables = client, variables
		t := s.t // a part of a test may have started it
		t.Cleanup(func() {
			s.resident.starting.Lock()
			defer s.resident.starting.Unlock()
			s.resident.client = ""
			if err := stop(); err != nil {
				t.Logf("end krtpkg-resident: %v", err)
			}
		})
	}
	cmd.Path, cmd.Err, cmd.Env = s.resident.client, nil, slices.Concat(s.env, s.resident.variables)
	return cmd, stdout, stderr
}

func (s *site) run(args ...string) result {
	s.t.Helper()
	cmd, stdout, stderr := s.clientCommand(args...)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	r := result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	if verb := verbOf(args); verb != "" {
		if err := checkResult(verb, stdout.Bytes(), r.code); err != nil {
			s.t.Errorf("krtpkg %s: %v\n%s", strings.Join(args, " "), err, r.stdout)
		}
	}
	return r
}

// timeCommand returns how long a command takes that must succeed, as a process of its own: as long as one that is killed.
func (s *site) timeCommand(args ...string) time.Duration {
	s.t.Helper()
	cmd, _, stderr := s.command(args...)
	began := time.Now()
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("krtpkg %s: %v\n%s", strings.Join(args, " "), err, stderr)
	}
	return time.Since(began)
}

// killAfter starts a command that must succeed, kills it after the delay, and reports whether it was killed before it ended.
func (s *site) killAfter(delay time.Duration, args ...string) bool {
	s.t.Helper()
	cmd, _, stderr := s.command(args...)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	timer := time.AfterFunc(delay, func() { cmd.Process.Kill() }) // it may have ended just before
	defer timer.Stop()
	err := cmd.Wait()
	if err != nil && cmd.ProcessState.ExitCode() >= 0 { // it ended by itself
		s.t.Fatalf("krtpkg %s: %v\n%s", strings.Join(args, " "), err, stderr)
	}
	return err != nil
}

// ok runs a command that must succeed and returns its output.
func (s *site) ok(args ...string) string {
	s.t.Helper()
	r := s.run(args...)
	if r.code != 0 {
		s.t.Fatalf("krtpkg %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// refused runs a command that must end with an exit code and a message.
func (s *site) refused(code int, message string, args ...string) {
	s.t.Helper()
	r := s.run(args...)
	if r.code != code || !strings.Contains(r.stderr, message) {
		s.t.Errorf("krtpkg %s: exit code %d, want %d and a message with %q\n%s%s", strings.Join(args, " "), r.code, code, message, r.stdout, r.stderr)
	}
}

// web is a runtime of two bundles with one image.
var web = []string{
	"runtime.yaml", `
apiVersion: krtpkg.dev/v1alpha1
kind: Runtime
metadata: {name: edge, version: 1.0.0}
spec:
  bundles:
    - path: base
    - path: web
`,
	"base/bundle.yaml", `
apiVersion: krtpkg.dev/v1alpha1
kind: Bundle
metadata: {name: base, version: 1.0.0}
spec:
  layer: 1
  sources:
    - file: base.yaml
`,
	"base/base.yaml", `
apiVersion: v1
kind: Namespace
metadata: {name: web}
`,
	"web/bundle.yaml", `
apiVersion: krtpkg.dev/v1alpha1
kind: Bundle
metadata: {name: web, version: 1.0.0}
spec:
  layer: 6
  requires: [base]
  sources:
    - file: web.yaml
`,
	"web/web.yaml", `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: ghcr.io/example/web:1.0}
`,
}
