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

// sessionStore keeps the sessions of unfinished uploads in a folder, so that the next process can
// resume them. It ignores errors: an upload that cannot be resumed starts again.
type sessionStore struct{ dir string }

const (
	// minSavedUpload is the least size of a blob for its upload to be kept.
	minSavedUpload = 1 << 20
	// sessionLifetime is the age at which registries have dropped an upload, too.
	sessionLifetime = 7 * 24 * time.Hour
)

// DefaultStateDir returns the default folder for unfinished uploads, or "".
func DefaultStateDir() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "krtpkg", "uploads")
}

type savedSession struct {
	Location string `json:"location"`
}

func (s sessionStore) fileName(r *Repository, desc ocispec.Descriptor) string {
	if s.dir == "" || desc.Size < minSavedUpload {
		return ""
	}
	return filepath.Join(s.dir, fmt.Sprintf("%x", sha256.Sum256([]byte(r.String()+" "+desc.Digest.String()))))
}

func (s sessionStore) saveSession(r *Repository, desc ocispec.Descriptor, at *uploadSession) {
	name := s.fileName(r, desc)
	if name == "" {
		return
	}
	data, err := json.Marshal(savedSession{at.url.String()})
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

func (s sessionStore) loadSession(r *Repository, desc ocispec.Descriptor) *uploadSession {
	name := s.fileName(r, desc)
	if name == "" {
		return nil
	}
	data, err := os.ReadFile(name)
	var kept savedSession
	if err != nil || json.Unmarshal(data, &kept) != nil {
		return nil
	}
	at, err := url.Parse(kept.Location)
	if own := r.blobURL("", nil); err != nil || at.Host != own.Host || at.Scheme != own.Scheme {
		return nil
	}
	return &uploadSession{url: at}
}

func (s sessionStore) removeSession(r *Repository, desc ocispec.Descriptor) {
	if name := s.fileName(r, desc); name != "" {
		os.Remove(name)
	}
}

// removeExpired removes sessions that are too old.
func (s sessionStore) removeExpired() {
	if s.dir == "" {
		return
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > sessionLifetime {
			os.Remove(filepath.Join(s.dir, entry.Name()))
		}
	}
}
