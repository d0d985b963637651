package bundle

import (
	"fmt"
	"strings"
)

// Limits of names: what file systems take.
const (
	maxPart = 255
	maxPath = 1024
)

// whiteout begins the names by which layers of images remove files of lower layers (image-spec, layer.md): some
// tools carry them out.
const whiteout = ".wh."

// entryNames holds the names of a layer against each other: whoever unpacks it anywhere gets the same files.
// Keys are names in lower case.
type entryNames map[string]entryName

type entryName struct {
	spelling string
	isFolder bool
}

// add adds an entry along with its folders, and returns how many folders are new.
func (n entryNames) add(name string, isFolder bool) (folders int, err error) {
	if len(name) > maxPath {
		return 0, fmt.Errorf("entry %.100q…: its name has %d bytes, the limit is %d", name, len(name), maxPath)
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case len(part) > maxPart:
			return 0, fmt.Errorf("entry %.100q…: a part of its name has %d bytes, the limit is %d", name, len(part), maxPart)
		case strings.HasPrefix(part, whiteout):
			return 0, fmt.Errorf("entry %q: names that begin with %s remove files", name, whiteout)
		}
	}
	for at := name; at != "."; at = parentOf(at) {
		isLast := len(at) == len(name)
		key := strings.ToLower(at)
		known, there := n[key]
		switch {
		case there && known.spelling != at:
			return folders, fmt.Errorf("entry %q differs from %q only in case", at, known.spelling)
		case there && isLast && !isFolder && !known.isFolder:
			return folders, fmt.Errorf("duplicate entry %q", at)
		case there && known.isFolder != (!isLast || isFolder):
			return folders, fmt.Errorf("entry %q is both a file and a folder", at)
		case there:
			return folders, nil // and so are the folders above
		}
		n[key] = entryName{at, !isLast || isFolder}
		if !isLast {
			folders++
		}
	}
	return folders, nil
}

func parentOf(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return "."
}
