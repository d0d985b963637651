package archive

import (
	"os"
	"path/filepath"

	"krtpkg.dev/krtpkg/pkg/layout"
)

// CheckSpace returns a [*layout.SpaceError] if there is too little free space to write volumes, and the volumes of parity that
// they ask for, to files of these names. It counts what an earlier attempt has written.
func CheckSpace(names, parityNames []string, volumes []Contents) error {
	needed := map[string]int64{}
	for i, c := range volumes {
		file, err := c.layOutFile()
		if err != nil {
			return err
		}
		n, err := lackingBytes(names[i], file)
		if err != nil {
			return err
		}
		needed[filepath.Dir(names[i])] += n
	}
	if len(volumes) > 0 && volumes[0].ParityVolumes > 0 {
		sizes, err := PlanParityVolumes(volumes)
		if err != nil {
			return err
		}
		for i, size := range sizes {
			// What is left of one is not gone on with, but makes room for it.
			needed[filepath.Dir(parityNames[i])] += max(0, size-partialSize(parityNames[i]))
		}
	}
	for folder, n := range needed {
		if err := layout.CheckSpace(folder, n); err != nil {
			return err
		}
	}
	return nil
}

// checkFileSpace returns an error if there is too little free space for what a file lacks.
func checkFileSpace(name string, file fileLayout) error {
	n, err := lackingBytes(name, file)
	if err != nil {
		return err
	}
	return layout.CheckSpace(filepath.Dir(name), n)
}

// lackingBytes returns how many bytes have to be written for a file.
func lackingBytes(name string, file fileLayout) (int64, error) {
	if done, err := isWhole(name, file); done || err != nil {
		return 0, err
	}
	return max(0, file.size()-partialSize(name)), nil
}

// partialSize returns how many bytes an earlier attempt has left of a file.
func partialSize(name string) int64 {
	if info, err := os.Lstat(name + partial); err == nil && info.Mode().IsRegular() {
		return info.Size()
	}
	return 0
}
