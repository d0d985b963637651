package cli

import (
	"bytes"
	"testing"
)

// TestWriteManifest: a byte order mark belongs to the beginning of a file, and a stream of
// manifests has it nowhere; each manifest ends its last line.
func TestWriteManifest(t *testing.T) {
	var text bytes.Buffer
	writeManifest(&text, "a/one.yaml", []byte("\uFEFFkind: One"))
	writeManifest(&text, "a/two.yaml", []byte("\uFEFFkind: Two\n"))
	if got, want := text.String(), "---\n# a/one.yaml\nkind: One\n---\n# a/two.yaml\nkind: Two\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
