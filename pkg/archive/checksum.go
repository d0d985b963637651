package archive

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Content is named by its digest and so cannot change unseen. Names are in index.json alone, which
// nothing names: its digest is in the header of its entry, as a comment (POSIX.1, pax extended header),
// which every tar program skips. Whoever unpacks an archive, edits index.json and packs it again with
// another program leaves the comment behind, and the result is an archive without a checksum.
const (
	paxComment     = "comment"
	checksumPrefix = "krtpkg.index "
)

// checksumRecords returns the PAX records of the entry of index.json.
func checksumRecords(index []byte) map[string]string {
	return map[string]string{paxComment: checksumPrefix + digest.FromBytes(index).String()}
}

// paxKeywords are those that POSIX defines besides the comment.
var paxKeywords = []string{"atime", "charset", "ctime", "gid", "gname", "hdrcharset", "linkpath", "mtime", "path", "size", "uid", "uname"}

// checkChecksum compares the digest of index.json with the one in the PAX records of its entry. Records
// without one are an error only if they contain a keyword that no tar program writes: then the record
// itself is damaged.
func checkChecksum(records map[string]string, got digest.Digest) error {
	for key, value := range records {
		switch {
		case key == paxComment:
			if want, ok := strings.CutPrefix(value, checksumPrefix); !ok || want != got.String() {
				return fmt.Errorf("%s does not match its checksum: %w", ocispec.ImageIndexFile, ErrDamaged)
			}
		case !slices.Contains(paxKeywords, key) && !isVendorKeyword(key):
			return fmt.Errorf("%s has the unknown header field %q: %w", ocispec.ImageIndexFile, key, ErrDamaged)
		}
	}
	return nil
}

// isVendorKeyword reports whether a keyword is one of a tar program's own, such as SCHILY.dev.
func isVendorKeyword(key string) bool {
	vendor, _, ok := strings.Cut(key, ".")
	return ok && vendor != "" && strings.Trim(vendor, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}
