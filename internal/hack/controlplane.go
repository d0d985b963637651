package hack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// ControlPlaneVariable says where the programs of a cluster are from: "download", "compile", or "" for whatever is
// there or else what is possible.
const ControlPlaneVariable = "KRTPKG_CONTROL_PLANE"

// ControlPlane is the programs of a cluster.
type ControlPlane struct {
	// Program is hack/cluster, which runs them.
	Program string
	// Components is the folder of programs as they were published, "" if Program has them in itself.
	Components string
}

// Command returns the program of a component, such as kubelet, and its first arguments.
func (c *ControlPlane) Command(component string) []string {
	if published := filepath.Join(c.Components, component); c.Components != "" && isFile(published) {
		return []string{published}
	}
	return []string{c.Program, component}
}

// PrepareControlPlane downloads what Kubernetes publishes for this machine, or compiles it where that is not possible, once a
// machine. It reports which way it goes.
func PrepareControlPlane(ctx context.Context, report func(string)) (*ControlPlane, error) {
	root, err := FindRoot()
	if err != nil {
		return nil, err
	}
	index, err := readReleaseIndex(filepath.Join(root, "hack", "cluster", "releases.yaml"))
	if err != nil {
		return nil, err
	}
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	s := &controlPlaneSource{index: index, platform: runtime.GOOS + "-" + runtime.GOARCH, cache: cache, report: report}
	return s.prepare(ctx, os.Getenv(ControlPlaneVariable))
}

// controlPlaneSource is where programs of a cluster can be had from.
type controlPlaneSource struct {
	index    *releaseIndex
	platform string // such as linux-amd64
	cache    string // folder
	report   func(string)
}

// published are the programs of a control plane in the archives that have them, by the first part of an archive's name.
var published = []struct {
	archive  string
	programs []string
}{
	{"kubernetes-server", []string{
		"kubernetes/server/bin/kube-apiserver", "kubernetes/server/bin/kube-controller-manager",
		"kubernetes/server/bin/kube-scheduler", "kubernetes/server/bin/kubelet",
	}},
	{"envtest", []string{"controller-tools/envtest/etcd"}}, // Kubernetes' own archive has none
}

func (s *controlPlaneSource) prepare(ctx context.Context, way string) (*ControlPlane, error) {
	switch way {
	case "compile":
		return s.compile(ctx)
	case "download":
		return s.download(ctx)
	case "":
		compiled, err := findProgram("cluster")
		if err != nil {
			return nil, err
		}
		if compiled.isBuilt() {
			return &ControlPlane{Program: compiled.path}, nil
		}
		plane, err := s.download(ctx)
		if err == nil || ctx.Err() != nil {
			return plane, err
		}
		s.report(err.Error())
		return s.compile(ctx)
	}
	return nil, fmt.Errorf("%s is %q: set it to download or compile, or not at all", ControlPlaneVariable, way)
}

func (s *controlPlaneSource) compile(ctx context.Context) (*ControlPlane, error) {
	compiled, err := findProgram("cluster")
	if err != nil {
		return nil, err
	}
	if !compiled.isBuilt() {
		s.report("Kubernetes is compiled, which takes some minutes")
	}
	path, err := compiled.build(ctx)
	return &ControlPlane{Program: path}, err
}

func (s *controlPlaneSource) download(ctx context.Context) (*ControlPlane, error) {
	components, err := s.downloadComponents(ctx)
	if err != nil {
		return nil, err
	}
	// KWOK publishes no digests, so that it is compiled with what runs them all.
	program, err := findProgram("cluster", "published")
	if err != nil {
		return nil, err
	}
	path, err := program.build(ctx)
	return &ControlPlane{Program: path, Components: components}, err
}

// downloadComponents returns the folder of the published programs.
func (s *controlPlaneSource) downloadComponents(ctx context.Context) (string, error) {
	archives := make([]*releaseArchive, len(published))
	pins := sha256.New()
	for i, p := range published {
		var err error
		if archives[i], err = s.index.findArchive(p.archive, s.platform); err != nil {
			return "", err
		}
		fmt.Fprintln(pins, archives[i].Hash, p.programs)
	}
	dir := filepath.Join(s.cache, "published-"+hex.EncodeToString(pins.Sum(nil))[:16])
	unlock, err := lockFile(ctx, filepath.Join(s.cache, "published.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := removeDownloads(s.cache); err != nil {
		return "", err
	}
	for i, p := range published {
		if hasPrograms(dir, p.programs) {
			continue
		}
		s.report("downloading " + archives[i].SelfLink)
		if err := archives[i].download(ctx, dir, p.programs); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func hasPrograms(dir string, programs []string) bool {
	for _, program := range programs {
		if !isFile(filepath.Join(dir, filepath.Base(program))) {
			return false
		}
	}
	return true
}
