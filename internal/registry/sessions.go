package registry

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// sessions are uploads that have begun, kept in a folder so that the next process can go on
// with them. It is a convenience: what cannot be kept begins again, and no error says so.
type sessions struct{ dir string }

const (
	// worthKeeping is the size from which on a blob's upload is kept.
	worthKeeping = 1 << 20
	// forgotten is when registries have forgotten an upload too.
	forgotten = 7 * 24 * time.Hour
)

// DefaultStateDir returns where uploads are kept that a process did not end, or empty.
func DefaultStateDir() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "krtpkg", "uploads")
}

type saved struct {
	Location string `json:"location"`
}

func (s sessions) file(r *Repository, desc ocispec.Descriptor) string {
	if s.dir == "" || desc.Size < worthKeeping {
		return ""
	}
	return filepath.Join(s.dir, fmt.Sprintf("%x", sha256.Sum256([]byte(r.String()+" "+desc.Digest.String()))))
}

func (s sessions) save(r *Repository, desc ocispec.Descriptor, at *session) {
	name := s.file(r, desc)
	if name == "" {
		return
	}
	data, err := json.Marshal(saved{at.url.String()})
	if err != nil || os.MkdirAll(s.dir, 0o700) != nil {
		return
	}
	temp, err := os.CreateTemp(s.dir, "new-*")
	if err != nil {
		return
	}
	_, err = temp.Write(data)
	if errors.Join(err, temp.Close()) != nil || os.Rename(temp.Name(), name) != nil {
		os.Remove(temp.Name())
	}
}

func (s sessions) load(r *Repository, desc ocispec.Descriptor) *session {
	name := s.file(r, desc)
	if name == "" {
		return nil
	}
	data, err := os.ReadFile(name)
	var kept saved
	if err != nil || json.Unmarshal(data, &kept) != nil {
		return nil
	}
	at, err := url.Parse(kept.Location)
	if own := r.url("", nil); err != nil || at.Host != own.Host || at.Scheme != own.Scheme {
		return nil
	}
	return &session{url: at}
}

func (s sessions) forget(r *Repository, desc ocispec.Descriptor) {
	if name := s.file(r, desc); name != "" {
		os.Remove(name)
	}
}

// clean removes what is too old to be of use.
func (s sessions) clean() {
	if s.dir == "" {
		return
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > forgotten {
			os.Remove(filepath.Join(s.dir, entry.Name()))
		}
	}
}
