package bundle

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxIcon is in bytes: every cluster keeps the icon of each package, as base64 in a resource.
const maxIcon = 32 << 10

// CheckIcon says why a text is not a picture for catalogues: a well-formed SVG of at most 32 KiB
// that runs nothing and declares no entities, since catalogues show it as it is.
func CheckIcon(svg string) error {
	if len(svg) > maxIcon {
		return fmt.Errorf("the icon has %d bytes, the limit is %d", len(svg), maxIcon)
	}
	in := xml.NewDecoder(strings.NewReader(svg))
	root := true
	for {
		token, err := in.Token()
		if errors.Is(err, io.EOF) && !root {
			return nil
		}
		if errors.Is(err, io.EOF) {
			return errors.New("the icon is not an SVG: no element found")
		}
		if err != nil {
			return fmt.Errorf("the icon is not an SVG: %w", err)
		}
		switch t := token.(type) {
		case xml.Directive:
			return errors.New("the icon has a document type: remove its declaration")
		case xml.StartElement:
			if want := (xml.Name{Space: "http://www.w3.org/2000/svg", Local: "svg"}); root && t.Name != want {
				return fmt.Errorf("the icon is not an SVG: its root is %q in the namespace %q", t.Name.Local, t.Name.Space)
			}
			root = false
			if err := checkInert(t); err != nil {
				return err
			}
		}
	}
}

// checkInert refuses what runs when a browser shows the element by itself.
func checkInert(e xml.StartElement) error {
	if strings.EqualFold(e.Name.Local, "script") || strings.EqualFold(e.Name.Local, "foreignObject") {
		return fmt.Errorf("the icon has an element %s: an icon is a picture only", e.Name.Local)
	}
	for _, a := range e.Attr {
		link := strings.EqualFold(a.Name.Local, "href") && !strings.HasPrefix(a.Value, "#")
		if link || len(a.Name.Local) > 2 && strings.EqualFold(a.Name.Local[:2], "on") {
			return fmt.Errorf("the icon has an attribute %s on %s that runs or fetches something: an icon is a picture only", a.Name.Local, e.Name.Local)
		}
	}
	return nil
}
