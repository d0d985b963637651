package cli_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/internal/cli"
	"krtpkg.dev/krtpkg/internal/clustertest"
	_ "krtpkg.dev/krtpkg/internal/firstgc" // as in main
	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/internal/residenttest"
	"krtpkg.dev/krtpkg/internal/sigstoretest"
)

var update = flag.Bool("update", false, "write what commands print into the scripts' golden files")

// The test binary is krtpkg too, for scripts and for tests that send it signals, and sites
// behind an air gap.
func TestMain(m *testing.M) {
	testscript.Main(waiting{m}, map[string]func(){"krtpkg": func() {
		if policy := os.Getenv("KRTPKG_TEST_SYSTEM_POLICY"); policy != "" {
			cli.SetSystemPolicy(policy)
		}
		cli.Main()
	}, "krtpkg-resident": func() { residenttest.Serve(cli.RunArgs) }, "krtpkg-site": runSite, "krtpkg-node": runNode})
}

// Commands that only run and end share a process, unless -processes is set: to start one takes longer than most commands.
var processes = flag.Bool("processes", false, "run each command in a process of its own")

// startResident returns the program to run in place of krtpkg, and variables that it wants. stop ends what was started.
func startResident(env []string) (client string, variables []string, stop func() error, err error) {
	if *processes {
		client, err = exec.LookPath("krtpkg")
		return client, nil, func() error { return nil }, err
	}
	r, err := residenttest.Start(context.Background(), "krtpkg-resident", "krtpkg", env)
	if err != nil {
		return "", nil, nil, err
	}
	return r.Client, r.Env, r.Close, nil
}

// waiting are tests of which many wait for control planes.
type waiting struct{ *testing.M }

// Run implements [testscript.TestingM].
func (m waiting) Run() int { return clustertest.Main(m.M) }

// The scripts are what users type. Those in registries/ run against each kind of registry.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, params("../../testdata/script", nil))
}

func TestScriptsOnRegistries(t *testing.T) {
	t.Parallel()
	for _, options := range registrytest.AllOptions() {
		onRegistry(t, "registries", options)
	}
}

// The main verbs, on a registry with each quirk.
func TestScriptsOnQuirks(t *testing.T) {
	t.Parallel()
	for _, options := range registrytest.QuirkyOptions() {
		onRegistry(t, "quirks", options)
	}
}

// Real clients, on a registry with the referrers API and on one without.
func TestClients(t *testing.T) {
	t.Parallel()
	for _, kind := range []registrytest.Kind{registrytest.Distribution3, registrytest.Olareg} {
		onRegistry(t, "clients", registrytest.Options{Kind: kind})
	}
}

func onRegistry(t *testing.T, scripts string, options registrytest.Options) {
	t.Run(options.String(), func(t *testing.T) {
		t.Parallel()
		registry := registrytest.StartRegistry(t, options)
		p := params("../../testdata/script/"+scripts, func(e *testscript.Env) {
			e.Setenv("REGISTRY", registry.Host)
			e.Setenv("KRTPKG_REGISTRY_CA", registry.CAFile)
			e.Vars = append(e.Vars, registry.Env(t)...)
		})
		p.Condition = func(name string) (bool, error) {
			fixed := slices.Contains(options.Quirks, registrytest.ImmutableTags)
			switch name {
			case "fixed": // tags
				return fixed, nil
			case "limited": // to what one run signs
				return fixed && options.NoReferrers, nil
			case "created": // repositories, before they take anything
				return slices.Contains(options.Quirks, registrytest.RepositoriesFirst), nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		}
		testscript.Run(t, p)
	})
}

func params(dir string, setup func(*testscript.Env)) testscript.Params {
	return testscript.Params{
		Files:               listScripts(dir),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
		Setup: func(e *testscript.Env) error {
			root, err := hack.FindRoot()
			if err != nil {
				return err
			}
			e.Setenv("ROOT", root)
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_CACHE_HOME", filepath.Join(e.WorkDir, ".cache"))
			e.Setenv("XDG_CONFIG_HOME", filepath.Join(e.WorkDir, ".config"))
			e.Setenv("COSIGN_PASSWORD", "secret")
			if setup != nil {
				setup(e)
			}
			client, variables, stop, err := startResident(e.Vars)
			if err != nil {
				return err
			}
			e.Defer(func() {
				if err := stop(); err != nil {
					e.T().Log("end krtpkg-resident:", err)
				}
			})
			e.Vars = append(e.Vars, variables...)
			e.Setenv("PATH", filepath.Dir(client)+string(filepath.ListSeparator)+e.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"images":   images,
			"keypair":  keypair,
			"exits":    exits,
			"registry": registry,
			"tool":     tool,
			"cluster":  cluster,
			"sameobj":  sameObjects,
			"serving":  serving,
			"sigstore": sigstore,
			"json":     jsonResult,
		},
	}
}

// needsProgram finds what can't run with -short: see make quick.
var needsProgram = regexp.MustCompile(`(?m)^(tool|cluster)\b`)

// listScripts returns the scripts in a folder; with -short those that need no other program.
func listScripts(dir string) []string {
	all, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil || len(all) == 0 {
		panic(fmt.Sprintf("no scripts in %s: %v", dir, err))
	}
	return slices.DeleteFunc(all, func(path string) bool {
		text, err := os.ReadFile(path)
		return testing.Short() && err == nil && needsProgram.Match(text)
	})
}

// images DIR REFERENCE...: stand-ins in an OCI layout, for --image-mirror '*=oci:DIR'.
// REFERENCE=OTHER is a tag that has moved: the image that stands in for OTHER; REFERENCE+SIZE
// has layers of that many bytes, and of REFERENCE~SIZE those of two tags differ in a few bytes.
func images(ts *testscript.TestScript, _ bool, args []string) {
	for _, arg := range args[1:] {
		if reference, size, sized := strings.Cut(arg, "~"); sized {
			n, err := strconv.Atoi(size)
			ts.Check(err)
			image, err := imagetest.NewReleaseIndex(reference, n)
			ts.Check(err)
			ts.Check(imagetest.AddToLayout(ts.MkAbs(args[0]), reference, image))
			continue
		}
		if reference, size, sized := strings.Cut(arg, "+"); sized {
			n, err := strconv.Atoi(size)
			ts.Check(err)
			image, err := imagetest.NewSizedIndex(reference, n)
			ts.Check(err)
			ts.Check(imagetest.AddToLayout(ts.MkAbs(args[0]), reference, image))
			continue
		}
		reference, other, moved := strings.Cut(arg, "=")
		if !moved {
			ts.Check(imagetest.FillLayout(ts.MkAbs(args[0]), reference))
			continue
		}
		image, err := imagetest.StandIn(other)
		ts.Check(err)
		ts.Check(imagetest.AddToLayout(ts.MkAbs(args[0]), reference, image))
	}
}

// keypair PREFIX...: writes PREFIX.key and PREFIX.pub for each, as krtpkg keygen does, but without a passphrase: with one
// each signature would take longer than all other commands of a script.
func keypair(ts *testscript.TestScript, _ bool, args []string) {
	for _, prefix := range args {
		ts.Check(writeKeyPair(ts.MkAbs(prefix)))
	}
}

// exits CODE PROGRAM ARGS...: runs a program that must end with an exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	code := 0
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("%s ended with exit code %d, want %d", strings.Join(args[1:], " "), code, want)
	}
}

// registry NAME...: starts a registry with the referrers API for each name and puts its
// host:port into $NAME.
func registry(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		r, err := registrytest.RunRegistry(context.Background(), registrytest.Options{Kind: registrytest.Olareg})
		ts.Check(err)
		ts.Defer(func() { ts.Check(r.Close()) })
		ts.Setenv(name, r.Host)
	}
}

// serving NAME ARGS...: starts krtpkg serve at a free port and puts its host:port into $NAME.
// It ends with the script, interrupted, and has to say so by its exit code.
func serving(ts *testscript.TestScript, _ bool, args []string) {
	cmd := exec.Command("krtpkg", append([]string{"serve", "--listen", "127.0.0.1:0"}, args[1:]...)...)
	cmd.Dir, cmd.Env = ts.MkAbs("."), append(os.Environ(), "HOME="+ts.Getenv("HOME"))
	stderr, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		ts.Check(cmd.Process.Signal(os.Interrupt))
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
			ts.Fatalf("serve: %v", err)
		}
	})
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		ts.Logf("%s", lines.Text())
		if _, address, ok := strings.Cut(lines.Text(), "://"); ok && strings.HasPrefix(lines.Text(), "serving ") {
			ts.Setenv(args[0], address)
			go io.Copy(io.Discard, stderr)
			return
		}
	}
	ts.Fatalf("serve ended: %v", lines.Err())
}

// sigstore: starts one, and sets $SIGSTORE (Fulcio and Rekor), $TIMESTAMP, and $SIGSTORE_ID_TOKEN
// for release@krt.example of https://ci.example; writes trusted-root.json, ca.pem, tsa.pem, and
// pki.crt for the key in pki.key, which it makes.
func sigstore(ts *testscript.TestScript, _ bool, _ []string) {
	s := sigstoretest.StartSigstore(scriptT{ts})
	ts.Setenv("SIGSTORE", s.URL)
	ts.Setenv("TIMESTAMP", s.Timestamp)
	ts.Setenv("SIGSTORE_ID_TOKEN", s.Token("https://ci.example", "release@krt.example"))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	for name, data := range map[string][]byte{
		"trusted-root.json": s.TrustedRoot(sigstoretest.Parts{}), "ca.pem": s.Authorities(), "tsa.pem": s.TimestampAuthorities(),
		"pki.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		"pki.crt": s.IssueCertificate("release@krt.example", key.Public(), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)),
	} {
		ts.Check(os.WriteFile(ts.MkAbs(name), data, 0o600))
	}
}

// scriptT is a script where a test is wanted.
type scriptT struct{ *testscript.TestScript }

func (scriptT) Helper()             {}
func (t scriptT) Fatal(args ...any) { t.Fatalf("%s", fmt.Sprint(args...)) }
func (t scriptT) Cleanup(f func())  { t.Defer(f) }

// tool NAME...: puts real clients on PATH.
func tool(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		path, err := hack.BuildProgram(context.Background(), "tools/"+name)
		ts.Check(err)
		ts.Setenv("PATH", filepath.Dir(path)+string(filepath.ListSeparator)+ts.Getenv("PATH"))
	}
}

// sameobj FILE FILE: both hold the same Kubernetes objects, however they are written and in
// whatever order.
func sameObjects(ts *testscript.TestScript, _ bool, args []string) {
	var texts [2]string
	for i := range texts {
		decoder := yaml.NewDecoder(strings.NewReader(ts.ReadFile(args[i])))
		var objects []string
		for {
			var object any
			err := decoder.Decode(&object)
			if errors.Is(err, io.EOF) {
				break
			}
			ts.Check(err)
			if object != nil {
				text, err := yaml.Marshal(object)
				ts.Check(err)
				objects = append(objects, string(text))
			}
		}
		slices.Sort(objects)
		texts[i] = strings.Join(objects, "---\n")
	}
	if texts[0] != texts[1] || texts[0] == "" {
		ts.Fatalf("%s:\n%s\n%s:\n%s", args[0], texts[0], args[1], texts[1])
	}
}

// cluster: starts a control plane and sets $KUBECONFIG.
func cluster(ts *testscript.TestScript, _ bool, _ []string) {
	c, err := clustertest.Run(context.Background(), ts.MkAbs(".cluster"))
	ts.Check(err)
	ts.Defer(func() { ts.Check(c.Stop()) })
	ts.Setenv("KUBECONFIG", c.Kubeconfig)
}
