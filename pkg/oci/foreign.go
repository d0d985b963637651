package oci

import ocispec "github.com/opencontainers/image-spec/specs-go/v1"

// foreignTypes are the media types of layers whose distribution is restricted. In use are those of
// Windows' base images.
var foreignTypes = map[string]bool{
	"application/vnd.docker.image.rootfs.foreign.diff.tar":      true,
	"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": true,
	// Deprecated by image-spec v1.1, and still in images.
	"application/vnd.oci.image.layer.nondistributable.v1.tar":      true,
	"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": true,
	"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": true,
}

// IsForeign reports whether an image is whole without a layer: its media type restricts where the
// layer is distributed, and its descriptor names URLs that runtimes fetch it from. A layer of
// such a type without a URL can be had from a registry only, and runtimes ignore the URLs of
// other layers.
func IsForeign(layer ocispec.Descriptor) bool {
	return foreignTypes[layer.MediaType] && len(layer.URLs) > 0
}
