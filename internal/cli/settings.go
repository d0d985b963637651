package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/pflag"

	"krtpkg.dev/krtpkg/internal/gitcredential"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/source"
)

// settings are the flags that every command has. Each can also come from the environment
// or from the config file; the command line comes before the environment, and that before
// the file. Mirrors add up.
type settings struct {
	sourceMirrors []string
	allowRenamed  bool
	imageMirrors  []string
	memory        string

	registry registry.Options
	sources  source.Fetcher
}

// configFile is $KRTPKG_CONFIG, or krtpkg/config.yaml in the user's configuration folder.
type configFile struct {
	SourceMirrors []string `yaml:"sourceMirrors"`
	ImageMirrors  []string `yaml:"imageMirrors"`
	RegistryCA    string   `yaml:"registryCA"`
	TrustPolicy   string   `yaml:"trustPolicy"`
}

func (s *settings) addGlobalFlags(flags *pflag.FlagSet) {
	flags.StringArrayVar(&s.sourceMirrors, "source-mirror", nil, "fetch source URLs that start with PREFIX from REPLACEMENT, a URL or a folder, as PREFIX=REPLACEMENT (also $KRTPKG_SOURCE_MIRROR)")
	flags.StringArrayVar(&s.imageMirrors, "image-mirror", nil, "fetch images, and charts and artifacts in registries, whose name starts with PREFIX (* for all) from REPLACEMENT, a registry or oci:FOLDER, as PREFIX=REPLACEMENT (also $KRTPKG_IMAGE_MIRROR)")
	flags.BoolVar(&s.allowRenamed, "allow-renamed-tag", false, "allow a version tag that names another version")
	flags.StringVar(&s.registry.CAFile, "registry-ca", "", "file of certificate authorities to trust in addition to the system's (also $KRTPKG_REGISTRY_CA)")
	flags.StringVar(&s.memory, "memory", "", "memory limit for the content of artifacts in one operation, such as 512MiB (default 128MiB; also $KRTPKG_MEMORY)")
	flags.BoolVar(&s.registry.PlainHTTP, "plain-http", false, "use HTTP without TLS for all registries")
	flags.BoolVar(&s.registry.InsecureSkipTLSVerify, "insecure-skip-tls-verify", false, "accept any certificate of registries")
}

// withMemory gives operations the memory that the settings say.
func (s *settings) withMemory(ctx context.Context, getenv func(string) string) (context.Context, error) {
	text := cmp.Or(s.memory, getenv("KRTPKG_MEMORY"))
	if text == "" {
		return ctx, nil
	}
	size, err := humanize.ParseBytes(text)
	if err != nil || size == 0 || size > 1<<40 {
		return ctx, &usageError{fmt.Errorf("--memory %q: want a size such as 512MiB", text)}
	}
	return oci.WithMemory(ctx, int64(size)), nil
}

// loadSettings completes the settings from the environment and the config file.
func (s *settings) loadSettings(getenv func(string) string) error {
	file, err := readConfig(getenv)
	if err != nil {
		return err
	}
	s.registry.CAFile = cmp.Or(s.registry.CAFile, getenv("KRTPKG_REGISTRY_CA"), file.RegistryCA)
	for _, text := range joinSettings(s.imageMirrors, getenv("KRTPKG_IMAGE_MIRROR"), file.ImageMirrors) {
		mirror, err := registry.ParseMirror(text)
		if err != nil {
			return &usageError{err}
		}
		s.registry.Mirrors = append(s.registry.Mirrors, mirror)
	}
	for _, text := range joinSettings(s.sourceMirrors, getenv("KRTPKG_SOURCE_MIRROR"), file.SourceMirrors) {
		mirror, err := source.ParseMirror(text)
		if err != nil {
			return &usageError{err}
		}
		s.sources.Mirrors = append(s.sources.Mirrors, mirror)
	}
	if s.sources.Logins, err = netrcLogins(getenv); err != nil {
		return err
	}
	s.sources.Helper = &gitcredential.Helper{}
	if cache, err := os.UserCacheDir(); err == nil {
		s.sources.Cache = filepath.Join(cache, "krtpkg", "sources")
	}
	return nil
}

// joinSettings joins the values of flags, of a variable with commas, and of the file. The first
// mirror of two for one prefix wins, so the order matters.
func joinSettings(flags []string, variable string, file []string) []string {
	all := append([]string{}, flags...)
	if variable != "" {
		all = append(all, strings.Split(variable, ",")...)
	}
	return append(all, file...)
}

// configPath returns where the config file is or would be; "" where nobody knows.
func configPath(getenv func(string) string) string {
	if path := getenv("KRTPKG_CONFIG"); path != "" {
		return path
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "krtpkg", "config.yaml")
}

func readConfig(getenv func(string) string) (configFile, error) {
	var config configFile
	path, wanted := configPath(getenv), getenv("KRTPKG_CONFIG") != ""
	if path == "" {
		return config, nil // no home, no file
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !wanted {
		if err := checkSpelling(path); err != nil {
			return config, fmt.Errorf("config file: %w", err)
		}
		return config, nil
	}
	if err != nil {
		return config, fmt.Errorf("config file: %w", err)
	}
	file, err := manifest.Parse(path, data)
	if err == nil && len(file.Documents) > 0 {
		_, err = manifest.ParseStrict(path, data, &config)
	}
	if err != nil {
		return config, fmt.Errorf("config file: %w", err)
	}
	return config, nil
}

// netrcLogins returns the logins for sources, of $NETRC or ~/.netrc.
func netrcLogins(getenv func(string) string) (source.Logins, error) {
	name := getenv("NETRC")
	if name == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, nil // no home, no file
		}
		name = filepath.Join(home, ".netrc")
	}
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("logins for sources: %w", err)
	}
	return source.ParseNetrc(string(data)), nil
}

// createdTime returns the time that goes into artifacts (reproducible-builds.org/specs/source-date-epoch).
func createdTime(getenv func(string) string) (time.Time, error) {
	text := getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Time{}, nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, &usageError{fmt.Errorf("SOURCE_DATE_EPOCH is %q, want seconds since 1970", text)}
	}
	return time.Unix(seconds, 0).UTC(), nil
}
