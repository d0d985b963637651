package assemble

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/source"
)

// filePin is a file of a lock file and what it was.
type filePin struct {
	Name     string `yaml:"name"`
	Platform string `yaml:"platform,omitempty"`
	// Origin is what the definition asks for: a URL or a path.
	Origin string `yaml:"origin"`
	SHA256 string `yaml:"sha256"`
	// Size is not known of a file that the definition itself pins.
	Size int64 `yaml:"size,omitempty"`
}

// chartPin is a chart of a lock file and what it was. Origin has the version that the definition asks for.
type chartPin struct {
	Origin  string `yaml:"origin"`
	Version string `yaml:"version,omitempty"`
	SHA256  string `yaml:"sha256"`
}

// isFor reports whether a pin is that of a file.
func (p filePin) isFor(f *bundle.CargoFile) bool {
	return p.Name == f.Name && p.Platform == f.Platform && p.Origin == f.Origin()
}

// requestedChart returns what a definition requests of a chart: its origin, with a version.
func requestedChart(c *bundle.CargoChart) string {
	if c.Repository == "" {
		return c.Origin()
	}
	return c.Origin() + " " + c.Version
}

func (p *lockedPins) pinOfFile(f *bundle.CargoFile) *filePin {
	if p == nil {
		return nil
	}
	if i := slices.IndexFunc(p.Files, func(pin filePin) bool { return pin.isFor(f) }); i >= 0 {
		return &p.Files[i]
	}
	return nil
}

func (p *lockedPins) pinOfChart(c *bundle.CargoChart) *chartPin {
	if p == nil {
		return nil
	}
	if i := slices.IndexFunc(p.Charts, func(pin chartPin) bool { return pin.Origin == requestedChart(c) }); i >= 0 {
		return &p.Charts[i]
	}
	return nil
}

// pinFile sets the pins of a file by the lock file. What lies next to the definition may change between updates,
// unless nothing may.
func (p sourcePinner) pinFile(f *bundle.CargoFile) error {
	pin := p.pinOfFile(f)
	switch {
	case pin == nil && p.strict:
		return fmt.Errorf("file %s: %w", f.Name, ErrNotLocked)
	case pin != nil && (f.URL != "" || p.strict):
		f.SHA256 = cmp.Or(f.SHA256, pin.SHA256)
		if f.Size == 0 && f.SHA256 == pin.SHA256 {
			f.Size = pin.Size
		}
	}
	if f.URL != "" && f.SHA256 == "" {
		return &UnpinnedError{f.URL, "sha256"}
	}
	return nil
}

// pinChart sets the pins of a chart by the lock file.
func (p sourcePinner) pinChart(c *bundle.CargoChart) error {
	pin := p.pinOfChart(c)
	isRemote := c.Repository != "" || strings.HasPrefix(c.Archive, "https://")
	switch {
	case pin == nil && p.strict:
		return fmt.Errorf("chart %s: %w", c.Origin(), ErrNotLocked)
	case pin != nil && (isRemote || p.strict):
		c.SHA256 = cmp.Or(c.SHA256, pin.SHA256)
		if c.Repository != "" {
			c.Version = pin.Version
		}
	}
	if isRemote && c.SHA256 == "" {
		return &UnpinnedError{c.Origin(), "sha256"}
	}
	return nil
}

// addCargo brings the files and charts of a bundle into the store and locks them.
func (o Options) addCargo(ctx context.Context, a *assembly, at definitionPath, pins sourcePinner) error {
	fetcher := o.Sources
	fetcher.Dir = at.folder()
	spec := &a.Bundle.Spec
	for i := range spec.Files {
		f := &spec.Files[i]
		written := *f
		err := pins.pinFile(f)
		if err == nil && written.Artifact != "" {
			err = fmt.Errorf("file %s: artifact is for the build to set", f.Name)
		}
		if err == nil {
			err = o.storeFile(ctx, &fetcher, f)
		}
		if wrong := (*fileSizeError)(nil); written.Size == 0 && errors.As(err, &wrong) {
			err = &MovedError{f.Origin(), fmt.Sprintf("%d bytes", wrong.got), fmt.Sprintf("%d bytes", wrong.want)}
		}
		if err != nil {
			return placeError(a.definition, []any{"spec", "files", i}, movedIfLocked(err, written.SHA256))
		}
	}
	for i := range spec.Charts {
		c := &spec.Charts[i]
		written := c.SHA256
		err := pins.pinChart(c)
		if err == nil {
			err = o.storeChart(ctx, &fetcher, a, c)
		}
		if err != nil {
			return placeError(a.definition, []any{"spec", "charts", i}, movedIfLocked(err, written))
		}
	}
	lock, err := bundle.PackFiles(ctx, o.Store, spec.Files)
	if err != nil {
		return err
	}
	a.Cargo = a.Cargo.Merge(lock)
	return nil
}

// movedIfLocked tells of a digest that the lock file has, and not the definition, as of one that has moved.
func movedIfLocked(err error, written string) error {
	if wrong := (*source.DigestError)(nil); written == "" && errors.As(err, &wrong) {
		return &MovedError{wrong.Source, "sha256:" + wrong.Got, "sha256:" + wrong.Want}
	}
	return err
}

// storeFile brings the content of a file into the store, as a stream, and sets its size and its digest. Content that
// the store has is not fetched again.
func (o Options) storeFile(ctx context.Context, fetcher *source.Fetcher, f *bundle.CargoFile) error {
	if f.Path != "" {
		// The digest comes first in a manifest, so a local file is read twice.
		sum, size, err := fetcher.DigestFile(f.Path)
		if err != nil {
			return err
		}
		if f.SHA256 != "" && sum != f.SHA256 {
			return &source.DigestError{Source: f.Path, Got: sum, Want: f.SHA256}
		}
		if err := checkFileSize(f, size); err != nil {
			return err
		}
		f.SHA256, f.Size = sum, size
		return fetcher.StreamFile(f.Path, func(r io.Reader, _ int64) error { return o.pushFile(ctx, f, r) })
	}
	if f.Size > 0 {
		there, err := o.Store.Exists(ctx, f.Content())
		if err != nil || there {
			return err
		}
	}
	return fetcher.StreamURL(ctx, f.URL, func(r io.Reader, size int64) error {
		if size < 0 && f.Size == 0 {
			return o.spoolFile(ctx, f, r)
		}
		if size >= 0 {
			if err := checkFileSize(f, size); err != nil {
				return err
			}
			f.Size = size
		}
		return o.pushFile(ctx, f, r)
	})
}

// checkFileSize holds the size of a file to the one that the definition or the lock file has.
func checkFileSize(f *bundle.CargoFile, size int64) error {
	if f.Size > 0 && f.Size != size {
		return &fileSizeError{f.Origin(), size, f.Size}
	}
	return nil
}

// fileSizeError reports a file of another size than the one that the definition or the lock file has.
type fileSizeError struct {
	origin    string
	got, want int64
}

func (e *fileSizeError) Error() string {
	return fmt.Sprintf("%s has %d bytes, want %d", e.origin, e.got, e.want)
}

// spoolFile pushes a stream of unknown size by way of a temporary file: a store wants the size first.
func (o Options) spoolFile(ctx context.Context, f *bundle.CargoFile, r io.Reader) (err error) {
	spool, err := os.CreateTemp("", "krtpkg-file-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, spool.Close(), os.Remove(spool.Name())) }()
	size, err := io.Copy(spool, r)
	if err != nil {
		return err
	}
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		return err
	}
	f.Size = size
	return o.pushFile(ctx, f, spool)
}

// pushFile writes a file into the store, which checks its digest on the way. The error is a [*source.DigestError] if
// it has another one.
func (o Options) pushFile(ctx context.Context, f *bundle.CargoFile, r io.Reader) error {
	event := progress.Event{Kind: progress.Began, Subject: f.Name, Bytes: f.Size}
	o.Progress.Emit(event)
	hash := digest.SHA256.Digester()
	err := o.Store.Push(ctx, f.Content(), io.TeeReader(r, hash.Hash()))
	switch {
	case errors.Is(err, errdef.ErrAlreadyExists):
		err = nil
	case errors.Is(err, content.ErrMismatchedDigest), errors.Is(err, content.ErrTrailingData):
		_, _ = io.Copy(hash.Hash(), r)
		return &source.DigestError{Source: f.Origin(), Got: hash.Digest().Encoded(), Want: f.SHA256}
	}
	if err == nil {
		event.Kind = progress.Copied
		o.Progress.Emit(event)
	}
	return err
}

// storeChart fetches or packs a chart and writes it into the store.
func (o Options) storeChart(ctx context.Context, fetcher *source.Fetcher, a *assembly, c *bundle.CargoChart) error {
	packed, err := packChart(ctx, fetcher, c)
	if err != nil {
		return err
	}
	if sum := digest.FromBytes(packed.Data).Encoded(); c.SHA256 != "" && sum != c.SHA256 {
		return &source.DigestError{Source: c.Origin(), Got: sum, Want: c.SHA256}
	}
	if c.Repository != "" && packed.Version != c.Version {
		return fmt.Errorf("chart %s %s has version %q in its Chart.yaml", c.Origin(), c.Version, packed.Version)
	}
	lock, err := c.Pack(ctx, o.Store, packed)
	if err != nil {
		return err
	}
	a.Cargo = a.Cargo.Merge(lock)
	return nil
}

// packChart returns a chart as it is in a repository, or packed from its folder.
func packChart(ctx context.Context, fetcher *source.Fetcher, c *bundle.CargoChart) (*bundle.PackedChart, error) {
	if c.Dir != "" {
		tree, err := fetcher.ReadFolder(c.Dir, source.Pick{All: true})
		if err != nil {
			return nil, err
		}
		var files []bundle.File
		for _, f := range tree.Files {
			files = append(files, bundle.File{Path: f.Path, Data: f.Data})
		}
		packed, err := render.PackChart(files)
		if err != nil {
			return nil, fmt.Errorf("chart %s: %w", c.Dir, err)
		}
		return packed, nil
	}
	var from *source.PackedChart
	var err error
	if c.Archive != "" {
		from, err = fetcher.FetchChartArchive(ctx, c.Archive, c.SHA256)
	} else {
		from, err = fetcher.FetchPackedChart(ctx, c.Repository, c.Chart, c.Version, c.SHA256)
	}
	if err != nil {
		return nil, err
	}
	packed, err := render.DescribeChart(from.Chart)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", c.Origin(), err)
	}
	packed.Data = from.Data
	return packed, nil
}

// cargoUpdate is what upstream has of the files and charts of a definition.
type cargoUpdate struct {
	files  []filePin
	charts []chartPin
	moves  []Move
}

// findCargo asks upstream for files and charts. A file with a sha256 in the definition stays that file: its author
// has it from whoever publishes the file. With latest it changes the definition to the newest versions of charts.
func (o Options) findCargo(ctx context.Context, d *bundle.Definition, at definitionPath, old *lockedPins, latest bool) (*cargoUpdate, error) {
	fetcher := o.Sources
	fetcher.Dir = at.folder()
	up := &cargoUpdate{}
	for i := range d.Bundle.Spec.Files {
		f := &d.Bundle.Spec.Files[i]
		pin, err := findFile(ctx, &fetcher, f, old)
		if err != nil {
			return nil, placeError(d, []any{"spec", "files", i}, err)
		}
		up.files = append(up.files, *pin)
		from := f.SHA256
		if was := old.pinOfFile(f); was != nil {
			from = was.SHA256
		}
		up.addMove(Move{Bundle: d.Metadata().Name, Kind: "file", Name: strings.TrimSpace(f.Name + " " + f.Platform), From: withAlgorithm(from), To: withAlgorithm(pin.SHA256)})
	}
	for i := range d.Bundle.Spec.Charts {
		c := d.Bundle.Spec.Charts[i] // a copy, with the pins of upstream
		at := []any{"spec", "charts", i}
		move, err := findChart(ctx, &fetcher, &c, old, latest)
		if err != nil {
			return nil, placeError(d, at, err)
		}
		requested := d.Bundle.Spec.Charts[i]
		if latest && move.Newest != "" {
			requested.Version, move.Newest = move.Newest, ""
			if err := d.SetField(append(at, "version"), requested.Version); err != nil {
				return nil, err
			}
		}
		move.Bundle = d.Metadata().Name
		up.addMove(*move)
		if requested.SHA256 != "" && requested.SHA256 != c.SHA256 {
			if err := d.SetField(append(at, "sha256"), c.SHA256); err != nil {
				return nil, err
			}
		}
		pin := chartPin{Origin: requestedChart(&requested), SHA256: c.SHA256}
		if c.Repository != "" {
			pin.Version = c.Version
		}
		up.charts = append(up.charts, pin)
	}
	return up, nil
}

func (up *cargoUpdate) addMove(m Move) {
	if m.From != m.To || m.Newest != "" {
		up.moves = append(up.moves, m)
	}
}

func withAlgorithm(sum string) string {
	if sum == "" {
		return ""
	}
	return "sha256:" + sum
}

// findFile returns the pin of what a file is now.
func findFile(ctx context.Context, fetcher *source.Fetcher, f *bundle.CargoFile, old *lockedPins) (*filePin, error) {
	pin := &filePin{Name: f.Name, Platform: f.Platform, Origin: f.Origin(), SHA256: f.SHA256, Size: f.Size}
	var err error
	switch {
	case f.Path != "":
		pin.SHA256, pin.Size, err = fetcher.DigestFile(f.Path)
		if err == nil && f.SHA256 != "" && f.SHA256 != pin.SHA256 {
			err = &source.DigestError{Source: f.Path, Got: pin.SHA256, Want: f.SHA256}
		}
	case f.SHA256 == "":
		pin.SHA256, pin.Size, err = fetcher.DigestURL(ctx, f.URL)
	default:
		if was := old.pinOfFile(f); was != nil && was.SHA256 == f.SHA256 {
			pin.Size = was.Size
		}
	}
	return pin, err
}

// findChart sets the version and the digest of a chart to those of the newest version in the range of its definition,
// or with latest to those of the newest of all.
func findChart(ctx context.Context, fetcher *source.Fetcher, c *bundle.CargoChart, old *lockedPins, latest bool) (*Move, error) {
	move := &Move{Kind: "chart", Name: requestedChart(c)}
	was, written := old.pinOfChart(c), *c
	c.SHA256 = "" // what is there now
	if c.Repository != "" {
		up, err := lookForChart(ctx, fetcher, c.Source())
		if err != nil {
			return nil, err
		}
		c.Version = up.pin.Version
		if up.newest != "" && up.newest != up.pin.Version {
			move.Newest = up.newest
			if latest {
				c.Version = up.newest
			}
		}
	}
	packed, err := packChart(ctx, fetcher, c)
	if err != nil {
		return nil, err
	}
	c.SHA256 = digest.FromBytes(packed.Data).Encoded()
	version := ""
	if c.Repository != "" {
		version = c.Version
	}
	move.To = cmp.Or(version, withAlgorithm(c.SHA256))
	switch {
	case was != nil && was.SHA256 == c.SHA256, was == nil && written.SHA256 == c.SHA256:
		move.From = move.To
	case was != nil:
		move.From = cmp.Or(was.Version, withAlgorithm(was.SHA256))
	case written.SHA256 != "":
		move.From = cmp.Or(written.Version, withAlgorithm(written.SHA256))
	}
	return move, nil
}

// fetchCargo brings the files and charts of a bundle that was built before into the store: they have no origin where a
// copy could find them.
func (o Options) fetchCargo(ctx context.Context, ref, dir string, b *Built) error {
	if b == nil || len(b.Cargo) == 0 {
		return nil
	}
	from, _, err := o.openByReference(ctx, ref, dir)
	if err != nil {
		return err
	}
	src, ok := from.(oras.ReadOnlyTarget)
	if !ok {
		return fmt.Errorf("bundle %s: its store does not find files by their digests", ref)
	}
	carried := b.CargoByArtifact()
	for _, image := range b.Cargo.DistinctImages() {
		desc, err := src.Resolve(ctx, image.DigestStr())
		if err == nil {
			err = oras.CopyGraph(ctx, src, o.Store, desc, oras.CopyGraphOptions{})
		}
		if err != nil {
			item := carried[image.DigestStr()]
			return fmt.Errorf("bundle %s: copy %s: %w", ref, item.String(), err)
		}
	}
	return nil
}
