package cli_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/registrytest"
)

// Each form of --progress, and --quiet, leaves the result as it is.
func TestProgress(t *testing.T) {
	t.Parallel()
	registry := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg})
	s := newSite(t, "ghcr.io/example/web:1.0")
	s.write(web...)
	s.ok("build", "-f", ".")
	push := func(name string, flags ...string) string {
		t.Helper()
		reference := registry.Host + "/krt/" + name + ":1.0.0"
		r := s.run(append([]string{"push", "oci:dist:1.0.0", reference}, flags...)...)
		if r.code != 0 || !strings.HasPrefix(r.stdout, reference+"@sha256:") {
			t.Errorf("%v: exit code %d\n%s%s", flags, r.code, r.stdout, r.stderr)
		}
		return r.stderr
	}

	auto, plain := push("auto"), push("plain", "--progress", "plain")
	for _, text := range []string{auto, plain} {
		lines := strings.Split(text, "\n")
		if len(lines) != 5 || !strings.HasSuffix(lines[0], " in all") || !strings.Contains(lines[1], ", 100%, ") || !strings.Contains(lines[3], " copied, ") {
			t.Errorf("want the plan, the end and a summary, not\n%s", text)
		}
		for _, line := range lines {
			if len(line) > 80 {
				t.Errorf("%d columns: %s", len(line), line)
			}
		}
	}
	if text := push("tty", "--progress", "tty"); !strings.Contains(text, " copied, ") || strings.Contains(text, " in all") {
		t.Errorf("want a summary and no plan, not\n%q", text)
	}
	for name, flags := range map[string][]string{"none": {"--progress=none"}, "quiet": {"-q"}, "both": {"-q", "--progress", "json"}} {
		if text := push(name, flags...); text != "" {
			t.Errorf("%v says\n%s", flags, text)
		}
	}
	wellFormed(t, push("json", "--progress", "json"), "planned", "copied", "done", "summary")
	again := s.run("push", "oci:dist:1.0.0", registry.Host+"/krt/json:1.0.0", "--progress", "json")
	wellFormed(t, again.stderr, "planned", "skipped", "done", "summary")
	s.refused(2, "want auto, tty, plain, json or none", "version", "--progress", "fancy")

	failed := s.run("push", "oci:dist:9.9.9", registry.Host+"/krt/no:1.0.0", "--progress", "json")
	if wellFormed(t, failed.stderr, "note"); failed.code != 1 {
		t.Errorf("a push of nothing ended with exit code %d", failed.code)
	}
}

// wellFormed looks for the first of each of some events, in this order, among lines that all
// must be JSON.
func wellFormed(t *testing.T, text string, want ...string) {
	t.Helper()
	var events []string
	for line := range strings.Lines(text) {
		var r struct {
			Time  time.Time
			Event string
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.Time.IsZero() || r.Event == "" {
			t.Errorf("%q: %v", line, err)
		}
		if slices.Contains(want, r.Event) && !slices.Contains(events, r.Event) {
			events = append(events, r.Event)
		}
	}
	if !slices.Equal(events, want) {
		t.Errorf("events are %v, want %v, in\n%s", events, want, text)
	}
}
