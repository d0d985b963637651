// Package browsertest opens pages in headless Chromium, by the program of hack/browser.
//
// Call [Visit] with what to look at. It fails a test on a machine without Chromium, and says what to install.
package browsertest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/internal/hack"
)

// The rules that pages are held to: axe-core of npm's registry, and the checksum that it has there.
const (
	axeVersion   = "4.14.1"
	axeIntegrity = "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
)

// Job is what to look at.
type Job struct {
	// Chromium and Axe are set by [Visit].
	Chromium, Axe string
	// Pages are URLs, each looked at in all Widths.
	Pages  []string
	Widths []int
	// Searches are typed into the field of pages.
	Searches []Search
	// Shots are pictures to take.
	Shots []Shot
}

// Search is a text to search for on a page.
type Search struct{ Page, Query string }

// Shot is a picture of a page in a file.
type Shot struct {
	Page, File    string
	Width, Height int
	Dark          bool
}

// Report is what was found.
type Report struct {
	// Requests are all URLs that were asked for, and Console what pages said there.
	Requests, Console []string
	// Layout is what overlaps, is clipped, or makes a page wider than its window.
	Layout []string
	// Violations are the serious ones of axe-core, and Rules how many of its rules passed.
	Violations []string
	Rules      int
	// Hits are what each search found.
	Hits [][]Hit
}

// Hit is what a search found.
type Hit struct{ Name, Link string }

// Visit looks at pages.
func Visit(t testing.TB, job Job) *Report {
	t.Helper()
	hack.SkipIfShort(t)
	var err error
	if job.Chromium, err = findChromium(); err != nil {
		t.Fatal(err)
	}
	if job.Axe, err = fetchAxe(t); err != nil {
		t.Fatal(err)
	}
	input, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), hack.BuildForTest(t, "browser"))
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("browser: %v\n%s", err, said.Bytes())
	}
	report := &Report{}
	if err := json.Unmarshal(out.Bytes(), report); err != nil {
		t.Fatal(err)
	}
	return report
}

// findChromium returns the path of the program.
func findChromium() (string, error) {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			return found, nil
		}
	}
	return "", errors.New("no browser for tests found: install Chromium, with Debian's apt-get install chromium fonts-dejavu-core npm")
}

// fetchAxe returns the path of axe-core's script, which it fetches once on a machine.
func fetchAxe(t testing.TB) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	// A folder of its own for each version and checksum.
	dir := filepath.Join(cache, "krtpkg", "hack", "axe-core-"+axeVersion+"-"+strings.NewReplacer("/", "", "+", "", "=", "").Replace(axeIntegrity)[7:23])
	file := filepath.Join(dir, "axe.min.js")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	script, err := downloadAxe(t)
	if err != nil {
		return "", fmt.Errorf("axe-core %s: %w", axeVersion, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	temp, err := os.CreateTemp(dir, "axe-*")
	if err != nil {
		return "", err
	}
	_, err = temp.Write(script)
	if err := errors.Join(err, temp.Close()); err != nil {
		return "", errors.Join(err, os.Remove(temp.Name()))
	}
	return file, os.Rename(temp.Name(), file)
}

// downloadAxe fetches the package, and returns the script in it.
func downloadAxe(t testing.TB) ([]byte, error) {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return nil, errors.New("npm is needed to fetch it: install it, with Debian's apt-get install npm")
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), npm, "pack", "--silent", "axe-core@"+axeVersion)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("npm pack: %w\n%s", err, out)
	}
	data, err := os.ReadFile(filepath.Join(dir, "axe-core-"+axeVersion+".tgz"))
	if err != nil {
		return nil, err
	}
	sum := sha512.Sum512(data)
	if got := "sha512-" + base64.StdEncoding.EncodeToString(sum[:]); got != axeIntegrity {
		return nil, fmt.Errorf("the package is %s, want %s", got, axeIntegrity)
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	for files := tar.NewReader(unzipped); ; {
		header, err := files.Next()
		if err != nil {
			return nil, fmt.Errorf("package/axe.min.js: %w", err)
		}
		if header.Name == "package/axe.min.js" {
			return io.ReadAll(files)
		}
	}
}
