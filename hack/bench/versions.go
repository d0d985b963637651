package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os/exec"
	"strings"
)

// versions says which programs are compared.
func (c *carry) versions(ctx context.Context) []string {
	var all []string
	for _, tool := range []struct{ name, module string }{
		{"imgpkg", "carvel.dev/imgpkg"},
		{"oras", "oras.land/oras"},
		{"crane", "github.com/google/go-containerregistry"},
		{"regctl", "github.com/regclient/regclient"},
		{"skopeo", "go.podman.io/image/v5"},
	} {
		name := tool.name
		if name == "skopeo" {
			name += "'s library"
		}
		all = append(all, name+" "+version(c.tools[tool.name], tool.module))
	}
	// What the system has, if anything: its row says so when there is none.
	if out, err := exec.CommandContext(ctx, "skopeo", "--version").Output(); err == nil {
		all = append(all, "the system's "+strings.TrimSpace(string(out)))
	}
	return all
}

// version is that of a module in a program.
func version(program, module string) string {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return fmt.Sprintf("of unknown version: %v", err)
	}
	for _, dep := range info.Deps {
		if dep.Path == module {
			return strings.TrimPrefix(dep.Version, "v")
		}
	}
	return "of unknown version"
}
