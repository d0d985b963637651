package registrytest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// everything returns each kind in every combination.
func everything() []Options {
	var all []Options
	for kind := Olareg; kind <= Distribution2; kind++ {
		for auth := None; auth <= Token; auth++ {
			for _, tls := range []bool{false, true} {
				o := Options{Kind: kind, Auth: auth, TLS: tls}
				all = append(all, o)
				if o.HasReferrers() {
					o.NoReferrers = true
					all = append(all, o)
				}
			}
		}
	}
	return all
}

func TestRegistries(t *testing.T) {
	for _, o := range everything() {
		t.Run(o.String(), func(t *testing.T) {
			r := StartRegistry(t, o)
			subject := push(t, r, "test/app", nil)
			pull(t, r, "test/app")
			checkReferrers(t, r, "test/app", subject)
			checkRefusals(t, r, "test/app")
			checkDelete(t, r, "test/app", subject)
		})
	}
}

func repository(t *testing.T, r *Registry, name string) *remote.Repository {
	t.Helper()
	repo, err := r.Repository(name)
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

const content = "what the artifact holds"

// push pushes a manifest with one blob, tagged v1 if it has no subject.
func push(t *testing.T, r *Registry, name string, subject *ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	repo := repository(t, r, name)
	blob, err := oras.PushBytes(t.Context(), repo, "text/plain", []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := oras.PackManifest(t.Context(), repo, oras.PackManifestVersion1_1, "application/vnd.example.test", oras.PackManifestOptions{
		Subject:             subject,
		Layers:              []ocispec.Descriptor{blob},
		ManifestAnnotations: map[string]string{ocispec.AnnotationCreated: "2026-01-01T00:00:00Z"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if subject == nil {
		if err := repo.Tag(t.Context(), manifest, "v1"); err != nil {
			t.Fatal(err)
		}
	}
	return manifest
}

func pull(t *testing.T, r *Registry, name string) {
	t.Helper()
	store := memory.New()
	root, err := oras.Copy(t.Context(), repository(t, r, name), "v1", store, "", oras.DefaultCopyOptions)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := store.Fetch(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	var manifest ocispec.Manifest
	if err := json.NewDecoder(reader).Decode(&manifest); err != nil {
		t.Fatal(err)
	}
	if len(manifest.Layers) != 1 || manifest.Layers[0].Digest != digest.FromString(content) {
		t.Errorf("layers %v, want the pushed blob", manifest.Layers)
	}
}

// checkReferrers holds the API to what Options claim, and oras-go's listing, which falls back
// to the tag, to the same answer everywhere.
func checkReferrers(t *testing.T, r *Registry, name string, subject ocispec.Descriptor) {
	t.Helper()
	want := http.StatusNotFound
	if r.Options.HasReferrers() {
		want = http.StatusOK
	}
	if got := get(t, r, "/v2/"+name+"/referrers/"+subject.Digest.String()); got != want {
		t.Errorf("referrers API: status %d, want %d", got, want)
	}

	pushed := push(t, r, name, &subject)
	var found []ocispec.Descriptor
	err := repository(t, r, name).Referrers(t.Context(), subject, "", func(referrers []ocispec.Descriptor) error {
		found = append(found, referrers...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || found[0].Digest != pushed.Digest {
		t.Errorf("referrers %v, want %v", found, pushed.Digest)
	}
}

func get(t *testing.T, r *Registry, path string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := r.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// checkRefusals shows that a wrong password and a missing authority are refused.
func checkRefusals(t *testing.T, r *Registry, name string) {
	t.Helper()
	if r.Options.Auth != None {
		for _, credential := range []auth.Credential{{}, {Username: r.Username, Password: "wrong"}} {
			repo := repository(t, r, name)
			client := r.Client()
			client.Credential = auth.StaticCredential(r.Host, credential)
			repo.Client = client
			if _, err := repo.Resolve(t.Context(), "v1"); err == nil {
				t.Errorf("credential %v was let in", credential)
			}
		}
	}
	if r.Options.TLS {
		repo := repository(t, r, name)
		repo.Client = &auth.Client{Client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
		if _, err := repo.Resolve(t.Context(), "v1"); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("without the authority: %v, want a refused certificate", err)
		}
	}
}

func checkDelete(t *testing.T, r *Registry, name string, manifest ocispec.Descriptor) {
	t.Helper()
	repo := repository(t, r, name)
	if err := repo.Delete(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Resolve(t.Context(), manifest.Digest.String()); err == nil {
		t.Error("the deleted manifest still resolves")
	}
}

// TestTokenScope holds the token check of the kinds in process to what Distribution's does: a
// token is good for what it was asked for.
func TestTokenScope(t *testing.T) {
	for kind := Olareg; kind <= Distribution2; kind++ {
		t.Run(kind.String(), func(t *testing.T) {
			r := StartRegistry(t, Options{Kind: kind, Auth: Token})
			push(t, r, "test/app", nil)
			challenge := ask(t, r, http.MethodGet, "/v2/", "").challenge
			realm, _, _ := strings.Cut(strings.TrimPrefix(challenge, `Bearer realm="`), `"`)
			pull := fetchToken(t, r, realm, "repository:test/app:pull")

			for _, c := range []struct {
				method, path string
				token        string
				status       int
			}{
				{http.MethodGet, "/v2/", "", 401},
				{http.MethodGet, "/v2/", pull, 200},
				{http.MethodGet, "/v2/", pull + "x", 401},
				{http.MethodGet, "/v2/test/app/manifests/v1", pull, 200},
				{http.MethodGet, "/v2/test/app/tags/list", pull, 200},
				{http.MethodGet, "/v2/test/other/manifests/v1", pull, 401},
				{http.MethodPost, "/v2/test/app/blobs/uploads/", pull, 401},
				{http.MethodPost, "/v2/test/app/blobs/uploads/", fetchToken(t, r, realm, "repository:test/app:pull,push"), 202},
				{http.MethodDelete, "/v2/test/app/manifests/v1", pull, 401},
				{http.MethodGet, "/v2/_catalog", pull, 401},
			} {
				got := ask(t, r, c.method, c.path, c.token)
				if got.status != c.status {
					t.Errorf("%s %s: status %d, want %d", c.method, c.path, got.status, c.status)
				}
				if c.token == pull && c.status == 401 && !strings.Contains(got.challenge, "insufficient_scope") {
					t.Errorf("%s %s: challenge %q, want insufficient_scope", c.method, c.path, got.challenge)
				}
			}
		})
	}
}

type answer struct {
	status    int
	challenge string
}

func ask(t *testing.T, r *Registry, method, path, token string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", ocispec.MediaTypeImageManifest)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := r.Transport().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return answer{resp.StatusCode, resp.Header.Get("WWW-Authenticate")}
}

func fetchToken(t *testing.T, r *Registry, realm, scope string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, realm, nil)
	if err != nil {
		t.Fatal(err)
	}
	query := req.URL.Query()
	query.Set("service", tokenService)
	query.Set("scope", scope)
	req.URL.RawQuery = query.Encode()
	req.SetBasicAuth(r.Username, r.Password)
	resp, err := r.Transport().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var issued struct{ Token string }
	if err := json.NewDecoder(resp.Body).Decode(&issued); err != nil {
		t.Fatal(err)
	}
	return issued.Token
}

// TestMiddleware injects a fault and counts, in process and before a process.
func TestMiddleware(t *testing.T) {
	for _, o := range []Options{
		{Kind: Olareg},
		{Kind: GGCR, Auth: Token},
		{Kind: Distribution3, TLS: true, Auth: Basic},
		{Kind: Distribution2, TLS: true, Auth: Token},
	} {
		t.Run(o.String(), func(t *testing.T) {
			var failing atomic.Bool
			o.Record = true
			o.Middleware = func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if failing.Load() {
						panic(http.ErrAbortHandler)
					}
					next.ServeHTTP(w, req)
				})
			}
			r := StartRegistry(t, o)
			if seen := r.Requests(); len(seen) != 0 {
				t.Errorf("%v before the first request", seen)
			}
			push(t, r, "test/app", nil)
			pull(t, r, "test/app")
			failing.Store(true)
			if _, err := repository(t, r, "test/app").Resolve(t.Context(), "v1"); err == nil {
				t.Error("resolved through a cut connection")
			}

			var up, down int64
			for _, seen := range r.Requests() {
				if strings.Contains(seen.Path, "/blobs/") {
					up += seen.Received
					if seen.Method == http.MethodGet && seen.Status == http.StatusOK {
						down += seen.Sent
					}
				}
			}
			// Beside the blob there is the empty config, which is "{}".
			want := int64(len(content) + len("{}"))
			if up != want || down != want {
				t.Errorf("%d bytes of blobs pushed and %d pulled, want %d", up, down, want)
			}
		})
	}
}

// TestFlush shows that a recorded answer still reaches a slow reader piece by piece.
func TestFlush(t *testing.T) {
	release := make(chan struct{})
	r := StartRegistry(t, Options{Record: true, Middleware: func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "first")
			http.NewResponseController(w).Flush()
			<-release
		})
	}})
	defer close(release)
	resp, err := http.Get(r.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, len("first"))); err != nil {
		t.Fatal(err)
	}
}

func TestDir(t *testing.T) {
	for _, kind := range []Kind{Olareg, Distribution3, Distribution2} {
		t.Run(kind.String(), func(t *testing.T) {
			o := Options{Kind: kind, Dir: t.TempDir()}
			first := StartRegistry(t, o)
			push(t, first, "test/app", nil)
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			pull(t, StartRegistry(t, o), "test/app")
		})
	}
}

func TestClose(t *testing.T) {
	for _, o := range AllOptions() {
		t.Run(o.String(), func(t *testing.T) {
			r := StartRegistry(t, o)
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if conn, err := net.Dial("tcp", r.Host); err == nil {
				conn.Close()
				t.Error("still listening")
			}
			if _, err := os.Stat(r.run); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the run folder: %v", err)
			}
			if err := r.Close(); err != nil {
				t.Errorf("closed again: %v", err)
			}
		})
	}
}

func TestRefusedOptions(t *testing.T) {
	for _, o := range []Options{{Kind: -1}, {Kind: 9}, {Auth: 9}, {Kind: GGCR, Dir: t.TempDir()}} {
		if r, err := RunRegistry(t.Context(), o); err == nil {
			r.Close()
			t.Errorf("%+v was accepted", o)
		}
	}
}

// TestBrokenStart shows that a process which does not come up takes its words with it.
func TestBrokenStart(t *testing.T) {
	p, err := startProcess("/bin/sh", "-c", "echo no such luck; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	if host, err := p.awaitAddress(t.Context()); err == nil || !strings.Contains(err.Error(), "no such luck") {
		t.Errorf("%q, %v: want what the process wrote", host, err)
	}
}

func TestTail(t *testing.T) {
	var kept outputTail
	for range 3 {
		kept.Write(bytes.Repeat([]byte("x"), tailSize-1))
	}
	kept.Write([]byte("end"))
	if got := kept.String(); len(got) != tailSize || !strings.HasSuffix(got, "xend") {
		t.Errorf("kept %d bytes", len(got))
	}
}

// TestClients drives real clients with [Registry.Env] alone.
func TestClients(t *testing.T) {
	for _, o := range []Options{
		{Kind: Olareg, Auth: Basic},
		{Kind: Olareg, TLS: true, Auth: Token},
		{Kind: Distribution3, TLS: true, Auth: Token},
		{Kind: Distribution2, Auth: Basic},
	} {
		t.Run(o.String(), func(t *testing.T) {
			r := StartRegistry(t, o)
			want := push(t, r, "test/app", nil).Digest.String()
			env, ref := r.Env(t), r.Host+"/test/app:v1"
			plain := fmt.Sprintf("--plain-http=%t", !o.TLS)
			for name, args := range map[string][]string{
				"oras":   {"resolve", plain, ref},
				"crane":  {"digest", ref},
				"regctl": {"image", "digest", ref},
			} {
				if got := strings.TrimSpace(RunTool(t, env, BuildTool(t, name), args...)); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			RunTool(t, env, BuildTool(t, "crane"), "copy", ref, r.Host+"/test/copy:v1")
			pull(t, r, "test/copy")
		})
	}
}
