package gate

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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

// listRoots returns the roots that tags lead to.
func (s *savedRepository) listRoots() map[digest.Digest]bool {
	roots := map[digest.Digest]bool{}
	for _, t := range s.Tags {
		if t.Name != "" && !t.Gone {
			roots[t.Digest] = true
		}
	}
	return roots
}

// stateFolder has a file for each repository. What was read is never changed, but replaced.
type stateFolder struct {
	dir string
	// known are those that were read or written last.
	known *memory[string, *savedRepository]
	// locks are for the repositories, several of which may share one.
	locks [64]sync.Mutex

	mu sync.Mutex
	// names are the names at the gate of the repositories with a file; nil until the folder was read.
	names map[string]bool
}

// maxState is how many bytes the state of a repository has.
const maxState = 64 << 20

func openState(dir string, bytes int64) (*stateFolder, error) {
	if dir == "" {
		return nil, errors.New("state: no folder is given")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	s := &stateFolder{dir: dir, known: newMemory[string, *savedRepository](bytes)}
	return s, s.checkWritable()
}

// checkWritable makes sure that the folder can be written.
func (s *stateFolder) checkWritable() error {
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

// lockRepository makes others wait who read or write the state of a repository. What it returns unlocks it.
func (s *stateFolder) lockRepository(where string) (unlock func()) {
	sum := sha256.Sum256([]byte(where))
	lock := &s.locks[int(sum[0])%len(s.locks)]
	lock.Lock()
	return lock.Unlock
}

// findRepository returns what is kept of a repository.
func (s *stateFolder) findRepository(where string) (*savedRepository, error) {
	defer s.lockRepository(where)()
	return s.readRepository(where)
}

// readRepository is findRepository for who holds the lock. A file that is damaged is an error: without it tags could go back.
func (s *stateFolder) readRepository(where string) (*savedRepository, error) {
	if known, ok := s.known.find(where); ok {
		return known, nil
	}
	saved, err := readState(s.path(where))
	if errors.Is(err, fs.ErrNotExist) {
		saved, err = &savedRepository{Repository: where, Tags: map[string]savedTag{}}, nil
	}
	if err == nil && saved.Repository != where {
		err = fmt.Errorf("%s: is of repository %s", s.path(where), saved.Repository)
	}
	if err != nil {
		return nil, fmt.Errorf("state of %s: %w", where, err)
	}
	s.known.keep(where, saved, saved.size())
	return saved, nil
}

// size returns about how many bytes it takes.
func (s *savedRepository) size() (n int64) {
	for tag, t := range s.Tags {
		n += entrySize + int64(len(tag)+len(t.Name)+len(t.Version))
	}
	for name, l := range s.Lookups {
		n += int64(len(name)) + l.size()
	}
	return n
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

// saveRepository writes what is kept of a repository, so that after a crash it is the old or the new.
func (s *stateFolder) saveRepository(saved *savedRepository) error {
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
	s.known.keep(saved.Repository, saved, saved.size())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.names != nil {
		s.names[saved.Name] = true
	}
	return nil
}

// listNames returns the names at the gate of all repositories of which something is kept. A damaged file is
// reported when its repository is asked for.
func (s *stateFolder) listNames() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.names == nil {
		s.names = map[string]bool{}
		entries, _ := os.ReadDir(s.dir) // without it there are none
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), ".json") {
				continue
			}
			if saved, err := readState(filepath.Join(s.dir, e.Name())); err == nil {
				s.names[saved.Name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(s.names))
}
