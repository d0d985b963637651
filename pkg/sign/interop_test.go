package sign_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/pkg/sign"
	"oras.land/oras-go/v2/registry/remote"
)

// registries are what cosign can talk to: with the referrers API and without.
var registries = map[string]func(*testing.T) http.Handler{
	"referrers API": newOlareg,
	"fallback tag":  func(*testing.T) http.Handler { return newRegistry(false) },
}

// cosign is one of the released programs in a home of its own, with no network but the
// loopback.
type cosign struct {
	path, home string
	keys       map[string]string // imported private keys, by kind
}

// cosigns returns the programs that must agree with this package, by major version.
func cosigns(t *testing.T) map[string]cosign {
	t.Helper()
	all := map[string]cosign{}
	for _, name := range []string{"cosign2", "cosign3"} {
		path := hack.BuildForTest(t, "tools/"+name)
		all[name] = cosign{path, t.TempDir(), map[string]string{}}
	}
	return all
}

// run runs cosign with env next to what it needs, and returns all it printed.
func (c cosign) run(ctx context.Context, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.path, args...)
	cmd.Dir = c.home
	cmd.Env = append([]string{
		"HOME=" + c.home,
		"COSIGN_PASSWORD=" + passphrase,
		// Whoever wants the internet is refused at once.
		"HTTPS_PROXY=http://127.0.0.1:1",
		"HTTP_PROXY=http://127.0.0.1:1",
		"NO_PROXY=127.0.0.1",
	}, env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", filepath.Base(c.path), strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func (c cosign) file(t *testing.T, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(c.home, name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// imported returns the private key as cosign can load it: it takes its own encryption only.
func (c cosign) imported(t *testing.T, kind string) string {
	t.Helper()
	if kind == "cosign" {
		return c.file(t, "cosign.key", pairs()[kind].private)
	}
	if path, ok := c.keys[kind]; ok {
		return path
	}
	plain := c.file(t, kind+".pem", pairs()[kind].private)
	if _, err := c.run(t.Context(), nil, "import-key-pair", "--yes", "--key", plain, "--output-key-prefix", kind); err != nil {
		t.Fatal(err)
	}
	c.keys[kind] = filepath.Join(c.home, kind+".key")
	return c.keys[kind]
}

func named(repo *remote.Repository, root ocispec.Descriptor) string {
	return repo.Reference.Registry + "/" + repo.Reference.Repository + "@" + root.Digest.String()
}

// The trusted root that cosign 2.6 wants as soon as it sees a bundle; it may be empty.
const emptyTrustedRoot = `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`

// verifyFlags returns the flags with which cosign verifies what Sign wrote. See the package
// documentation, which has the same table.
func verifyFlags(t *testing.T, c cosign, forms []sign.Form, kind string) []string {
	flags := []string{"verify", "--insecure-ignore-tlog", "--key", c.file(t, kind+".pub", pairs()[kind].public)}
	if filepath.Base(c.path) == "cosign2" && slices.Contains(forms, sign.Bundle) {
		flags = append(flags, "--trusted-root", c.file(t, "trusted-root.json", []byte(emptyTrustedRoot)))
	}
	switch kind {
	case "p384":
		flags = append(flags, "--signature-digest-algorithm", "sha384")
	case "p521":
		flags = append(flags, "--signature-digest-algorithm", "sha512")
	}
	return flags
}

var formSets = [][]sign.Form{{sign.Legacy}, {sign.Bundle}, {sign.Legacy, sign.Bundle}}

func TestCosignVerifiesOurs(t *testing.T) {
	programs := cosigns(t)
	for name, handler := range registries {
		for _, forms := range formSets {
			for program, c := range programs {
				t.Run(fmt.Sprintf("%s/%v/%s", name, forms, program), func(t *testing.T) {
					repo := repository(t, serve(t, handler(t)))
					root := newRoot(t, repo, "edge")
					attach(t, repo, root, sign.SignOptions{
						Signer: signer(t, "cosign"), Forms: forms, Annotations: map[string]string{"stage": "prod"},
					})
					flags := verifyFlags(t, c, forms, "cosign")
					if _, err := c.run(t.Context(), nil, append(flags, "-a", "stage=prod", named(repo, root))...); err != nil {
						t.Error(err)
					}
					if out, err := c.run(t.Context(), nil, append(verifyFlags(t, c, forms, "p256"), named(repo, root))...); err == nil {
						t.Errorf("verified with another key:\n%s", out)
					}
				})
			}
		}
	}
}

func TestCosignVerifiesOurKeys(t *testing.T) {
	for program, c := range cosigns(t) {
		for kind := range pairs() {
			for _, forms := range formSets {
				t.Run(fmt.Sprintf("%s/%s/%v", program, kind, forms), func(t *testing.T) {
					repo := repository(t, serve(t, newOlareg(t)))
					root := newRoot(t, repo, "edge")
					attach(t, repo, root, sign.SignOptions{Signer: signer(t, kind), Forms: forms})
					if _, err := c.run(t.Context(), nil, append(verifyFlags(t, c, forms, kind), named(repo, root))...); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
}

// Why the documentation says that cosign 2.6 needs a trusted root: should this test fail one
// day, the advice can go.
func TestCosign2WantsTrustedRoot(t *testing.T) {
	c := cosigns(t)["cosign2"]
	repo := repository(t, serve(t, newOlareg(t)))
	root := newRoot(t, repo, "edge")
	attach(t, repo, root, sign.SignOptions{Signer: signer(t, "cosign")})
	flags := verifyFlags(t, c, []sign.Form{sign.Legacy}, "cosign")
	for _, more := range [][]string{nil, {"--new-bundle-format=false"}} {
		_, err := c.run(t.Context(), nil, slices.Concat(flags, more, []string{named(repo, root)})...)
		checkError(t, err, "trusted root is required when using new bundle format")
	}
}

type signing struct {
	name, program string
	env, flags    []string
	form          sign.Form
}

// sign signs an image with the private key of a kind.
func (c cosign) sign(t *testing.T, how signing, kind, image string) {
	t.Helper()
	args := slices.Concat([]string{"sign", "--yes", "--key", c.imported(t, kind), "-a", "stage=prod"}, how.flags, []string{image})
	if _, err := c.run(t.Context(), how.env, args...); err != nil {
		t.Fatal(err)
	}
}

// theirs are the ways in which the programs sign without a transparency log.
var theirs = []signing{
	{"legacy", "cosign2", nil, []string{"--tlog-upload=false"}, sign.Legacy},
	{"docker", "cosign2", []string{"COSIGN_DOCKER_MEDIA_TYPES=1"}, []string{"--tlog-upload=false"}, sign.Legacy},
	{"referrer", "cosign2", []string{"COSIGN_EXPERIMENTAL=1"}, []string{"--tlog-upload=false", "--registry-referrers-mode=oci-1-1"}, sign.Referrer},
	{"bundle", "cosign2", nil, []string{"--tlog-upload=false", "--new-bundle-format"}, sign.Bundle},
	{"legacy", "cosign3", nil, []string{"--tlog-upload=false", "--use-signing-config=false", "--new-bundle-format=false"}, sign.Legacy},
	{"referrer", "cosign3", []string{"COSIGN_EXPERIMENTAL=1"}, []string{"--tlog-upload=false", "--use-signing-config=false", "--new-bundle-format=false", "--registry-referrers-mode=oci-1-1"}, sign.Referrer},
	{"bundle", "cosign3", nil, []string{"--tlog-upload=false", "--use-signing-config=false"}, sign.Bundle},
}

func TestVerifyCosigns(t *testing.T) {
	programs := cosigns(t)
	for name, handler := range registries {
		for _, how := range theirs {
			t.Run(fmt.Sprintf("%s/%s %s", name, how.program, how.name), func(t *testing.T) {
				verifyTheirs(t, programs[how.program], how, repository(t, serve(t, handler(t))), "cosign")
			})
		}
	}
}

// cosign signs with Ed25519ph and with SHA-384 where its own verify wants to be told.
func TestVerifyCosignsKeys(t *testing.T) {
	programs := cosigns(t)
	for _, kind := range []string{"p256", "p384", "ed25519", "rsa"} {
		for _, how := range theirs {
			t.Run(fmt.Sprintf("%s/%s %s", kind, how.program, how.name), func(t *testing.T) {
				verifyTheirs(t, programs[how.program], how, repository(t, serve(t, newRegistry(false))), kind)
			})
		}
	}
}

func verifyTheirs(t *testing.T, c cosign, how signing, repo *remote.Repository, kind string) {
	root := newRoot(t, repo, "edge")
	c.sign(t, how, kind, named(repo, root))
	res, err := sign.Verify(t.Context(), repo, root, trust(t, key(t, kind)))
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Verified) != 1 || len(res.Rejected) != 0 || res.Verified[0].Form != how.form {
		t.Fatalf("result %+v, want one in form %s", res, how.form)
	}
	// cosign 2.6 leaves the annotations out of its bundles.
	if got := res.Verified[0].Annotations["stage"]; got != "prod" && (how.program != "cosign2" || how.form != sign.Bundle) {
		t.Errorf("annotation stage is %v, want prod", got)
	}
	_, err = sign.Verify(t.Context(), repo, root, trust(t, key(t, "p521")))
	checkError(t, err, "1 signature, not valid")
}

// Signatures of different makers live together, in either order.
func TestSignBesideCosign(t *testing.T) {
	programs := cosigns(t)
	for _, how := range theirs {
		for _, first := range []string{"ours", "theirs"} {
			t.Run(fmt.Sprintf("%s %s/%s first", how.program, how.name, first), func(t *testing.T) {
				repo := repository(t, serve(t, newRegistry(false)))
				root := newRoot(t, repo, "edge")
				ours := func() { attach(t, repo, root, sign.SignOptions{Signer: signer(t, "ed25519")}) }
				if first == "ours" {
					ours()
				}
				programs[how.program].sign(t, how, "cosign", named(repo, root))
				if first == "theirs" {
					ours()
				}
				res, err := sign.Verify(t.Context(), repo, root, trust(t, key(t, "ed25519"), key(t, "cosign")))
				if err != nil || len(res.Rejected) != 0 {
					t.Fatalf("result %+v, %v", res, err)
				}
				// cosign's OCI 1.1 mode copies what is under the tag: there may be more.
				want := map[string]bool{
					"legacy " + key(t, "ed25519").ID():             true,
					"bundle " + key(t, "ed25519").ID():             true,
					string(how.form) + " " + key(t, "cosign").ID(): true,
				}
				for _, v := range res.Verified {
					delete(want, string(v.Form)+" "+v.KeyID)
				}
				if len(want) > 0 {
					t.Errorf("missing %v in %+v", want, res.Verified)
				}
			})
		}
	}
}

// An attestation by the trusted key is not a signature, though verify of cosign 2.6 and 3.1 takes
// it for one.
func TestAttestationIsNoSignature(t *testing.T) {
	c := cosigns(t)["cosign3"]
	repo := repository(t, serve(t, newOlareg(t)))
	root := newRoot(t, repo, "edge")
	if _, err := c.run(t.Context(), nil, "attest", "--yes", "--key", c.imported(t, "cosign"), "--type", "custom",
		"--predicate", c.file(t, "predicate.json", []byte(`{"built":"yes"}`)),
		"--tlog-upload=false", "--use-signing-config=false", named(repo, root)); err != nil {
		t.Fatal(err)
	}
	_, err := sign.Verify(t.Context(), repo, root, trust(t, key(t, "cosign")))
	checkError(t, err, root.Digest.String()+": no signature found")
}
