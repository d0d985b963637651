package transfer

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// Missing is an item that was not found anywhere.
type Missing struct {
	// Image is its name.
	Image string
	// Reason is the error of each place that was asked.
	Reason error
}

// ItemError is the error of a manifest or a blob that a source does not have, or does not give as its digest says.
type ItemError struct {
	Digest digest.Digest
	// Item is what it is, "layer of IMAGE", and Source where it was read; "" if not known.
	Item, Source string
	// File is the file of an archive that has it; "" for other sources.
	File string
	Err  error
}

func (e *ItemError) Error() string {
	text := "read " + e.Digest.String() + " from source " + e.Source
	if e.Item != "" {
		text += " (" + e.Item + ")"
	}
	return text + ": " + e.Err.Error()
}

func (e *ItemError) Unwrap() error { return e.Err }

// describeItem returns what an item of the plan is, "layer of IMAGE"; "" if it is not known.
func (p *Plan) describeItem(d digest.Digest) string {
	p.describeOnce.Do(func() {
		manifests := map[digest.Digest][]byte{}
		for d, known := range p.nodes {
			if known.data != nil {
				manifests[d] = known.data
			}
		}
		p.described = layout.DescribeItems(p.namedEntries(), manifests)
	})
	return p.described[d]
}

// describeAs sets what items are, for a plan that does not hold the manifests.
func (p *Plan) describeAs(described map[digest.Digest]string) {
	p.describeOnce.Do(func() { p.described = described })
}

// NameItems returns progress that says of each item what it is, as its detail.
func (p *Plan) NameItems(report progress.Func) progress.Func {
	if report == nil {
		return nil
	}
	return func(e progress.Event) {
		if e.Kind == progress.Began && e.Detail == "" {
			e.Detail = p.describeItem(digest.Digest(e.Subject))
		}
		report(e)
	}
}

// itemError returns the error of an item of the plan, with what it belongs to.
func (p *Plan) itemError(n *planNode, err error) error {
	source, from := storeName(n.from), n.from
	if either, is := from.(*fallbackFetcher); is {
		from = either.first
	}
	file := ""
	if files, is := from.(interface{ FileOf(digest.Digest) string }); is {
		file = files.FileOf(n.desc.Digest)
	}
	return &ItemError{n.desc.Digest, p.describeItem(n.desc.Digest), cmp.Or(file, source), file, err}
}

// IncompleteError is the error of a root that cannot be copied because parts of it are missing.
type IncompleteError struct {
	Root ocispec.Descriptor
	// Missing lists all missing items, by name.
	Missing []Missing
}

func (e *IncompleteError) Error() string {
	lines := make([]string, len(e.Missing))
	for i, m := range e.Missing {
		lines[i] = fmt.Sprintf("%s: %v", m.Image, m.Reason)
	}
	noun := "images"
	if len(lines) == 1 {
		noun = "image"
	}
	return fmt.Sprintf("%s is incomplete: %d %s not found:\n  %s", e.Root.Digest, len(lines), noun, strings.Join(lines, "\n  "))
}

// Unwrap returns the reasons for each missing item.
func (e *IncompleteError) Unwrap() []error {
	reasons := make([]error, len(e.Missing))
	for i, m := range e.Missing {
		reasons[i] = m.Reason
	}
	return reasons
}
