package source

import (
	"errors"
	"io"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// A stream of unknown size ends at the limit, and one that has just as much is whole.
func TestUnsizedStreamsEnd(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]error{"": nil, "1234": nil, "12345": nil, "123456": oci.ErrTooLarge} {
		data, err := io.ReadAll(&cappedReader{strings.NewReader(text), 5})
		if !errors.Is(err, want) || want == nil && string(data) != text {
			t.Errorf("%q: %q, %v", text, data, err)
		}
	}
}
