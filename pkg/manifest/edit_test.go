package manifest_test

import (
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// A value is replaced inside its own quotes, whatever form it has, and no other byte changes.
func TestReplaceLeavesEveryOtherByte(t *testing.T) {
	t.Parallel()
	const old, replacement = "example.org/web:1.0", "site.example/krt@sha256:0123"
	for name, data := range map[string]string{
		"plain":                       "image: example.org/web:1.0\n",
		"plain, comment behind":       "image: example.org/web:1.0   # the web\nb: 1\n",
		"plain, blanks behind":        "image: example.org/web:1.0  \t \nb: 1\n",
		"plain, no newline":           "image: example.org/web:1.0",
		"double quotes":               "image: \"example.org/web:1.0\" # q\n",
		"single quotes":               "image: 'example.org/web:1.0'\n",
		"blanks inside the quotes":    "image: \" example.org/web:1.0\t\"\n",
		"literal":                     "image: |\n  example.org/web:1.0\nb: 1\n",
		"literal, stripped":           "image: |-  # why\n    example.org/web:1.0\n\n\nb: 1\n",
		"literal, kept":               "image: |+2\n  example.org/web:1.0\n\n",
		"folded":                      "image: >-\n\n  example.org/web:1.0\n",
		"literal, no newline":         "image: |\n  example.org/web:1.0",
		"tag":                         "image: !!str example.org/web:1.0\n",
		"anchor":                      "image: &i example.org/web:1.0\nb: *i\n",
		"tag and anchor":              "image: !!str &i 'example.org/web:1.0'\n",
		"anchor and tag":              "image: &i !!str |\n  example.org/web:1.0\n",
		"anchor on a line of its own": "image: &i\n  example.org/web:1.0\n",
		"comment behind the anchor":   "image: &i # the web\n\n  # more\n  example.org/web:1.0\n",
		"on the next line":            "image:\n    example.org/web:1.0\n",
		"flow":                        "{a: 1, image: example.org/web:1.0, b: [x]}\n",
		"flow, nothing behind":        "{image: example.org/web:1.0}",
		"flow list":                   "image: [example.org/web:1.0]\n",
		"JSON":                        "{\"kind\": \"Pod\", \"image\":\"example.org/web:1.0\"}",
		"JSON with tabs":              "{\n\t\"kind\": \"Pod\",\n\t\"image\": \"example.org/web:1.0\"\n}\n",
		"byte order mark":             "\uFEFFimage: example.org/web:1.0\n",
		"CR LF":                       "a: 1\r\nimage: example.org/web:1.0\r\nb: 1\r\n",
		"CR LF, literal":              "image: |\r\n  example.org/web:1.0\r\nb: 1\r\n",
		"CR":                          "a: 1\rimage: example.org/web:1.0\rb: 1\r",
		"characters of many bytes":    "{ä: '€😀', image: example.org/web:1.0}\n# ü\n",
		"many bytes and a mark":       "\uFEFF{ä: '€😀', image: example.org/web:1.0}\n",
		"document after another":      "a: |\n  text\n  # no comment\n---\n# c\nimage: \"example.org/web:1.0\"\n...\n",
		"octal and big numbers":       "mode: 0644\nyes: no\nbig: 12345678901234567890\nimage: example.org/web:1.0\ndate: 2001-01-01\n",
		"separator lines in a string": "a: \"x\u2028y\u2029z\"\nimage: example.org/web:1.0\n",
		"list item":                   "- - example.org/web:1.0\n  - x\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := manifest.Parse("f.yaml", []byte(data))
			if err != nil {
				t.Fatal(err)
			}
			for _, doc := range f.Documents {
				scalars(doc, func(n *yaml.Node) {
					if strings.TrimSpace(n.Value) != old {
						return
					}
					// Twice, as through an anchor and its alias.
					for range 2 {
						if err := f.ReplaceScalar(n, replacement); err != nil {
							t.Error(err)
						}
					}
				})
			}
			if got, want := string(f.Bytes()), strings.Replace(data, old, replacement, 1); got != want {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

func TestReplaceManyInAnyOrder(t *testing.T) {
	t.Parallel()
	f, err := manifest.Parse("f.yaml", []byte("- a # 1\n- 'b'\n- |\n  c\n- {d: e}\n"))
	if err != nil {
		t.Fatal(err)
	}
	items := f.Documents[0].Content
	for _, edit := range []struct {
		node  *yaml.Node
		value string
	}{{items[2], "long-c"}, {items[0], "x"}, {items[3].Content[1], ""}, {items[1], "long-b"}} {
		if err := f.ReplaceScalar(edit.node, edit.value); err != nil {
			t.Fatal(err)
		}
	}
	const want = "- x # 1\n- 'long-b'\n- |\n  long-c\n- {d: }\n"
	if got := string(f.Bytes()); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What does not stand in the file as it reads is refused with its place, and nothing changes.
func TestReplaceRefusesWhatIsNotInPlace(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{
		"escape":                 `a: "\x77eb"`,
		"escape at the end":      `a: "web\\"`,
		"escaped quote":          `a: "web\""`,
		"doubled quote":          `a: 'web'''`,
		"doubled quote inside":   `a: 'w''eb'`,
		"plain over two lines":   "a: web\n  server\n",
		"quotes over two lines":  "a: \"web\n  server\"\n",
		"folded over two lines":  "a: >\n  web\n  server\n",
		"literal over two lines": "a: |\n  web\n  server\n",
		"escaped line break":     "a: \"we\\\n  b\"\n",
		"empty":                  "a: ''\n",
		"nothing":                "a:\nb: 1\n",
		"blanks":                 "a: '  '\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := manifest.Parse("f.yaml", []byte(data))
			if err != nil {
				t.Fatal(err)
			}
			err = f.ReplaceScalar(f.Documents[0].Content[1], "new")
			if err == nil || !strings.HasPrefix(err.Error(), "f.yaml:1:") {
				t.Errorf("got %v and %q", err, f.Bytes())
			}
			if string(f.Bytes()) != data {
				t.Errorf("changed to %q", f.Bytes())
			}
		})
	}
}

func TestReplaceRefusesMappings(t *testing.T) {
	t.Parallel()
	f, err := manifest.Parse("f.yaml", []byte("a: {b: 1}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.ReplaceScalar(f.Documents[0].Content[1], "x"); err == nil {
		t.Error("a mapping was replaced")
	}
}
