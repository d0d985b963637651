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
	"strconv"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry/remote"

	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/internal/kappctrltest"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

// What is in the catalogue.
const (
	catalogueBundles  = 60
	catalogueVersions = 10
)

// benchCatalogue measures a PackageRepository of many versions next to one of a single version, in the real
// kapp-controller: how large it is, how long it takes until its packages are listed, and what the API
// server takes in memory. Each has a control plane of its own.
func benchCatalogue(ctx context.Context, b *bench) (err error) {
	vendor, err := registrytest.RunRegistry(ctx, registrytest.Options{Kind: registrytest.Distribution3, Middleware: b.countHandler})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, vendor.Close()) }()
	repository := vendor.Host + "/krt/all"
	versions, err := b.prepareCatalogue(repository)
	if err != nil {
		return err
	}
	fmt.Printf("%s, %d cores, %s; kapp-controller 0.51 next to a control plane of its own, distribution 3.1.2 on loopback.\n\n", runtime.Version(), runtime.NumCPU(), processorName())
	fmt.Println("| packages | layer | requests of krtpkg | until all are listed | API server before | after |")
	fmt.Println("|---|---|---|---|---|---|")
	for _, some := range [][]string{versions[:1], versions} {
		if err := b.listCatalogue(ctx, repository, some); err != nil {
			return err
		}
	}
	return nil
}

// listCatalogue makes a catalogue of versions and has a cluster list it.
func (b *bench) listCatalogue(ctx context.Context, repository string, versions []string) (err error) {
	before := b.requests.Load()
	args := []string{"packages", "repo", "-q", "--key", b.filePath("cosign.pub"), "--tag", "packages-" + strconv.Itoa(len(versions))}
	for _, version := range versions {
		args = append(args, repository+":"+version)
	}
	manifests, err := exec.CommandContext(ctx, b.krtpkg, args...).Output()
	if err != nil {
		return fmt.Errorf("packages repo: %w", err)
	}
	requests := b.requests.Load() - before
	size, err := layerSize(ctx, repository, "packages-"+strconv.Itoa(len(versions)))
	if err != nil {
		return err
	}
	dir := b.filePath("control-" + strconv.Itoa(len(versions)))
	control, err := clustertest.Run(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, control.Stop()) }()
	home := b.filePath("controller-" + strconv.Itoa(len(versions)))
	if err := os.Mkdir(home, 0o700); err != nil {
		return err
	}
	controller, err := kappctrltest.Run(ctx, control, home)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(controller.Stop(), err) }()
	was, err := residentMemory(dir)
	if err != nil {
		return err
	}
	began := time.Now()
	// kapp waits for the repository to be reconciled.
	if err := control.Deploy(ctx, "catalogue", string(manifests)); err != nil {
		return err
	}
	took := time.Since(began)
	is, err := residentMemory(dir)
	if err != nil {
		return err
	}
	fmt.Printf("| %d by %d | %.0f kB | %d | %.1f s | %d MiB | %d MiB |\n", catalogueBundles, len(versions), float64(size)/1e3, requests, took.Seconds(), was>>10, is>>10)
	return nil
}

// layerSize returns that of the one layer of what a tag names, in bytes.
func layerSize(ctx context.Context, repository, tag string) (int64, error) {
	store, err := remote.NewRepository(repository)
	if err != nil {
		return 0, err
	}
	store.PlainHTTP = true
	_, data, err := oras.FetchBytes(ctx, store, tag, oras.DefaultFetchBytesOptions)
	if err != nil {
		return 0, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return 0, err
	}
	return m.Layers[0].Size, nil
}

// residentMemory returns that of the API server, in KiB.
func residentMemory(cluster string) (int64, error) {
	pid, err := os.ReadFile(filepath.Join(cluster, "pids", "kube-apiserver"))
	if err != nil {
		return 0, err
	}
	status, err := os.ReadFile("/proc/" + string(pid) + "/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, is := strings.CutPrefix(line, "VmRSS:"); is {
			return strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		}
	}
	return 0, errors.New("no VmRSS")
}

// prepareCatalogue builds, pushes and signs the versions, the oldest first.
func (b *bench) prepareCatalogue(repository string) (versions []string, err error) {
	const image = "ghcr.io/bench/app:1.0"
	if err := imagetest.FillLayout(b.filePath("img"), image); err != nil {
		return nil, err
	}
	if err := b.mustRun(b.krtpkg, "keygen", "-q"); err != nil {
		return nil, err
	}
	for v := range catalogueVersions {
		version := fmt.Sprintf("1.%d.0", v)
		var bundles []string
		files := map[string]string{}
		for n := range catalogueBundles {
			name := fmt.Sprintf("bundle-%02d", n)
			files[name+"/config/app.yaml"] = fmt.Sprintf("#@ load(\"@ytt:data\", \"data\")\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: %[1]s, annotations: {version: %[3]q}}\nspec:\n  replicas: #@ data.values.replicas\n  selector: {matchLabels: {app: %[1]s}}\n  template:\n    metadata: {labels: {app: %[1]s}}\n    spec: {containers: [{name: app, image: %[2]q}]}\n", name, image, version)
			files[name+"/config/schema.yaml"] = "#@data/values-schema\n---\n#@schema/desc \"how many pods\"\nreplicas: 1\n#@schema/desc \"where it is reached\"\nhost: app.example\n"
			files[name+"/bundle.yaml"] = fmt.Sprintf("{apiVersion: krtpkg.dev/v1alpha1, kind: Bundle, metadata: {name: %s, version: %s, description: One of many applications, licenses: Apache-2.0}, spec: {layer: %d, sources: [{dir: config, template: ytt}]}}\n", name, version, 1+n/10)
			bundles = append(bundles, "{path: "+name+"}")
		}
		files["runtime.yaml"] = "{apiVersion: krtpkg.dev/v1alpha1, kind: Runtime, metadata: {name: all, version: " + version + "}, spec: {bundles: [" + strings.Join(bundles, ", ") + "]}}\n"
		for name, text := range files {
			at := b.filePath("def-" + version + "/" + name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(text), 0o644)); err != nil {
				return nil, err
			}
		}
		for _, args := range [][]string{
			{"build", "-q", "-f", "def-" + version, "--image-mirror", "*=oci:" + b.filePath("img")},
			{"push", "-q", "oci:dist:" + version, repository + ":" + version, "--image-mirror", "*=oci:" + b.filePath("img")},
			{"sign", "-q", "--key", "cosign.key", "--no-attestations", repository + ":" + version},
		} {
			if err := b.mustRun(b.krtpkg, args...); err != nil {
				return nil, err
			}
		}
		versions = append(versions, version)
	}
	return versions, nil
}
