package bundle_test

import (
	"testing"

	"krtpkg.dev/krtpkg/pkg/bundle"
)

// A tag that is a whole version is the signed one or a lie; a channel claims nothing.
func TestCheckTag(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ tag, version, want string }{
		{"1.0.0", "1.0.0", ""},
		{"2.0.0", "1.0.0", "tag 2.0.0 is not the version of shop 1.0.0"},
		{"v1.0.0", "1.0.0", ""},
		{"v2.0.0", "1.0.0", "tag v2.0.0 is not the version of shop 1.0.0"},
		{"1.0.0_build.7", "1.0.0+build.7", ""},
		{"1.0.0", "1.0.0+build.7", "tag 1.0.0 is not the version of shop 1.0.0+build.7"},
		{"1.0.0_build.8", "1.0.0+build.7", "tag 1.0.0_build.8 is not the version of shop 1.0.0+build.7"},
		{"1.0.0-rc.1", "1.0.0", "tag 1.0.0-rc.1 is not the version of shop 1.0.0"},
		{"", "1.0.0", ""},
		{"stable", "1.0.0", ""},
		{"edge", "1.0.0", ""},
		{"1", "2.0.0", ""},
		{"1.1", "2.0.0", ""},
		{"2024-11-28", "1.0.0", ""},
		// What is read as a version claims one, however it is spelled.
		{"V2.0.0", "1.0.0", "tag V2.0.0 is not the version of shop 1.0.0"},
		{"V1.0.0", "1.0.0", ""},
		{"v.2.0.0", "1.0.0", "tag v.2.0.0 is not the version of shop 1.0.0"},
		{"02.0.0", "1.0.0", "tag 02.0.0 is not the version of shop 1.0.0"},
		{"2.0.0.", "1.0.0", "tag 2.0.0. is not the version of shop 1.0.0"},
		{"2.0.0-", "1.0.0", "tag 2.0.0- is not the version of shop 1.0.0"},
		{"2.0.0__", "1.0.0", "tag 2.0.0__ is not the version of shop 1.0.0"},
		{"2.0.0_x_y", "1.0.0", "tag 2.0.0_x_y is not the version of shop 1.0.0"},
		{"2.0.0.0", "1.0.0", "tag 2.0.0.0 is not the version of shop 1.0.0"},
		{"1.0.0.0", "1.0.0", "tag 1.0.0.0 is not the version of shop 1.0.0"},
		{"release-2.0.0", "1.0.0", "tag release-2.0.0 is not the version of shop 1.0.0"},
		{"release-1.0.0", "1.0.0", ""},
		{"release-v1.0.0_build.7", "1.0.0+build.7", ""},
		{"Release_v2.0.0", "1.0.0", "tag Release_v2.0.0 is not the version of shop 1.0.0"},
		{"version2.0.0", "1.0.0", "tag version2.0.0 is not the version of shop 1.0.0"},
		{"shop-2.0.0", "1.0.0", "tag shop-2.0.0 is not the version of shop 1.0.0"},
		{"shop-1.0.0", "1.0.0", ""},
		{"shop-release-2.0.0", "1.0.0", "tag shop-release-2.0.0 is not the version of shop 1.0.0"},
		{"for-kubernetes-1.31.0", "1.0.0", ""},
		{"shopping-2.0.0", "1.0.0", ""},
		{"release", "1.0.0", ""},
		{"release-2.0", "1.0.0", ""},
		{"2.0.0.argocd", "1.0.0", ""},
		{"2.0.0-rc.1.argocd", "1.0.0", ""},
		{"sha256-2222.sig", "1.0.0", ""},
	} {
		err := bundle.Metadata{Name: "shop", Version: c.version}.CheckTag(c.tag)
		if got := errorText(err); got != c.want {
			t.Errorf("%s for %s: got %q, want %q", c.tag, c.version, got, c.want)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
