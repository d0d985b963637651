package images_test

import (
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/images"
)

// What is required and nil is named, before a goroutine would panic over it.
func TestRequiredArguments(t *testing.T) {
	t.Parallel()
	_, locked := images.ResolveLock(t.Context(), []images.WantedImage{{Image: "one"}}, nil)
	_, limited := images.ForPlatforms(nil, nil, nil, []string{"linux/amd64"}, nil)
	for want, err := range map[string]error{"resolver is nil": locked, "origins and a store are required": limited} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
