package sbom

import (
	"cmp"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
)

// SourceURI returns where a source comes from, pinned where URIs have a place for it: git+URL@COMMIT,
// an https URL, a pkg:oci URL, REPOSITORY/CHART@VERSION, or file:PATH, which is relative to the
// bundle's definition. Passwords and whatever else precedes the host of an https URL are left out.
func SourceURI(s *bundle.Source) (string, error) {
	var uri string
	switch {
	case s.Chart != "":
		if uri = publicURL(s.Repository); uri != "" {
			uri = strings.TrimSuffix(uri, "/") + "/" + s.Chart + "@" + url.PathEscape(s.Version)
		}
	case s.Git != "":
		if uri = gitURL(s.Git); uri != "" {
			uri = "git+" + uri + "@" + url.PathEscape(s.Commit)
		}
	case s.OCI != "":
		l, err := parseArtifact(s.OCI)
		if err != nil {
			return "", err
		}
		uri = ImageURL(l)
	case s.URL != "":
		uri = publicURL(s.URL)
	case strings.HasPrefix(s.Archive, "https://"):
		uri = publicURL(s.Archive)
	default:
		uri = "file:" + (&url.URL{Path: cmp.Or(s.Dir, s.File, s.Archive)}).EscapedPath()
	}
	if uri == "" {
		return "", fmt.Errorf("source %q has no URL", s.Name())
	}
	return uri, nil
}

// parseArtifact returns the pinned artifact of a source, in the form of a locked image.
func parseArtifact(oci string) (images.Locked, error) {
	ref, err := name.NewDigest(oci)
	if err != nil {
		return images.Locked{}, fmt.Errorf("source oci %s: %w", oci, err)
	}
	return images.Locked{Image: ref, Reference: oci}, nil
}

// ImageURL returns the package URL of a locked image: its digest, and as hints its repository and tag
// (github.com/package-url/purl-spec, types/oci-definition.json).
func ImageURL(l images.Locked) string {
	repository := l.Image.Context().Name()
	return ociPURL(path.Base(repository), l.Image.DigestStr(), repository, tagOf(l.Reference))
}

// ociPURL escapes the digest's colon, as that definition's examples and most scanners do.
func ociPURL(name, digest, repository, tag string) string {
	query := url.Values{}
	if repository != "" {
		query.Set("repository_url", repository)
	}
	if tag != "" {
		query.Set("tag", tag)
	}
	u := "pkg:oci/" + url.QueryEscape(strings.ToLower(name)) + "@" + url.QueryEscape(digest)
	if len(query) > 0 {
		u += "?" + query.Encode() // sorted
	}
	return u
}

// tagOf returns the tag of a reference as its author wrote it: latest when it has neither a tag nor a
// digest, "" when it has a digest alone or is not a reference.
func tagOf(reference string) string {
	before, _, pinned := strings.Cut(reference, "@")
	t, err := name.NewTag(before)
	if err != nil || pinned && !strings.HasSuffix(before, ":"+t.TagStr()) {
		return ""
	}
	return t.TagStr()
}

// gitURL returns the URL of a git repository, of one in the form user@host:path too.
func gitURL(repository string) string {
	if host, path, ok := strings.Cut(repository, ":"); ok && !strings.Contains(repository, "://") {
		repository = "ssh://" + host + "/" + strings.TrimPrefix(path, "/")
	}
	return publicURL(repository)
}

// publicURL returns a URL without what may be a secret in it; "" for what is not a URL with a host. The user
// of ssh is not a secret, and nothing is reached without it.
func publicURL(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return ""
	}
	user := u.User
	if u.User = nil; u.Scheme == "ssh" && user != nil {
		u.User = url.User(user.Username())
	}
	return u.String()
}
