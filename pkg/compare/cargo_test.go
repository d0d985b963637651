package compare

import (
	"fmt"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/bundle"
)

// Each version of a chart counts, and so does the mode of a file.
func TestCargoChanges(t *testing.T) {
	t.Parallel()
	pack := func(text string) renderedSide {
		b := &bundle.Bundle{Metadata: bundle.Metadata{Name: "node"}}
		for _, field := range strings.Fields(text) {
			part := strings.Split(field, ":") // name:version or mode:content
			if strings.Contains(part[1], ".") {
				b.Spec.Charts = append(b.Spec.Charts, bundle.CargoChart{Chart: part[0], Version: part[1], SHA256: part[2]})
			} else {
				b.Spec.Files = append(b.Spec.Files, bundle.CargoFile{Name: part[0], Mode: part[1], SHA256: part[2]})
			}
		}
		return renderedSide{artifact: &bundle.Artifact{Content: bundle.Content{Bundle: b}}}
	}
	describe := func(s *CargoState) string {
		if s == nil {
			return "none"
		}
		return fmt.Sprintf("%s%s:%s", s.Version, s.Mode, strings.TrimPrefix(s.Digest, "sha256:"))
	}
	for _, of := range []struct{ old, now, want string }{
		{"web:1.2.0:a web:1.3.0:b", "web:1.3.0:b web:1.2.0:a", ""},
		{"web:1.2.0:a", "web:1.3.0:b", "changed web 1.2.0:a 1.3.0:b"},
		{"web:1.2.0:a web:1.3.0:b", "web:1.3.0:b web:1.4.0:c", "changed web 1.2.0:a 1.4.0:c"},
		{"web:1.2.0:a web:1.3.0:b", "web:1.3.0:b web:1.2.0:c", "changed web 1.2.0:a 1.2.0:c"},
		{"web:1.9.0:a", "web:1.10.0:b web:1.9.0:a web:1.11.0:c", "added web none 1.10.0:b, added web none 1.11.0:c"},
		{"web:1.2.0:a web:1.3.0:b", "web:1.3.0:b", "removed web 1.2.0:a none"},
		{"tool:0644:a", "tool:0755:a", "changed tool 0644:a 0755:a"},
		{"tool:0644:a nic:0644:b", "tool:0644:a nic:0644:c", "changed nic 0644:b 0644:c"},
	} {
		var got []string
		for _, c := range compareCargo([]bundlePair{{name: "node", old: pack(of.old), new: pack(of.now)}}) {
			got = append(got, fmt.Sprintf("%s %s %s %s", c.Change, c.Name, describe(c.Old), describe(c.New)))
		}
		if text := strings.Join(got, ", "); text != of.want {
			t.Errorf("%s → %s: %q, want %q", of.old, of.now, text, of.want)
		}
	}
}
