package cli_test

import (
	"bytes"
	"encoding/pem"
	"errors"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/bundletest"
	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/internal/sigstoretest"
)

// Every command in the documents runs: a console block's lines behind "$ " are typed one
// after the other in one folder, where a block named by a path (```yaml site.yaml) is a file.
// Two registries and a cluster stand behind the names that the documents use.
func TestDocuments(t *testing.T) {
	t.Parallel()
	root, err := hack.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	documents, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range append(documents, filepath.Join(root, "README.md")) {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		blocks := codeBlock.FindAllStringSubmatch(string(text), -1)
		if len(blocks) == 0 {
			continue
		}
		t.Run(filepath.Base(document), func(t *testing.T) {
			t.Parallel()
			play(t, root, blocks)
		})
	}
}

var codeBlock = regexp.MustCompile("(?ms)^```(\\w+) ?([\\w./-]*)\n(.*?)^```$")

func play(t *testing.T, root string, blocks [][]string) {
	s := newSite(t, "registry.krtpkg.dev/demo/hello:1.0.0", "registry.krtpkg.dev/demo/hello:1.1.0", "ghcr.io/example/web:1.0", "ghcr.io/example/worker:1.0")
	if err := os.Symlink(filepath.Join(root, "bundles"), s.path("bundles")); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"cosign.key", "cosign.pub"} { // the documents make their own
		if err := os.Remove(s.path(key)); err != nil {
			t.Fatal(err)
		}
	}
	var text strings.Builder
	for _, b := range blocks {
		text.WriteString(b[3])
	}
	var names []string
	if strings.Contains(text.String(), ".example/") {
		vendor := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3})
		edge := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg})
		names = []string{"registry.example", vendor.Host, "site.example", edge.Host}
	}
	if strings.Contains(text.String(), "fulcio.example") {
		names = append(names, s.sigstore()...)
	}
	if strings.Contains(text.String(), "site-ca.pem") {
		server := httptest.NewTLSServer(nil)
		server.Close()
		s.write("site-ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	}
	if strings.Contains(text.String(), "hashivault://release") {
		v := startVault(t)
		v.call(t, "POST", "transit/keys/release", `{"type":"ecdsa-p256"}`)
		s.env = append(s.env, "VAULT_ADDR="+v.address, "VAULT_TOKEN="+v.token)
	}
	if strings.Contains(text.String(), "krtpkg apply") {
		cluster := clustertest.Borrow(t)
		s.env = append(s.env, "KUBECONFIG="+cluster.Kubeconfig)
		newWatcher(t, cluster).playLoadBalancer()
	}
	var sources string // of ready bundles, for tests without a network
	if strings.Contains(text.String(), "krtpkg build -f plant") {
		sources = s.readySources()
	}
	for _, tool := range []string{"cosign2", "cosign3", "imgpkg", "oras", "regctl"} {
		if regexp.MustCompile(`(?m)^\$ ` + tool + " ").MatchString(text.String()) {
			s.env = append(s.env, "PATH="+filepath.Dir(registrytest.BuildTool(t, tool))+":"+s.lookup("PATH"))
		}
	}
	hosts := strings.NewReplacer(names...)
	for _, b := range blocks {
		kind, file, content := b[1], b[2], hosts.Replace(b[3])
		switch {
		case kind == "console":
			for line := range strings.Lines(content) {
				if command, ok := strings.CutPrefix(line, "$ "); ok && !strings.HasPrefix(command, "make ") {
					s.typed(command)
					if sources != "" && strings.HasPrefix(command, "krtpkg init plant ") {
						s.vendored("plant", sources)
					}
				}
			}
		case file != "":
			s.write(file, content)
		}
	}
}

// sigstore starts one, and a private PKI, with the names and the files of the documents.
func (s *site) sigstore() []string {
	s.t.Helper()
	f := sigstoretest.StartSigstore(s.t)
	private, public := newPEM(s.t)
	s.write("release.pem", private, "release.crt", string(f.IssueCertificate("release@krt.example", public, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))),
		"ca.pem", string(f.Authorities()), "tsa.pem", string(f.TimestampAuthorities()), "trusted-root.json", string(f.TrustedRoot(sigstoretest.Parts{})))
	s.env = append(s.env, "SIGSTORE_ID_TOKEN="+f.Token("https://ci.example", "release@krt.example"))
	return []string{"https://fulcio.example", f.URL, "https://rekor.example", f.URL, "https://tsa.example/timestamp", f.Timestamp}
}

// readySources returns the ready bundles with their sources from the corpus; their images are stood in
// for.
func (s *site) readySources() string {
	s.t.Helper()
	workspace := bundletest.CopyDefinitions(s.t)
	images := registrytest.StartRegistry(s.t, registrytest.Options{Kind: registrytest.Olareg})
	s.env = append(s.env, bundletest.MirrorsVariable(s.t))
	for _, definition := range []string{"runtimes/edge", "3-cluster-services/networking/antrea"} {
		s.standIn(images.Host, filepath.Join(workspace, definition))
	}
	if err := imagetest.FillRegistry(s.t.Context(), images.Host, "ghcr.io/example/web:1.0"); err != nil {
		s.t.Fatal(err)
	}
	s.env = append(s.env, "KRTPKG_IMAGE_MIRROR=*="+images.Host)
	return workspace
}

// vendored gives the bundles of a runtime their sources from the corpus.
func (s *site) vendored(folder, workspace string) {
	s.t.Helper()
	found, err := filepath.Glob(filepath.Join(s.path(folder), "bundles/*/*/*"))
	if err != nil || len(found) == 0 {
		s.t.Fatalf("no bundles in %s: %v", folder, err)
	}
	for _, bundle := range found {
		rest, err := filepath.Rel(filepath.Join(s.path(folder), "bundles"), bundle)
		if err == nil {
			err = errors.Join(os.RemoveAll(bundle), os.CopyFS(bundle, os.DirFS(filepath.Join(workspace, rest))))
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// lookup returns the last value of a variable in the site's environment.
func (s *site) lookup(name string) (value string) {
	for _, v := range s.env {
		if rest, ok := strings.CutPrefix(v, name+"="); ok {
			value = rest
		}
	}
	return value
}

// typed runs a line in a shell.
func (s *site) typed(line string) {
	s.t.Helper()
	s.t.Logf("$ %s", strings.TrimSpace(line))
	cmd := exec.Command("sh", "-euc", line)
	cmd.Dir, cmd.Env = s.dir, s.env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("$ %s%v\n%s", line, err, out.Bytes())
	}
}
