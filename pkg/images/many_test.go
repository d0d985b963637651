package images_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Four times the references take four times the time, and not sixteen times, however they stand in
// one file.
func TestManyReferencesInOneText(t *testing.T) {
	const reference, head = "site.example:5100/up/web:1.0", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata:\n"
	locked, err := name.NewDigest("site.example:5100/up/web@sha256:" + strings.Repeat("1", 64))
	if err != nil {
		t.Fatal(err)
	}
	for kind, text := range map[string]func(n int) string{
		"on one line":  func(n int) string { return head + "  a: \"" + strings.Repeat("--image="+reference+" ", n) + "\"\n" },
		"escaped":      func(n int) string { return head + "  a: \"" + strings.Repeat("\\n- image: "+reference, n) + "\"\n" },
		"on its lines": func(n int) string { return head + "  a: |\n" + strings.Repeat("    x image: "+reference+" y\n", n) },
		"after blanks": func(n int) string {
			return head + "  a: \"" + strings.Repeat("  ", n) + strings.Repeat("image="+reference+" ", n) + "\"\n"
		},
	} {
		took := func(n int) time.Duration {
			file, err := manifest.Parse("a.yaml", []byte(text(n)))
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			found, err := new(images.Finder).Find(file)
			if err != nil || len(found) != n {
				t.Fatalf("%s: %d found of %d, %v", kind, len(found), n, err)
			}
			if _, err := (images.Lock{{Image: locked, Reference: reference}}).RelocateFound(file, found, func(d name.Digest) string { return d.Name() }); err != nil {
				t.Fatal(err)
			}
			return time.Since(start)
		}
		took(1000)
		few, many := took(2000), took(8000)
		t.Logf("%s: %s, %s", kind, few, many)
		if many > 10*few && many > 5*time.Second {
			t.Errorf("%s: 2,000 take %s, and 8,000 %s", kind, few, many)
		}
	}
}
