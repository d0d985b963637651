package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// PackedChart is a chart in the form in which repositories have it, and its Chart.yaml.
type PackedChart struct {
	// Data is the packed chart, with the digest SHA256.
	Data   []byte
	SHA256 string
	// Chart is the content of Chart.yaml.
	Chart []byte
}

// FetchPackedChart reads a version of a chart from a chart repository (https) or a registry (oci). It must have the
// digest want, unless that is empty, and the one that the repository names.
func (f *Fetcher) FetchPackedChart(ctx context.Context, repository, chart, version, want string) (*PackedChart, error) {
	label := strings.TrimSuffix(redactURL(repository), "/") + "/" + chart + " " + version
	file, sum, err := f.openChart(ctx, repository, chart, version, want)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", label, err)
	}
	return readPackedChart(ctx, label, file, sum)
}

// FetchChartArchive reads a packed chart at an https URL or in a file below the definition's folder. Its digest must
// be want, unless that is empty.
func (f *Fetcher) FetchChartArchive(ctx context.Context, location, want string) (*PackedChart, error) {
	var file *os.File
	var sum string
	var err error
	if strings.Contains(location, "://") {
		file, sum, err = f.download(ctx, location, want)
	} else {
		file, sum, err = f.copyLocal(location)
	}
	if err != nil {
		return nil, err
	}
	if want != "" && sum != want {
		return nil, errors.Join(&DigestError{Source: redactURL(location), Got: sum, Want: want}, closeTemporary(file))
	}
	return readPackedChart(ctx, redactURL(location), file, sum)
}

// readPackedChart reads a download and closes it.
func readPackedChart(ctx context.Context, label string, file *os.File, sum string) (_ *PackedChart, err error) {
	defer func() { err = errors.Join(err, closeTemporary(file)) }()
	tree, err := unpackArchive(ctx, file, Pick{All: true})
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", label, err)
	}
	packed := &PackedChart{SHA256: sum}
	for _, f := range tree.Files {
		if dir, base := path.Split(f.Path); base == "Chart.yaml" && strings.Count(dir, "/") == 1 {
			packed.Chart = f.Data
		}
	}
	if packed.Chart == nil {
		return nil, fmt.Errorf("%s is not a Helm chart: no Chart.yaml in its folder", label)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if packed.Data, err = readAll("chart "+label, file); err != nil {
		return nil, err
	}
	return packed, nil
}
