package transfer_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/internal/signtest"
	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// release signs a root and attests three things of it, as one run of the sign command does.
func release(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) (*sign.Signer, error) {
	t.Helper()
	signer := signtest.NewSigner(t)
	options := sign.SignOptions{Signer: signer}
	var statements []sign.Statement
	for _, name := range []string{"a", "b", "c"} {
		statements = append(statements, sign.Statement{Type: "https://krt.example/" + name, Predicate: json.RawMessage(`{}`)})
	}
	return signer, sign.GatherReferrers(t.Context(), store, func(ctx context.Context) error {
		if _, err := sign.Sign(ctx, store, root, options); err != nil {
			return err
		}
		_, err := sign.Attest(ctx, store, root, statements, options)
		return err
	})
}

// A runtime is copied to a registry with each quirk, signed there, copied on, and read back.
func TestQuirks(t *testing.T) {
	t.Parallel()
	for _, o := range registrytest.QuirkyOptions() {
		t.Run(o.String(), func(t *testing.T) {
			t.Parallel()
			r := registrytest.StartRegistry(t, o)
			login, err := os.ReadFile(filepath.Join(r.DockerConfig(t), "config.json"))
			if err != nil {
				t.Fatal(err)
			}
			client, err := registry.New(registry.Options{Logins: [][]byte{login}})
			if err != nil {
				t.Fatal(err)
			}
			repository := func(name string) oras.GraphTarget {
				repo, err := client.Repository(t.Context(), r.Host+"/created/"+name)
				if err != nil {
					t.Fatal(err)
				}
				return repo
			}
			w := newWorld(t)
			root := w.runtime(w.bundle("first", w.index(w.image("base", "amd64"), w.image("base", "arm64"))), w.bundle("second", w.image("base", "more")))
			signer, err := release(t, w.dist, root)
			if err != nil {
				t.Fatal(err)
			}
			first, second, back := repository("first"), repository("second"), newLayout(t)
			w.mustCopy(root, first)
			if _, err := copyFrom(t, first, root, second); err != nil {
				t.Fatal(err)
			}
			if report, err := copyFrom(t, first, root, second); err != nil || report.Copied > 0 {
				t.Errorf("once more: %+v, error %v", report, err)
			}
			if _, err := copyFrom(t, second, root, back); err != nil {
				t.Fatal(err)
			}
			equal(t, contentOf(t, back, root), contentOf(t, second, root))
			result, err := sign.Verify(t.Context(), back, root, sign.Policy{Authorities: []sign.Authority{{Key: signer.Key()}}})
			if err != nil || len(result.Verified) != 2 || len(result.Attestations) != 6 {
				t.Errorf("%+v, error %v", result, err)
			}

			// What is signed at the registry itself, in one run.
			plain := w.bundle("third", w.image("base", "other"))
			third := repository("third")
			w.mustCopy(plain, third)
			_, err = release(t, third, plain)
			if fixed := o.NoReferrers && len(o.Quirks) > 0; fixed != (err != nil) || err != nil && !strings.Contains(err.Error(), "refuses to move tag sha256-") {
				t.Errorf("sign: %v", err)
			}
		})
	}
}
