package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/registry"
)

// pruneRecord is a file in the user's cache folder with what a prune is about to delete. Registries list no manifest
// that has no tag, so only the file leads to what an interrupted prune has not deleted yet.
type pruneRecord struct{ file string }

// pruneJournal returns the record of the prunes of a place.
func pruneJournal(location string) pruneRecord {
	state := registry.DefaultStateDir()
	if state == "" {
		return pruneRecord{}
	}
	if dir, isFolder := strings.CutPrefix(location, "oci:"); isFolder {
		if absolute, err := filepath.Abs(dir); err == nil {
			location = "oci:" + absolute
		}
	}
	return pruneRecord{filepath.Join(filepath.Dir(state), "prunes", digest.FromString(location).Encoded()+".json")}
}

// readLeft returns what the last prune of the place was about to delete, if it did not end.
func (r pruneRecord) readLeft() (left []digest.Digest, err error) {
	if r.file == "" {
		return nil, nil
	}
	data, err := os.ReadFile(r.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = oci.UnmarshalJSON(data, &left)
	}
	if err != nil {
		return nil, fmt.Errorf("read what an interrupted prune left, %s: %w", r.file, err)
	}
	for _, d := range left {
		if err := d.Validate(); err != nil {
			return nil, fmt.Errorf("read what an interrupted prune left, %s: %q: %w", r.file, d, err)
		}
	}
	return left, nil
}

// write records what a prune is about to delete; nothing removes the record.
func (r pruneRecord) write(left []digest.Digest) error {
	if r.file == "" || len(left) == 0 {
		return r.remove()
	}
	data, err := json.Marshal(slices.Compact(slices.Sorted(slices.Values(left))))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(r.file), 0o700); err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(r.file), "prune-")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(data)
	if err := errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	return os.Rename(temp.Name(), r.file)
}

func (r pruneRecord) remove() error {
	if err := os.Remove(r.file); r.file != "" && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
