package cli_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/internal/registrytest"
	results "krtpkg.dev/krtpkg/pkg/result"
)

// keepTwo keeps two of the versions of [prunableSite].
var keepTwo = []string{"--keep-versions", "1", "--keep", "7.0.0", "--yes"}

// prunableSite has versions 1.0.0 to 8.0.0 of a bundle in oci:whole. The first one has many images, the others have one;
// 6.0.0 has the same as 7.0.0. One that stays and one that goes are signed.
func prunableSite(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	copied := []string{"copy"}
	for i := range 8 {
		version, image := fmt.Sprintf("%d.0.0", i+1), i+1
		if i == 6 {
			image = 6
		}
		s.shopVersion(version, fmt.Sprintf("ghcr.io/example/web:%d", image))
		if i == 0 {
			var locked []string
			for k := range 30 {
				image := fmt.Sprintf("ghcr.io/example/part-%d:1.0", k)
				if err := imagetest.FillLayout(s.path("img"), image); err != nil {
					t.Fatal(err)
				}
				locked = append(locked, fmt.Sprintf("{image: %q, reason: it is one of many}", image))
			}
			s.shopVersion(version, "ghcr.io/example/web:1", "  images: ["+strings.Join(locked, ", ")+"]\n")
		}
		s.ok("build", "-f", "shop")
		if i == 1 || i == 7 {
			s.ok("sign", "--key", "cosign.key", "oci:dist:"+version)
		}
		copied = append(copied, "oci:dist:"+version)
	}
	s.ok(append(copied, "oci:whole")...)
	return s
}

// checkKept reads every byte of what has to stay.
func (s *site) checkKept(place, when string) {
	s.t.Helper()
	if r := s.run("check", place+":7.0.0", place+":8.0.0"); r.code != 0 {
		s.t.Fatalf("%s: check ended with %d\n%s", when, r.code, r.stderr)
	}
}

// checkPruned checks that nothing is left to prune, and that what was kept is still signed.
func (s *site) checkPruned(place string) {
	s.t.Helper()
	s.ok("verify", "--key", "cosign.pub", place+":8.0.0")
	out := s.ok(slices.Concat([]string{"prune", place, "-o", "json", "--dry-run"}, keepTwo)...)
	var plan results.Prune
	if err := json.Unmarshal([]byte(out), &plan); err != nil || len(plan.Versions) != 2 || len(plan.Tags)+len(plan.Manifests) > 0 || plan.Bytes > 0 {
		s.t.Errorf("%s: there is more to prune, %v:\n%s", place, err, out)
	}
	if left, _ := filepath.Glob(s.path("cache/krtpkg/prunes/*")); len(left) > 0 {
		s.t.Errorf("records are left: %q", left)
	}
}

// A prune of a registry that is killed while it plans, before a deletion arrives, or after it and before the answer, damages
// nothing that stays; the next one deletes the rest.
func TestKilledPruneOfRegistry(t *testing.T) {
	t.Parallel()
	s := prunableSite(t)
	killer := &requestKiller{}
	registry := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg, Middleware: killer.wrap})
	place := registry.Host + "/site/shop"
	pushed := []string{"copy"}
	for i := range 7 {
		pushed = append(pushed, fmt.Sprintf("oci:whole:%d.0.0", i+2))
	}
	s.ok(append(pushed, place)...)
	prune := slices.Concat([]string{"prune", place}, keepTwo)
	var plan results.Prune
	if err := json.Unmarshal([]byte(s.ok(slices.Concat(prune, []string{"--dry-run", "-o", "json"})...)), &plan); err != nil {
		t.Fatal(err)
	}
	for i := range fewerIfShort(kills) {
		moment := []killMoment{
			{http.MethodGet, 1 + i/2, false},
			{http.MethodDelete, 1, false},
			{http.MethodDelete, 1, true},
			{http.MethodDelete, 2, true},
		}[i%4]
		cmd, _, stderr := s.command(prune...)
		if err := killer.start(cmd, moment); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if !killer.stop() {
			t.Fatalf("kill %d, %+v: it ended before:\n%s", i, moment, stderr)
		}
		s.checkKept(place, fmt.Sprintf("kill %d, %+v", i, moment))
	}
	s.ok(prune...)
	s.checkPruned(place)
	repository, err := registry.Repository("site/shop")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range plan.Manifests {
		if _, err := repository.Resolve(t.Context(), d); err == nil {
			t.Errorf("%s is still there", d)
		}
	}
	var tags []string
	err = repository.Tags(t.Context(), "", func(page []string) error {
		tags = append(tags, page...)
		return nil
	})
	signed, err2 := repository.Resolve(t.Context(), "8.0.0")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	signature := strings.Replace(signed.Digest.String(), ":", "-", 1)
	want := []string{"7.0.0", "8.0.0", signature + ".att", signature + ".sig"}
	if slices.Sort(tags); !slices.Equal(tags, want) || len(plan.Manifests) < kills {
		t.Errorf("tags %q are left, want %q; %d manifests were deleted", tags, want, len(plan.Manifests))
	}
}

// killMoment is when a request with a method arrives, counted from 1, or when it was handled and is not answered yet.
type killMoment struct {
	method  string
	number  int
	handled bool
}

// requestKiller kills a process at a moment that its requests tell.
type requestKiller struct {
	mu      sync.Mutex
	process *os.Process
	moment  killMoment
}

func (k *requestKiller) start(cmd *exec.Cmd, moment killMoment) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := cmd.Start()
	k.process, k.moment = cmd.Process, moment
	return err
}

// stop reports whether it has killed the process.
func (k *requestKiller) stop() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	killed := k.process != nil && k.moment.number <= 0
	k.process = nil
	return killed
}

// kill kills the process if the moment has come; what it asks afterwards is not answered.
func (k *requestKiller) kill(method string, handled bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.process == nil || k.moment.number > 0 && (method != k.moment.method || handled != k.moment.handled) {
		return
	}
	if k.moment.number--; k.moment.number <= 0 {
		k.process.Kill()
		panic(http.ErrAbortHandler)
	}
}

func (k *requestKiller) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.kill(r.Method, false)
		next.ServeHTTP(w, r)
		k.kill(r.Method, true)
	})
}

// A prune of a folder that is killed while it plans, as soon as index.json is another, or after some files are gone, damages
// nothing that stays; the next one frees the rest.
func TestKilledPruneOfFolder(t *testing.T) {
	t.Parallel()
	s := prunableSite(t)
	prune := func(dir string) []string { return slices.Concat([]string{"prune", "oci:" + dir}, keepTwo) }
	restore := func(dir string) {
		t.Helper()
		if err := os.RemoveAll(s.path(dir)); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(s.path(dir), os.DirFS(s.path("whole"))); err != nil {
			t.Fatal(err)
		}
	}
	restore("clean")
	s.ok(prune("clean")...)
	want := s.filesOf("clean")

	restore("pruned")
	killed, inside := 0, 0
	for attempt := 0; killed < fewerIfShort(kills); attempt++ {
		if attempt == 5*kills {
			t.Fatalf("killed %d times in %d attempts", killed, attempt)
		}
		cmd, _, stderr := s.command(prune("pruned")...)
		before := s.filesOf("pruned")
		reached := s.awaitPrune("pruned", attempt)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		var err error
		for isOver := false; !isOver; {
			select {
			case err = <-ended:
				isOver = true
			default:
				if reached() {
					cmd.Process.Kill()
					err = <-ended
					isOver = true
				}
			}
		}
		if err != nil && cmd.ProcessState.ExitCode() >= 0 {
			t.Fatalf("attempt %d: %v\n%s", attempt, err, stderr)
		}
		if err == nil { // it was faster
			if got := s.filesOf("pruned"); !slices.Equal(got, want) {
				t.Fatalf("attempt %d: %d files are left, want %d", attempt, len(got), len(want))
			}
			restore("pruned")
			continue
		}
		killed++
		now := s.filesOf("pruned")
		if len(now) < len(before) && len(now) > len(want) {
			inside++
		}
		s.checkKept("oci:pruned", fmt.Sprintf("kill %d, with %d of %d files left", killed, len(now), len(before)))
	}
	t.Logf("%d of %d kills were between two deletions", inside, killed)
	if inside == 0 {
		t.Error("no kill was between two deletions")
	}
	s.ok(prune("pruned")...)
	if got := s.filesOf("pruned"); !slices.Equal(got, want) {
		t.Errorf("%d files are left, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	s.checkKept("oci:pruned", "in the end")
	s.checkPruned("oci:pruned")
}

// awaitPrune returns what reports that a prune that starts now has come to the moment of an attempt.
func (s *site) awaitPrune(dir string, attempt int) func() bool {
	s.t.Helper()
	blobs, index := s.path(dir+"/blobs/sha256"), s.path(dir+"/index.json")
	count := func() int {
		folder, err := os.Open(blobs)
		if err != nil {
			s.t.Fatal(err)
		}
		defer folder.Close()
		names, err := folder.Readdirnames(-1)
		if err != nil {
			s.t.Fatal(err)
		}
		return len(names)
	}
	began, before := time.Now(), count()
	was, err := os.Stat(index)
	if err != nil {
		s.t.Fatal(err)
	}
	switch attempt % 5 {
	case 0: // it starts, or plans
		return func() bool {
			time.Sleep(time.Millisecond)
			return time.Since(began) > time.Duration(50+10*attempt)*time.Millisecond
		}
	case 1:
		return func() bool {
			time.Sleep(20 * time.Microsecond)
			now, err := os.Stat(index)
			return err == nil && !os.SameFile(was, now)
		}
	}
	return func() bool {
		time.Sleep(20 * time.Microsecond) // what is watched needs the processor
		return count() <= before-1-attempt%7*3
	}
}

// filesOf returns the files of a folder with their sizes, sorted, and the text of its index.
func (s *site) filesOf(dir string) (all []string) {
	s.t.Helper()
	err := filepath.WalkDir(s.path(dir), func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			all = append(all, fmt.Sprint(strings.TrimPrefix(name, s.path(dir)), " ", info.Size()))
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return append(all, string(readFile(s.t, s.path(dir+"/index.json"))))
}
