package images

import (
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// FamiliarName returns a full reference as people write it: Docker Hub is docker.io to them.
func FamiliarName(reference string) string {
	if rest, isHub := strings.CutPrefix(reference, name.DefaultRegistry+"/"); isHub {
		return "docker.io/" + rest
	}
	return reference
}
