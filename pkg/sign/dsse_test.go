package sign_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// What was changed after signing, or signed by another, is told apart, and nothing of it is returned.
func TestOpenEnvelope(t *testing.T) {
	mine, other := newTestSigner(t), newTestSigner(t)
	const kind = "application/vnd.in-toto+json"
	good, err := sign.SignEnvelope(t.Context(), mine, kind, []byte(`{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	opened, err := sign.OpenEnvelope(good, other.Key(), mine.Key())
	if err != nil || string(opened.Payload) != `{"a":1}` || opened.PayloadType != kind || opened.KeyID != mine.Key().ID() {
		t.Fatalf("%+v, %v", opened, err)
	}
	replace := func(old, new string) []byte { return bytes.Replace(good, []byte(old), []byte(new), 1) }
	foreign, err := sign.SignEnvelope(t.Context(), other, kind, []byte(`{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	var many struct {
		PayloadType string              `json:"payloadType"`
		Payload     string              `json:"payload"`
		Signatures  []map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(good, &many); err != nil {
		t.Fatal(err)
	}
	many.Signatures = append([]map[string]string{{"keyid": other.Key().ID(), "sig": "AAAA"}}, many.Signatures...)
	two, err := json.Marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sign.OpenEnvelope(two, mine.Key()); err != nil {
		t.Errorf("one of two signatures: %v", err)
	}
	for len(many.Signatures) < 20 {
		many.Signatures = append(many.Signatures, many.Signatures[0])
	}
	twenty, err := json.Marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		data []byte
		want string
		is   error
	}{
		"payload changed":      {replace(b64([]byte(`{"a":1}`)), b64([]byte(`{"a":2}`))), "names the trusted key", sign.ErrAltered},
		"type changed":         {replace("in-toto", "in-dodo"), "names the trusted key", sign.ErrAltered},
		"another's":            {foreign, "signed with key " + other.Key().ID(), sign.ErrUnknownKey},
		"another's as mine":    {bytes.ReplaceAll(foreign, []byte(other.Key().ID()), []byte(mine.Key().ID())), "names the trusted key", sign.ErrAltered},
		"without a key id":     {bytes.ReplaceAll(good, []byte(mine.Key().ID()), nil), "names no key", sign.ErrUnknownKey},
		"signature not base64": {replace(`"sig":"`, `"sig":"!`), "names the trusted key", sign.ErrAltered},
		"no signature":         {[]byte(`{"payloadType":"x","payload":"AAAA","signatures":[]}`), "no signature", nil},
		"twenty signatures":    {twenty, "20 signatures", oci.ErrTooLarge},
		"no envelope":          {[]byte(`{}`), "not a DSSE envelope", nil},
		"not JSON":             {[]byte("apiVersion: v1"), "invalid character", nil},
		"too large":            {[]byte(`{"payload":"` + strings.Repeat("A", sign.MaxEnvelope) + `"}`), "bytes", oci.ErrTooLarge},
		"too deep":             {[]byte(strings.Repeat("[", 300)), "", oci.ErrTooLarge},
	} {
		e, err := sign.OpenEnvelope(c.data, mine.Key())
		if e != nil || err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, error %v, want %v", name, e, err, c.want)
		}
	}
}

func newTestSigner(t *testing.T) *sign.Signer {
	t.Helper()
	private, _, err := sign.GenerateKeyPair(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := sign.LoadSigner(private, func() ([]byte, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	return s
}
