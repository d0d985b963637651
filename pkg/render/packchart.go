package render

import (
	"archive/tar"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	chart "helm.sh/helm/v4/pkg/chart/v2"

	"github.com/klauspost/compress/gzip"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
)

// PackChart packs the folder of a chart as helm package does, but to the same bytes anywhere: without what its
// .helmignore names, sorted, and without times. Charts that it depends on must be in it.
func PackChart(files []bundle.File) (*bundle.PackedChart, error) {
	rules, err := helmIgnore(Input{Source: &bundle.Source{}, Files: files})
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(files, func(f bundle.File) bool { return f.Path == chartFile })
	if i < 0 {
		return nil, fmt.Errorf("not a Helm chart: no Chart.yaml")
	}
	packed, err := DescribeChart(files[i].Data)
	if err != nil {
		return nil, err
	}
	if err := checkPackedDependencies(files); err != nil {
		return nil, err
	}
	kept := slices.DeleteFunc(slices.Clone(files), func(f bundle.File) bool { return isIgnored(rules, f.Path) })
	slices.SortFunc(kept, func(a, b bundle.File) int { return cmp.Compare(a.Path, b.Path) })
	var out bytes.Buffer
	zip, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	zip.ModTime = time.Unix(0, 0) // "no time"
	archive := tar.NewWriter(zip)
	for _, f := range kept {
		header := &tar.Header{
			Typeflag: tar.TypeReg, Name: path.Join(packed.Name, f.Path), Mode: 0o644, Size: int64(len(f.Data)),
			ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
		}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(f.Data); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	if err := zip.Close(); err != nil {
		return nil, err
	}
	packed.Data = out.Bytes()
	return packed, nil
}

// checkPackedDependencies returns an error unless all charts that a chart depends on are in it, whatever values enable.
func checkPackedDependencies(files []bundle.File) error {
	c, err := loadChart(Input{Source: &bundle.Source{}, Files: files})
	if err != nil {
		return err
	}
	var missing []string
	for _, d := range c.Metadata.Dependencies {
		if !slices.ContainsFunc(c.Dependencies(), func(sub *chart.Chart) bool { return sub.Name() == d.Name }) {
			missing = append(missing, strings.TrimSpace(d.Name+" "+d.Version))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the chart needs %s, which is not under charts/: use the packed chart, or run helm dependency build", strings.Join(missing, " and "))
	}
	return nil
}

// chartFile is the file of a chart that describes it.
const chartFile = "Chart.yaml"

// DescribeChart returns what the Chart.yaml of a chart says, without the packed chart.
func DescribeChart(data []byte) (*bundle.PackedChart, error) {
	var plain any
	if err := yaml.Unmarshal(data, &plain); err != nil {
		return nil, fmt.Errorf("%s: %w", chartFile, err)
	}
	text, err := json.Marshal(plain)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", chartFile, err)
	}
	m := &chart.Metadata{}
	if err := json.Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("%s: %w", chartFile, err)
	}
	if m.APIVersion == "" {
		m.APIVersion = chart.APIVersionV1 // as helm reads it
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", chartFile, err)
	}
	if text, err = json.Marshal(m); err != nil {
		return nil, err
	}
	return &bundle.PackedChart{Metadata: text, Name: m.Name, Version: m.Version, Description: m.Description}, nil
}
