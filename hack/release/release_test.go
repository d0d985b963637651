package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// TestReleaseIsReproducible builds releases of the demo's program, which compiles in a moment, in two folders.
func TestReleaseIsReproducible(t *testing.T) {
	root, err := hack.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(root)
	private, _, err := sign.GenerateKeyPair([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("COSIGN_PASSWORD", "secret")
	dir := t.TempDir()
	key := filepath.Join(dir, "cosign.key")
	if err := os.WriteFile(key, private, 0o600); err != nil {
		t.Fatal(err)
	}
	var sums [2]string
	settings := filepath.Join(dir, "goenv")
	if err := os.WriteFile(settings, []byte("GOFLAGS=-gcflags=-N\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"first", "a longer path/second"} {
		if i == 1 {
			t.Setenv("GOENV", settings) // a user's, which must not count
		}
		r := release{
			version: "1.2.3", program: "./hack/demo/hello", variable: "main.version", dir: filepath.Join(dir, name), key: key,
			platforms: []string{"linux/amd64", "linux/arm64", "darwin/arm64", "windows/amd64"},
		}
		if err := r.build(t.Context()); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(r.dir, "SHA256SUMS"))
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = string(data) + imageDigest(t, r.imageDir())
		checkRelease(t, r)
	}
	if sums[0] != sums[1] {
		t.Errorf("two releases of one commit differ:\n%s\n%s", sums[0], sums[1])
	}
	for _, file := range []string{"hello-1.2.3-linux-amd64", "hello-1.2.3-windows-amd64.exe", "hello-1.2.3-cyclonedx.json"} {
		if !strings.Contains(sums[0], "  "+file+"\n") {
			t.Errorf("no checksum of %s:\n%s", file, sums[0])
		}
	}
	again := release{version: "1.2.3", dir: filepath.Join(dir, "first")}
	if err := again.build(t.Context()); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("wrote over a release: %v", err)
	}
	t.Run("clients", func(t *testing.T) { checkLoaded(t, filepath.Join(dir, "first", "image")) })
}

func checkRelease(t *testing.T, r release) {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), "sha256sum", "-c", "SHA256SUMS")
	cmd.Dir = r.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("sha256sum -c: %v\n%s", err, out)
	}
	index, err := layout.ImageIndexFromPath(r.imageDir())
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	tags := map[string]bool{}
	for _, m := range manifest.Manifests {
		tags[m.Annotations["org.opencontainers.image.ref.name"]] = true
	}
	signature := strings.Replace(imageDigest(t, r.imageDir()), ":", "-", 1)
	if !tags["1.2.3"] || !tags[signature+".sig"] || !tags[signature+".att"] {
		t.Errorf("tags %v, want the version, its signature and its attestation", tags)
	}
	program, err := os.ReadFile(filepath.Join(r.dir, "hello-1.2.3-linux-amd64"))
	if err != nil || !bytes.Contains(program, []byte("1.2.3")) {
		t.Errorf("the program does not hold its version: %v", err)
	}
}

// checkLoaded has real clients bring the image to a registry and take it from there, for both platforms.
func checkLoaded(t *testing.T, dir string) {
	t.Helper()
	registry := registrytest.StartRegistry(t, registrytest.Options{})
	at := registry.Host + "/hello:1.2.3"
	registrytest.RunTool(t, nil, registrytest.BuildTool(t, "oras"), "cp", "--from-oci-layout", dir+":1.2.3", "--to-plain-http", at)
	crane := registrytest.BuildTool(t, "crane")
	for _, arch := range []string{"amd64", "arm64"} {
		platform := "linux/" + arch
		var config v1.ConfigFile
		text := registrytest.RunTool(t, nil, crane, "config", "--insecure", "--platform", platform, at)
		if err := json.Unmarshal([]byte(text), &config); err != nil {
			t.Fatal(err)
		}
		c := config.Config
		if config.OS != "linux" || config.Architecture != arch || !slices.Equal(c.Entrypoint, []string{"/usr/local/bin/hello"}) || len(c.Cmd) > 0 ||
			c.User != "65532:65532" || c.Labels["org.opencontainers.image.version"] != "1.2.3" || c.Labels["org.opencontainers.image.title"] != "hello" {
			t.Errorf("%s: %s", platform, text)
		}
		modes := map[string]int64{}
		files := tar.NewReader(strings.NewReader(registrytest.RunTool(t, nil, crane, "export", "--insecure", "--platform", platform, at, "-")))
		for {
			header, err := files.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			modes[strings.TrimSuffix(header.Name, "/")] = header.Mode
			data, err := io.ReadAll(files)
			if err != nil {
				t.Fatal(err)
			}
			wrong := header.Uid != 0 || header.Gid != 0
			switch header.Name {
			case "usr/local/bin/hello":
				wrong = wrong || !bytes.Contains(data, []byte("1.2.3"))
			case "etc/ssl/certs/ca-certificates.crt":
				wrong = wrong || !x509.NewCertPool().AppendCertsFromPEM(data)
			}
			if wrong {
				t.Errorf("%s: %s is of %d:%d, with %d bytes", platform, header.Name, header.Uid, header.Gid, len(data))
			}
		}
		for name, mode := range map[string]int64{"usr/local/bin/hello": 0o755, "etc/ssl/certs/ca-certificates.crt": 0o644, "tmp": 0o1777} {
			if modes[name] != mode {
				t.Errorf("%s: %s has mode %o of %v", platform, name, modes[name], modes)
			}
		}
	}
}

func imageDigest(t *testing.T, dir string) string {
	t.Helper()
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range manifest.Manifests {
		if m.Annotations["org.opencontainers.image.ref.name"] == "1.2.3" {
			return m.Digest.String()
		}
	}
	t.Fatal("no image")
	return ""
}
