package cli

import (
	"io"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/result"
)

// released is set by the linker in releases.
var released string

// shownLibraries are the modules whose behaviour a user sees.
var shownLibraries = map[string]string{
	"carvel.dev/kapp":                        "kapp",
	"carvel.dev/ytt":                         "ytt",
	"github.com/sigstore/cosign/v2":          "cosign",
	"helm.sh/helm/v4":                        "helm",
	"sigs.k8s.io/kustomize/api":              "kustomize",
	"oras.land/oras-go/v2":                   "oras-go",
	"github.com/google/go-containerregistry": "go-containerregistry",
	"k8s.io/client-go":                       "client-go",
}

// programVersion returns the release, or what the toolchain knows of the build.
func programVersion() string {
	if released != "" {
		return released
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// newVersionReport tells of a build. The toolchain does not tell all of every build: of a test it
// tells nothing.
func newVersionReport(info *debug.BuildInfo) *result.Version {
	report := &result.Version{
		Version: programVersion(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Libraries: map[string]string{},
	}
	if info == nil {
		return report
	}
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			report.Commit = setting.Value
		case "vcs.time":
			report.Date = setting.Value
		case "vcs.modified":
			report.Modified = setting.Value == "true"
		}
	}
	for _, module := range info.Deps {
		if name := shownLibraries[module.Path]; name != "" {
			report.Libraries[name] = module.Version
		}
	}
	return report
}

func writeVersion(w io.Writer, r *result.Version) {
	ui.Fprintf(w, "krtpkg %s\n", r.Version)
	commit := r.Commit
	if r.Modified {
		commit += " (modified)"
	}
	lines := [][2]string{{"commit", commit}, {"date", r.Date}, {"go", strings.TrimPrefix(r.Go, "go") + " " + r.Platform}}
	for _, name := range slices.Sorted(maps.Keys(r.Libraries)) {
		lines = append(lines, [2]string{name, strings.TrimPrefix(r.Libraries[name], "v")})
	}
	for _, line := range lines {
		if line[1] != "" {
			ui.Fprintf(w, "  %-21s %s\n", line[0], line[1])
		}
	}
}

func (a *app) versionCommand() *cobra.Command {
	var format ui.Format
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "print the version, what it was built from, and the libraries in it",
		Example: "  krtpkg version",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, _ := debug.ReadBuildInfo()
			r := newVersionReport(info)
			return a.printResult(cmd.Context(), format, r, nil, func(w io.Writer) { writeVersion(w, r) })
		},
	}
	outputFlag(cmd, &format)
	return cmd
}
