package catalog

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"krtpkg.dev/krtpkg/pkg/graph"
	"krtpkg.dev/krtpkg/pkg/layers"
)

// copyClean returns a deep copy of a document in which every text is one: what terminals obey and what turns the
// direction of other text is replaced, but for line ends and tabs.
func copyClean[T any](document *T) (*T, error) {
	data, err := json.Marshal(document)
	if err != nil {
		return nil, err
	}
	clean := new(T)
	if err := json.Unmarshal(data, clean); err != nil {
		return nil, err
	}
	cleanValue(reflect.ValueOf(clean).Elem())
	return clean, nil
}

// cleanValue replaces what is not text in all that a value holds.
func cleanValue(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			cleanValue(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				cleanValue(v.Field(i))
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			cleanValue(v.Index(i))
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			value := reflect.New(v.Type().Elem()).Elem()
			value.Set(v.MapIndex(key))
			cleanValue(value)
			v.SetMapIndex(key, value)
		}
	case reflect.Interface:
		if text, is := v.Interface().(string); is && v.CanSet() {
			v.Set(reflect.ValueOf(cleanLines(text)))
		}
	case reflect.String:
		v.SetString(cleanLines(v.String()))
	}
}

// cleanLines is [graph.CleanText] for a text of several lines.
func cleanLines(s string) string {
	if !strings.ContainsAny(s, "\n\t\r") {
		return graph.CleanText(s)
	}
	lines := strings.Split(strings.ReplaceAll(s, "\r\n", "\n"), "\n")
	for i, line := range lines {
		parts := strings.Split(line, "\t")
		for k, part := range parts {
			parts[k] = graph.CleanText(part)
		}
		lines[i] = strings.Join(parts, "\t")
	}
	return strings.Join(lines, "\n")
}

// cutText returns the beginning of a long text, and says how much more there is.
func cutText(limit int, s string) string {
	if len(s) <= limit {
		return s
	}
	end := limit
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return fmt.Sprintf("%s… and %d more bytes", s[:end], len(s)-end)
}

// shortenDigest returns a digest that people can tell from others.
func shortenDigest(digest string) string {
	if i := strings.Index(digest, ":"); i >= 0 && len(digest) > i+13 {
		return digest[:i+13]
	}
	return cutText(20, digest)
}

// formatBytes returns a size for people.
func formatBytes(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// formatTime returns a time for people, "" for none.
func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04 UTC")
}

// formatDatetime returns a time for programs.
func formatDatetime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// layerName returns the number of a layer and its name.
func layerName(number int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", number, layers.LayerName(number)))
}

// webLink returns a URL that a page may lead to; "" for any other text.
func webLink(text string) string {
	if strings.HasPrefix(text, "https://") || strings.HasPrefix(text, "http://") {
		return text
	}
	return ""
}

// slugText returns a text as a part of a file's name or of an id: letters, digits, dots, hyphens and underscores.
func slugText(s string) string {
	slug := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-', r == '_':
			return r
		}
		return '-'
	}, s)
	if slug = strings.TrimLeft(slug, ".-"); len(slug) > 80 {
		slug = slug[:80]
	}
	if slug == "" {
		return "unnamed"
	}
	return slug
}
