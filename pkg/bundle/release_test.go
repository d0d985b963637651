package bundle_test

import (
	"testing"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/bundle"
)

// Each pair is compared both ways: what is newer one way is older the other way, and all else is the same both ways.
func TestReleaseCompare(t *testing.T) {
	t.Parallel()
	release := func(name, version, content string) bundle.Release {
		r := bundle.Release{Name: name, Version: version}
		if content != "" {
			r.Digest = digest.FromString(content)
		}
		return r
	}
	for _, c := range []struct {
		a, b bundle.Release
		want bundle.Order
	}{
		{release("web", "1.0.0", "a"), release("web", "1.0.0", "a"), bundle.SameContent},
		{release("web", "1.0.0", "a"), release("", "", "a"), bundle.SameContent},
		{release("web", "1.0.0", ""), release("web", "1.0.0", ""), bundle.SameContent},
		{release("web", "1.0.1", "a"), release("web", "1.0.0", "b"), bundle.NewerVersion},
		{release("web", "1.10.0", "a"), release("web", "1.9.0", "b"), bundle.NewerVersion},
		{release("web", "1.10.0", ""), release("web", "1.9.0", ""), bundle.NewerVersion},
		{release("web", "1.0.0", "a"), release("web", "1.0.0-rc.1", "b"), bundle.NewerVersion},
		{release("web", "1.0.0-rc.10", "a"), release("web", "1.0.0-rc.9", "b"), bundle.NewerVersion},
		{release("web", "1.0.1+1", "a"), release("web", "1.0.0+2", "b"), bundle.NewerVersion},
		{release("web", "1.0.0+1", "a"), release("web", "1.0.0-rc.1+2", "b"), bundle.NewerVersion},
		{release("web", "1.0.0", "a"), release("web", "1.0.0", "b"), bundle.OtherBuild},
		{release("web", "1.0.0+1", "a"), release("web", "1.0.0+1", "b"), bundle.OtherBuild},
		{release("web", "1.0.0+2", "a"), release("web", "1.0.0+1", "b"), bundle.OtherBuild},
		{release("web", "1.0.0+1", "a"), release("web", "1.0.0", "b"), bundle.OtherBuild},
		{release("web", "1.0.0-rc.1+1", "a"), release("web", "1.0.0-rc.1+2", "b"), bundle.OtherBuild},
		{release("web", "v1.0", "a"), release("web", "1.0.0", "b"), bundle.OtherBuild},
		{release("web", "nightly", "a"), release("web", "nightly", "b"), bundle.OtherBuild},
		{release("web", "nightly", "a"), release("web", "1.0.0", "b"), bundle.Unordered},
		{release("web", "", "a"), release("web", "1.0.0", "b"), bundle.Unordered},
		{release("web", "2.0.0", "a"), release("db", "1.0.0", "b"), bundle.OtherName},
		{release("web", "1.0.0", "a"), release("", "", "b"), bundle.OtherName},
	} {
		back := c.want
		if c.want == bundle.NewerVersion {
			back = bundle.OlderVersion
		}
		if got := c.a.Compare(c.b); got != c.want {
			t.Errorf("%s to %s: %d, want %d", c.a, c.b, got, c.want)
		}
		if got := c.b.Compare(c.a); got != back {
			t.Errorf("%s to %s: %d, want %d", c.b, c.a, got, back)
		}
	}
}
