package site_test

import (
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/site"
)

// What is required and nil is named, before a goroutine would panic over it.
func TestRequiredFields(t *testing.T) {
	t.Parallel()
	_, opened := site.Open(t.Context(), site.Source{}, site.OpenOptions{AllowUnsigned: true})
	_, _, probed := (&site.Images{}).Probe(t.Context(), &bundle.Set{}, site.ProbeOptions{})
	for want, err := range map[string]error{"Source.Store is nil": opened, "ProbeOptions.Open is nil": probed} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
