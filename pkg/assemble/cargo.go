package assemble

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/oci"
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
	isRemote := isRemoteChart(c)
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
		isLocked := written.Size == 0 && f.Size > 0 // by the lock file
		if err == nil && written.Artifact != "" {
			err = fmt.Errorf("file %s: artifact is for the build to set", f.Name)
		}
		if err == nil {
			err = o.storeFile(ctx, &fetcher, f)
		}
		if wrong := (*fileSizeError)(nil); isLocked && errors.As(err, &wrong) {
			err = &MovedError{f.Origin(), wrong.describeSize(), fmt.Sprintf("%d bytes", wrong.want)}
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
	if i, err := spec.CheckBuiltCharts(); err != nil {
		return placeError(a.definition, []any{"spec", "charts", i}, err)
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
		sum, size, err := fetcher.DigestFile(ctx, f.Path)
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
		if err == nil && there {
			return o.checkStored(ctx, f)
		}
		if err != nil {
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

// checkStored holds a file that the store has to its size: a store finds content by its digest, whatever its size.
func (o Options) checkStored(ctx context.Context, f *bundle.CargoFile) (err error) {
	blob, err := o.Store.Fetch(ctx, f.Content())
	if err != nil {
		return fmt.Errorf("%s should have %d bytes: %w", f.Origin(), f.Size, err)
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	var size int64
	if seeker, seeks := blob.(io.Seeker); seeks {
		size, err = seeker.Seek(0, io.SeekEnd)
	} else {
		size, err = io.Copy(io.Discard, blob)
	}
	if err == nil && size != f.Size {
		err = &fileSizeError{f.Origin(), size, f.Size}
	}
	return err
}

// fileSizeError reports a file of another size than the one that the definition, the lock file or its server tells. The
// size is -1 of a file that goes on after it.
type fileSizeError struct {
	origin    string
	got, want int64
}

func (e *fileSizeError) Error() string {
	return fmt.Sprintf("%s has %s, want %d", e.origin, e.describeSize(), e.want)
}

func (e *fileSizeError) describeSize() string {
	if e.got < 0 {
		return fmt.Sprintf("more than %d bytes", e.want)
	}
	return fmt.Sprintf("%d bytes", e.got)
}

// spoolFile pushes a stream of unknown size by way of a temporary file: a store wants the size first.
func (o Options) spoolFile(ctx context.Context, f *bundle.CargoFile, r io.Reader) (err error) {
	spool, err := os.CreateTemp("", "krtpkg-file-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, spool.Close(), os.Remove(spool.Name())) }()
	size, err := io.Copy(spool, source.CapUnsized(r))
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
// it has another one, or a [*fileSizeError].
func (o Options) pushFile(ctx context.Context, f *bundle.CargoFile, r io.Reader) error {
	event := progress.Event{Kind: progress.Began, Subject: f.Name, Bytes: f.Size}
	o.Progress.Emit(event)
	hash, counted := digest.SHA256.Digester(), &countedReader{Reader: oci.StopReader(ctx, r)}
	hashed := io.TeeReader(counted, hash.Hash())
	err := o.Store.Push(ctx, f.Content(), hashed)
	switch {
	case errors.Is(err, errdef.ErrAlreadyExists):
		err = o.checkStored(ctx, f)
	case errors.Is(err, content.ErrMismatchedDigest), errors.Is(err, content.ErrTrailingData):
		// What goes on after the size may not end.
		_, _ = io.CopyN(io.Discard, hashed, f.Size+1-counted.count)
		if counted.count > f.Size {
			return &fileSizeError{f.Origin(), -1, f.Size}
		}
		return &source.DigestError{Source: f.Origin(), Got: hash.Digest().Encoded(), Want: f.SHA256}
	}
	if err == nil {
		event.Kind = progress.Copied
		o.Progress.Emit(event)
	}
	return err
}

// countedReader counts what is read.
type countedReader struct {
	io.Reader
	count int64
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.count += int64(n)
	return n, err
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
	// unlocked are the moves of what lies next to a definition without a lock file: there is nothing that it differs from.
	unlocked []Move
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
		move := Move{Bundle: d.Metadata().Name, Kind: "file", Name: strings.TrimSpace(f.Name + " " + f.Platform), From: withAlgorithm(from), To: withAlgorithm(pin.SHA256)}
		up.addMove(move, old == nil && f.Path != "")
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
		up.addMove(*move, old == nil && !isRemoteChart(&requested))
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

func (up *cargoUpdate) addMove(m Move, isUnlocked bool) {
	switch {
	case m.From == m.To && m.Newest == "":
	case m.From == "" && isUnlocked:
		up.unlocked = append(up.unlocked, m)
	default:
		up.moves = append(up.moves, m)
	}
}

// isRemoteChart reports whether a chart is not next to the definition.
func isRemoteChart(c *bundle.CargoChart) bool {
	return c.Repository != "" || strings.HasPrefix(c.Archive, "https://")
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
		pin.SHA256, pin.Size, err = fetcher.DigestFile(ctx, f.Path)
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
// or with latest to those of the newest of all. Other content of the same version is a move, and a [*source.DigestError]
// if the definition has the digest.
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
	from := chartPin{Version: written.Version, SHA256: written.SHA256}
	if was != nil {
		from = *was
	}
	isSameVersion := version == "" || version == from.Version
	switch {
	case isSameVersion && written.SHA256 != "" && written.SHA256 != c.SHA256:
		// Its author has the digest from whoever publishes the chart, as that of a file.
		return nil, &source.DigestError{Source: strings.TrimSpace(c.Origin() + " " + version), Got: c.SHA256, Want: written.SHA256}
	case from.SHA256 == "":
	case from.SHA256 == c.SHA256:
		move.From = move.To
	case isSameVersion: // published again
		move.From, move.To = withAlgorithm(from.SHA256), withAlgorithm(c.SHA256)
	default:
		move.From = cmp.Or(from.Version, withAlgorithm(from.SHA256))
	}
	return move, nil
}

// checkSharedCharts refuses bundles of a runtime with other content for one version of a chart: a site has one
// place for it.
func checkSharedCharts(d *bundle.Definition, bundles []*Built) error {
	type carried struct{ digest, by string }
	taken := map[string]carried{}
	for i, b := range bundles {
		for _, locked := range b.Cargo {
			if bundle.IsFile(locked.Image) {
				continue
			}
			this := carried{locked.Image.DigestStr(), b.Metadata().Name}
			if first, is := taken[locked.Reference]; is && first.digest != this.digest {
				chart := strings.Replace(path.Base(locked.Reference), ":", " ", 1)
				return d.Errorf([]any{"spec", "bundles", i}, "bundles %s and %s have chart %s with different content: give one of them another version", first.by, this.by, chart)
			}
			taken[locked.Reference] = this
		}
	}
	return nil
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
