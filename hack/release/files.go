package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/CycloneDX/cyclonedx-go"
)

// program is one that has been built.
type program struct {
	os, arch string
	path     string
}

// compile builds the program for a platform. It depends on nothing of the machine: no C, no
// paths, no build ID, no settings of the user.
func (r *release) compile(ctx context.Context, platform string) (program, error) {
	system, arch, found := strings.Cut(platform, "/")
	if !found {
		return program{}, fmt.Errorf("platform %q: want OS/ARCHITECTURE", platform)
	}
	suffix := system + "-" + arch
	if system == "windows" {
		suffix += ".exe"
	}
	path := filepath.Join(r.dir, r.fileName(suffix))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=auto",
		"-ldflags", "-s -w -buildid= -X "+r.variable+"="+r.version, "-o", path, r.program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+arch, "GOFLAGS=", "GOENV=off", "GOEXPERIMENT=", "GOFIPS140=off", "GOAMD64=v1", "GOARM64=v8.0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return program{}, fmt.Errorf("compile for %s: %w\n%s", platform, err, said)
	}
	return program{system, arch, path}, nil
}

// writeChecksums writes SHA256SUMS, as sha256sum -c reads it, and returns the sums by file name.
func (r *release) writeChecksums() (map[string]string, error) {
	entries, err := os.ReadDir(r.dir) // sorted
	if err != nil {
		return nil, err
	}
	sums := map[string]string{}
	var text bytes.Buffer
	for _, entry := range entries {
		if entry.IsDir() {
			continue
		}
		sum, err := hashFile(filepath.Join(r.dir, entry.Name()))
		if err != nil {
			return nil, err
		}
		sums[entry.Name()] = sum
		fmt.Fprintf(&text, "%s  %s\n", sum, entry.Name())
	}
	return sums, os.WriteFile(filepath.Join(r.dir, "SHA256SUMS"), text.Bytes(), 0o644)
}

func hashFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// writeBOM writes which modules are in a program, as CycloneDX has it. They are the same on all
// platforms but for what only one of them needs.
func (r *release) writeBOM(p program) error {
	info, err := buildinfo.ReadFile(p.path)
	if err != nil {
		return err
	}
	bom := cyclonedx.NewBOM()
	bom.Metadata = &cyclonedx.Metadata{Component: &cyclonedx.Component{
		BOMRef: "main", Type: cyclonedx.ComponentTypeApplication, Name: filepath.Base(r.program), Version: r.version, PackageURL: moduleURL(info.Main.Path, r.version),
	}}
	components := []cyclonedx.Component{{
		BOMRef: "go", Type: cyclonedx.ComponentTypePlatform, Name: "go", Version: strings.TrimPrefix(info.GoVersion, "go"),
	}}
	for _, module := range info.Deps {
		used := cmp.Or(module.Replace, module)
		components = append(components, toComponent(used))
	}
	bom.Components = &components
	file, err := os.Create(filepath.Join(r.dir, r.fileName("cyclonedx.json")))
	if err != nil {
		return err
	}
	defer file.Close()
	if err := cyclonedx.NewBOMEncoder(file, cyclonedx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).Encode(bom); err != nil {
		return err
	}
	return file.Close()
}

func toComponent(module *debug.Module) cyclonedx.Component {
	url := moduleURL(module.Path, module.Version)
	return cyclonedx.Component{BOMRef: url, Type: cyclonedx.ComponentTypeLibrary, Name: module.Path, Version: module.Version, PackageURL: url}
}

func moduleURL(path, version string) string { return "pkg:golang/" + path + "@" + version }
