package mirror_test

import (
	"errors"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/mirror"
)

func TestPickTags(t *testing.T) {
	t.Parallel()
	all := []string{
		"1.0.0", "1.10.0", "1.2.0", "v2.0.0", "2.1.0-rc.1", "1.3.0_build.5", "stable", "candidate", "1.2",
		"sha256-0a1b.sig", "1.2.0.argocd", "a/b", "oci:x",
	}
	for name, test := range map[string]struct {
		item mirror.ListItem
		want string
	}{
		"all":               {want: "2.1.0-rc.1 v2.0.0 1.10.0 1.3.0_build.5 1.2.0 1.0.0 1.2 candidate stable"},
		"the newest two":    {item: mirror.ListItem{Newest: 2}, want: "2.1.0-rc.1 v2.0.0"},
		"a range":           {item: mirror.ListItem{Versions: ">=1.2.0 <2.0.0"}, want: "1.10.0 1.3.0_build.5 1.2.0"},
		"newest of a range": {item: mirror.ListItem{Versions: "^1.0.0", Newest: 1}, want: "1.10.0"},
		"globs":             {item: mirror.ListItem{Tags: []string{"stab*", "v*"}}, want: "v2.0.0 stable"},
		"a range and a tag": {item: mirror.ListItem{Versions: "1.0.0", Tags: []string{"stable"}}, want: "1.0.0 stable"},
		"attached":          {item: mirror.ListItem{Tags: []string{"sha256-*", "*.argocd"}}},
	} {
		if got := strings.Join(test.item.PickTags(all), " "); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

func TestParseList(t *testing.T) {
	t.Parallel()
	const head = "apiVersion: krtpkg.dev/v1alpha1\nkind: MirrorList\n"
	noTags := func(repository string) error {
		if strings.HasSuffix(repository, ":1.0.0") {
			return errors.New("want a repository")
		}
		return nil
	}
	for text, fails := range map[string]string{
		head + "copies: [{from: a.example/x, to: b.example/x, versions: \">=1.0.0\", newest: 3}]": "",
		head:                           "",
		"apiVersion: v1\nkind: List\n": "list.yaml is v1 List, want krtpkg.dev/v1alpha1 MirrorList",
		head + "copies: [{from: a.example/x, to: b.example/x, version: 1.0.0}]":    "version",
		head + "copies: [{from: a.example/x}]":                                     "list.yaml: copies[0]: from and to are required",
		head + "copies: [{from: a.example/x, to: b.example/x:1.0.0}]":              "list.yaml: copies[0]: want a repository",
		head + "copies: [{from: a.example/x, to: b.example/x, tags: [\"[\"]}]":     `list.yaml: copies[0]: tag "["`,
		head + "copies: [{from: a.example/x, to: b.example/x, versions: \">>1\"}]": `list.yaml: copies[0]: versions ">>1"`,
		head + "copies: [{from: a.example/x, to: b.example/x, newest: -1}]":        "list.yaml: copies[0]: newest -1",
	} {
		_, err := mirror.ParseList("list.yaml", []byte(text), noTags)
		if fails == "" && err != nil || fails != "" && (err == nil || !strings.Contains(err.Error(), fails)) {
			t.Errorf("%s\n%v, want %q", text, err, fails)
		}
	}
}
