package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
	"krtpkg.dev/krtpkg/pkg/gate"
	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/source"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// Of several errors the object is the one that the code is about.
func TestExplainNamesItem(t *testing.T) {
	t.Parallel()
	lost := &transfer.ItemError{Digest: "sha256:1", Item: "lost layer", Err: fmt.Errorf("oci:a: %w", errdef.ErrNotFound)}
	damaged := &transfer.ItemError{Digest: "sha256:2", Item: "damaged layer", Err: fmt.Errorf("oci:b: %w", content.ErrMismatchedDigest)}
	unread := &transfer.ItemError{Digest: "sha256:3", Item: "unread layer", Err: errors.New("no answer")}
	for _, c := range []struct {
		err  error
		code int
		want string
	}{
		{errors.Join(fmt.Errorf("check a: %w", lost), fmt.Errorf("check b: %w", damaged)), 3, "damaged layer"},
		{errors.Join(damaged, lost), 3, "damaged layer"},
		{errors.Join(unread, fmt.Errorf("check a: %w", errors.Join(lost))), 4, "lost layer"},
		{errors.Join(&transfer.ItemError{Digest: "sha256:4", Err: content.ErrTrailingData}, unread), 3, "sha256:4"},
		{errors.Join(unread, content.ErrMismatchedDigest), 3, ""},
	} {
		if got := explainError(t.Context(), c.err); got.ExitCode != c.code || got.Object != c.want {
			t.Errorf("%v: exit code %d, object %q; want %d, %q", c.err, got.ExitCode, got.Object, c.code, c.want)
		}
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	status := func(code int) error {
		return &errcode.ErrorResponse{
			Method: http.MethodGet, URL: &url.URL{Scheme: "https", Host: "registry.example:5000", Path: "/v2/"}, StatusCode: code,
		}
	}
	unanswered := func(err error) error {
		return &url.Error{Op: "Get", URL: "https://registry.example:5000/v2/krt/edge/manifests/1", Err: err}
	}
	missing := func(reason error) error {
		return &transfer.IncompleteError{Missing: []transfer.Missing{{Image: "web", Reason: reason}}}
	}
	found := func(checks ...string) error {
		var findings []preflight.Finding
		for _, check := range checks {
			findings = append(findings, preflight.Finding{Severity: preflight.SeverityError, Check: check})
		}
		return preflight.RefuseFindings(findings)
	}
	for _, c := range []struct {
		name string
		err  error
		code int
		hint string
	}{
		{"usage", &usageError{errors.New("x")}, 2, ""},
		{"anything", errors.New("x"), 1, ""},
		{"unsigned", &sign.VerifyError{}, 3, "krtpkg sign"},
		{"another key", sign.ErrNotVerified, 3, "check --key or --certificate-identity"},
		{"wrong bytes", content.ErrMismatchedDigest, 3, "damaged or tampered with"},
		{"a changed source", &source.DigestError{}, 3, "new digest"},
		{"not there", errdef.ErrNotFound, 1, "check the name"},
		{"a version that is not there", &place.NotFoundError{}, 1, "krtpkg list"},
		{"a repository that is not there", status(404), 1, "name of the repository"},
		{"a layer that is gone", &transfer.ItemError{Err: errdef.ErrNotFound}, 4, "krtpkg copy --check"},
		{"a layer that is damaged", &transfer.ItemError{Err: content.ErrMismatchedDigest}, 3, "fetch it again"},
		{"missing", missing(errdef.ErrNotFound), 4, "--image-mirror"},
		{"not logged in", status(401), 1, "krtpkg login registry.example:5000"},
		{"no login at all", auth.ErrBasicCredentialNotFound, 1, "krtpkg login REGISTRY"},
		{"missing, for want of a login", missing(status(401)), 4, "krtpkg login registry.example:5000"},
		{"lacks permission", status(403), 1, "lacks permission"},
		{"refused by a gate", &errcode.ErrorResponse{URL: &url.URL{Host: "gate.example"}, StatusCode: 403, Errors: errcode.Errors{{Code: "DENIED", Detail: gate.RefusedByPolicy}}}, 3, "ask the operator of gate.example"},
		{"a repository to create", &registry.MissingRepositoryError{Host: "1.dkr.ecr.eu-west-1.amazonaws.com", Repository: "krt/edge", Err: status(404)}, 1, "aws ecr create-repository --repository-name krt/edge"},
		{"no place for referrers", &registry.NoReferrersError{Host: "registry.example", Repository: "krt/edge", Subject: "sha256:1"}, 1, "--signature-format legacy there"},
		{"a project to create", &registry.MissingRepositoryError{Host: "europe-docker.pkg.dev", Repository: "acme/krt/edge", Err: status(404)}, 1, "gcloud artifacts repositories create krt --project acme --repository-format docker --location europe"},
		{"a repository to create anywhere", &registry.MissingRepositoryError{Host: "registry.example", Repository: "krt/edge", Err: status(404)}, 1, "create krt/edge at registry.example first"},
		{"a tag that stays", &registry.ImmutableTagError{Host: "registry.example", Tag: "1.0.0", Err: status(403)}, 1, "use another tag"},
		{"a signature's tag that stays", &registry.ImmutableTagError{Tag: "sha256-0.att", Err: status(400)}, 1, "--signature-format bundle"},
		{"a list that stays", &registry.ImmutableTagError{Tag: "sha256-0", Err: status(400)}, 1, "exempt tags that begin with sha256-"},
		{"an index with holes", &errcode.ErrorResponse{Method: http.MethodPut, URL: &url.URL{Host: "registry.example"}, StatusCode: 404, Errors: errcode.Errors{{Code: errcode.ErrorCodeManifestBlobUnknown}}}, 1, "krtpkg build --platform"},
		{"another tool's archive", &archive.ForeignError{Is: "something else", Hint: "do this"}, 1, "do this"},
		{"an archive in another order", archive.ErrOrder, 1, "save it to a file"},
		{"an archive with holes", &archive.IncompleteError{Missing: []ocispec.Descriptor{{}}}, 4, "export it again"},
		{"too often", status(429), 1, "limits requests"},
		{"a registry that fails", status(502), 1, "the registry failed"},
		{"a full disk", syscall.ENOSPC, 1, "free disk space"},
		{"plain HTTP", unanswered(http.ErrSchemeMismatch), 1, "--plain-http"},
		{"an authority of one's own", unanswered(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), 1, "--registry-ca"},
		{"out of reach", unanswered(syscall.ECONNREFUSED), 1, "check the name and the network"},
		{"missing, and out of reach", missing(unanswered(syscall.ECONNREFUSED)), 4, "check the name and the network"},
		{"findings that can be skipped", found("images", "twice", "images"), 1, "--skip-check images,twice"},
		{"an older version", refuseDowngrade([]preflight.Finding{{Check: preflight.CheckDowngrade, Message: "x"}}), 3, "--allow-downgrade"},
		{"a finding that can't be", found("images", "kapp"), 1, ""},
		{"a cluster out of reach", &url.Error{Op: "Get", URL: "https://cluster.example/api", Err: syscall.ECONNREFUSED}, 1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := explainError(t.Context(), fmt.Errorf("while it was done: %w", c.err))
			if got.ExitCode != c.code || !strings.Contains(got.Hint, c.hint) || (got.Hint == "") != (c.hint == "") || got.Code == "" {
				t.Errorf("%+v, want exit code %d and hint %q", got, c.code, c.hint)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := explainError(ctx, status(401)); got.ExitCode != 130 || !strings.Contains(got.Hint, "run the same command again") || got.Code != "interrupted" {
		t.Errorf("interrupted: %+v", got)
	}
	if got := explainError(ctx, fmt.Errorf("password: %w", asStopped(ctx.Err()))); got.ExitCode != 130 || got.Hint != "" {
		t.Errorf("stopped: %+v", got)
	}
}
