package registry

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

func newClient(t *testing.T, o Options) *Client {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// roundTrip writes to a repository and reads back.
func roundTrip(ctx context.Context, c *Client, repository string) error {
	repo, err := c.Repository(ctx, repository)
	if err != nil {
		return err
	}
	data := []byte("content")
	desc := content.NewDescriptorFromBytes("text/plain", data)
	if err := repo.Push(ctx, desc, bytes.NewReader(data)); err != nil {
		return err
	}
	_, err = content.FetchAll(ctx, repo, desc)
	return err
}

func TestMirrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, image, want string
		mirrors           []string
	}{
		{"none", "quay.io/a/b:1", "quay.io/a/b", nil},
		{"a registry", "quay.io/a/b:1", "mirror.example/a/b", []string{"quay.io=mirror.example"}},
		{"a registry with a path", "quay.io/a/b:1", "mirror.example/quay/a/b", []string{"quay.io=mirror.example/quay"}},
		{"slashes at the end", "quay.io/a/b:1", "mirror.example/a/b", []string{"quay.io/=mirror.example/"}},
		{"a port", "quay.io:443/a:1", "mirror.example:5000/a", []string{"quay.io:443=mirror.example:5000"}},
		{"another port is another registry", "quay.io:443/a:1", "quay.io:443/a", []string{"quay.io=mirror.example"}},
		{"a whole repository", "quay.io/a/b:1", "mirror.example/b", []string{"quay.io/a/b=mirror.example/b"}},
		{"not within a part of the path", "quay.io/ab/c:1", "quay.io/ab/c", []string{"quay.io/a=mirror.example"}},
		{"not within the host", "quay.io.example/a:1", "quay.io.example/a", []string{"quay.io=mirror.example"}},
		{"the longest prefix", "quay.io/a/b:1", "second.example/b", []string{"quay.io=first.example", "quay.io/a=second.example", "*=third.example"}},
		{"in any order", "quay.io/a/b:1", "second.example/b", []string{"*=third.example", "quay.io/a=second.example", "quay.io=first.example"}},
		{"the first of two for one prefix", "quay.io/a:1", "first.example/a", []string{"quay.io=first.example", "quay.io=second.example"}},
		{"everything", "quay.io/a:1", "mirror.example/all/quay.io/a", []string{"*=mirror.example/all"}},
		{"everything, of Docker Hub", "nginx:1", "mirror.example/docker.io/library/nginx", []string{"*=mirror.example"}},
		{"everything else", "ghcr.io/a:1", "other.example/ghcr.io/a", []string{"*=other.example", "quay.io=mirror.example"}},
		{"the first of two for everything", "quay.io/a:1", "first.example/quay.io/a", []string{"*=first.example", "*=second.example"}},
		{"a short name", "nginx", "mirror.example/library/nginx", []string{"docker.io=mirror.example"}},
		{"Docker Hub by its name", "docker.io/a/b:1", "mirror.example/b", []string{"docker.io/a=mirror.example"}},
		{"Docker Hub by its other name", "docker.io/a/b:1", "mirror.example/b", []string{"index.docker.io/a=mirror.example"}},
		{"both names, the longest", "docker.io/a/b:1", "second.example/b", []string{"index.docker.io=first.example", "docker.io/a=second.example"}},
		{"no other docker.io", "docker.io.example/a:1", "docker.io.example/a", []string{"docker.io=mirror.example"}},
		{"by digest", "quay.io/a@sha256:" + strings.Repeat("0", 64), "mirror.example/a", []string{"quay.io=mirror.example"}},
		{"a layout", "quay.io/a/b:1", "oci:/media/images", []string{"quay.io=oci:/media/images"}},
		{"everything, of a port", "quay.io:443/a:1", "mirror.example/all/quay.io_443/a", []string{"*=mirror.example/all"}},
		{"everything but one registry", "quay.io:443/a:1", "quay.io:443/a", []string{"*=mirror.example/all", "quay.io:443=quay.io:443"}},
		{"a layout for everything", "quay.io/a/b:1", "oci:images", []string{"*=oci:images/"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var o Options
			for _, text := range c.mirrors {
				m, err := ParseMirror(text)
				if err != nil {
					t.Fatal(err)
				}
				o.Mirrors = append(o.Mirrors, m)
			}
			ref, err := name.ParseReference(c.image)
			if err != nil {
				t.Fatal(err)
			}
			if got := newClient(t, o).mirrorName(ref); got != c.want {
				t.Errorf("%s comes from %s, want %s", c.image, got, c.want)
			}
		})
	}
	for _, text := range []string{"", "quay.io", "=mirror.example", "quay.io=", "quay.io=/", "/=mirror.example", "*=oci:"} {
		if m, err := ParseMirror(text); err == nil || !strings.Contains(err.Error(), "want PREFIX=REPLACEMENT") {
			t.Errorf("%q is %+v, error %v", text, m, err)
		}
	}
}

// Images come from a layout by their whole reference or by digest, and from a registry by
// what they are called there.
func TestOrigin(t *testing.T) {
	t.Parallel()
	const image = "quay.io/example/web:1.0"
	dir := t.TempDir()
	if err := imagetest.FillLayout(filepath.Join(dir, "images"), image); err != nil {
		t.Fatal(err)
	}
	r := registrytest.StartRegistry(t, registrytest.Options{})
	if err := imagetest.FillRegistry(t.Context(), r.Host+"/mirror", image); err != nil {
		t.Fatal(err)
	}
	for _, replacement := range []string{"oci:" + filepath.Join(dir, "images"), r.Host + "/mirror"} {
		c := newClient(t, Options{Mirrors: []Mirror{{"*", replacement}}})
		byTag, err := c.Resolve(t.Context(), mustParse(t, image))
		if err != nil {
			t.Fatal(err)
		}
		byDigest, err := c.Resolve(t.Context(), mustParse(t, "quay.io/example/web@"+byTag.Digest.String()))
		if err != nil || byDigest.Digest != byTag.Digest {
			t.Errorf("%s: %s by tag, %s by digest, error %v", replacement, byTag.Digest, byDigest.Digest, err)
		}
		if _, err := c.Resolve(t.Context(), mustParse(t, "quay.io/example/web:2.0")); err == nil || !strings.Contains(err.Error(), "not found") {
			t.Errorf("%s: an image that is not there: %v", replacement, err)
		}
	}
	// A mirror of all has Docker Hub's images by the name that people use, as preserved paths have them, or by the full one.
	if err := imagetest.FillRegistry(t.Context(), r.Host+"/full", "docker.io/library/web:1.0"); err != nil {
		t.Fatal(err)
	}
	full := newClient(t, Options{Mirrors: []Mirror{{"*", r.Host + "/full"}}})
	if _, err := full.Resolve(t.Context(), mustParse(t, "web:1.0")); err != nil {
		t.Errorf("by the full name: %v", err)
	}
	if _, err := full.Resolve(t.Context(), mustParse(t, "web:2.0")); err == nil || !strings.Contains(err.Error(), "/docker.io/library/web") {
		t.Errorf("an image of Docker Hub that is not there: %v", err)
	}
	c := newClient(t, Options{Mirrors: []Mirror{{"*", "oci:" + filepath.Join(dir, "nowhere")}}})
	if _, err := c.Resolve(t.Context(), mustParse(t, image)); err == nil || !strings.Contains(err.Error(), "nowhere is not an OCI layout") {
		t.Errorf("a layout that is not there: %v", err)
	}
}

func mustParse(t *testing.T, image string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(image)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func TestLoopback(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1": true, "127.0.0.1:5000": true, "127.1.2.3:1": true,
		"[::1]": true, "[::1]:5000": true,
		"registry.example": false, "registry.example:5000": false, "10.0.0.1:5000": false, "[2001:db8::1]:5000": false,
		"localhost.example": false, "127.0.0.1.example:5000": false, "0.0.0.0:5000": false, "": false,
	} {
		if got := isLoopback(address); got != want {
			t.Errorf("%q: %v", address, got)
		}
	}
}

// Plain HTTP is spoken on loopback to who speaks nothing else, elsewhere when asked.
func TestPlainHTTP(t *testing.T) {
	t.Parallel()
	plain := registrytest.StartRegistry(t, registrytest.Options{})
	if err := roundTrip(t.Context(), newClient(t, Options{}), plain.Host+"/krt/edge"); err != nil {
		t.Error(err)
	}
	secure := registrytest.StartRegistry(t, registrytest.Options{TLS: true})
	err := roundTrip(t.Context(), newClient(t, Options{}), secure.Host+"/krt/edge")
	var certificate *tls.CertificateVerificationError
	if !errors.As(err, &certificate) || !strings.Contains(err.Error(), secure.Host) {
		t.Errorf("TLS on loopback under an unknown authority: %v", err)
	}
	for _, asked := range []bool{false, true} {
		repo, err := newClient(t, Options{PlainHTTP: asked}).Repository(t.Context(), "registry.example:5000/krt/edge")
		if err != nil || repo.PlainHTTP != asked {
			t.Errorf("elsewhere: plain HTTP is %v, want %v; error %v", repo.PlainHTTP, asked, err)
		}
	}
}

// What was asked in vain, since the caller went away, is asked again.
func TestCancelledProbe(t *testing.T) {
	t.Parallel()
	r := registrytest.StartRegistry(t, registrytest.Options{})
	c := newClient(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Repository(ctx, r.Host+"/krt/edge"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := roundTrip(t.Context(), c, r.Host+"/krt/edge"); err != nil {
		t.Error(err)
	}
}

func TestAuthorities(t *testing.T) {
	t.Parallel()
	r := registrytest.StartRegistry(t, registrytest.Options{TLS: true})
	for name, o := range map[string]Options{
		"CA file": {CAFile: r.CAFile}, "any certificate": {InsecureSkipTLSVerify: true},
	} {
		if err := roundTrip(t.Context(), newClient(t, o), r.Host+"/krt/edge"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{empty, filepath.Join(t.TempDir(), "nowhere.pem")} {
		if _, err := New(Options{CAFile: file}); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// certs.d holds authorities and client certificates for one registry.
func TestCertsD(t *testing.T) {
	cert, key := clientCertificate(t)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(`{"name":"krt/edge","tags":["1.0.0"]}`))
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	server.StartTLS()
	t.Cleanup(server.Close)
	host := server.Listener.Addr().String()
	list := func() error {
		repo, err := newClient(t, Options{}).Repository(t.Context(), host+"/krt/edge")
		if err != nil {
			return err
		}
		return repo.Tags(t.Context(), "", func([]string) error { return nil })
	}

	config := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", config)
	dir := filepath.Join(config, "containers", "certs.d", host)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var unknown *tls.CertificateVerificationError
	if err := list(); !errors.As(err, &unknown) {
		t.Errorf("without an authority: %v", err)
	}
	put("ca.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	if err := list(); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a client certificate: %v", err)
	}
	put("client.cert", cert)
	if err := list(); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "client.cert")) {
		t.Errorf("without its key: %v", err)
	}
	put("client.key", key)
	if err := list(); err != nil {
		t.Error(err)
	}
	put("ca.crt", []byte("nothing"))
	if err := list(); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "ca.crt")) {
		t.Errorf("with a bad authority: %v", err)
	}
}

func clientCertificate(t *testing.T) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// Credentials are docker's; without them, and with wrong ones, the error comes at once.
func TestCredentials(t *testing.T) {
	for _, how := range []registrytest.Auth{registrytest.Basic, registrytest.Token} {
		t.Run(how.String(), func(t *testing.T) {
			r := registrytest.StartRegistry(t, registrytest.Options{TLS: true, Auth: how, Record: true})
			try := func(config string) error {
				t.Setenv("DOCKER_CONFIG", config)
				return roundTrip(t.Context(), newClient(t, Options{CAFile: r.CAFile}), r.Host+"/krt/edge")
			}
			if err := try(r.DockerConfig(t)); err != nil {
				t.Error(err)
			}
			if err := try(helperConfig(t, r.Host, `{"Username":"`+r.Username+`","Secret":"`+r.Password+`"}`)); err != nil {
				t.Errorf("by a helper: %v", err)
			}
			for name, config := range map[string]string{
				"none":  t.TempDir(),
				"wrong": helperConfig(t, r.Host, `{"Username":"mallory","Secret":"wrong"}`),
			} {
				before := len(r.Requests())
				err := try(config)
				var response *errcode.ErrorResponse
				refused := errors.As(err, &response) && response.StatusCode == http.StatusUnauthorized
				if !refused && !errors.Is(err, auth.ErrBasicCredentialNotFound) || !strings.Contains(err.Error(), r.Host) {
					t.Errorf("%s: %v", name, err)
				}
				if n := len(r.Requests()) - before; n > 3 {
					t.Errorf("%s: %d requests", name, n)
				}
			}
			if err := try(helperConfig(t, r.Host, "")); err == nil || !strings.Contains(err.Error(), "credentials for "+r.Host) {
				t.Errorf("by a helper that fails: %v", err)
			}
		})
	}
}

// helperConfig makes a docker config with a credential helper that answers a text, or fails
// if there is none.
func helperConfig(t *testing.T, host, answer string) string {
	t.Helper()
	dir := t.TempDir()
	script := "#!/bin/sh\ncat >/dev/null\necho '" + answer + "'\n"
	if answer == "" {
		script = "#!/bin/sh\ncat >/dev/null\nexit 1\n"
	}
	err := errors.Join(
		os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(script), 0o755),
		os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"credHelpers":{"`+host+`":"test"}}`), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
	return dir
}

func TestUserAgent(t *testing.T) {
	t.Parallel()
	agents := make(chan string, 100)
	r := registrytest.StartRegistry(t, registrytest.Options{Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			agents <- r.UserAgent()
			next.ServeHTTP(w, r)
		})
	}})
	if err := roundTrip(t.Context(), newClient(t, Options{UserAgent: "krtpkg/1.0"}), r.Host+"/krt/edge"); err != nil {
		t.Fatal(err)
	}
	if agent := <-agents; agent != "krtpkg/1.0" {
		t.Errorf("user agent %q", agent)
	}
}

func TestNoRepository(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "registry.example", "registry.example/Upper", "registry.example/../other"} {
		if _, err := newClient(t, Options{}).Repository(t.Context(), name); err == nil || !strings.Contains(err.Error(), "is not a repository") {
			t.Errorf("%q: %v", name, err)
		}
	}
}
