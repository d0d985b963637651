package gate

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// savedTag is what a tag led to when it was last answered.
type savedTag struct {
	Digest digest.Digest `json:"digest"`
	// Name and Version are those of the root; empty for an image.
	Name    string    `json:"name,omitempty"`
	Version string    `json:"version,omitempty"`
	Since   time.Time `json:"since"`
	// Gone tells that the tag was removed upstream: it is not answered, and still never comes back older.
	Gone bool `json:"gone,omitempty"`
}

// savedRepository is what is kept of a repository.
type savedRepository struct {
	Repository string `json:"repository"`
	// Name is what it is called at the gate.
	Name string              `json:"name"`
	Tags map[string]savedTag `json:"tags"`
	// Lookups are the answers by which roots were verified, for the time when upstream is down.
	Lookups map[string]lookup `json:"lookups,omitempty"`
}

// stateFolder has a file for each repository.
type stateFolder struct{ dir string }

// maxState is how many bytes the state of a repository has.
const maxState = 64 << 20

func openState(dir string) (*stateFolder, error) {
	if dir == "" {
		return nil, errors.New("state: no folder is given")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	s := &stateFolder{dir}
	return s, s.check()
}

func (*stateFolder) close() error { return nil }

// check makes sure that the folder can be written.
func (s *stateFolder) check() error {
	file, err := os.CreateTemp(s.dir, partialPrefix)
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return errors.Join(file.Close(), os.Remove(file.Name()))
}

// path returns the file of a repository: names may be longer than those of files.
func (s *stateFolder) path(where string) string {
	return filepath.Join(s.dir, fmt.Sprintf("%x.json", sha256.Sum256([]byte(where))))
}

// load reads what is kept of a repository. A file that is damaged is an error: without it tags could go back.
func (s *stateFolder) load(where string) (*savedRepository, error) {
	saved, err := readState(s.path(where))
	if errors.Is(err, fs.ErrNotExist) {
		return &savedRepository{Repository: where, Tags: map[string]savedTag{}}, nil
	}
	if err == nil && saved.Repository != where {
		err = fmt.Errorf("%s: is of repository %s", s.path(where), saved.Repository)
	}
	if err != nil {
		return nil, fmt.Errorf("state of %s: %w", where, err)
	}
	return saved, nil
}

func readState(name string) (*savedRepository, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxState {
		return nil, fmt.Errorf("%s: more than %d bytes", name, maxState)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	saved := &savedRepository{}
	if err := json.Unmarshal(data, saved); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if saved.Tags == nil {
		saved.Tags = map[string]savedTag{}
	}
	return saved, nil
}

// save writes what is kept of a repository, so that after a crash it is the old or the new.
func (s *stateFolder) save(saved *savedRepository) error {
	data, err := json.Marshal(saved)
	if err == nil && len(data) > maxState {
		few := *saved // without what upstream can say again
		few.Lookups = nil
		data, err = json.Marshal(&few)
	}
	if err == nil && len(data) > maxState {
		err = fmt.Errorf("state: more than %d bytes for %s", maxState, saved.Repository)
	}
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(s.dir, partialPrefix)
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), s.path(saved.Repository))
	}
	if err != nil {
		os.Remove(file.Name())
		return fmt.Errorf("state: %w", err)
	}
	return nil
}

// listNames returns the names at the gate of all repositories of which something is kept. A damaged file is
// reported when its repository is asked for.
func (s *stateFolder) listNames() (names []string) {
	entries, _ := os.ReadDir(s.dir) // without it there are none
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		if saved, err := readState(filepath.Join(s.dir, e.Name())); err == nil {
			names = append(names, saved.Name)
		}
	}
	return names
}
