package gate

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// Storage behind a registry is asked with signed URLs, which clients and logs must not see.
func TestUpstreamErrorHidesSignedURLs(t *testing.T) {
	t.Parallel()
	cause := &url.Error{Op: "Get", URL: "https://user:secret@storage.example/blob?X-Amz-Signature=secret", Err: errors.New("connection reset")}
	got := (&UpstreamError{"krt/edge", fmt.Errorf("read blob: %w", cause)}).Error()
	if want := `upstream krt/edge: read blob: Get "https://storage.example/blob": connection reset`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	cause.URL = "https://storage.example/%zz?X-Amz-Signature=secret"
	if got := (&UpstreamError{"krt/edge", cause}).Error(); strings.Contains(got, "secret") {
		t.Errorf("got %q", got)
	}
}
