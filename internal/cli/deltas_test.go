package cli_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

// releaseSize is the size of the layers of releases.
const releaseSize = 768 << 10

// releaseSite has 1.0.0 and 1.1.0 of a signed bundle in a folder, with an image of which little changes.
func releaseSite(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	for _, version := range []string{"1.0", "1.1"} {
		reference := "ghcr.io/example/app:" + version
		image, err := imagetest.NewReleaseIndex(reference, releaseSize)
		if err != nil {
			t.Fatal(err)
		}
		if err := imagetest.AddToLayout(s.path("img"), reference, image); err != nil {
			t.Fatal(err)
		}
		s.write(version+"/bundle.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: app, version: "+version+".0}\nspec: {layer: 6, sources: [{file: app.yaml}]}\n",
			version+"/app.yaml", "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: app}\nspec:\n  schedule: 0 0 1 1 *\n  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: app, image: '"+reference+"'}]}}}}\n")
		s.ok("build", "-f", version)
		s.ok("copy", "oci:dist:"+version+".0", "oci:whole")
		s.ok("sign", "--key", "cosign.key", "oci:whole:"+version+".0")
	}
	return s
}

// deployedImage returns the image of the only CronJob of a cluster.
func deployedImage(t *testing.T, cluster *clustertest.Cluster) string {
	t.Helper()
	jobs, err := newWatcher(t, cluster).client.BatchV1().CronJobs("").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(jobs.Items) != 1 {
		t.Fatalf("%d jobs, %v", len(jobs.Items), err)
	}
	return jobs.Items[0].Spec.JobTemplate.Spec.Template.Spec.Containers[0].Image
}

func (s *site) exportDeltas() {
	s.t.Helper()
	s.ok("export", "oci:whole:1.1.0", "--base", "oci:whole:1.0.0", "--delta", "auto", "deltas.tar")
	if info, err := os.Stat(s.path("deltas.tar")); err != nil || info.Size() > releaseSize/4 {
		s.t.Fatalf("%d bytes with deltas, %v", info.Size(), err)
	}
}

// An archive with deltas is applied: with the images that a site's registry makes of it, and without a registry.
func TestApplyDeltas(t *testing.T) {
	t.Parallel()
	cluster := clustertest.Borrow(t)
	registry := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3})
	s := releaseSite(t)
	s.exportDeltas()
	s.env = append(s.env, "KUBECONFIG="+cluster.Kubeconfig, "KRTPKG_IMAGE_MIRROR=")
	apply := []string{"apply", "deltas.tar", "--key", "cosign.pub", "--yes", "--wait-timeout", "1m"}
	s.refused(4, "builds on app:1.0.0@sha256:", append(apply, "--registry", registry.Host+"/site")...)
	if r := s.run("list", registry.Host+"/site/app"); strings.Contains(r.stdout, "1.1.0") {
		t.Errorf("a tag without content: %s", r.stdout)
	}
	s.ok("copy", "oci:whole:1.0.0", registry.Host+"/site/app")
	s.ok(append(apply, "--registry", registry.Host+"/site")...)
	s.ok("check", registry.Host+"/site/app:1.1.0")
	s.ok("verify", "--key", "cosign.pub", registry.Host+"/site/app:1.1.0")
	if image := deployedImage(t, cluster); !strings.HasPrefix(image, registry.Host+"/site/app@sha256:") {
		t.Errorf("image %s", image)
	}
	// What the cluster refuses is refused before it is imported.
	s.ok("export", "oci:whole:1.0.0", "older.tar")
	older := []string{"apply", "older.tar", "--key", "cosign.pub", "--yes", "--registry", registry.Host + "/older"}
	s.refused(3, "app 1.0.0 (", older...)
	if isTagged(t, "http://"+registry.Host+"/v2/older/app/manifests/1.0.0") {
		t.Error("a refused version was imported")
	}
	// Without a registry nodes have to pull from somewhere else, which whoever applies it has to say.
	s.refused(1, "--registry imports it first", apply...)
	s.ok(append(apply, "--skip-check", "images")...)
	if image := deployedImage(t, cluster); strings.HasPrefix(image, registry.Host) {
		t.Errorf("image %s", image)
	}
}

// isTagged reports whether a registry has a tag.
func isTagged(t *testing.T, url string) bool {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodHead, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// An export, an import and a copy with deltas that are killed leave no file behind, no archive and no tag before
// the end, and the same command goes on.
func TestDeltasKilled(t *testing.T) {
	t.Parallel()
	s := releaseSite(t)
	s.exportDeltas()
	want := string(readFile(t, s.path("deltas.tar")))
	source := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3})
	s.ok("copy", "oci:whole:1.0.0", source.Host+"/krt/app")
	s.ok("push", "oci:whole:1.1.0", source.Host+"/krt/app", "--delta-from", "1.0.0")
	target := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3})
	s.ok("copy", "oci:whole:1.0.0", target.Host+"/krt/app")
	s.write("tmp/.keep", "")
	s.env = append(s.env, "TMPDIR="+s.path("tmp"), "KRTPKG_IMAGE_MIRROR=")
	for _, c := range []struct {
		name string
		// args of a round; begin gives the round a target with the old version.
		args  func(round int) []string
		begin func(round int)
		// done reports whether the end was reached, check what must hold then.
		done  func(round int) bool
		check func(round int)
	}{
		{"export", func(round int) []string {
			return []string{"export", "oci:whole:1.1.0", "--base", "oci:whole:1.0.0", "--delta", "auto", fmt.Sprintf("killed%d.tar", round)}
		}, func(int) {}, func(round int) bool {
			_, err := os.Stat(s.path(fmt.Sprintf("killed%d.tar", round)))
			return err == nil
		}, func(round int) {
			if string(readFile(t, s.path(fmt.Sprintf("killed%d.tar", round)))) != want {
				t.Error("the archive is another than one that was written at once")
			}
		}},
		{"import", func(round int) []string {
			return []string{"import", "deltas.tar", fmt.Sprintf("%s/imported/app%d", target.Host, round)}
		}, func(round int) {
			s.ok("copy", target.Host+"/krt/app:1.0.0", fmt.Sprintf("%s/imported/app%d", target.Host, round))
		}, func(round int) bool {
			return isTagged(t, fmt.Sprintf("%s/v2/imported/app%d/manifests/1.1.0", target.URL, round))
		}, func(round int) {
			s.ok("check", fmt.Sprintf("%s/imported/app%d:1.1.0", target.Host, round))
		}},
		{"copy", func(round int) []string {
			return []string{"copy", source.Host + "/krt/app:1.1.0", fmt.Sprintf("%s/copied/app%d", target.Host, round)}
		}, func(round int) {
			s.ok("copy", target.Host+"/krt/app:1.0.0", fmt.Sprintf("%s/copied/app%d", target.Host, round))
		}, func(round int) bool {
			return isTagged(t, fmt.Sprintf("%s/v2/copied/app%d/manifests/1.1.0", target.URL, round))
		}, func(round int) {
			s.ok("check", fmt.Sprintf("%s/copied/app%d:1.1.0", target.Host, round))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			round := 0
			c.begin(round)
			whole := s.timeCommand(c.args(round)...)
			c.check(round)
			moments := rand.New(rand.NewPCG(2, uint64(len(c.name))))
			c.begin(1)
			round = 1
			most := kills
			if c.name == "copy" {
				most = kills / 2 // what makes layers was killed by then
			}
			for killed := 0; killed < most; {
				began := time.Now()
				if s.killAfter(whole/6+time.Duration(moments.Int64N(int64(whole*3/4))), c.args(round)...) {
					killed++
				} else {
					whole = min(whole, time.Since(began)) // the machine was busy before
				}
				if c.done(round) {
					c.check(round)
					round++
					c.begin(round)
				}
			}
			t.Logf("%d kills; %d commands ended before, one of which takes %s", most, round-1, whole.Round(time.Millisecond))
			s.ok(c.args(round)...)
			c.check(round)
			if left, err := os.ReadDir(s.path("tmp")); err != nil || len(left) != 1 {
				t.Errorf("%d files are left, %v", len(left), err)
			}
		})
	}
}

// Without room for temporary files an export and an import with deltas end with a word about it, and go on once
// there is; a copy does without deltas.
func TestDeltasDiskFull(t *testing.T) {
	t.Parallel()
	s := releaseSite(t)
	s.exportDeltas()
	source := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg})
	s.ok("copy", "oci:whole:1.0.0", source.Host+"/krt/app")
	s.ok("push", "oci:whole:1.1.0", source.Host+"/krt/app", "--delta-from", "1.0.0")
	for _, name := range []string{"imported", "copied"} {
		s.ok("copy", "oci:whole:1.0.0", "oci:"+name)
	}
	for _, c := range []struct {
		command, check string
		code           int
		says           string
	}{
		{"export oci:whole:1.1.0 --base oci:whole:1.0.0 --delta auto exported.tar", "check exported.tar", 1, "free disk space and run the same command again"},
		{"import deltas.tar oci:imported", "check oci:imported:1.1.0", 1, "free disk space and run the same command again"},
		{"copy " + source.Host + "/krt/app:1.1.0 oci:copied", "check oci:copied:1.1.0", 0, "is copied whole: its delta sha256:"},
	} {
		verb, _, _ := strings.Cut(c.command, " ")
		t.Run(verb, func(t *testing.T) {
			script := fmt.Sprintf(`mkdir -p %[4]s && mount -t tmpfs -o size=512k disk %[4]s || exit 99
TMPDIR=%[4]s krtpkg %[1]s; code=$?
test $code = %[3]d || { echo "it ended with $code"; exit 98; }
test -z "$(ls %[4]s)" || { echo "files are left"; exit 97; }
mount -o remount,size=64m %[4]s || exit 96
TMPDIR=%[4]s krtpkg %[1]s && krtpkg %[2]s`, c.command, c.check, c.code, s.path("small-"+verb))
			cmd := exec.Command("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script)
			cmd.Dir, cmd.Env = s.dir, s.env
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "no space left on device") || !strings.Contains(string(out), c.says) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
