package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/parity"
)

// A volume of parity is a tar like the others, with parity of its own, but not a layout: it holds what tells of the set, and
// the parity of all other volumes.
const (
	paritySet    = parityFolder + "set.json"
	parityVolume = parityFolder + "volume"
	// maxParitySet is how many bytes there are at most of the first.
	maxParitySet = 64 << 10
	// parityVolumeRoom is what a volume of parity has besides what the largest other one has.
	parityVolumeRoom = 16 << 10
)

// setInfo is what a volume of parity tells of its set.
type setInfo struct {
	// Volumes are how many bytes of each volume are protected, Parity is how many volumes of parity there are.
	Volumes []int64 `json:"volumes"`
	Parity  int     `json:"parity"`
	// Number is that of this volume of parity, from 1.
	Number int `json:"number"`
}

func (i setInfo) set() parity.Set { return parity.Set{Sizes: i.Volumes, Parity: i.Parity} }

// splitProtected is [Contents.Split] for volumes with parity.
func (c Contents) splitProtected(limit int64) ([]Contents, error) {
	sizeOf := func(content int64) (int64, error) {
		g, err := parity.NewGeometry(max(1, content), c.Parity)
		return g.End() + int64(len(trailer)), err
	}
	// What has to go of the content for so much to go of the file.
	shrink := func(excess int64) int64 { return excess / int64(100+c.Parity) * 100 }
	room := min(limit, parity.MaxSize)
	for room > 0 {
		size, err := sizeOf(room)
		if err != nil {
			return nil, err
		}
		if size <= limit {
			break
		}
		room -= max(block, shrink(size-limit))
	}
	// What the parity adds to the entries: its own two, and the other end.
	room -= int64(2*block + parity.SectorSize + 3*block - len(trailer))
	if c.ParityVolumes > 0 {
		room -= parityVolumeRoom
	}
	plain := c
	plain.Parity, plain.ParityVolumes = 0, 0
	for {
		volumes, err := plain.Split(max(1, room))
		var tooSmall *VolumeSizeError
		if errors.As(err, &tooSmall) {
			need, sizeErr := sizeOf(tooSmall.Need + parityVolumeRoom)
			return nil, errors.Join(&VolumeSizeError{Limit: limit, Need: need, Blob: tooSmall.Blob}, sizeErr)
		}
		if err != nil {
			return nil, err
		}
		for i := range volumes {
			volumes[i].Parity, volumes[i].ParityVolumes = c.Parity, c.ParityVolumes
		}
		// A few bytes less can take more parity, where stripes get longer.
		largest, err := largestVolume(volumes)
		if err != nil || largest <= limit {
			return volumes, err
		}
		room -= max(block, shrink(largest-limit))
	}
}

// largestVolume returns the size of the largest volume, of those of parity too.
func largestVolume(volumes []Contents) (largest int64, err error) {
	var sizes []int64
	if volumes[0].ParityVolumes > 0 {
		if sizes, err = PlanParityVolumes(volumes); err != nil {
			return 0, err
		}
	}
	for _, volume := range volumes {
		size, err := volume.Size()
		if err != nil {
			return 0, err
		}
		sizes = append(sizes, size)
	}
	return slices.Max(sizes), nil
}

// ParityVolumeNames returns the names of the volumes of parity of a file: edge.tar has edge.parity-1-of-2.tar and so on.
func ParityVolumeNames(name string, n int) []string {
	stem := strings.TrimSuffix(name, ".tar")
	names := make([]string, n)
	width := len(strconv.Itoa(n))
	for i := range names {
		names[i] = fmt.Sprintf("%s.parity-%0*d-of-%d.tar", stem, width, i+1, n)
	}
	return names
}

var parityVolumePattern = regexp.MustCompile(`\.parity-[0-9]+-of-[0-9]+\.tar$`)

// IsParityVolume reports whether a name is one that [ParityVolumeNames] returns.
func IsParityVolume(name string) bool { return parityVolumePattern.MatchString(name) }

// PlanParityVolumes returns the sizes of the volumes of parity that [WriteParityVolumes] would write.
func PlanParityVolumes(volumes []Contents) ([]int64, error) {
	info, err := describeSet(volumes)
	if err != nil {
		return nil, err
	}
	sizes := make([]int64, info.Parity)
	for j := range sizes {
		info.Number = j + 1
		file, err := layOutParityVolume(info, volumes[0].Parity)
		if err != nil {
			return nil, err
		}
		sizes[j] = file.size()
	}
	return sizes, nil
}

func describeSet(volumes []Contents) (setInfo, error) {
	info := setInfo{Parity: volumes[0].ParityVolumes}
	for _, volume := range volumes {
		file, err := volume.layOutFile()
		if err != nil {
			return info, err
		}
		info.Volumes = append(info.Volumes, file.geometry.Size)
	}
	return info, info.set().Check()
}

// layOutParityVolume returns a volume of parity; the content of its last entry is not known yet.
func layOutParityVolume(info setInfo, percent int) (fileLayout, error) {
	data, err := json.Marshal(info)
	if err != nil {
		return fileLayout{}, err
	}
	var all []archiveEntry
	for _, e := range []struct {
		name  string
		entry archiveEntry
	}{
		{parityGeometry, archiveEntry{data: make([]byte, parity.SectorSize)}},
		{paritySet, archiveEntry{data: data}},
		{parityVolume, archiveEntry{desc: ocispec.Descriptor{Size: info.set().ShardSize()}}},
	} {
		if all, err = appendEntry(all, e.name, e.entry, nil); err != nil {
			return fileLayout{}, err
		}
	}
	return layOutEntries(all, percent)
}
