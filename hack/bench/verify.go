package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/result"
)

// The runtime to verify: so many bundles with so many images in all.
const (
	verifyBundles = 30
	verifyImages  = 100
)

// benchVerify measures the verification of a whole runtime next to that of as many artifacts by
// cosign, one after the other, by key and on the same registry.
func benchVerify(ctx context.Context, b *bench) (err error) {
	registry, err := registrytest.RunRegistry(ctx, registrytest.Options{Kind: registrytest.Distribution3, Middleware: b.countHandler})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, registry.Close()) }()
	b.host = registry.Host
	if err := b.prepareVerify(); err != nil {
		return err
	}
	bundles := b.share(verifyBundles)
	fmt.Printf("%s, %d cores, %s; a runtime of %d bundles and %d images, distribution 3.1.2 on loopback; medians of %d rounds in turn.\n\n",
		runtime.Version(), runtime.NumCPU(), processorName(), bundles, b.share(verifyImages), b.rounds)
	fmt.Println("| job | program | wall | CPU | peak memory | requests | wall / krtpkg |")
	fmt.Println("|---|---|---|---|---|---|---|")
	reference := b.host + "/krt/edge:1.0.0"
	type program struct {
		name string
		args []string
	}
	programs := []program{
		{"krtpkg verify: signatures, attestations, every byte of the bundles", []string{b.krtpkg, "verify", "-q", "--key", b.filePath("cosign.pub"), reference}},
		{"krtpkg verify --images: the signatures of the images too", []string{b.krtpkg, "verify", "-q", "--policy", b.filePath("trust.yaml"), "--images", reference}},
	}
	for _, name := range []string{"cosign2", "cosign3"} {
		cosign, err := hack.BuildProgram(ctx, "tools/"+name)
		if err != nil {
			return err
		}
		command := fmt.Sprintf("for i in $(seq %d); do %s verify --insecure-ignore-tlog --trusted-root %s --key %s --allow-http-registry %s >/dev/null 2>&1 || exit 1; done",
			bundles, cosign, b.filePath("root.json"), b.filePath("cosign.pub"), reference)
		programs = append(programs, program{fmt.Sprintf("%d times %s verify", bundles, name), []string{"sh", "-c", command}})
	}
	figures := make([]measured, len(programs))
	for round := range b.rounds + 1 {
		for i, p := range programs {
			into := &figures[i]
			if round == 0 {
				into = &measured{}
			}
			if err := b.runOnce(ctx, p.args, into); err != nil {
				return err
			}
		}
	}
	for i, p := range programs {
		printRow("verify", p.name, figures[i], fmt.Sprintf("%.2f", float64(medianOf(figures[i].wall))/float64(medianOf(figures[0].wall))))
	}
	return nil
}

// prepareVerify publishes the runtime, signed, with signed images.
func (b *bench) prepareVerify() error {
	var references, bundles []string
	for i := range b.share(verifyImages) {
		references = append(references, fmt.Sprintf("ghcr.io/bench/app-%02d:1.0", i))
	}
	if err := imagetest.FillLayout(b.filePath("img"), references...); err != nil {
		return err
	}
	files := map[string]string{
		"root.json": `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`,
		"trust.yaml": `{apiVersion: krtpkg.dev/v1alpha1, kind: TrustPolicy, authorities: [{name: us, key: cosign.pub}],
  rules: [{match: ["**"]}], images: [{match: ["ghcr.io/bench/**"]}]}`,
	}
	for n := range b.share(verifyBundles) {
		name := fmt.Sprintf("bundle-%02d", n)
		var manifests strings.Builder
		for i := n; i < len(references); i += b.share(verifyBundles) {
			fmt.Fprintf(&manifests, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: app-%02d}\nspec: {containers: [{name: app, image: %q}]}\n", i, references[i])
		}
		files[name+"/bundle.yaml"] = fmt.Sprintf("{apiVersion: krtpkg.dev/v1alpha1, kind: Bundle, metadata: {name: %s, version: 1.0.0}, spec: {layer: 6, sources: [{file: all.yaml}]}}\n", name)
		files[name+"/all.yaml"] = manifests.String()
		bundles = append(bundles, "{path: "+name+"}")
	}
	files["runtime.yaml"] = "{apiVersion: krtpkg.dev/v1alpha1, kind: Runtime, metadata: {name: edge, version: 1.0.0}, spec: {bundles: [" + strings.Join(bundles, ", ") + "]}}\n"
	for name, text := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(b.filePath(name)), 0o755), os.WriteFile(b.filePath(name), []byte(text), 0o644)); err != nil {
			return err
		}
	}
	reference := b.host + "/krt/edge:1.0.0"
	mirror := "*=oci:" + b.filePath("img")
	for _, args := range [][]string{
		{"keygen", "-q"},
		{"build", "-q", "-f", ".", "--image-mirror", mirror},
		{"push", "-q", "oci:dist:1.0.0", reference, "--image-mirror", mirror},
		{"sign", "-q", "--key", "cosign.key", reference},
	} {
		if err := b.mustRun(b.krtpkg, args...); err != nil {
			return err
		}
	}
	return b.signImages()
}

// signImages signs the images where the runtime is, as upstream does before they are copied.
func (b *bench) signImages() error {
	reference := b.host + "/krt/edge:1.0.0"
	out, err := exec.Command(b.krtpkg, "inspect", "-o", "json", reference).Output()
	if err != nil {
		return err
	}
	var inspected result.Inspect
	if err := json.Unmarshal(out, &inspected); err != nil {
		return fmt.Errorf("decode inspection: %w", err)
	}
	cosign, err := hack.BuildProgram(context.Background(), "tools/cosign3")
	if err != nil {
		return err
	}
	signed := 0
	for _, bundle := range inspected.Bundles {
		for _, locked := range bundle.Images {
			_, digest, _ := strings.Cut(locked.Image, "@")
			image := b.host + "/krt/edge@" + digest
			if err := b.mustRun(cosign, "sign", "--yes", "--key", "cosign.key", "--tlog-upload=false", "--use-signing-config=false", "--allow-http-registry", image); err != nil {
				return err
			}
			signed++
		}
	}
	if want := b.share(verifyImages); signed != want {
		return fmt.Errorf("sign images of %s: inspect lists %d, want %d", reference, signed, want)
	}
	return nil
}

func (b *bench) mustRun(program string, args ...string) error {
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Env = b.dir, append(os.Environ(), "COSIGN_PASSWORD=secret")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", filepath.Base(program), args[0], err, out)
	}
	return nil
}
