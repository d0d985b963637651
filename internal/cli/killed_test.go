package cli_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

const (
	// fatImages of a layer of fat bytes for each of two platforms.
	fatImages = 3
	fat       = 4 << 20
	// kills is how often each command is killed before it may end.
	kills = 20
)

// fewerIfShort returns how often something is killed: with -short less often, and at each kind of moment once at least.
func fewerIfShort(kills int) int {
	if testing.Short() {
		return kills * 2 / 5
	}
	return kills
}

// fatSite has a bundle with images of some size in a folder that needs no origin.
func fatSite(t *testing.T) (s *site, size int64) {
	t.Helper()
	s = newSite(t)
	var manifest strings.Builder
	for i := range fatImages {
		reference := fmt.Sprintf("ghcr.io/example/fat-%d:1.0", i)
		image, err := imagetest.NewSizedIndex(reference, fat)
		if err != nil {
			t.Fatal(err)
		}
		if err := imagetest.AddToLayout(s.path("img"), reference, image); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&manifest, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: fat-%d}\nspec:\n  containers: [{name: fat, image: '%s'}]\n", i, reference)
	}
	s.write("bundle.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: fat, version: 1.0.0}\nspec: {layer: 6, sources: [{file: pods.yaml}]}\n",
		"pods.yaml", manifest.String())
	s.ok("build", "-f", ".")
	s.ok("copy", "oci:dist:1.0.0", "oci:whole")
	return s, fatImages * 2 * fat
}

// slowRegistry lets a few MB a second through and counts what blobs take.
func slowRegistry(t *testing.T) (r *registrytest.Registry, moved *atomic.Int64) {
	t.Helper()
	moved = &atomic.Int64{}
	r = registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3, Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				r.Body = &slowly{r.Body, moved}
				w = &slowWriter{w, moved}
			}
			next.ServeHTTP(w, r)
		})
	}})
	return r, moved
}

type slowly struct {
	io.ReadCloser
	moved *atomic.Int64
}

func (s *slowly) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p[:min(len(p), 32<<10)])
	if n > 0 {
		time.Sleep(20 * time.Millisecond)
	}
	s.moved.Add(int64(n))
	return n, err
}

type slowWriter struct {
	http.ResponseWriter
	moved *atomic.Int64
}

func (s *slowWriter) Write(p []byte) (int, error) {
	time.Sleep(20 * time.Millisecond)
	s.moved.Add(int64(len(p)))
	return s.ResponseWriter.Write(p)
}

func (s *slowWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// A process that is killed with no time to say goodbye leaves nothing that the next cannot go
// on with, whatever it was doing; what had arrived is not sent again but for what was in
// flight, and there is no tag, and no archive of that name, before the end.
func TestKilled(t *testing.T) {
	t.Parallel()
	s, total := fatSite(t)
	registry, moved := slowRegistry(t)
	s.ok("copy", "oci:whole:1.0.0", registry.Host+"/krt/source")
	s.ok("export", "oci:whole:1.0.0", "whole.tar")
	for _, c := range []struct {
		name  string
		args  []string
		early func() bool
		check []string
	}{
		{"push", []string{"copy", "oci:whole:1.0.0", registry.Host + "/krt/pushed"}, func() bool {
			return s.run("inspect", registry.Host+"/krt/pushed:1.0.0").code == 0
		}, []string{"check", registry.Host + "/krt/pushed:1.0.0"}},
		{"copy to a folder", []string{"copy", registry.Host + "/krt/source:1.0.0", "oci:copied"}, func() bool {
			return s.run("inspect", "oci:copied:1.0.0").code == 0
		}, []string{"check", "oci:copied:1.0.0"}},
		{"export", []string{"export", registry.Host + "/krt/source:1.0.0", "exported.tar"}, func() bool {
			_, err := os.Stat(s.path("exported.tar"))
			return err == nil
		}, []string{"check", "exported.tar"}},
		{"import", []string{"import", "whole.tar", registry.Host + "/krt/imported"}, func() bool {
			return s.run("inspect", registry.Host+"/krt/imported:1.0.0").code == 0
		}, []string{"check", registry.Host + "/krt/imported:1.0.0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			moved.Store(0)
			moments := rand.New(rand.NewPCG(1, uint64(len(c.name))))
			killed := 0
			for killed < kills {
				if !s.killAfter(35*time.Millisecond+time.Duration(moments.Int64N(int64(200*time.Millisecond))), c.args...) {
					break // it was whole before it could be killed again
				}
				killed++
				if c.early() {
					if result := s.run(c.check...); result.code != 0 {
						t.Fatalf("after %d kills it has its name and is not whole: %s", killed, result.stderr)
					}
				}
			}
			if killed < kills {
				t.Errorf("it was killed %d times only", killed)
			}
			s.ok(c.args...)
			// Of each connection what was in flight is lost: four at a time, and their buffers.
			if sent := moved.Load(); sent > total+int64(killed)*(6<<20) {
				t.Errorf("%d bytes moved for %d, with %d kills", sent, total, killed)
			} else {
				t.Logf("%d bytes moved for %d, with %d kills", sent, total, killed)
			}
			s.ok(c.check...)
			if c.name == "export" && string(readFile(t, s.path("exported.tar"))) != string(readFile(t, s.path("whole.tar"))) {
				t.Error("the archive is another than one that was written at once")
			}
		})
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A disk that is too small ends a copy, an export and an import before anything is written, and one that fills up in the middle
// where it stops; with room the same command goes on. The disk is a small tmpfs in a namespace of its own.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	s, _ := fatSite(t)
	s.ok("export", "oci:whole:1.0.0", "whole.tar")
	const tooSmall, fillsUp = "size=10m", "size=64m,nr_inodes=10"
	for _, c := range []struct{ name, disk, command, check, says string }{
		{"copy", tooSmall, "copy oci:whole:1.0.0 oci:small/copied", "check oci:small/copied:1.0.0", " free in small/copied: "},
		{"export", tooSmall, "export oci:whole:1.0.0 small/exported.tar", "check small/exported.tar", " free in small: "},
		{"import", tooSmall, "import whole.tar oci:small/imported", "check oci:small/imported:1.0.0", " free in small/imported: "},
		{"import of a stream", tooSmall, "import - oci:small/imported < whole.tar", "check oci:small/imported:1.0.0", " free in small/imported: "},
		{"copy in the middle", fillsUp, "copy oci:whole:1.0.0 oci:small/copied", "check oci:small/copied:1.0.0", ""},
		{"export in the middle", tooSmall, "export --zstd oci:whole:1.0.0 small/exported.tar", "check small/exported.tar", ""},
		{"import in the middle", fillsUp, "import whole.tar oci:small/imported", "check oci:small/imported:1.0.0", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			script := fmt.Sprintf(`mkdir -p small && mount -t tmpfs -o %[3]s disk small || exit 99
krtpkg %[1]s; code=$?
test $code = 1 || { echo "it ended with $code"; exit 98; }
test -e small/exported.tar && { echo "the archive has its name"; exit 97; }
test -n "%[4]s" -a -n "$(ls small)" && { echo "files are left"; exit 95; }
mount -o remount,size=64m,nr_inodes=0 small || exit 96
krtpkg %[1]s && krtpkg %[2]s`, c.command, c.check, c.disk, c.says)
			cmd := exec.Command("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script)
			cmd.Dir, cmd.Env = s.dir, s.env
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "no space left on device") || !strings.Contains(string(out), "free disk space and run the same command again") || !strings.Contains(string(out), c.says) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
